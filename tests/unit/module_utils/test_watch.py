# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rental that is to end itself: whether it looks at its expiry is read back, and doubt is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _readiness, _report, _views, _watch
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import Budget
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Runtime, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from support.fake_provider import FakeCloud, FakeProvider

RENTAL = Instance(
    "fake",
    "9000001",
    Marker("acme-llm", "vllm-1", "abc123", 500_000),
    Status.RUNNING,
    runtime=Runtime.CONTAINER,
    ends_itself=True,
    price_per_hour_usd=1.0,
    created_at=1_700_000_000.0,
)
LOOK = "gpuops-fleet-watch Sun, 22 Nov 2026 01:00:00 GMT"
LATER = "2026-11-22T01:05:01 gpuops-fleet-watch Sun, 22 Nov 2026 01:05:00 GMT"


class Logging(FakeProvider):
    """A provider that shows this log, or fails to."""

    def __init__(self, text: str | None) -> None:
        super().__init__(FakeCloud({RENTAL.id: RENTAL}))
        self.text = text
        self.asked = 0

    def log(self, instance_id: str, words: str) -> str:
        assert (instance_id, words) == (RENTAL.id, "gpuops-fleet-watch")
        self.asked += 1
        if self.text is None:
            raise ProviderUnavailable("no log", provider="fake")
        return self.text


def test_its_log_says_when_it_last_looked() -> None:
    seen = _watch.ask(Logging(f"{LATER}\n{LOOK}\n"), RENTAL)
    assert _views.instance(seen)["lifetime_watched_at"] == "2026-11-22T01:05:00Z"
    assert _watch.doubt(seen) == ""


@pytest.mark.parametrize("log", ["", None, "gpuops-fleet-watch soon\n", "gpuops-fleet: can't end itself now: 401\n"])
def test_without_such_a_line_there_is_doubt(log: str | None) -> None:
    seen = _watch.ask(Logging(log), RENTAL)
    assert _views.instance(seen)["lifetime_watched_at"] is None
    assert "its log does not show that it looks at its expiry" in _watch.doubt(seen)


def test_what_nothing_there_is_to_end_is_not_asked() -> None:
    provider = Logging(LOOK)
    for other in (replace(RENTAL, ends_itself=False), replace(RENTAL, marker=Marker("acme-llm", "vllm-1", "abc123"))):
        assert _watch.ask(provider, other) == other
        assert _watch.once(provider, other) == other
        assert _watch.doubt(other) == ""
    assert provider.asked == 0


def test_one_look_that_was_seen_is_remembered_for_this_very_rental() -> None:
    provider = Logging(LOOK)
    first = _watch.once(provider, RENTAL)
    assert _watch.once(provider, RENTAL) == first
    assert provider.asked == 1
    _watch.once(provider, replace(RENTAL, marker=Marker("acme-llm", "vllm-1", "zzz999", 500_000)))
    assert provider.asked == 2


@pytest.mark.parametrize(("log", "warned"), [(LOOK, False), ("", True)])
def test_provision_says_when_nothing_shows_that_it_will_be_ended(
    log: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = _readiness.Report(Budget(1, 1, 1), ready=True)
    monkeypatch.setattr(_readiness, "wait_until_ready", lambda provider, instance, *more: (instance, report))
    wish = Wish("acme-llm", "vllm-1", providers=("fake",), runtime=Runtime.CONTAINER, wait="endpoint")
    result = _engine.Run({"fake": Logging(log)}, wish).result()
    assert any("is to end itself" in sentence for sentence in result["warnings"]) is warned
    assert (result["instance"]["lifetime_watched_at"] is None) is warned


@pytest.mark.parametrize("watches", [False, True])
def test_status_asks_and_a_list_does_not(watches: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Logging(LOOK)
    monkeypatch.setattr(_engine, "load_providers", lambda names, settings: {"fake": provider})
    params: dict[str, Any] = {"deployment_id": "acme-llm", "providers": ["fake"], "names": [], "watches": watches}
    (told,) = _report.list_instances(params)["instances"]
    assert (told["lifetime_watched_at"] is not None, provider.asked) == (watches, int(watches))
