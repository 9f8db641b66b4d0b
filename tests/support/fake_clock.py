# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that stands still until somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock


class FakeClock:
    """Replaces the functions of _clock; on_sleep is called at each sleep, after the time has passed."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += max(0.0, seconds)
        self.on_sleep()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
        monkeypatch.setattr(_clock, "now", self.now)
        monkeypatch.setattr(_clock, "monotonic", self.now)
        monkeypatch.setattr(_clock, "sleep", self.sleep)
        return self
