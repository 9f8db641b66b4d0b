# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from bson import decode, encode
from gpuops_telemetry.events import (
    COLLECTIONS,
    EVENT_TYPES,
    GPU_METRICS_TOPIC,
    TOKEN_USAGE_TOPIC,
    InvalidEventError,
    parse_event,
)

GPU = {
    "event_id": "a1",
    "ts": "2026-11-21T09:40:00.123Z",
    "host": "vllm-1",
    "gpu_index": 0,
    "name": "NVIDIA A100-SXM4-40GB",
    "utilization": 0.5,
    "mem_used_mb": 1024,
    "mem_total_mb": 40960,
    "power_w": 250.5,
    "price_per_hour_usd": 1.29,
    "source": "nvidia-smi",
}
USAGE = {
    "event_id": "b1",
    "ts": "2026-11-21T09:40:00+01:00",
    "host": "vllm-1",
    "model": "tiny",
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "latency_ms": 56.7,
    "gpu_index": 0,
}
GOOD = {GPU_METRICS_TOPIC: GPU, TOKEN_USAGE_TOPIC: USAGE}


def test_the_fields_are_those_that_were_agreed() -> None:
    for topic, event in GOOD.items():
        assert list(EVENT_TYPES[topic].model_fields) == list(event)
    assert EVENT_TYPES.keys() == COLLECTIONS.keys()


@pytest.mark.parametrize("topic", GOOD)
def test_a_good_event_becomes_a_document_with_its_own_identity_and_a_date(topic: str) -> None:
    document = parse_event(topic, json.dumps(GOOD[topic]).encode()).to_document()
    assert document["_id"] == GOOD[topic]["event_id"]
    assert "event_id" not in document
    stored = decode(encode(document))
    expected = datetime.datetime.fromisoformat(str(GOOD[topic]["ts"])).astimezone(datetime.UTC).replace(tzinfo=None)
    assert stored["ts"] == expected
    assert stored.keys() == document.keys()


@pytest.mark.parametrize("topic", GOOD)
def test_what_is_published_is_what_is_read(topic: str) -> None:
    event = parse_event(topic, json.dumps(GOOD[topic]).encode())
    assert parse_event(topic, event.to_json()) == event


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        (GPU_METRICS_TOPIC, {"power_w": None}),
        (GPU_METRICS_TOPIC, {"price_per_hour_usd": None}),
        (GPU_METRICS_TOPIC, {"price_per_hour_usd": 0}),
        (GPU_METRICS_TOPIC, {"utilization": 0}),
        (GPU_METRICS_TOPIC, {"utilization": 1}),
        (TOKEN_USAGE_TOPIC, {"prompt_tokens": 0, "completion_tokens": 0}),
        (TOKEN_USAGE_TOPIC, {"model": "Modell \u201egro\u00df\u201c"}),
    ],
)
def test_edges_that_are_allowed(topic: str, change: dict[str, Any]) -> None:
    parse_event(topic, json.dumps(GOOD[topic] | change).encode())


@pytest.mark.parametrize(
    ("topic", "change", "reason"),
    [
        (GPU_METRICS_TOPIC, {"utilization": 1.01}, "utilization"),
        (GPU_METRICS_TOPIC, {"utilization": -0.1}, "utilization"),
        (GPU_METRICS_TOPIC, {"utilization": "0.5"}, "utilization"),
        (GPU_METRICS_TOPIC, {"utilization": True}, "utilization"),
        (GPU_METRICS_TOPIC, {"utilization": float("nan")}, "utilization"),
        (GPU_METRICS_TOPIC, {"mem_used_mb": -1}, "mem_used_mb"),
        (GPU_METRICS_TOPIC, {"mem_total_mb": None}, "mem_total_mb"),
        (GPU_METRICS_TOPIC, {"source": "guessed"}, "source"),
        (GPU_METRICS_TOPIC, {"surprise": 1}, "surprise"),
        (TOKEN_USAGE_TOPIC, {"prompt_tokens": -1}, "prompt_tokens"),
        (TOKEN_USAGE_TOPIC, {"prompt_tokens": 1.0}, "prompt_tokens"),
        (TOKEN_USAGE_TOPIC, {"completion_tokens": "3"}, "completion_tokens"),
        (TOKEN_USAGE_TOPIC, {"completion_tokens": 10**30}, "completion_tokens"),
        (TOKEN_USAGE_TOPIC, {"latency_ms": float("inf")}, "latency_ms"),
        (TOKEN_USAGE_TOPIC, {"event_id": ""}, "event_id"),
        (TOKEN_USAGE_TOPIC, {"event_id": "with blank"}, "event_id"),
        (TOKEN_USAGE_TOPIC, {"event_id": 7}, "event_id"),
        (TOKEN_USAGE_TOPIC, {"host": ""}, "host"),
        (TOKEN_USAGE_TOPIC, {"ts": "2026-11-21T09:40:00"}, "ts"),
        (TOKEN_USAGE_TOPIC, {"ts": "2026-11-21 09:40:00Z"}, "ts"),
        (TOKEN_USAGE_TOPIC, {"ts": "2026-02-30T09:40:00Z"}, "ts"),
        (TOKEN_USAGE_TOPIC, {"ts": "1700000000"}, "ts"),
        (TOKEN_USAGE_TOPIC, {"ts": 1700000000}, "ts"),
        (TOKEN_USAGE_TOPIC, {"ts": "0001-01-01T00:00:00+23:00"}, "ts"),
    ],
)
def test_what_is_refused_names_its_field(topic: str, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidEventError, match=reason):
        parse_event(topic, json.dumps(GOOD[topic] | change).encode())


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\x00\xff" * 450_000, b"{", b"[]", b"null", b'"text"', b"1" * 900_000, b'{"event_id": "\\ud800"}'],
)
def test_rubbish_is_refused_with_a_short_reason(value: bytes | None) -> None:
    with pytest.raises(InvalidEventError) as caught:
        parse_event(TOKEN_USAGE_TOPIC, value)
    assert 0 < len(str(caught.value)) <= 512


@pytest.mark.parametrize("field", GPU)
def test_every_field_is_required(field: str) -> None:
    without = {name: value for name, value in GPU.items() if name != field}
    with pytest.raises(InvalidEventError, match=field):
        parse_event(GPU_METRICS_TOPIC, json.dumps(without).encode())
