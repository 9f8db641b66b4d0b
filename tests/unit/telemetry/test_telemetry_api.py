# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.testclient import TestClient
from gpuops_telemetry.api import make_app
from gpuops_telemetry.events import GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC, Event, GpuMetrics, TokenUsage
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import StoreUnavailableError, WriteResult

NOW = datetime.datetime(2026, 11, 21, 9, 40, tzinfo=datetime.UTC)


class FakeStore:
    def __init__(self, found: dict[str, Any] | None = None, *, away: bool = False) -> None:
        self.found = found
        self.away = away

    def write(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> WriteResult:
        raise NotImplementedError

    def ping(self) -> None:
        raise NotImplementedError

    def latest(self, collection: str) -> dict[str, Any] | None:
        if self.away:
            raise StoreUnavailableError("connection refused")
        return self.found


class Clock:
    def __init__(self) -> None:
        self.passed = 0.0

    def wall(self) -> float:
        return NOW.timestamp() + self.passed

    def monotonic(self) -> float:
        return self.passed


def gpu(event_id: str = "g1", seconds: int = 0, price: float | None = 3.6, host: str = "vllm-1") -> Event:
    return GpuMetrics(
        event_id=event_id,
        ts=NOW + datetime.timedelta(seconds=seconds),
        host=host,
        gpu_index=0,
        name="A100",
        utilization=0.5,
        mem_used_mb=1.0,
        mem_total_mb=2.0,
        power_w=None,
        price_per_hour_usd=price,
        source="simulated",
    )


def usage(event_id: str, tokens: int, model: str = "m") -> Event:
    return TokenUsage(
        event_id=event_id,
        ts=NOW,
        host="vllm-1",
        model=model,
        prompt_tokens=tokens,
        completion_tokens=tokens,
        latency_ms=100.0,
        gpu_index=0,
    )


def make(price: float | None = None, store: FakeStore | None = None) -> tuple[ProcessorState, TestClient, Clock]:
    clock = Clock()
    state = ProcessorState(60, price, clock.wall, clock.monotonic)
    return state, TestClient(make_app(state, store or FakeStore())), clock


def test_health_is_life_and_nothing_else() -> None:
    state, client, clock = make()
    assert client.get("/health").status_code == 200
    clock.passed = 1000.0
    assert client.get("/health").status_code == 503
    state.alive()
    assert client.get("/health").status_code == 200
    state.failure = RuntimeError("boom")
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "boom" in answer.json()["problems"][0]


def test_ready_says_what_it_waits_for() -> None:
    state, client, _clock = make()
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert any("partition" in problem for problem in answer.json()["problems"])
    state.assigned([(TOKEN_USAGE_TOPIC, 0)])
    assert any("database" in problem for problem in client.get("/ready").json()["problems"])
    state.store_problem(None)
    assert client.get("/ready").json() == {"ready": True, "problems": []}
    state.broker_problem("timed out")
    assert client.get("/ready").status_code == 503


def test_gpu_info_without_any_sample_is_404_with_a_sentence() -> None:
    _state, client, _clock = make()
    answer = client.get("/gpu/info")
    assert answer.status_code == 404
    assert "producer" in answer.json()["detail"]


def test_gpu_info_is_the_latest_sample_by_its_own_time() -> None:
    state, client, _clock = make()
    state.stored(GPU_METRICS_TOPIC, [gpu("new", 5), gpu("old", 1)], 0)
    answer = client.get("/gpu/info")
    assert answer.status_code == 200
    assert answer.json()["event_id"] == "new"
    assert answer.json().keys() == set(GpuMetrics.model_fields)


def test_gpu_info_after_a_start_comes_from_the_database() -> None:
    document = gpu("stored").to_document() | {"extra": object}
    _state, client, _clock = make(store=FakeStore(document))
    answer = client.get("/gpu/info")
    assert answer.status_code == 200
    assert answer.json()["event_id"] == "stored"
    assert answer.json()["ts"] == "2026-11-21T09:40:00Z"
    _state, client, _clock = make(store=FakeStore(away=True))
    assert client.get("/gpu/info").status_code == 503


def test_usage_divides_the_price_by_the_throughput() -> None:
    state, client, clock = make(price=3.6)
    clock.passed = 10.0
    state.stored(TOKEN_USAGE_TOPIC, [usage("a", 50), usage("b", 25, "other")], 0)
    answer = client.get("/usage").json()
    assert answer["tokens_per_second"] == 15.0
    assert answer["cost_per_token"] == 0.001 / 15
    assert answer["models"]["m"]["tokens_per_second"] == 10.0
    assert answer["models"]["other"]["requests"] == 1
    assert answer["mean_latency_ms"] == 100.0


def test_cost_is_null_without_tokens_or_without_a_price() -> None:
    _state, client, _clock = make(price=3.6)
    assert client.get("/usage").json()["cost_per_token"] is None
    state, client, _clock = make()
    state.stored(TOKEN_USAGE_TOPIC, [usage("a", 50)], 0)
    answer = client.get("/usage").json()
    assert answer["price_per_hour_usd"] is None
    assert answer["cost_per_token"] is None


def test_without_a_set_price_the_hosts_own_add_up_while_they_are_fresh() -> None:
    state, client, clock = make()
    state.stored(GPU_METRICS_TOPIC, [gpu("a", price=1.0), gpu("b", price=2.0, host="h2"), gpu("c", price=None)], 0)
    assert client.get("/usage").json()["price_per_hour_usd"] == 3.0
    clock.passed = 1000.0
    assert client.get("/usage").json()["price_per_hour_usd"] is None


def test_metrics_are_prometheus_text() -> None:
    state, client, _clock = make()
    state.stored(TOKEN_USAGE_TOPIC, [usage("a", 5)], 3)
    text = client.get("/metrics").text
    assert 'gpuops_processor_events_stored_total{topic="token.usage.v1"} 1.0' in text
    assert 'gpuops_processor_duplicates_total{topic="token.usage.v1"} 3.0' in text
    assert 'gpuops_processor_dead_letters_total{topic="gpu.metrics.v1"} 0.0' in text
    assert "gpuops_processor_cost_per_token_usd NaN" in text


def test_there_is_no_page_that_loads_scripts_from_elsewhere() -> None:
    _state, client, _clock = make()
    assert client.get("/docs").status_code == 404
    assert json.loads(client.get("/openapi.json").text)["info"]["title"] == "gpuops processor"


def test_what_a_check_sent_is_stored_and_shown_nowhere() -> None:
    state, client, _clock = make(price=3.6)
    state.stored(TOKEN_USAGE_TOPIC, [usage("verify-1", 50, model="verify"), usage("u1", 10)], 0)
    state.stored(GPU_METRICS_TOPIC, [gpu("verify-2", 5, price=99.0)], 0)
    shown = client.get("/usage").json()
    assert list(shown["models"]) == ["m"]
    assert shown["requests"] == 1
    assert client.get("/gpu/info").status_code == 404
    assert 'events_stored_total{topic="token.usage.v1"} 2.0' in client.get("/metrics").text
