# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting once where a provider refuses a second rental of the same name, in one place of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Ambiguous, ProviderUnavailable
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake", "other"), wait="none")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return FakeClock().install(monkeypatch)


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider(FakeCloud(), unique_names=True)


@pytest.fixture
def other(fake: FakeProvider) -> FakeProvider:
    """Somebody else to look at, so that each rental is looked at twice."""
    return FakeProvider(fake.cloud, name="other")


def run(*providers: FakeProvider, **changes: Any) -> dict[str, Any]:
    return Run({one.name: one for one in providers}, replace(WISH, **changes)).result()


def events(*wanted: str) -> list[tuple[str, str]]:
    return [(line["event"], line["id"]) for line in _journal.read("acme-llm") if line["event"] in wanted]


def lose_the_first_answer(fake: FakeProvider) -> None:
    """What it made is in no list until it is ordered again, and is refused then."""
    late: list[Instance] = []

    def come_late(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            late.append(fake.cloud.instances.popitem()[1])
            raise Ambiguous("No answer came.", provider="fake", status=500)
        if (call, when) == ("create", "before") and late:
            fake.cloud.instances[late[0].id] = late[0]

    fake.at_boundary = come_late


def test_a_name_that_an_earlier_claim_of_this_run_has_is_ours(fake: FakeProvider) -> None:
    lose_the_first_answer(fake)
    result = run(fake)
    assert fake.cloud.calls.count("create") == 2
    assert (result["instance"]["id"], result["actions"]) == ("fake-1", ["create"])
    assert events("created", "deleted", "surplus_deleted") == [("created", "fake-1")]


def test_and_it_is_told_when_nobody_can_look_any_more(fake: FakeProvider, other: FakeProvider) -> None:
    lose_the_first_answer(fake)
    looks = fake.at_boundary

    def then_it_is_down(call: str, when: str) -> None:
        if (call, when) == ("create", "before") and fake.cloud.calls.count("create"):
            other.refuse["list"] = ProviderUnavailable("It is down.", provider="other")
        looks(call, when)

    fake.at_boundary = then_it_is_down
    with pytest.raises(ProviderUnavailable, match=r"lives at fake \(fake-1\) and goes on costing 1 USD") as failure:
        run(fake, other)
    assert failure.value.result["instance"]["id"] == "fake-1"
    assert failure.value.result["actions"] == ["create"]


def test_where_another_ones_order_came_to_nothing_its_next_one_counts(fake: FakeProvider, other: FakeProvider) -> None:
    """It had a name in a place that was sold out, and has it in another place now."""
    theirs: list[Instance] = []

    def they_are_faster(call: str, when: str) -> None:
        if (call, when) == ("create", "before"):
            fake.at_boundary = lambda _call, _when: None
            theirs.append(fake.cloud.instances[run(fake)["instance"]["id"]])
            other.at_boundary = their_next_one

    def their_next_one(call: str, when: str) -> None:
        if call == "list" and theirs:
            gone = theirs.pop()
            del fake.cloud.instances[gone.id]
            again = replace(gone, id="fake-7", marker=replace(gone.marker, nonce="zzzzzz"))
            fake.cloud.instances[again.id] = again

    fake.at_boundary = they_are_faster
    assert run(fake, other)["instance"]["id"] == "fake-7"
    assert [one.id for one in fake.cloud.alive()] == ["fake-7"]
    assert ("created", "fake-7") not in events("created"), "it is theirs"
