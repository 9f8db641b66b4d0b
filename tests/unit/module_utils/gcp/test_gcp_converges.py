# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody changed is put right once, and then it is right.

google.cloud.gcp_compute_instance (1.10.2) reports such a change of tags or scheduling as changed, sends no update, and
so reports it for ever; it also takes a URL and the name at its end for two different values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp
from emulators import gcp as emulator
from emulators.world import Fault, World
from support.gcp_calls import KEY, marker, orders, rent, rental

WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("gcp",),
    look_at=("gcp",),
    gpu="L4",
    gpu_count=1,
    lifetime_seconds=8 * 3600,
    ssh_public_key=KEY,
    wait="none",
)
OURS = ["gpuops-fleet", "gpuops-fleet-acme-llm"]


def run(provider: gcp.GcpProvider, check_mode: bool = False, **values: Any) -> dict[str, Any]:
    return Run({"gcp": provider}, replace(WISH, **values), check_mode).result()


def verbs(world: World) -> list[str]:
    return [one.rpartition("/")[2] for one in orders(world)]


@pytest.mark.parametrize(
    ("change", "verb", "before", "after"),
    [
        ({"tags": {"items": []}}, "setTags", {"network_tags": []}, {"network_tags": OURS}),
        (
            {"tags": {"items": ["gpuops-fleet", "web"]}},
            "setTags",
            {"network_tags": ["gpuops-fleet", "web"]},
            {"network_tags": [*OURS, "web"]},
        ),
        (
            {"scheduling": {"automaticRestart": False}},
            "setScheduling",
            {"scheduling": {"automaticRestart": False}},
            {"scheduling": {"automaticRestart": True}},
        ),
    ],
)
def test_a_change_by_hand_is_put_right_once(
    provider: gcp.GcpProvider,
    world: World,
    change: dict[str, Any],
    verb: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    made = rent(provider)
    wire = rental(world, made.id).wire
    lease = wire["scheduling"]["maxRunDuration"]
    for name, value in change.items():
        wire[name] = {**wire[name], **value} if name == "scheduling" else value
    world.calls.clear()
    told = run(provider, check_mode=True)
    assert (told["changed"], told["actions"], orders(world)) == (True, ["adjust"], [])
    done = run(provider)
    assert (done["changed"], done["actions"], verbs(world)) == (True, ["adjust"], [verb])
    assert before.items() <= done["diff"]["before"].items()
    assert after.items() <= done["diff"]["after"].items()
    again = run(provider)
    assert (again["changed"], again["actions"], verbs(world)) == (False, [], [verb])
    assert again["diff"]["before"] == again["diff"]["after"]
    assert wire["scheduling"]["maxRunDuration"] == lease, "its end stays what it was"


def test_tags_that_are_declared_are_all_there_are(provider: gcp.GcpProvider, world: World, url: str) -> None:
    made = rent(provider)
    wire = rental(world, made.id).wire
    wire["tags"] = {"items": [*OURS, "everybody"]}
    assert not run(provider)["changed"], "who declares none leaves others alone"
    declaring = gcp.make({"project": emulator.PROJECT, "api_url": url, "network_tags": ["web"]})
    assert [run(declaring)["changed"], run(declaring)["changed"]] == [True, False]
    assert wire["tags"]["items"] == sorted([*OURS, "web"])


def test_a_fresh_rental_is_right_from_the_start(provider: gcp.GcpProvider) -> None:
    made = run(provider)
    assert (made["actions"], run(provider)["changed"]) == (["create"], False)
    assert provider.deviations(made["instance"]["id"]) == {}


def test_what_changed_meanwhile_is_not_overwritten(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    rental(world, made.id).wire["tags"] = {"items": []}
    error = {"code": 412, "message": "Supplied fingerprint does not match.", "errors": [{"reason": "conditionNotMet"}]}
    world.faults = [Fault("POST", "/setTags$", status=412, body={"error": error})]
    with pytest.raises(InvalidRequest, match="fingerprint"):
        run(provider)
    assert run(provider)["actions"] == ["adjust"]


def test_what_is_to_end_is_not_put_right_before(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider, marker=marker(8))
    rental(world, made.id).wire["tags"] = {"items": []}
    assert run(provider, state="absent")["actions"] == ["delete"]
    assert "setTags" not in verbs(world)


def test_what_somebody_changed_does_not_hinder_a_stop(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    rental(world, made.id).wire["tags"] = {"items": []}
    stopped = run(provider, state="stopped")
    assert stopped["actions"] == ["stop"]
    assert verbs(world)[-1] == "stop"
