# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at broker and database from inside the processor's container, with its own settings and secrets.

The playbook verify pipes this file into `python -` there. It prints a list of checks, {name, ok, detail, fix}.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from gpuops_telemetry import events
from gpuops_telemetry.settings import Environment, ProcessorSettings
from gpuops_telemetry.store import connect
from pymongo.database import Database

PATIENCE_SECONDS = 45.0  # a consumer that was just restarted waits for its group first

Finding = tuple[bool, str]


def get(settings: ProcessorSettings, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answers(settings: ProcessorSettings, path: str, patience_seconds: float = 0) -> Finding:
    deadline = time.monotonic() + patience_seconds
    while True:
        status, body = get(settings, path)
        if status == 200 or time.monotonic() >= deadline:
            return status == 200, f"{path} answers {status}: {' '.join(body.split())[:300]}"
        time.sleep(1)


def database(settings: ProcessorSettings) -> Database[dict[str, Any]]:
    return connect(settings.mongo)[settings.mongo.database]


def kafka(settings: ProcessorSettings) -> Finding:
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers, "socket.timeout.ms": 10_000})
    metadata = client.list_topics(timeout=15)
    brokers = ", ".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    missing = [topic for topic in settings.topics if topic not in metadata.topics]
    return not missing, f"brokers {brokers}; topics missing: {', '.join(missing) or 'none'}"


def collections(settings: ProcessorSettings) -> Finding:
    names = database(settings).list_collection_names()
    return bool(names), f"{settings.mongo!r} has {', '.join(sorted(names)) or 'no collections'}"


def seeds(settings: ProcessorSettings) -> Finding:
    names = sorted(str(seed.get("name")) for seed in database(settings)["gpus"].find())
    return bool(names), f"{len(names)} GPU documents: {', '.join(names)}"


def indexes(settings: ProcessorSettings) -> Finding:
    found = database(settings)
    names = {name: sorted(set(found[name].index_information()) - {"_id_"}) for name in events.COLLECTIONS.values()}
    return all(names.values()), "; ".join(f"{name}: {', '.join(own) or 'none'}" for name, own in names.items())


def event(settings: ProcessorSettings) -> Finding:
    """An event that is sent becomes a document that is read.

    The document stays, because every acknowledged event is one. By its id the processor knows that it measures nothing.
    """
    sent = events.TokenUsage(
        event_id=f"verify-{uuid.uuid4()}",  # events.CHECK_PREFIX, which an older processor doesn't have
        ts=events.now(),
        host="verify",
        model="verify",
        prompt_tokens=0,
        completion_tokens=0,
        latency_ms=0.0,
        gpu_index=0,
    )
    refused: list[str] = []
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "message.timeout.ms": 15_000})
    producer.produce(
        events.TOKEN_USAGE_TOPIC,
        sent.to_json(),
        on_delivery=lambda error, _message: refused.append(str(error)) if error else None,
    )
    if producer.flush(20) or refused:
        return False, f"the broker did not acknowledge the event: {', '.join(refused) or 'no answer'}"
    began = time.monotonic()
    collection = database(settings)[events.COLLECTIONS[events.TOKEN_USAGE_TOPIC]]
    while collection.find_one({"_id": sent.event_id}) is None:
        if time.monotonic() - began > PATIENCE_SECONDS:
            return False, f"{sent.event_id} was acknowledged, but is no document after {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.1)
    return True, f"{sent.event_id}: acknowledged, and read back {time.monotonic() - began:.1f} s later"


AT_THE_LOG = "Look at journalctl --unit=processor.service on the host."
AT_THE_BROKER = "Verify the broker with '--tags kafka', and look at the name under which it is reached."
AT_THE_DATABASE = "Verify the database with '--tags mongodb', and look at the name under which it is reached."

PROBES: list[tuple[str, Callable[[ProcessorSettings], Finding], str]] = [
    ("is alive", lambda settings: answers(settings, "/health"), AT_THE_LOG),
    ("reaches Kafka from inside its container", kafka, AT_THE_BROKER),
    ("reaches the database from inside its container", collections, AT_THE_DATABASE),
    ("sees the GPU seed documents", seeds, AT_THE_DATABASE),
    ("sees the indexes", indexes, AT_THE_DATABASE),
    ("is ready: has its partitions, and writes", lambda s: answers(s, "/ready", PATIENCE_SECONDS), AT_THE_LOG),
    ("an event that was sent is a document that was read", event, AT_THE_LOG),
    ("answers what a token costs", lambda settings: answers(settings, "/usage"), AT_THE_LOG),
]


def main() -> None:
    settings = ProcessorSettings.from_environment(Environment())
    checks = []
    for name, probe, fix in PROBES:
        try:
            ok, detail = probe(settings)
        except Exception as error:  # whatever a probe runs into is its finding
            ok, detail = False, f"{type(error).__name__}: {error}"[:500]
        checks.append({"name": name, "ok": ok, "detail": detail, "fix": "" if ok else fix})
    print(json.dumps(checks))


if __name__ == "__main__":
    main()
