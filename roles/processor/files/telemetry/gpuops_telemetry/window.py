# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sliding windows with running totals: adding an event and reading a total cost the same however many there are.

Time is the event's own, in whole seconds: after an outage the backlog falls out of the window instead of looking like
a burst, and the order of arrival doesn't matter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Totals:
    """Sums over completions."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: int = 0  # whole milliseconds: sums of fractions drift when terms are taken away again

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: Totals) -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.latency_ms += other.latency_ms

    def subtract(self, other: Totals) -> None:
        self.requests -= other.requests
        self.prompt_tokens -= other.prompt_tokens
        self.completion_tokens -= other.completion_tokens
        self.latency_ms -= other.latency_ms


class UsageWindow:
    """Token usage of the last `seconds` seconds, in all and per model."""

    def __init__(self, seconds: int, started: float) -> None:
        self.seconds = seconds
        self.total = Totals()
        self.per_model: dict[str, Totals] = {}
        self._earliest = started
        self._newest = int(started)
        self._buckets: dict[int, dict[str, Totals]] = {}

    def add(
        self, ts: float, model: str, prompt_tokens: int, completion_tokens: int, latency_ms: float, now: float
    ) -> None:
        """Counts one completion; one older than the window doesn't count, one from the future counts as of now."""
        self.advance(now)
        second = min(int(ts), self._newest)
        if second <= self._newest - self.seconds:
            return
        if second < self._earliest:
            self._earliest = second
        one = Totals(1, prompt_tokens, completion_tokens, round(latency_ms))
        self._buckets.setdefault(second, {}).setdefault(model, Totals()).add(one)
        self.per_model.setdefault(model, Totals()).add(one)
        self.total.add(one)

    def advance(self, now: float) -> None:
        """Drops what has become too old: at most `seconds` steps, however long nobody asked."""
        second = int(now)
        if second <= self._newest:
            return
        for passed in range(self._newest - self.seconds + 1, min(second - self.seconds, self._newest) + 1):
            for model, totals in self._buckets.pop(passed, {}).items():
                self._forget(model, totals)
        self._newest = second

    def _forget(self, model: str, totals: Totals) -> None:
        self.total.subtract(totals)
        remaining = self.per_model[model]
        remaining.subtract(totals)
        if remaining.requests == 0:
            del self.per_model[model]

    def covered_seconds(self, now: float) -> float:
        """How much of the window has been watched: right after a start, dividing by all of it shows too little."""
        return min(float(self.seconds), max(1.0, now - self._earliest))
