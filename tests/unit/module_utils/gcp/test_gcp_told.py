# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lives at Google Cloud and costs is told, also where a run fails; what differs is what somebody said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Request, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp
from emulators.world import Fault, World
from support.gcp_calls import ONE, WISH, marker, orders, rent, rental

COSTS = r"see https://console\.cloud\.google\.com/compute/instances\) and goes on costing 0\.70[0-9]+ USD per hour"


def run(provider: gcp.GcpProvider, **values: Any) -> dict[str, Any]:
    return Run({"gcp": provider}, replace(WISH, **values)).result()


def test_what_was_rented_is_told_when_nobody_can_look_at_it(
    provider: gcp.GcpProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = provider.create

    def then_no_list_answers(request: Request) -> Instance:
        made = create(request)
        world.faults = [Fault("GET", "/aggregated/instances$", status=503, times=None)]
        return made

    monkeypatch.setattr(provider, "create", then_no_list_answers)
    with pytest.raises(ProviderUnavailable, match=COSTS) as failure:
        run(provider)
    (lives,) = [one for one in world.alive() if not one.wire["_failing"]]
    assert failure.value.result["instance"]["id"] == f"{lives.wire['_zone']}/{lives.id}"
    assert f"({lives.wire['_zone']}/{lives.id}, " in failure.value.message
    assert failure.value.result["actions"] == ["create"]


def test_what_lives_is_told_when_nobody_says_what_is_to_be_put_right(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault("GET", ONE, status=503, times=None)]
    with pytest.raises(ProviderUnavailable, match=COSTS) as failure:
        run(provider)
    assert failure.value.result["instance"]["id"] == made.id
    assert failure.value.result["changed"] is False


def test_what_was_rented_in_vain_is_told_by_its_whole_id(provider: gcp.GcpProvider, world: World) -> None:
    """Its number stands at the end, after the zone."""
    world.faults = [Fault(trouble="boot_stuck")]
    with pytest.raises(EngineError, match="was not ready") as failure:
        run(provider, wait="running", wait_timeout_seconds=20, on_unready="destroy")
    (vain,) = failure.value.result["failed_rentals"]
    assert f"Instance 'vllm-1' at gcp ({vain['id']}) was not ready" in failure.value.message


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"interruptible": True}, "interruptible"),
        ({"instance_type": "g2-standard-8"}, "instance_type"),
        ({"regions": ("europe-west4",)}, "regions"),
        ({"image": "projects/x/global/images/family/z"}, "image"),
        ({"disk_gib": 60}, "disk_gib"),
        ({"max_price_per_hour_usd": 0.5}, "price_per_hour_usd"),
    ],
)
def test_what_somebody_said_differs_and_is_not_put_right_halfway(
    provider: gcp.GcpProvider, world: World, said: dict[str, Any], field: str
) -> None:
    made = rent(provider, image="projects/x/global/images/family/y")
    rental(world, made.id).wire["tags"] = {"items": []}
    before = orders(world)
    with pytest.raises(EngineError) as failure:
        run(provider, **said)
    assert (failure.value.code, [one["field"] for one in failure.value.result["differences"]]) == ("drift", [field])
    assert orders(world) == before


def test_what_nobody_said_is_no_difference(provider: gcp.GcpProvider) -> None:
    rent(provider, image="projects/x/global/images/family/y")
    assert not run(provider)["changed"]


def test_a_stopped_machine_costs_its_disk_which_no_table_says(provider: gcp.GcpProvider) -> None:
    made = rent(provider, marker=marker())
    stopped = provider.stop(made.id)
    assert stopped.status is Status.STOPPED
    assert stopped.price_per_hour_usd is None
    assert stopped.running_price_per_hour_usd == pytest.approx(0.70683)
    assert run(provider, state="stopped")["actions"] == []
