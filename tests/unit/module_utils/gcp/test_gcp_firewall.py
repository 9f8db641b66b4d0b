# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Firewall rules at Google Cloud: said in full, changed in place, and nobody else's touched."""

from __future__ import annotations

import copy
import io
import json
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import FLEET_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_firewall import Rules, run_firewall
from ansible_collections.gpuops.fleet.plugins.modules import gcp_firewall
from emulators import gcp as emulator
from emulators.world import Fault, World
from support.gcp_calls import orders

NAME = "gf--acme-llm--ssh"
ONE = r"/firewalls/[^/]+$"


@pytest.fixture
def wish(url: str) -> dict[str, Any]:
    return {
        "deployment_id": "acme-llm",
        "provider_settings": {"gcp": {"project": emulator.PROJECT, "api_url": url}},
        "name": "ssh",
        "state": "present",
        "network": "default",
        "allow": [{"protocol": "tcp", "ports": ["22", "8000-8010"]}, {"protocol": "icmp", "ports": []}],
        "source_ranges": ["203.0.113.0/24", "198.51.100.7"],
        "allow_everybody": False,
        "target_tags": ["gpuops-fleet-acme-llm"],
        "priority": 1000,
    }


def run(wish: dict[str, Any], check_mode: bool = False, **changes: Any) -> dict[str, Any]:
    return run_firewall({**wish, **changes}, check_mode)


def test_a_rule_is_made_once_changed_in_place_and_removed(wish: dict[str, Any], world: World) -> None:
    first = run(wish)
    assert first["changed"]
    assert first["diff"]["before"] == {}
    assert first["rule"] == {
        "name": NAME,
        "network": "default",
        "priority": 1000,
        "allow": [{"protocol": "icmp", "ports": []}, {"protocol": "tcp", "ports": ["22", "8000-8010"]}],
        "source_ranges": ["198.51.100.7/32", "203.0.113.0/24"],
        "target_tags": ["gpuops-fleet-acme-llm"],
    }
    again = run(wish)
    assert (again["changed"], again["diff"]["before"]) == (False, again["diff"]["after"])
    other = {
        **wish,
        "source_ranges": ["203.0.113.0/24"],
        "target_tags": ["web", "gpuops-fleet-acme-llm"],
        "priority": 900,
    }
    assert [run(other)["changed"], run(other)["changed"]] == [True, False]
    assert [run(wish, state="absent")["changed"], run(wish, state="absent")["changed"]] == [True, False]
    assert [one.partition(" ")[0] for one in orders(world)] == ["POST", "PATCH", "DELETE"]


def test_the_first_priority_is_a_priority(wish: dict[str, Any]) -> None:
    assert run(wish, priority=0)["rule"]["priority"] == 0
    assert not run(wish, priority=0)["changed"]


def test_a_protocol_in_capital_letters_is_the_same_one(wish: dict[str, Any]) -> None:
    assert run(wish, allow=[{"protocol": "TCP", "ports": ["22"]}])["changed"]
    assert not run(wish, allow=[{"protocol": "tcp", "ports": ["22"]}])["changed"]


def test_what_is_not_there_as_ordered_is_no_success(wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run(wish)
    monkeypatch.setattr(Rules, "apply", lambda *_order: None)
    for change in ({"state": "absent"}, {"source_ranges": ["203.0.113.0/28"]}):
        with pytest.raises(ProviderUnavailable, match=f"a rule {NAME} that is not as it was ordered"):
            run(wish, **change)


def test_written_in_another_way_it_is_the_same_rule(wish: dict[str, Any]) -> None:
    run(wish)
    turned = {**wish, "allow": list(reversed(wish["allow"])), "source_ranges": ["198.51.100.7/32", "203.0.113.0/24"]}
    assert not run(turned)["changed"]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_check_mode_tells_and_changes_nothing(wish: dict[str, Any], world: World, state: str) -> None:
    if state == "absent":
        run(wish)
    world.calls.clear()
    told = run(wish, check_mode=True, state=state)
    assert told["changed"]
    assert told["diff"]["before"] != told["diff"]["after"]
    assert (told["rule"] is None) == (state == "absent")
    assert orders(world) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_ranges": []}, "the whole internet"),
        ({"source_ranges": ["0.0.0.0/0"]}, "allow_everybody: true"),
        ({"source_ranges": ["203.0.113.0/24", "::/0"]}, "allow_everybody: true"),
        ({"source_ranges": ["0.0.0.0/1", "128.0.0.0/1"]}, r"'0\.0\.0\.0/0' is the whole internet"),
        ({"source_ranges": ["203.0.113.5/24"]}, "is no range"),
        ({"target_tags": []}, "every machine of the network"),
        ({"target_tags": ["Web"]}, "'Web' is no network tag"),
        ({"allow": []}, "allow is empty"),
        ({"allow": [{"protocol": "icmp", "ports": ["1"]}]}, "has no ports"),
        ({"allow": [{"protocol": "tcp", "ports": ["22-21"]}]}, "'22-21' is neither"),
        ({"allow": [{"protocol": "tcp", "ports": ["ssh"]}]}, "'ssh' is neither"),
        ({"priority": 65535}, "out of range"),
        ({"name": "SSH"}, "name 'SSH'"),
        ({"deployment_id": "test"}, "too generic"),
    ],
)
def test_what_is_wrong_is_refused_before_any_call(
    wish: dict[str, Any], world: World, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(wish, **changes)
    assert world.calls == []


def test_the_whole_internet_is_let_in_only_when_insisted_on(wish: dict[str, Any]) -> None:
    assert run(wish, source_ranges=["0.0.0.0/0"], allow_everybody=True)["rule"]["source_ranges"] == ["0.0.0.0/0"]


def test_a_rule_of_that_name_that_is_somebody_elses_is_left_alone(wish: dict[str, Any], world: World) -> None:
    run(wish)
    other = {"description": "mine", "direction": "INGRESS", "name": NAME}
    world.faults = [Fault("GET", ONE, status=200, body=other, times=None)]
    world.calls.clear()
    for state in ("present", "absent"):
        with pytest.raises(InvalidRequest, match="does not say that it is ours"):
            run(wish, state=state)
    assert orders(world) == []


def test_what_somebody_changed_by_hand_is_put_right(wish: dict[str, Any], url: str, world: World) -> None:
    """Also what this module has no option for."""
    run(wish)
    from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_api import ComputeApi

    api = ComputeApi(wish["provider_settings"]["gcp"])
    changes: tuple[dict[str, Any], ...] = (
        {"disabled": True},
        {"sourceTags": ["everybody"]},
        {"targetTags": []},
        {"sourceRanges": ["0.0.0.0/0"]},
    )
    for change in changes:
        api.finished(api.order("PATCH", f"/global/firewalls/{NAME}", {"name": NAME, **change}).body)
        assert [run(wish)["changed"], run(wish)["changed"]] == [True, False], change


def test_a_rule_can_not_move_to_another_network(wish: dict[str, Any]) -> None:
    run(wish)
    with pytest.raises(InvalidRequest, match="not of other"):
        run(wish, network="other")


def test_two_controllers_make_one_rule(wish: dict[str, Any], world: World) -> None:
    missing = {
        "message": f"The resource 'projects/p/global/firewalls/{NAME}' was not found",
        "errors": [{"reason": "notFound"}],
    }
    run(wish)
    world.faults = [Fault("GET", ONE, status=404, body={"error": missing}, times=1)]  # seen a moment before
    done = run(wish, priority=900)
    assert (done["changed"], done["rule"]["priority"]) == (True, 900)


def test_a_404_about_something_else_is_no_absent_rule(wish: dict[str, Any], world: World) -> None:
    world.faults = [Fault("GET", ONE, status=404, body="nothing here", times=None)]
    with pytest.raises(ProviderUnavailable, match="404"):
        run(wish, state="absent")


def test_the_module_itself_says_what_it_did(wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Ansible writes into the defaults of a spec, and others read that here.
    monkeypatch.setattr(gcp_firewall, "FLEET_SPEC", copy.deepcopy(FLEET_SPEC))
    printed = io.StringIO()
    with patch_module_args(wish), redirect_stdout(printed), pytest.raises(SystemExit):
        gcp_firewall.main()
    result = json.loads(printed.getvalue())
    assert (result["changed"], result["rule"]["name"]) == (True, NAME)
    printed = io.StringIO()
    with patch_module_args({**wish, "source_ranges": []}), redirect_stdout(printed), pytest.raises(SystemExit):
        gcp_firewall.main()
    result = json.loads(printed.getvalue())
    assert (result["failed"], result["failure"]["code"]) == (True, "invalid_input")
