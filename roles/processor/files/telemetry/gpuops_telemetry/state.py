# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processor knows about itself: written by the thread that consumes, read by the API."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gpuops_telemetry.events import COLLECTIONS, GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC, Event, GpuMetrics, TokenUsage
from gpuops_telemetry.window import Totals, UsageWindow

# A consuming thread that hasn't shown itself for this long hangs; the longest honest step is one database time-out.
SILENT_SECONDS = 90.0

# How long a host's last price counts. A host that stopped sending has probably been returned.
PRICE_SECONDS = 300.0


class Metrics:
    """The processor's Prometheus metrics. Updated per batch, never per event."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        topic = ("topic",)
        name = "gpuops_processor_"
        self.stored = Counter(name + "events_stored", "Events stored as new documents.", topic, registry=self.registry)
        self.duplicates = Counter(
            name + "duplicates",
            "Events whose event_id was stored already (a replay, or the id used twice).",
            topic,
            registry=self.registry,
        )
        self.dead_letters = Counter(
            name + "dead_letters", "Messages sent to the dead-letter topic.", topic, registry=self.registry
        )
        self.lag = Gauge(
            name + "lag_messages",
            "Messages in the partition that this processor has not finished.",
            labelnames=("topic", "partition"),
            registry=self.registry,
        )
        self.freshness = Gauge(
            name + "event_age_seconds", "Age of the newest event when it was stored.", topic, registry=self.registry
        )
        self.batch_size = Histogram(
            name + "batch_messages",
            "Messages per batch.",
            buckets=(1, 10, 50, 100, 250, 500, 1000, 2000, 5000),
            registry=self.registry,
        )
        self.write_seconds = Histogram(
            name + "write_seconds",
            "How long the database took to store the documents of one batch.",
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            name + "commit_seconds", "How long the broker took to commit one batch.", registry=self.registry
        )
        self.retries = Counter(
            name + "retries",
            "Attempts that had to be repeated, because the named part did not answer.",
            labelnames=("part",),
            registry=self.registry,
        )
        self.assigned = Gauge(name + "assigned_partitions", "Partitions assigned to us.", registry=self.registry)
        self.ready = Gauge(name + "ready", "1 when /ready answers 200.", registry=self.registry)
        self.tokens_per_second = Gauge(
            name + "tokens_per_second", "Tokens per second over the window.", registry=self.registry
        )
        self.cost_per_token = Gauge(
            name + "cost_per_token_usd", "Cost per token over the window; NaN when unknown.", registry=self.registry
        )
        for name in COLLECTIONS:  # a counter that starts at its first increment hides that increment from rate()
            for counter in (self.stored, self.duplicates, self.dead_letters):
                counter.labels(name)


class ProcessorState:
    """Readiness, the window and the latest GPU sample, under one lock."""

    def __init__(
        self,
        window_seconds: int,
        price_per_hour_usd: float | None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = Metrics()
        self._lock = threading.Lock()
        self._clock = clock
        self._monotonic = monotonic
        self._window = UsageWindow(window_seconds, clock())
        self._price_per_hour_usd = price_per_hour_usd
        self._host_prices: dict[str, tuple[float, float]] = {}  # host → (event time, price)
        self._latest_gpu: GpuMetrics | None = None
        self._assigned: set[tuple[str, int]] = set()
        self._store_problem: str | None = "Nothing has been heard from the database yet."
        self._broker_problem: str | None = None
        self._seen = monotonic()
        self.failure: BaseException | None = None

    # Written by the consuming thread

    def alive(self) -> None:
        self._seen = self._monotonic()

    def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        with self._lock:
            self._assigned = set(partitions)
        self.metrics.assigned.set(len(self._assigned))

    def store_problem(self, problem: str | None) -> None:
        self._store_problem = problem

    def broker_problem(self, problem: str | None) -> None:
        self._broker_problem = problem

    def stored(self, topic: str, events: Sequence[Event], duplicates: int) -> None:
        """Counts the events of one batch that are new documents now."""
        self.metrics.stored.labels(topic).inc(len(events))
        self.metrics.duplicates.labels(topic).inc(duplicates)
        if not events:
            return
        present = self._clock()
        newest = max(events, key=lambda event: event.ts)
        self.metrics.freshness.labels(topic).set(present - newest.ts.timestamp())
        measured = [event for event in events if not event.is_check]
        with self._lock:
            if topic == TOKEN_USAGE_TOPIC:
                self._count_usage(measured, present)
            elif topic == GPU_METRICS_TOPIC:
                self._keep_latest(measured)

    def _count_usage(self, events: Iterable[Event], present: float) -> None:
        add = self._window.add
        for event in events:
            if isinstance(event, TokenUsage):
                tokens = event.prompt_tokens, event.completion_tokens
                add(event.ts.timestamp(), event.model, *tokens, event.latency_ms, present)

    def _keep_latest(self, events: Iterable[Event]) -> None:
        for event in events:
            if not isinstance(event, GpuMetrics):
                continue
            if self._latest_gpu is None or event.ts >= self._latest_gpu.ts:
                self._latest_gpu = event
            if event.price_per_hour_usd is not None:
                moment = event.ts.timestamp()
                if moment >= self._host_prices.get(event.host, (0.0, 0.0))[0]:
                    self._host_prices[event.host] = (moment, event.price_per_hour_usd)

    # Read by the API

    def problems(self) -> list[str]:
        """Why the processor isn't ready, as sentences; empty when it is."""
        problems = self.fatal_problems()
        if not self._assigned:
            problems.append("No partition is assigned: the broker is away, or the topics do not exist.")
        if self._broker_problem:
            problems.append(f"The broker does not accept our commits: {self._broker_problem}")
        if self._store_problem:
            problems.append(f"The database does not accept writes: {self._store_problem}")
        return problems

    def fatal_problems(self) -> list[str]:
        """Why the processor is as good as dead."""
        if self.failure is not None:
            return [f"The consuming thread ended: {self.failure}"]
        silent = self._monotonic() - self._seen
        if silent > SILENT_SECONDS:
            return [f"The consuming thread has been silent for {silent:.0f} seconds."]
        return []

    def latest_gpu(self) -> dict[str, Any] | None:
        latest = self._latest_gpu
        return None if latest is None else latest.model_dump(mode="json")

    def usage(self) -> dict[str, Any]:
        """The window as the API shows it."""
        present = self._clock()
        with self._lock:
            self._window.advance(present)
            covered = self._window.covered_seconds(present)
            price = self._price(present)
            return {
                "window_seconds": self._window.seconds,
                "covered_seconds": round(covered, 1),
                "price_per_hour_usd": price,
                **_rates(self._window.total, covered),
                "cost_per_token": _cost_per_token(price, self._window.total, covered),
                "models": {model: _rates(totals, covered) for model, totals in sorted(self._window.per_model.items())},
            }

    def _price(self, present: float) -> float | None:
        if self._price_per_hour_usd is not None:
            return self._price_per_hour_usd
        current = [price for moment, price in self._host_prices.values() if moment > present - PRICE_SECONDS]
        return sum(current) if current else None

    def exposition(self) -> CollectorRegistry:
        """The registry, with the gauges that are worked out when somebody looks."""
        usage = self.usage()
        self.metrics.tokens_per_second.set(usage["tokens_per_second"])
        cost = usage["cost_per_token"]
        self.metrics.cost_per_token.set(float("nan") if cost is None else cost)
        self.metrics.ready.set(0 if self.problems() else 1)
        return self.metrics.registry


def _rates(totals: Totals, seconds: float) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "tokens_per_second": round(totals.tokens / seconds, 3),
        "mean_latency_ms": round(totals.latency_ms / totals.requests, 1) if totals.requests else None,
    }


def _cost_per_token(price_per_hour_usd: float | None, totals: Totals, seconds: float) -> float | None:
    """Dollars per token while the machines cost this much; unknown without a price or without tokens."""
    if price_per_hour_usd is None or totals.tokens == 0:
        return None
    return price_per_hour_usd / 3600 / (totals.tokens / seconds)
