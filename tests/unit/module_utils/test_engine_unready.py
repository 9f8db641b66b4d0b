# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a machine that never becomes ready, and how failures are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _journal, _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError
from ansible_collections.gpuops.fleet.plugins.module_utils._readiness import Probe
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake",), wait="ssh", wait_timeout_seconds=30)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("refused", "Connection refused"))
    return FakeClock().install(monkeypatch)


def fail(cloud: FakeCloud, on_unready: str, **values: Any) -> EngineError:
    provider = FakeProvider(cloud, unique_names=True, **values)
    with pytest.raises(EngineError) as caught:
        Run({"fake": provider}, replace(WISH, on_unready=on_unready)).result()
    assert caught.value.code == "not_ready"
    assert "refused" in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("on_unready", "left"), [("keep", Status.RUNNING), ("stop", Status.STOPPED), ("destroy", None)]
)
def test_only_what_the_user_said_happens_to_it(on_unready: str, left: Status | None) -> None:
    cloud = FakeCloud()
    error = fail(cloud, on_unready)
    assert [one.status for one in cloud.alive()] == ([left] if left else [])
    assert error.result["readiness"]["classes"]["refused"]["count"] > 3
    assert error.result["instance"]["id"] == "fake-1"


def test_kept_it_is_resumed_by_running_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = FakeCloud()
    fail(cloud, "keep")
    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("ok"))
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok", host_key="ssh-ed25519 AAAA"))
    result = Run({"fake": FakeProvider(cloud, unique_names=True)}, WISH).result()
    assert not result["changed"]
    assert result["instance"]["host_key"] == "ssh-ed25519 AAAA"
    assert cloud.calls.count("create") == 1


def test_replace_takes_the_next_offer_and_keeps_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True)
    monkeypatch.setattr(
        _readiness, "probe_socket", lambda endpoint: Probe("ok" if "fake-2" in cloud.instances else "refused")
    )
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok"))
    result = Run({"fake": provider}, replace(WISH, on_unready="replace")).result()
    assert result["instance"]["price_per_hour_usd"] == 2.0  # not the offer of the bad machine again
    assert [one["instance"]["id"] for one in result["failed_rentals"]] == ["fake-1"]
    assert [one.id for one in cloud.alive()] == ["fake-2"]


def test_the_journal_tells_what_happened() -> None:
    fail(FakeCloud(), "destroy")
    assert [line["event"] for line in _journal.read("acme-llm")] == ["claim", "created", "unready", "deleted"]
    assert _journal.read("another") == []
    home = _journal.home()
    assert home is not None
    assert home.stat().st_mode & 0o777 == 0o700
