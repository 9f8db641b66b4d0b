# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at broker and database from inside the processor's container, with its own settings and secrets.

Verify pipes this file into `python - PROBE` there. The last line that a probe prints is its finding; its exit status
says whether that is as it should be.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from gpuops_telemetry import events
from gpuops_telemetry.settings import Environment, ProcessorSettings
from pymongo import MongoClient
from pymongo.database import Database

PATIENCE_SECONDS = 45.0  # a consumer that was just restarted waits for its group first


def get(settings: ProcessorSettings, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{settings.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_for(settings: ProcessorSettings, path: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, body = get(settings, path)
        if status == 200 or time.monotonic() > deadline:
            print(f"{path} answers {status}: {' '.join(body.split())}")
            sys.exit(0 if status == 200 else 1)
        time.sleep(1)


def database(settings: ProcessorSettings) -> Database[dict[str, Any]]:
    mongo = settings.mongo
    client: MongoClient[dict[str, Any]] = MongoClient(
        mongo.host,
        mongo.port,
        username=mongo.username or None,
        password=mongo.password or None,
        authSource=mongo.authentication_database,
        serverSelectionTimeoutMS=10_000,
    )
    return client[mongo.database]


def probe_kafka(settings: ProcessorSettings) -> None:
    """The broker can be reached under its advertised name, and knows the topics."""
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers, "socket.timeout.ms": 10_000})
    metadata = client.list_topics(timeout=15)
    brokers = ", ".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    missing = [topic for topic in settings.topics if topic not in metadata.topics]
    print(f"brokers {brokers}; " + (f"missing topics: {', '.join(missing)}" if missing else "all topics are there"))
    sys.exit(1 if missing else 0)


def probe_database(settings: ProcessorSettings) -> None:
    """The database can be reached with the processor's own user."""
    found = database(settings)
    names = found.list_collection_names()
    print(f"{settings.mongo!r} has {', '.join(sorted(names)) or 'no collections'}")
    sys.exit(0 if names else 1)


def probe_seeds(settings: ProcessorSettings) -> None:
    """The GPU seed documents are there."""
    seeds = [str(seed.get("name", seed.get("_id"))) for seed in database(settings)["gpus"].find()]
    print(f"{len(seeds)} GPU documents: {', '.join(sorted(seeds))}")
    sys.exit(0 if seeds else 1)


def probe_indexes(settings: ProcessorSettings) -> None:
    """Each collection of events has more than the index that every collection has."""
    found = database(settings)
    indexes = {name: sorted(set(found[name].index_information()) - {"_id_"}) for name in events.COLLECTIONS.values()}
    print("; ".join(f"{name}: {', '.join(names) or 'none'}" for name, names in indexes.items()))
    sys.exit(0 if all(indexes.values()) else 1)


def probe_event(settings: ProcessorSettings) -> None:
    """An event that is sent becomes a document that is read. The document is taken away again afterwards."""
    sent = events.TokenUsage(
        event_id=f"verify-{uuid.uuid4()}",
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
        print(f"the broker did not acknowledge the event: {', '.join(refused) or 'no answer'}")
        sys.exit(1)
    began = time.monotonic()
    collection = database(settings)[events.COLLECTIONS[events.TOKEN_USAGE_TOPIC]]
    while collection.find_one({"_id": sent.event_id}) is None:
        if time.monotonic() - began > PATIENCE_SECONDS:
            print(f"event {sent.event_id} was acknowledged, but is no document after {PATIENCE_SECONDS:.0f} s")
            sys.exit(1)
        time.sleep(0.1)
    seconds = time.monotonic() - began
    collection.delete_one({"_id": sent.event_id})
    print(f"acknowledged, and read back {seconds:.1f} s later")


def probe_gpu_info(settings: ProcessorSettings) -> None:
    """/gpu/info answers with a document."""
    status, body = get(settings, "/gpu/info")
    print(f"/gpu/info answers {status}: {' '.join(body.split())}")
    sys.exit(0 if status == 200 and isinstance(json.loads(body), dict) else 1)


PROBES = {
    "kafka": probe_kafka,
    "database": probe_database,
    "seeds": probe_seeds,
    "indexes": probe_indexes,
    "event": probe_event,
    "gpu-info": probe_gpu_info,
    "health": lambda settings: wait_for(settings, "/health"),
    "ready": lambda settings: wait_for(settings, "/ready"),
    "usage": lambda settings: wait_for(settings, "/usage"),
    "metrics": lambda settings: wait_for(settings, "/metrics"),
}

if __name__ == "__main__":
    PROBES[sys.argv[1]](ProcessorSettings.from_environment(Environment()))
