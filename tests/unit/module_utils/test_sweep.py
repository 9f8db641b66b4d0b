# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be ended is decided in one place, by rules that hold for every list of rentals."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _provider, _sweep
from ansible_collections.gpuops.fleet.plugins.module_utils._lifetime import Enforcer, ends
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability
from ansible_collections.gpuops.fleet.plugins.module_utils._sweep import Verdict, judge
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
HOUR = int(NOW // 3600)
GRACE = 900.0


def rental(name: str = "vllm-1", age: float | None = 7200.0, expiry: int = 0, **values: Any) -> Instance:
    marker = Marker(values.pop("deployment_id", "acme-llm"), name, values.pop("nonce", "abc123"), expiry)
    marker = Marker(marker.deployment_id, name, marker.nonce, expiry, values.pop("owner", "fleet"))
    created_at = None if age is None else NOW - age
    return Instance(
        **{"provider": "fake", "id": f"{name}-{age}", "marker": marker, "created_at": created_at, **values}
        | {"status": values.get("status", Status.RUNNING)}
    )


def verdicts(*rentals: Instance, wanted: tuple[str, ...] = ("vllm-1",)) -> list[str]:
    return [one.verdict.value for one in judge(rentals, "acme-llm", wanted, NOW, GRACE)]


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (rental(), Verdict.WANTED),
        (rental(expiry=HOUR + 1), Verdict.WANTED),
        (rental(expiry=HOUR), Verdict.EXPIRED),  # also what a fleet file names
        (rental(age=None), Verdict.WANTED),
        (rental(status=Status.STOPPED, expiry=HOUR - 5), Verdict.EXPIRED),
        (rental("old-1"), Verdict.ORPHAN),
        (rental("old-1", status=Status.STOPPED), Verdict.ORPHAN),
        (rental("old-1", age=GRACE), Verdict.YOUNG),
        (rental("old-1", age=GRACE + 1), Verdict.ORPHAN),
        (rental("old-1", age=None), Verdict.YOUNG),
        (rental("old-1", age=60, expiry=HOUR), Verdict.EXPIRED),
        (rental("old-1", owner="job:17"), Verdict.JOB),
        (rental("old-1", owner="job:17", expiry=HOUR + 1), Verdict.JOB),
        (rental("old-1", owner="job:17", expiry=HOUR), Verdict.EXPIRED),
    ],
)
def test_one_rental(one: Instance, verdict: Verdict) -> None:
    assert verdicts(one) == [verdict]


def test_of_several_with_one_name_the_oldest_stays() -> None:
    both = rental(age=7200, id="a"), rental(age=3600, nonce="bbbbbb", id="b")
    assert verdicts(*both) == ["wanted", "surplus"]
    assert verdicts(*both[::-1]) == ["surplus", "wanted"]
    assert verdicts(both[0], rental(age=600, nonce="bbbbbb", id="b")) == ["wanted", "young"]
    assert verdicts(both[0], rental(age=None, nonce="bbbbbb", id="b")) == ["wanted", "young"]
    assert verdicts(*both, wanted=()) == ["orphan", "surplus"]


def test_what_is_over_takes_nobody_with_it() -> None:
    over, younger = rental(age=7200, expiry=HOUR, id="a"), rental(age=3600, expiry=HOUR + 5, nonce="bbbbbb", id="b")
    assert verdicts(over, younger) == ["expired", "wanted"]


def test_a_job_is_no_rival_of_the_fleet() -> None:
    job, ours = rental(age=7200, owner="job:17", id="a"), rental(age=3600, nonce="bbbbbb", id="b")
    assert verdicts(job, ours) == ["job", "wanted"]


def test_what_is_another_deployments_is_not_judged() -> None:
    assert verdicts(rental("old-1", deployment_id="acme-llm-2")) == []


@pytest.mark.parametrize("values", [{}, {"expiry": HOUR}, {"owner": "job:17"}, {"age": None}])
def test_what_ends_already_is_reported_as_that_and_counts_for_nothing(values: dict[str, Any]) -> None:
    """Its end may take long, or fail: who reads this must not think that nothing is there."""
    ending = rental("old-1", status=Status.TERMINATING, **values)
    assert verdicts(ending) == ["ending"]
    assert not any(one.ends for one in judge([ending], "acme-llm", [], NOW, GRACE))
    older = rental(age=9000, status=Status.TERMINATING, id="a")
    assert verdicts(older, rental(nonce="bbbbbb", id="b")) == ["ending", "wanted"]


rentals = st.builds(
    rental,
    name=st.sampled_from(["vllm-1", "vllm-2", "old-1"]),
    age=st.none() | st.sampled_from([0.0, 599.0, 601.0, 899.0, 901.0, 90_000.0]),
    expiry=st.sampled_from([0, HOUR - 1, HOUR, HOUR + 1]),
    deployment_id=st.sampled_from(["acme-llm", "acme-llm-2"]),
    owner=st.sampled_from(["fleet", "job:17"]),
    nonce=st.sampled_from(["aaaaaa", "bbbbbb", "cccccc"]),
    status=st.sampled_from(list(Status)),
    id=st.uuids().map(str),
)


@given(st.lists(rentals, max_size=8), st.sets(st.sampled_from(["vllm-1", "vllm-2"])))
def test_rules_that_hold_for_every_list(found: list[Instance], wanted: set[str]) -> None:
    judged = judge(found, "acme-llm", wanted, NOW, GRACE)
    assert {one.instance.marker.deployment_id for one in judged} <= {"acme-llm"}
    ending = [one.instance for one in judged if one.ends]
    over = [one for one in ending if 0 < one.marker.expiry_epoch_hours <= HOUR]
    for one in ending:
        if one in over:
            continue
        assert one.marker.owner == "fleet"
        assert one.created_at is not None
        assert NOW - one.created_at > 600
    for name in wanted:
        # Whatever else is ended: of what a file names and what is not over, one stays.
        mine = [one.instance for one in judged if one.instance.marker.name == name]
        rentals_of_fleet = [one for one in mine if one.marker.owner == "fleet" and one.status is not Status.TERMINATING]
        living = [one for one in rentals_of_fleet if one not in over]
        assert not living or [one for one in living if one not in ending]
    again = judge([one for one in found if one not in ending], "acme-llm", wanted, NOW, GRACE)
    assert not [one for one in again if one.ends], "once is enough"
    assert {(one.instance.id, one.verdict) for one in judge(found[::-1], "acme-llm", wanted, NOW, GRACE)} == {
        (one.instance.id, one.verdict) for one in judged
    }, "the order of a list says nothing"


def test_everything_that_ends_is_named_here() -> None:
    assert {Verdict.EXPIRED, Verdict.SURPLUS, Verdict.ORPHAN} == _sweep.ENDING


# Who ends it


@pytest.mark.parametrize(
    ("provider", "expiry", "ends_itself", "enforcer"),
    [
        ("runpod", HOUR, False, Enforcer.SWEEP),
        ("runpod", HOUR, True, Enforcer.SWEEP),
        ("vastai", HOUR, False, Enforcer.SWEEP),
        ("vastai", HOUR, True, Enforcer.MACHINE),
        ("vastai", 0, True, Enforcer.NOBODY),
        ("local", 0, False, Enforcer.NOBODY),
        ("runpod", 0, False, Enforcer.NOBODY),
        ("leasing", HOUR, False, Enforcer.PROVIDER),
        ("leasing", HOUR, True, Enforcer.PROVIDER),
        ("leasing", 0, False, Enforcer.NOBODY),
    ],
)
def test_who_ends_it(
    provider: str, expiry: int, ends_itself: bool, enforcer: Enforcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_provider.CAPABILITIES, "leasing", frozenset({Capability.LEASE}))
    assert ends(provider, expiry, ends_itself).enforcer is enforcer
