# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of TensorDock that nobody can log in to: what is kept, what is tried next, and what is told."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock
from emulators.tensordock import PUBLIC_ADDRESS
from emulators.world import Fault, World
from support.tensordock_calls import IDAHO, KEY, OSLO

FASTER = 2000.0
# The second cheapest, in Oslo, is behind forwarded ports.
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("tensordock",),
    look_at=("tensordock",),
    gpu="A40",
    gpu_count=1,
    disk_gib=100,
    ssh_public_key=KEY,
    lifetime_seconds=8 * 3600,
    wait="ssh",
    wait_timeout_seconds=120,
)


@pytest.fixture
def clock(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time passes here as fast as at the provider, so that ages and costs agree."""
    vars(world).update(vars(World("tensordock", scale=FASTER)))
    monkeypatch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / FASTER))
    monkeypatch.setattr(_clock, "monotonic", lambda: time.monotonic() * FASTER)
    monkeypatch.setattr(_clock, "now", world.now)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def closed(clock: None, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """At which ports nobody answers; the others let in."""
    found = {22}

    def probe(endpoint: Endpoint) -> Probe:
        assert endpoint.host == PUBLIC_ADDRESS
        return Probe("refused" if endpoint.port in found else "ok")

    monkeypatch.setattr(_readiness, "probe_socket", probe)
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok", host_key="ssh-ed25519 AAAA"))
    return found


def run(provider: tensordock.TensordockProvider, on_unready: str = "keep") -> dict[str, Any]:
    wish = Wish(**{**vars(WISH), "on_unready": on_unready})
    return Run({"tensordock": provider}, wish).result()


def fail(provider: tensordock.TensordockProvider, on_unready: str = "keep") -> EngineError:
    with pytest.raises(EngineError) as caught:
        run(provider, on_unready)
    assert caught.value.code == "not_ready"
    return caught.value


def test_it_is_kept_by_default_and_running_again_goes_on_waiting(
    provider: tensordock.TensordockProvider, world: World, closed: set[int]
) -> None:
    error = fail(provider)
    (rental,) = world.alive()
    assert (rental.status, rental.wire["_place"]) == ("running", IDAHO)
    assert set(error.result["readiness"]["classes"]) == {"refused"}
    assert error.result["instance"]["cost_so_far_usd"] > 0
    closed.clear()
    result = run(provider)
    assert (result["instance"]["id"], result["changed"]) == (rental.id, False)
    assert len(world.rentals) == 1


def test_the_next_offer_is_tried_when_the_user_said_so(
    provider: tensordock.TensordockProvider, world: World, closed: set[int]
) -> None:
    result = run(provider, "replace")
    (rental,) = world.alive()
    assert rental.id == result["instance"]["id"]
    assert [one.wire["_place"] for one in world.rentals.values()] == [IDAHO, OSLO]
    (evidence,) = result["failed_rentals"]
    assert evidence["ended"] == "destroyed"
    assert evidence["cost_usd"] > 0


def test_a_place_that_forgets_its_ports_is_told_and_kept(provider: tensordock.TensordockProvider, world: World) -> None:
    """Nobody forwards a port to it then, so it is asked for at its own, and costs."""
    world.faults = [Fault(trouble="ports_ignored"), Fault(trouble="offer_gone", of=IDAHO, times=None)]
    error = fail(provider)
    (rental,) = world.alive()
    assert rental.wire["_place"] == OSLO
    assert "no port is forwarded" in error.result["instance"]["detail"]
    assert [one["address"] for one in error.result["readiness"]["endpoints"]] == [f"{PUBLIC_ADDRESS}:22"]


@pytest.mark.parametrize(("on_unready", "left"), [("stop", ["stopped"]), ("destroy", [])])
def test_it_is_ended_only_when_the_user_said_so(
    on_unready: str, left: list[str], provider: tensordock.TensordockProvider, world: World
) -> None:
    error = fail(provider, on_unready)
    assert [one.status for one in world.alive()] == left
    assert [one["ended"] for one in error.result["failed_rentals"]] == ["stopped" if left else "destroyed"]


def test_what_turns_out_too_dear_is_told(provider: tensordock.TensordockProvider, world: World) -> None:
    world.faults = [Fault(trouble="dearer")]
    wish = replace(WISH, wait="none", max_price_per_hour_usd=0.6)
    with pytest.raises(EngineError, match=r"price_per_hour_usd is 1\.\d+, wanted 'at most 0\.6'") as caught:
        Run({"tensordock": provider}, wish).result()
    (kept,) = world.alive()
    assert caught.value.result["instance"]["id"] == kept.id
    # Nobody knows what it asks for a machine that is stopped and started again.
    assert Run({"tensordock": provider}, replace(wish, state="stopped")).result()["changed"]
