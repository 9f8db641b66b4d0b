# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orphans are destroyed only when it is certain and asked for; costs are added up from what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _orphans, _report
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, ProviderUnavailable
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

PARAMS: dict[str, Any] = {
    "deployment_id": "acme-llm",
    "providers": ["fake"],
    "wanted": ["vllm-1"],
    "confirm": "acme-llm",
    "grace_seconds": 900,
    "max_deletions": 5,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return FakeClock().install(monkeypatch)


@pytest.fixture
def provider(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Rents vllm-1 and old-1 for acme-llm, old-1 for somebody else, and lets an hour go by."""
    provider = FakeProvider(FakeCloud(), unique_names=True)
    monkeypatch.setattr(_engine, "load_providers", lambda names, settings: dict.fromkeys(names, provider))
    for deployment_id, name in (("acme-llm", "vllm-1"), ("acme-llm", "old-1"), ("acme-llm-2", "old-1")):
        wish = Wish(deployment_id, name, providers=("fake",), look_at=("fake",), wait="none")
        Run({"fake": provider}, wish).result()
    clock.time += 3600
    return provider


def alive(provider: FakeProvider) -> list[str]:
    return [f"{one.marker.deployment_id} {one.marker.name}" for one in provider.cloud.alive()]


def test_an_orphan_is_destroyed_after_two_lists_a_minute_apart(provider: FakeProvider, clock: FakeClock) -> None:
    result = _orphans.run_orphan(PARAMS, check_mode=False)
    assert (result["changed"], [one["name"] for one in result["deleted"]]) == (True, ["old-1"])
    assert alive(provider) == ["acme-llm vllm-1", "acme-llm-2 old-1"]
    assert sum(clock.slept) >= 60
    assert not _orphans.run_orphan(PARAMS, check_mode=False)["changed"]


@pytest.mark.parametrize("values", [{"confirm": None}, {"grace_seconds": 7200}])
def test_it_is_only_reported_otherwise(provider: FakeProvider, values: dict[str, Any]) -> None:
    result = _orphans.run_orphan({**PARAMS, **values}, check_mode=False)
    assert [one["name"] for one in result["orphans"]] == ["old-1"]
    assert not result["changed"]
    assert len(alive(provider)) == 3


def test_check_mode_tells_and_keeps(provider: FakeProvider) -> None:
    assert _orphans.run_orphan(PARAMS, check_mode=True)["changed"]
    assert len(alive(provider)) == 3


def test_what_a_job_rented_is_its_own_business(provider: FakeProvider) -> None:
    for key, one in provider.cloud.instances.items():
        provider.cloud.instances[key] = replace(one, marker=replace(one.marker, owner="job:17"))
    assert not _orphans.run_orphan(PARAMS, check_mode=False)["orphans"]


def test_too_many_a_wrong_confirmation_and_a_failed_list_destroy_nothing(provider: FakeProvider) -> None:
    with pytest.raises(EngineError, match="more than max_deletions 1"):
        _orphans.run_orphan({**PARAMS, "wanted": [], "max_deletions": 1}, check_mode=False)
    with pytest.raises(ValueError, match="confirm: acme-llm"):
        _orphans.run_orphan({**PARAMS, "confirm": "yes"}, check_mode=False)
    provider.refuse["list"] = ProviderUnavailable("down", provider="fake")
    with pytest.raises(ProviderUnavailable):
        _orphans.run_orphan(PARAMS, check_mode=False)
    assert len(alive(provider)) == 3


def test_what_came_back_into_use_between_the_lists_is_kept(provider: FakeProvider, clock: FakeClock) -> None:
    orphan = next(one for one in provider.cloud.alive("old-1") if one.marker.deployment_id == "acme-llm")

    def somebody_replaced_it() -> None:
        renewed = replace(orphan, marker=replace(orphan.marker, nonce="zzzzzz"))
        provider.cloud.instances[orphan.id] = renewed

    clock.on_sleep = somebody_replaced_it
    assert not _orphans.run_orphan(PARAMS, check_mode=False)["deleted"]
    assert len(alive(provider)) == 3


def test_costs_of_what_lives_and_what_is_gone_are_added_up(provider: FakeProvider, clock: FakeClock) -> None:
    _orphans.run_orphan(PARAMS, check_mode=False)  # ends old-1 after an hour and a minute
    clock.time += 3600
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert cost["price_per_hour_usd"] == 1.0
    assert [one["name"] for one in cost["past"]] == ["old-1"]
    assert cost["past"][0]["cost_usd"] == pytest.approx(1 + 1 / 60, abs=0.001)
    assert cost["cost_so_far_usd"] == pytest.approx(2 + 1 / 60 + 1 + 1 / 60, abs=0.001)
    assert cost["complete"]


def test_an_end_that_the_journal_does_not_know_makes_the_sum_incomplete(provider: FakeProvider) -> None:
    gone = next(one for one in provider.cloud.alive("old-1") if one.marker.deployment_id == "acme-llm")
    provider.delete(gone.id)  # by somebody else
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert cost["past"][0]["cost_usd"] is None
    assert not cost["complete"]
