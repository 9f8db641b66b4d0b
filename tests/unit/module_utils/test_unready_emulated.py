# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rental that nobody can log in to, at an emulated provider over real HTTP: what is kept, and what is told."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _journal, _readiness, _ways
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, ProviderError
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai
from emulators import vastai as emulator
from emulators.server import serving
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Fault, World

FASTER = 2000.0
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("vastai",),
    look_at=("vastai",),
    gpu="A100_80GB",
    gpu_count=1,
    lifetime_seconds=8 * 3600,
    wait="ssh",
    wait_timeout_seconds=120,
)
FIRST_MACHINE = "101"  # the cheapest of its kind


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A provider in which time passes as fast as our own, so that ages and costs agree."""
    world = World("vastai", scale=FASTER)
    monkeypatch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / FASTER))
    monkeypatch.setattr(_clock, "monotonic", lambda: time.monotonic() * FASTER)
    monkeypatch.setattr(_clock, "now", world.now)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return world


@pytest.fixture
def provider(world: World) -> Iterator[vastai.VastaiProvider]:
    with serving(emulator.make(world, copies=2), world) as url:
        yield vastai.make({"api_key": "any", "api_url": url + emulator.URL_PATH})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is found at each kind of endpoint; "ok" lets in."""
    found = {"direct": "refused", "proxy": "closed"}

    def probe(endpoint: Endpoint) -> Probe:
        return Probe(found[endpoint.kind], "as the test wants it")

    monkeypatch.setattr(_readiness, "probe_socket", probe)
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok", host_key="ssh-ed25519 AAAA"))
    return found


def run(provider: vastai.VastaiProvider, **values: Any) -> dict[str, Any]:
    return Run({"vastai": provider}, replace(WISH, **values)).result()


def fail(provider: vastai.VastaiProvider, **values: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run(provider, **values)
    assert caught.value.code == "not_ready"
    return caught.value


def creates(world: World) -> list[str]:
    return [call["path"] for call in world.calls if call["method"] == "PUT" and "/asks/" in call["path"]]


def test_it_is_kept_by_default_and_running_again_goes_on_waiting(
    provider: vastai.VastaiProvider, world: World, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "LOADING_SECONDS", 2000.0)  # well above, also on a slow machine
    error = fail(provider)
    (rental,) = world.alive()
    assert rental.status == "running"
    readiness = error.result["readiness"]
    # Pulling the image took longer than the whole time for SSH, and used up none of it.
    assert readiness["provider_seconds"] > 600
    assert readiness["seconds"] >= readiness["provider_seconds"] + 120
    assert set(readiness["classes"]) == {"refused", "closed"}
    assert {one["kind"]: one["last_class"] for one in readiness["endpoints"]} == {
        "direct": "refused",
        "proxy": "closed",
    }
    assert error.result["instance"]["cost_so_far_usd"] > 0
    assert "Run again to go on waiting" in error.message
    answers["proxy"] = "ok"
    result = run(provider)
    assert result["instance"]["id"] == rental.id
    assert not result["changed"]
    assert len(creates(world)) == 1
    assert result["readiness"]["endpoints"][-1]["last_class"] == "ok"
    # By the proxy alone: so that is how Ansible reaches it from now on.
    assert result["instance"]["ssh_host"].endswith(".vast.ai")
    assert _ways.ordered(provider.list()[0]).ssh_endpoints[0].kind == "proxy"


def test_a_bad_machine_is_replaced_by_another_although_its_offer_is_back(
    provider: vastai.VastaiProvider, world: World, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(provider)
    bad = world.alive()[0]

    def probe(endpoint: Endpoint) -> Probe:
        return Probe("ok" if not bad.alive else "refused")

    monkeypatch.setattr(_readiness, "probe_socket", probe)
    result = run(provider, on_unready="replace")
    assert str(bad.wire["machine_id"]) == FIRST_MACHINE
    assert [one.id for one in world.alive()] == [result["instance"]["id"]]
    assert result["instance"]["machine_id"] == str(101 + emulator.MACHINES_APART)
    (evidence,) = result["failed_rentals"]
    assert evidence["id"] == bad.id
    assert evidence["machine_id"] == FIRST_MACHINE
    assert evidence["ended"] == "destroyed"
    assert evidence["cost_usd"] == pytest.approx(bad.billed_usd, rel=0.5)
    assert evidence["given_up_at"] > evidence["rented_at"]


def test_what_ends_again_and_again_is_given_up(
    provider: vastai.VastaiProvider, world: World, answers: dict[str, str]
) -> None:
    """Its machine starts the container anew each time, and the rental says that it runs, and costs."""
    world.faults = [Fault(trouble="exits", seconds=100)]
    readiness = fail(provider, wait_timeout_seconds=20_000).result["readiness"]
    assert readiness["last_class"] == "exited"
    assert readiness["seconds"] < 10_000
    assert len(world.alive()) == 1, "it is kept"


def test_what_runs_on_is_waited_for_to_the_end(
    provider: vastai.VastaiProvider, world: World, answers: dict[str, str]
) -> None:
    assert fail(provider, wait_timeout_seconds=1000).result["readiness"]["last_class"] in ("refused", "closed")


# Dearer than its offer said --------------------------------------------------------------------------------------


def test_what_turns_out_too_dear_is_kept_and_told_in_each_run(provider: vastai.VastaiProvider, world: World) -> None:
    world.faults = [Fault(trouble="dearer")]
    for _run in range(2):
        with pytest.raises(EngineError, match=r"price_per_hour_usd is 2\.4\d+, wanted 'at most 1\.6'") as caught:
            run(provider, wait="none", max_price_per_hour_usd=1.6)
        assert (caught.value.code, len(world.alive())) == ("drift", 1)
        assert [one["field"] for one in caught.value.result["differences"]] == ["price_per_hour_usd"]
        assert "goes on costing" in f"{caught.value.message} {caught.value.fix}"
    assert len(creates(world)) == 1
    # It must not be in the way of what saves money.
    assert run(provider, state="stopped", max_price_per_hour_usd=1.6)["actions"] == ["stop"]
    with pytest.raises(EngineError, match=r"at most 1\.6"):
        run(provider, state="started", wait="none", max_price_per_hour_usd=1.6)
    assert [one.wire["_intended"] for one in world.alive()] == ["stopped"], "refused, but started"
    assert run(provider, wait="none", state="present", max_price_per_hour_usd=1.6)["changed"] is False
    assert run(provider, state="absent", max_price_per_hour_usd=1.6)["actions"] == ["delete"]


def test_what_turns_out_too_dear_is_given_back_for_the_next_offer_when_that_was_asked_for(
    provider: vastai.VastaiProvider, world: World
) -> None:
    world.faults = [Fault(trouble="dearer", of=str(FIRST_OFFER + int(FIRST_MACHINE)))]
    result = run(provider, wait="none", max_price_per_hour_usd=1.6, on_drift="replace")
    (kept,) = world.alive()
    (evidence,) = result["failed_rentals"]
    assert result["actions"] == ["create", "delete", "create"]
    assert result["instance"]["id"] == kept.id != evidence["id"]
    assert kept.wire["dph_total"] < 1.6 < evidence["price_per_hour_usd"]
    assert (evidence["ended"], evidence["log_tail"]) == ("destroyed", [])
    assert re.fullmatch(r"it costs 2\.4\d+ USD per hour; its offer said 1\.2\d+ USD", evidence["detail"])
    assert [(line["id"], line["reason"]) for line in _journal.read("acme-llm") if line["event"] == "deleted"] == [
        (evidence["id"], "too_dear")
    ]


def test_where_everything_is_too_dear_it_ends_soon_and_says_what_it_cost(
    provider: vastai.VastaiProvider, world: World
) -> None:
    world.faults = [Fault(trouble="dearer")]
    with pytest.raises(ProviderError, match="Rented in vain") as caught:
        run(provider, wait="none", max_price_per_hour_usd=1.6, on_drift="replace")
    assert len(caught.value.result["failed_rentals"]) == len(creates(world)) == 2  # there are two such machines
    assert world.alive() == []


def test_more_than_the_offer_said_is_a_warning_below_the_maximum(provider: vastai.VastaiProvider, world: World) -> None:
    world.faults = [Fault(trouble="dearer")]
    (warning,) = run(provider, wait="none", max_price_per_hour_usd=5.0)["warnings"]
    assert re.search(r"it costs 2\.4\d+ USD per hour; its offer said 1\.2", warning)


@pytest.mark.parametrize(("on_unready", "left"), [("stop", ["exited"]), ("destroy", [])])
def test_it_is_ended_only_when_the_user_said_so(
    on_unready: str, left: list[str], provider: vastai.VastaiProvider, world: World, answers: dict[str, str]
) -> None:
    error = fail(provider, on_unready=on_unready)
    assert [one.status for one in world.alive()] == left
    assert [one["ended"] for one in error.result["failed_rentals"]] == ["stopped" if left else "destroyed"]
