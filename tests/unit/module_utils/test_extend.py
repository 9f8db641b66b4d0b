# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Giving a rental more time: refused where it can't be, shown before it is done, and read back afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _engine, _journal, _preflight
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability, EngineError, InvalidRequest
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake",), lifetime_seconds=7200, wait="none")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return FakeClock().install(monkeypatch)


@pytest.fixture
def provider(clock: FakeClock) -> FakeProvider:
    """Has rented vllm-1 for two hours."""
    provider = FakeProvider(FakeCloud(), unique_names=True)
    Run({"fake": provider}, WISH).result()
    return provider


def extended(provider: FakeProvider, clock: FakeClock, hours: int = 8, **values: Any) -> dict[str, Any]:
    wish = replace(WISH, extend_to_epoch_hours=int(clock.time // 3600) + hours)
    return Run({"fake": provider}, wish, **values).result()


def test_it_lives_longer_and_nothing_else_changes(provider: FakeProvider, clock: FakeClock) -> None:
    (before,) = provider.cloud.alive()
    result = extended(provider, clock)
    (after,) = provider.cloud.alive()
    expiry = int(clock.time // 3600) + 8
    assert after == replace(before, marker=replace(before.marker, expiry_epoch_hours=expiry))
    assert (result["changed"], result["actions"]) == (True, ["renew"])
    assert result["instance"]["expires_at"] == "2027-01-15T16:00:00Z"
    assert [line["event"] for line in _journal.read("acme-llm")][-1] == "renewed"
    assert not extended(provider, clock)["changed"]


def test_check_mode_and_diff_show_the_new_end(provider: FakeProvider, clock: FakeClock) -> None:
    result = extended(provider, clock, check_mode=True)
    assert result["actions"] == ["renew"]
    ends = [result["diff"][side]["expires_at"] for side in ("before", "after")]
    assert ends == ["2027-01-15T10:00:00Z", "2027-01-15T16:00:00Z"]
    assert "renew" not in provider.cloud.calls


def test_what_differs_is_extended_before_that_is_told(provider: FakeProvider, clock: FakeClock) -> None:
    """Else it would be ended with all that lies on it, while its user thinks about what differs."""
    (before,) = provider.cloud.alive()
    provider.cloud.instances[before.id] = replace(before, image="a:1")
    wish = replace(WISH, image="a:2", extend_to_epoch_hours=int(clock.time // 3600) + 8)
    with pytest.raises(EngineError, match=r"^'vllm-1' would be extended to 2027-01-15T16:00:00Z\. .*differs") as caught:
        Run({"fake": provider}, wish, check_mode=True).result()
    assert (caught.value.result["changed"], provider.cloud.calls.count("renew")) == (False, 0)
    with pytest.raises(
        EngineError, match=r"^'vllm-1' was extended to 2027-01-15T16:00:00Z\. .*differs.*image"
    ) as caught:
        Run({"fake": provider}, wish).result()
    assert (caught.value.code, caught.value.result["changed"]) == ("drift", True)
    assert caught.value.result["actions"] == ["renew"]
    assert caught.value.result["instance"]["expires_at"] == "2027-01-15T16:00:00Z"
    (after,) = provider.cloud.alive()
    assert after.marker.expiry_epoch_hours == wish.extend_to_epoch_hours
    with pytest.raises(EngineError, match=r"^Instance 'vllm-1' exists and differs"):
        Run({"fake": provider}, wish).result()


def test_a_provider_that_can_not_is_refused_before_anything_changes(provider: FakeProvider, clock: FakeClock) -> None:
    provider.capabilities -= {Capability.RENEW}
    before = len(provider.cloud.calls)
    for check_mode in (True, False):
        with pytest.raises(InvalidRequest, match="can't change the expiry") as caught:
            extended(provider, clock, check_mode=check_mode)
    assert "max_lifetime" in caught.value.fix
    assert set(provider.cloud.calls[before:]) == {"list"}


def test_an_expiry_that_does_not_take_effect_is_loud(provider: FakeProvider, clock: FakeClock) -> None:
    (lives,) = provider.cloud.alive()

    def takes_it_and_forgets(instance_id: str, expiry_epoch_hours: int) -> Instance:
        return lives

    provider.renew = takes_it_and_forgets  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="still shows the old one"):
        extended(provider, clock)


@pytest.mark.parametrize(
    ("providers", "extend", "words"),
    [
        (["runpod"], "8h", "'runpod' can't change the expiry.*--limit.*max_lifetime"),
        (["runpod", "local"], "8h", "'runpod' and 'local' can't change"),
        (["vastai"], "soon", "extend 'soon' can't be read"),
        (["vastai"], "unlimited", "extend 'unlimited' can't be read"),
        (["vastai"], "0h", "'0h'"),
    ],
)
def test_what_can_not_be_is_refused_before_any_call(providers: list[str], extend: str, words: str) -> None:
    complete, errors = _arguments.complete_instance(
        {"name": "vllm-1", "providers": providers, "max_lifetime": "8h", "runtime": "container", "image": "a:1"}
    )
    assert not errors
    params = {**complete, "wait": "none", "deployment_id": "acme-llm", "state": "started", "extend": extend}
    if "local" in providers:
        params["runtime"] = "vm"
    with pytest.raises(ValueError, match=words):
        _engine.run_instance(params, check_mode=True)


def test_where_one_of_several_providers_can_it_is_looked_at() -> None:
    assert _preflight.check_extend({"providers": ["runpod", "vastai"]}, "8h") == []


def test_the_expiry_is_rounded_up_to_a_full_hour(clock: FakeClock) -> None:
    complete, _errors = _arguments.complete_instance({"name": "vllm-1", "providers": ["vastai"]})
    clock.time = 3600.0 * 500_000 + 1
    wish = _arguments.wish_from({**complete, "deployment_id": "acme-llm", "state": "started", "extend": "8h"})
    assert wish.extend_to_epoch_hours == 500_009
