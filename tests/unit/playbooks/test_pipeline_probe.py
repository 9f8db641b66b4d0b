"""What the playbook verify does to a pipeline that it looks at: it adds one event, and takes nothing away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpuops_telemetry.events import TOKEN_USAGE_TOPIC, parse_event
from support.load_program import load_program

SCRIPT = Path(__file__).parents[3] / "playbooks/files/verify/pipeline_probe.py"


class Pipeline:
    """Broker, processor and database: what is published is a document at once."""

    def __init__(self) -> None:
        self.acknowledged: list[bytes] = []
        self.documents: dict[str, dict[str, Any]] = {}

    # As a producer

    def produce(self, topic: str, value: bytes, on_delivery: Any) -> None:
        document = parse_event(topic, value).to_document()
        self.acknowledged.append(value)
        self.documents[document["_id"]] = document
        on_delivery(None, None)

    def flush(self, _seconds: float) -> int:
        return 0

    # As a collection

    def find_one(self, wanted: dict[str, str]) -> dict[str, Any] | None:
        return self.documents.get(wanted["_id"])

    def delete_one(self, wanted: dict[str, str]) -> None:
        del self.documents[wanted["_id"]]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Pipeline]:
    probe, pipeline = load_program(SCRIPT), Pipeline()
    monkeypatch.setattr(probe, "Producer", lambda _options: pipeline)
    monkeypatch.setattr(probe, "database", lambda _settings: {"token_usage": pipeline})
    return probe, pipeline


class Settings:
    class kafka:
        bootstrap_servers = "kafka-1:9092"


def test_the_event_of_a_check_stays_a_document_so_that_the_ledger_balances(pipeline: tuple[Any, Pipeline]) -> None:
    probe, made = pipeline
    ok, detail = probe.event(Settings)
    assert ok
    (sent,) = made.acknowledged
    assert list(made.documents) == [json.loads(sent)["event_id"]]
    assert json.loads(sent)["event_id"] in detail


def test_the_processor_knows_the_event_of_a_check_by_its_id(pipeline: tuple[Any, Pipeline]) -> None:
    probe, made = pipeline
    probe.event(Settings)
    assert parse_event(TOKEN_USAGE_TOPIC, made.acknowledged[0]).is_check
