# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending what lives at TensorDock: until it is gone, and not a moment less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock
from emulators.world import Fault, World
from support.fake_clock import FakeClock
from support.tensordock_calls import ONE, body_of, calls, orders, rent


def test_it_is_gone_when_a_look_says_so_and_not_before(
    provider: tensordock.TensordockProvider, world: World, clock: FakeClock
) -> None:
    made = rent(provider)
    world.faults = [Fault(trouble="delete_late", seconds=1800)]  # half a second of ours
    assert provider.delete(made.id) is True
    assert world.alive() == []
    assert len([path for path in calls(world, "GET") if made.id in path]) > 2


def test_a_delete_whose_answer_is_lost_is_settled_by_looking(
    provider: tensordock.TensordockProvider, world: World
) -> None:
    made = rent(provider)
    world.faults = [Fault(method="DELETE", drop="after")]
    assert provider.delete(made.id) is True
    assert world.alive() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=502),
        Fault(drop="before"),
        Fault(status=200, body={"data": {"type": "success"}}),  # says so, and does nothing
        Fault(status=200, body={"status": 500, "error": "busy"}),
        Fault(status=409, body={"error": "busy"}),
        Fault(status=404, body="not found"),  # of some proxy: the list still has it
    ],
)
def test_a_delete_without_effect_is_repeated(
    provider: tensordock.TensordockProvider, world: World, fault: Fault
) -> None:
    made = rent(provider)
    world.faults = [replace(fault, method="DELETE")]
    assert provider.delete(made.id) is True
    assert len(calls(world, "DELETE")) == 2
    assert world.alive() == []


def test_somebody_else_was_faster(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(method="DELETE", status=404, body={"status": 404, "error": "Instance not found"})]
    assert provider.delete(made.id) is False


def test_what_is_not_found_by_its_id_yet_is_ended_all_the_same(
    provider: tensordock.TensordockProvider, world: World
) -> None:
    """Right after a create: given back, or found too dear."""
    made = rent(provider)
    world.faults = [Fault(method="GET|DELETE", path=ONE, status=404, body={"error": "Instance not found"}, times=2)]
    assert provider.delete(made.id) is True
    assert len(calls(world, "DELETE")) == 2
    assert world.alive() == []


def test_what_the_list_has_is_never_told_as_gone(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(method="GET|DELETE", path=ONE, status=404, body={"error": "Instance not found"}, times=None)]
    with pytest.raises(ProviderUnavailable, match=f"still has instance {made.id}"):
        provider.delete(made.id)
    assert [one.id for one in world.alive()] == [made.id]
    world.rentals[made.id].wire["name"] = "somebody's"
    before = orders(world)
    with pytest.raises(InvalidRequest, match="no marker"):
        provider.delete(made.id)
    assert orders(world) == before


def test_a_delete_that_never_works_is_loud(
    provider: tensordock.TensordockProvider, world: World, clock: FakeClock
) -> None:
    made = rent(provider)
    began = clock.time
    world.faults = [Fault(method="DELETE", status=200, body={"data": {"type": "success"}}, times=None)]
    with pytest.raises(ProviderUnavailable, match=r"costing 0\.513 USD per hour") as caught:
        provider.delete(made.id)
    assert "dashboard.tensordock.com" in caught.value.fix
    assert 55 <= clock.time - began <= 80
    assert 3 <= len(calls(world, "DELETE")) <= 6


def test_a_stopped_one_costs_until_it_is_deleted(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [world.now()]
    monkeypatch.setattr(world, "now", lambda: now[0])
    made = rent(provider)
    now[0] += 60
    body_of(world, made.id).update(_wanted="stopped", _since=now[0])
    now[0] += 3600 - 60
    assert provider.delete(made.id) is True
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(0.513)
