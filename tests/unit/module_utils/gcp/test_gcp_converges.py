# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody changed is put right once, and then it is right.

google.cloud.gcp_compute_instance (1.10.2) reports such a change of tags or scheduling as changed, sends no update, and
so reports it for ever; it also takes a URL and the name at its end for two different values.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp, gcp_drift, gcp_wire
from emulators import gcp as emulator
from emulators.world import Fault, World
from support.gcp_calls import WISH, marker, orders, query, rent, rental, request

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
        # What Google itself takes when nobody says anything. With GPUs it could not be moved, and would be lost.
        (
            {"scheduling": {"onHostMaintenance": "MIGRATE"}},
            "setScheduling",
            {"scheduling": {"onHostMaintenance": "MIGRATE"}},
            {"scheduling": {"onHostMaintenance": "TERMINATE"}},
        ),
        (
            {"labels": {"gpufleet-owner": None, "team": "blue"}},
            "setLabels",
            {"labels": {}},
            {"labels": {"gpufleet-owner": "fleet"}},
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
        changed = value if name == "tags" else {**wire[name], **value}
        wire[name] = {key: one for key, one in changed.items() if one is not None}
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
    assert wire["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert wire["labels"]["gpufleet-owner"] == "fleet"
    assert wire["labels"].get("team") == change.get("labels", {}).get("team"), "labels of others are left alone"
    assert provider.list()[0].marker == made.marker


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


def test_no_machine_with_gpus_is_ordered_to_migrate(provider: gcp.GcpProvider) -> None:
    """Of all that can be had there, on demand and as spot; those without GPUs may be moved."""
    seen = set()
    for spot in (False, True):
        for gpu in ("L4", "T4", "A100", "A100_80GB", "H100", "H200"):
            for count in (1, 8):
                for offer in provider.offers(query(gpu=gpu, gpu_count=count, interruptible=spot)):
                    body = gcp_wire.create_body(request(offer), {})
                    assert body["scheduling"]["onHostMaintenance"] == "TERMINATE", offer.id
                    seen.add((offer.gpu, spot))
    assert {("L4", False), ("L4", True), ("T4", False), ("T4", True)} <= seen
    (without, *_more) = provider.offers(query(gpu=None))
    assert gcp_wire.create_body(request(without), {})["scheduling"]["onHostMaintenance"] == "MIGRATE"


# What Google changes only while a machine is stopped ------------------------------------------------------------------


def running(provider: gcp.GcpProvider, world: World, hours: int) -> dict[str, Any]:
    """The books of one that runs."""
    made = rent(provider, marker=marker(hours))
    while provider.get(made.id).status is not Status.RUNNING:  # type: ignore[union-attr]
        world.skip(10)
    return rental(world, made.id).wire


@pytest.mark.parametrize(
    ("hours", "change", "words"),
    [
        (
            100,
            {"maxRunDuration": None, "instanceTerminationAction": None},
            "Google does not end it at 20.*no maxRunDur",
        ),
        (
            100,
            {"maxRunDuration": {"seconds": str(300 * 3600)}},
            "Google ends it at 20.*, and its lifetime is over at 20",
        ),
        (
            100,
            {"maxRunDuration": {"seconds": str(50 * 3600)}},
            "Google ends it at 20.*, and its lifetime is over at 20",
        ),
        (100, {"instanceTerminationAction": "STOP"}, r"instead of deleting it \(STOP\): its disk would cost on"),
        (
            0,
            {"maxRunDuration": {"seconds": str(50 * 3600)}},
            "Google ends it at 20.*, although its lifetime is unlimited",
        ),
    ],
)
def test_an_end_that_somebody_changed_is_told_and_set_anew_by_the_next_start(
    provider: gcp.GcpProvider,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(gcp_drift, "_SLACK_SECONDS", 5 * 3600.0)  # half an hour passes in less than a second here
    wire = running(provider, world, hours)
    assert run(provider)["warnings"] == [], "as it was rented"
    right = dict(wire["scheduling"])
    changed = {**right, "instanceTerminationAction": "DELETE", **change}
    wire["scheduling"] = {key: value for key, value in changed.items() if value is not None}
    done = run(provider)
    (told,) = done["warnings"]
    assert re.search(words, told)
    assert told.endswith("or let gpuops.fleet.sweep with fleet_confirm end it in time.")
    assert (done["changed"], "setScheduling" in verbs(world)) == (False, False), "Google refuses it while it runs"
    assert run(provider, state="stopped")["warnings"] == []
    run(provider)
    while provider.list()[0].status is not Status.RUNNING:
        world.skip(10)
    assert run(provider)["warnings"] == []
    limit = wire["scheduling"].pop("maxRunDuration", None)
    assert (limit is None) is (right.pop("maxRunDuration", None) is None)
    assert wire["scheduling"] == right


def test_it_is_told_also_through_what_watches_an_account(provider: gcp.GcpProvider, world: World, url: str) -> None:
    wire = running(provider, world, 0)
    wire["scheduling"] |= {"maxRunDuration": {"seconds": str(50 * 3600)}, "instanceTerminationAction": "DELETE"}
    watched = _engine.load_providers(["gcp"], {"gcp": {"project": emulator.PROJECT, "api_url": url}})
    (told,) = Run(watched, WISH).result()["warnings"]
    assert "although its lifetime is unlimited" in told


def test_the_end_is_counted_from_the_start_where_google_does_not_say_it() -> None:
    one = marker(8)
    row = {
        "name": "gf--acme-llm--vllm-1",
        "status": "RUNNING",
        "lastStartTimestamp": "2027-01-15T08:00:00.000-00:00",
        "scheduling": {"maxRunDuration": {"seconds": "3600"}, "instanceTerminationAction": "DELETE"},
    }
    began = datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp()
    right = replace(one, expiry_epoch_hours=int(began / 3600) + 1)
    assert gcp_drift.untouchable(row, right) == []
    (told,) = gcp_drift.untouchable(row, replace(right, expiry_epoch_hours=right.expiry_epoch_hours + 2))
    assert "Google ends it at 2027-01-15T09:00:00Z, and its lifetime is over at 2027-01-15T11:00:00Z" in told
    assert gcp_drift.untouchable({**row, "status": "TERMINATED"}, one) == []
