# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Orphans are destroyed only when it is certain and asked for; costs are added up from what is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _journal, _marker, _orphans, _report
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Capability,
    EngineError,
    ProviderUnavailable,
)
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

PARAMS: dict[str, Any] = {
    "deployment_id": "acme-llm",
    "providers": ["fake"],
    "confirm": "acme-llm",
    "grace_seconds": 900,
    "max_deletions": 5,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return FakeClock().install(monkeypatch)


@pytest.fixture
def provider(clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProvider:
    """Rents vllm-1 and old-1 for acme-llm, old-1 for somebody else, and lets an hour go by."""
    provider = FakeProvider(FakeCloud(), unique_names=True)
    monkeypatch.setattr(_engine, "load_providers", lambda names, settings: dict.fromkeys(names, provider))
    fleet_file(tmp_path / "fleet.yml", "vllm-1")
    for deployment_id, name in (("acme-llm", "vllm-1"), ("acme-llm", "old-1"), ("acme-llm-2", "old-1")):
        wish = Wish(deployment_id, name, providers=("fake",), look_at=("fake",), wait="none")
        Run({"fake": provider}, wish).result()
    clock.time += 3600
    return provider


def fleet_file(path: Path, *names: str, deployment_id: str = "acme-llm") -> str:
    entries = "".join(f"\n  - {{name: {name}, providers: [local]}}" for name in names) or " []"
    path.write_text(f"plugin: gpuops.fleet.fleet\ndeployment_id: {deployment_id}\ninstances:{entries}\n")
    return str(path)


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    return {**PARAMS, "fleet_files": [str(tmp_path / "fleet.yml")]}


def alive(provider: FakeProvider) -> list[str]:
    return [f"{one.marker.deployment_id} {one.marker.name}" for one in provider.cloud.alive()]


def only(provider: FakeProvider, name: str) -> Instance:
    (one,) = (one for one in provider.cloud.alive(name) if one.marker.deployment_id == "acme-llm")
    return one


def change(provider: FakeProvider, one: Instance, **values: Any) -> None:
    provider.cloud.instances[one.id] = replace(one, marker=replace(one.marker, **values))


def test_an_orphan_is_ended_after_two_lists_a_minute_apart(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    result = _orphans.run_orphan(params, check_mode=False)
    assert (result["changed"], [one["name"] for one in result["deleted"]]) == (True, ["old-1"])
    assert alive(provider) == ["acme-llm vllm-1", "acme-llm-2 old-1"]
    assert sum(clock.slept) >= 60
    assert provider.cloud.calls[-4:] == ["list", "get", "delete", "clean_up"]
    assert [line["reason"] for line in _journal.read("acme-llm") if line["event"] == "deleted"] == ["orphan"]
    assert not _orphans.run_orphan(params, check_mode=False)["changed"]


@pytest.mark.parametrize("values", [{"confirm": None}, {"grace_seconds": 7200}])
def test_it_is_only_reported_otherwise(provider: FakeProvider, params: dict[str, Any], values: dict[str, Any]) -> None:
    result = _orphans.run_orphan({**params, **values}, check_mode=False)
    assert [one["name"] for one in result["orphans"]] == ["old-1"]
    assert not result["changed"]
    assert len(alive(provider)) == 3


def test_check_mode_tells_and_keeps(provider: FakeProvider, params: dict[str, Any]) -> None:
    result = _orphans.run_orphan(params, check_mode=True)
    assert (result["changed"], [one["verdict"] for one in result["deleted"]]) == (True, ["orphan"])
    assert len(alive(provider)) == 3


def test_what_is_over_is_ended_although_a_file_names_it(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    change(provider, only(provider, "vllm-1"), expiry_epoch_hours=int(clock.time // 3600))
    result = _orphans.run_orphan({**params, "grace_seconds": 7200}, check_mode=False)
    assert [(one["name"], one["verdict"]) for one in result["deleted"]] == [("vllm-1", "expired")]


def test_what_a_job_rented_ends_only_when_it_is_over(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    job = only(provider, "old-1")
    change(provider, job, owner="job:17", expiry_epoch_hours=_marker.expiry_epoch_hours(3600))
    kept = _orphans.run_orphan(params, check_mode=False)
    assert (kept["changed"], kept["orphans"]) == (False, [])
    clock.time += 2 * 3600
    assert [one["id"] for one in _orphans.run_orphan(params, check_mode=False)["deleted"]] == [job.id]


def test_too_many_a_wrong_confirmation_and_a_failed_list_end_nothing(
    provider: FakeProvider, params: dict[str, Any], tmp_path: Path
) -> None:
    none = [fleet_file(tmp_path / "none.fleet.yml")]
    with pytest.raises(EngineError, match="more than max_deletions 1"):
        _orphans.run_orphan({**params, "fleet_files": none, "max_deletions": 1}, check_mode=False)
    with pytest.raises(ValueError, match="confirm: acme-llm"):
        _orphans.run_orphan({**params, "confirm": "yes"}, check_mode=False)
    with pytest.raises(ValueError, match="confirm: acme-llm"):
        _orphans.run_orphan({**params, "confirm": ""}, check_mode=False)
    provider.refuse["list"] = ProviderUnavailable("down", provider="fake")
    with pytest.raises(ProviderUnavailable):
        _orphans.run_orphan(params, check_mode=False)
    assert len(alive(provider)) == 3


def test_a_second_list_that_fails_ends_nothing(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    def the_provider_goes_down() -> None:
        provider.refuse["list"] = ProviderUnavailable("down", provider="fake")

    clock.on_sleep = the_provider_goes_down
    with pytest.raises(ProviderUnavailable):
        _orphans.run_orphan(params, check_mode=False)
    assert len(alive(provider)) == 3


@pytest.mark.parametrize("values", [{"nonce": "zzzzzz"}, {"expiry_epoch_hours": 900_000}, {"owner": "job:17"}])
def test_what_came_back_into_use_between_the_lists_is_kept(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any], values: dict[str, Any]
) -> None:
    orphan = only(provider, "old-1")
    clock.on_sleep = lambda: change(provider, orphan, **values)
    assert not _orphans.run_orphan(params, check_mode=False)["deleted"]
    assert len(alive(provider)) == 3


def test_what_changes_after_the_second_list_is_kept(provider: FakeProvider, params: dict[str, Any]) -> None:
    orphan = only(provider, "old-1")

    def somebody_extends_it(call: str, when: str) -> None:
        if (call, when) == ("get", "before"):
            change(provider, orphan, expiry_epoch_hours=900_000)

    provider.at_boundary = somebody_extends_it
    assert not _orphans.run_orphan(params, check_mode=False)["deleted"]
    assert len(alive(provider)) == 3


def test_one_that_can_not_be_ended_saves_no_other_and_is_loud(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    change(provider, only(provider, "vllm-1"), expiry_epoch_hours=int(clock.time // 3600))
    stuck = only(provider, "old-1").id
    delete = provider.delete

    def fails_once(instance_id: str) -> bool:
        if instance_id == stuck:
            raise ProviderUnavailable("still there, costing 1.0 USD per hour", provider="fake")
        return delete(instance_id)

    provider.delete = fails_once  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"Not everything .* costing 1\.0 USD") as caught:
        _orphans.run_orphan(params, check_mode=False)
    assert [one["name"] for one in caught.value.result["deleted"]] == ["vllm-1"]
    assert caught.value.result["changed"]
    assert alive(provider) == ["acme-llm old-1", "acme-llm-2 old-1"]


# Fleet files


def test_every_file_given_counts_also_those_in_folders(
    provider: FakeProvider, params: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    fleet_file(folder / "second.fleet.yml", "old-1")
    (folder / "group_vars" / "fleet.yml").write_text("variables: of a group with an unlucky name\n")
    files = [*params["fleet_files"], str(folder)]
    assert not _orphans.run_orphan({**params, "fleet_files": files}, check_mode=False)["orphans"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("hosts.ini", "", "this is no fleet file"),
        ("gone.fleet.yml", None, "can't be read"),
        ("broken.fleet.yml", "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: 5\n", "instances"),
        (
            "other.fleet.yml",
            "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm-2\ninstances: []\n",
            "is of deployment 'acme-llm-2', not 'acme-llm'",
        ),
    ],
)
def test_a_file_that_can_not_be_read_ends_nothing(
    provider: FakeProvider, params: dict[str, Any], tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    """What it names would else look like an orphan."""
    if text is not None:
        (tmp_path / name).write_text(text)
    before = len(provider.cloud.calls)
    with pytest.raises(ValueError, match=words):
        _orphans.run_orphan({**params, "fleet_files": [*params["fleet_files"], str(tmp_path / name)]}, check_mode=False)
    assert len(provider.cloud.calls) == before


def test_without_a_file_nothing_is_judged(provider: FakeProvider, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fleet_files is empty"):
        _orphans.run_orphan({**params, "fleet_files": []}, check_mode=False)


def test_without_providers_those_of_the_files_are_asked(
    provider: FakeProvider, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(names: list[str], settings: Any) -> dict[str, FakeProvider]:
        asked.extend(names)
        return {"local": provider}

    monkeypatch.setattr(_engine, "load_providers", load)
    more = tmp_path / "more.fleet.yml"
    fleet_file(more)
    more.write_text(more.read_text() + "provider_settings: {vastai: {}}\n")
    _orphans.run_orphan({**params, "providers": [], "fleet_files": [*params["fleet_files"], str(more)]}, True)
    assert asked == ["local", "vastai"]
    with pytest.raises(ValueError, match="No provider that rents is named"):
        _orphans.run_orphan({**params, "providers": [], "fleet_files": [fleet_file(more)]}, True)


# Costs


def test_costs_of_what_lives_and_what_is_gone_are_added_up(
    provider: FakeProvider, clock: FakeClock, params: dict[str, Any]
) -> None:
    _orphans.run_orphan(params, check_mode=False)  # ends old-1 after an hour and a minute
    clock.time += 3600
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert cost["price_per_hour_usd"] == 1.0
    assert [one["name"] for one in cost["past"]] == ["old-1"]
    assert cost["past"][0]["cost_usd"] == pytest.approx(1 + 1 / 60, abs=0.001)
    assert cost["cost_so_far_usd"] == pytest.approx(2 + 1 / 60 + 1 + 1 / 60, abs=0.001)
    assert [cost["live"][0]["cost_source"], cost["past"][0]["cost_source"]] == ["price_and_age", "journal"]
    assert (cost["live"][0]["lifetime_enforcer"], cost["live"][0]["expires_at"]) == ("nobody", None)
    assert not cost["complete"], "an estimate is no bill"
    assert not cost["past"][0]["cost_complete"], "and neither is what this controller wrote down"


def test_what_costs_nothing_is_complete(provider: FakeProvider, params: dict[str, Any]) -> None:
    provider.capabilities |= {Capability.FREE}
    _orphans.run_orphan(params, check_mode=False)
    assert _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})["complete"]


def test_an_end_that_the_journal_does_not_know_makes_the_sum_incomplete(provider: FakeProvider) -> None:
    provider.capabilities |= {Capability.FREE}
    provider.delete(only(provider, "old-1").id)  # by somebody else
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert cost["past"][0]["cost_usd"] is None
    assert not cost["complete"]


def test_the_price_of_what_is_stopped_says_nothing_of_its_past(provider: FakeProvider) -> None:
    provider.stop(only(provider, "vllm-1").id)
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert {one["name"]: one["cost_so_far_usd"] for one in cost["live"]} == {"vllm-1": None, "old-1": 1.0}


class Billed(FakeProvider):
    """Writes a bill, over everything that ever lived."""

    since = 0.0

    def billed_usd(self, instance_ids: Collection[str], since_seconds: float) -> dict[str, float]:
        self.since = since_seconds
        return self._do("bill", lambda: {one: 7.5 for one in instance_ids if one != "fake-1"})


def test_the_bill_counts_where_there_is_one(
    provider: FakeProvider, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    billed = Billed(provider.cloud)
    billed.capabilities |= {Capability.BILLING}
    monkeypatch.setattr(_engine, "load_providers", lambda names, settings: {"fake": billed})
    began = only(provider, "vllm-1").created_at
    billed.delete(only(provider, "old-1").id)  # the journal does not know when
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert (cost["past"][0]["cost_usd"], cost["past"][0]["cost_source"]) == (7.5, "bill")
    assert cost["live"][0]["cost_source"] == "price_and_age", "fake-1 is not on the bill"
    assert not cost["complete"]
    assert billed.since == began
    listed = _report.list_instances(
        {"deployment_id": "acme-llm", "providers": ["fake"], "names": [], "certificates": False}
    )
    assert listed["instances"][0]["cost_complete"] is False
    billed.refuse["bill"] = ProviderUnavailable("no bill", provider="fake")
    cost = _report.sum_up_cost({"deployment_id": "acme-llm", "providers": ["fake"]})
    assert (cost["past"][0]["cost_usd"], cost["errors"][0]["message"], cost["complete"]) == (None, "no bill", False)
    assert _report.list_instances(
        {"deployment_id": "acme-llm", "providers": ["fake"], "names": [], "certificates": False}
    )["complete"]
