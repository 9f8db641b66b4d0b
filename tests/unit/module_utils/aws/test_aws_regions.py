# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A region that was taken out of the settings: what was rented there is not said to be gone, and is not forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _journal, _orphans, _report
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws
from support.aws_calls import KEY
from support.moto_cloud import MotoWorld

BOTH = ["us-east-1", "us-west-2"]
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("aws",),
    look_at=("aws",),
    gpu="L4",
    gpu_count=1,
    regions=("us-west-2",),
    lifetime_seconds=8 * 3600,
    ssh_public_key=KEY,
    wait="none",
)
WARNED = (
    "vllm-1 ({id}) was rented at aws in us-west-2, where nobody looks any more, so it may still live and cost money: "
    "add us-west-2 to provider_settings.aws.regions (or enable it for the account) and run this again, or look into "
    "the provider's console."
)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))


@pytest.fixture
def rented(settings: dict[str, Any]) -> str:
    """The id of what lives in us-west-2."""
    return str(run(settings, BOTH)["instance"]["id"])


def run(settings: dict[str, Any], looked_into: list[str], *, check_mode: bool = False, **values: Any) -> dict[str, Any]:
    provider = aws.make({**settings, "regions": looked_into})
    return Run({"aws": provider}, replace(WISH, **values), check_mode).result()


def shown(settings: dict[str, Any], regions: list[str], *names: str) -> dict[str, Any]:
    """As the playbooks status and destroy see it, through what watches a provider with an account."""
    accounts = {"aws": {**settings, "regions": regions}}
    params = {"deployment_id": "acme-llm", "providers": ["aws"], "provider_settings": accounts, "names": list(names)}
    return _report.list_instances(params)


def events(*names: str) -> list[str]:
    return [line["id"] for line in _journal.read("acme-llm") if line["event"] in names]


@pytest.mark.parametrize("check_mode", [False, True])
def test_it_is_not_gone_where_nobody_looked(
    settings: dict[str, Any], world: MotoWorld, rented: str, check_mode: bool
) -> None:
    result = run(settings, ["us-east-1"], check_mode=check_mode, regions=("us-east-1",))
    assert result["warnings"] == [WARNED.format(id=rented)]
    assert events("gone") == []
    assert rented in [one.id for one in world.alive()]


def test_an_end_is_proven_only_where_somebody_looked(settings: dict[str, Any], rented: str) -> None:
    result = run(settings, ["us-east-1"], state="absent")
    assert (result["changed"], result["warnings"]) == (False, [WARNED.format(id=rented)])
    assert events("gone", "deleted") == []
    listed = shown(settings, ["us-east-1"])
    assert (listed["complete"], listed["instances"]) == (True, [])
    assert listed["unseen"] == [{"name": "vllm-1", "provider": "aws", "id": rented, "region": "us-west-2"}]
    assert listed["warnings"] == [WARNED.format(id=rented)]
    assert shown(settings, ["us-east-1"], "other")["unseen"] == []


@pytest.mark.parametrize("regions", [BOTH, []])
def test_who_looks_there_again_is_told_nothing_more(settings: dict[str, Any], rented: str, regions: list[str]) -> None:
    """Without regions all of the account's are looked into."""
    assert run(settings, regions)["warnings"] == []
    listed = shown(settings, regions)
    assert ([one["id"] for one in listed["instances"]], listed["unseen"]) == ([rented], [])
    assert run(settings, regions, state="absent")["actions"][0] == "delete"
    assert shown(settings, ["us-east-1"])["unseen"] == [], "its end is known"


def test_what_somebody_else_ended_is_gone_once_it_was_looked_for(settings: dict[str, Any], rented: str) -> None:
    aws.make({**settings, "regions": BOTH}).delete(rented)
    assert run(settings, ["us-east-1"], state="absent")["warnings"] == [WARNED.format(id=rented)]
    assert run(settings, BOTH, state="absent")["warnings"] == []
    assert events("gone") == [rented]
    assert run(settings, ["us-east-1"], state="absent")["warnings"] == []


def test_a_line_that_names_no_region_says_of_nothing_that_it_is_gone(
    settings: dict[str, Any], rented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{**line, "region": None} for line in _journal.read("acme-llm")]
    monkeypatch.setattr(_journal, "read", lambda _deployment_id: lines)
    recorded: list[str] = []
    monkeypatch.setattr(_journal, "record", lambda event, *_rest, **_more: recorded.append(event))
    assert run(settings, ["us-east-1"], state="absent")["warnings"] == []
    assert "gone" not in recorded


def test_a_sweep_tells_it_too_and_writes_down_what_no_file_names(
    settings: dict[str, Any], rented: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fleet.yml"
    file.write_text("plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: []\n")
    regions = ["us-east-1"]

    def load(names: list[str], _settings: Any) -> dict[str, aws.AwsProvider]:
        return {name: aws.make({**settings, "regions": regions}) for name in names}

    monkeypatch.setattr(_engine, "load_providers", load)
    params: dict[str, Any] = {
        "deployment_id": "acme-llm",
        "providers": ["aws"],
        "fleet_files": [str(file)],
        "confirm": "acme-llm",
        "grace_seconds": 900,
        "max_deletions": 5,
    }
    assert _orphans.run_orphan(params, check_mode=False)["warnings"] == [WARNED.format(id=rented)]
    assert events("gone") == []
    aws.make({**settings, "regions": BOTH}).delete(rented)
    regions.append("us-west-2")
    _orphans.run_orphan({**params, "confirm": None}, check_mode=False)
    assert events("gone") == [], "who only looks writes nothing down"
    assert _orphans.run_orphan(params, check_mode=False)["warnings"] == []
    assert events("gone") == [rented]
