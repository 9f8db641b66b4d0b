# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often one may call: RunPod counts in windows and says what is left, Vast.ai wants time between two calls.
TensorDock counts in one window and says nothing.

Time is the world's; what a client is told to wait is in its own seconds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

# As the published specification gives them in its example.
RUNPOD_WINDOWS = (("minute", 60, 60.0), ("hour", 3000, 3600.0), ("day", 50_000, 86_400.0))
# The least time between two calls of one kind, in seconds.
VASTAI_INTERVALS = (
    ("PUT", r"/api/v0/asks/.*", 4.5),
    ("POST", r"/api/v0/bundles/", 6.0),
    ("POST", r"/api/v0/instances/[0-9]+/ssh/", 1.0),
    ("GET", r"/api/v0/instances/[0-9]+/", 2.0),
    ("PUT", r"/api/v0/instances/[0-9]+/", 1.0),
    ("DELETE", r"/api/v0/instances/[0-9]+/", 3.0),
    ("GET", r"/api/v1/instances/", 1.0),
)


@dataclass
class Windows:
    """Several quotas at once; each begins anew when its time is over."""

    scale: float
    windows: tuple[tuple[str, int, float], ...] = RUNPOD_WINDOWS
    _used: dict[str, tuple[float, int]] = field(default_factory=dict)  # when it began, how many calls since

    def count(self, now: float) -> str | None:
        """Take one call; the name of the window that is empty, or None when the call may pass."""
        for name, _quota, seconds in self.windows:
            if now - self._used.get(name, (-math.inf, 0))[0] >= seconds:
                self._used[name] = (now, 0)
        empty = next((name for name, quota, _seconds in self.windows if self._used[name][1] >= quota), None)
        if empty is None:
            self._used = {name: (began, calls + 1) for name, (began, calls) in self._used.items()}
        return empty

    def headers(self, now: float, empty: str | None) -> dict[str, str]:
        left = {name: (quota - self._used[name][1], self._wait(name, now)) for name, quota, _seconds in self.windows}
        told = {
            "RateLimit": ", ".join(f'"{name}";r={calls};t={wait}' for name, (calls, wait) in left.items()),
            "RateLimit-Policy": ", ".join(
                f'"{name}";q={quota};w={seconds:.0f}' for name, quota, seconds in self.windows
            ),
        }
        return told | ({"Retry-After": str(left[empty][1])} if empty else {})

    def _wait(self, name: str, now: float) -> int:
        seconds = next(seconds for one, _quota, seconds in self.windows if one == name)
        return math.ceil(max(0.0, self._used[name][0] + seconds - now) / self.scale)


@dataclass
class Intervals:
    """Each kind of call keeps its distance from the last one of its kind that was let through."""

    intervals: tuple[tuple[str, str, float], ...] = VASTAI_INTERVALS
    _last: dict[str, float] = field(default_factory=dict)

    def count(self, method: str, path: str, now: float) -> float | None:
        """Take one call; the distance that it doesn't keep, or None when it may pass."""
        for wanted, pattern, seconds in self.intervals:
            if method == wanted and re.fullmatch(pattern, path):
                if now - self._last.get(wanted + pattern, -math.inf) < seconds:
                    return seconds
                self._last[wanted + pattern] = now
        return None
