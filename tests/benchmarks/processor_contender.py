# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One contender of the processor benchmark in a process of its own. Prints {"events", "seconds"}."""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, Producer
from gpuops_telemetry.dead_letters import Offsets, TransactionalCommitter
from gpuops_telemetry.events import COLLECTIONS
from gpuops_telemetry.kafka_options import consumer_options, dead_letter_producer_options
from gpuops_telemetry.pump import Pump
from gpuops_telemetry.settings import KafkaSettings
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import MongoStore
from pymongo import MongoClient

BATCH_SIZE = 2000

Result = tuple[int, float]


class Timed:
    """A consumer that remembers when the first message came."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.first: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.consumer, name)

    def consume(self, count: int, seconds: float) -> list[Any]:
        messages = self.consumer.consume(count, seconds)
        if messages and self.first is None:
            self.first = time.monotonic()
        return messages


def processor(kafka: KafkaSettings, client: MongoClient[dict[str, Any]], database: str, count: int) -> Result:
    """Ours, with validation, window, metrics and all."""
    group = uuid.uuid4().hex
    consumer = Consumer(consumer_options(kafka, group))
    committer = TransactionalCommitter(consumer, lambda: Producer(dead_letter_producer_options(kafka, group)))
    state = ProcessorState(60, 1.0)
    timed = Timed(consumer)
    store = MongoStore(client, database)
    pump = Pump(timed, store, committer, state, topics=list(COLLECTIONS), batch_size=BATCH_SIZE)
    finished: Offsets = {}
    original = committer.commit

    def commit(offsets: Offsets, letters: Any) -> None:
        original(offsets, letters)
        finished.update(offsets)
        if sum(finished.values()) >= count:
            pump.stop()

    committer.commit = commit  # type: ignore[method-assign]
    pump.run()
    return sum(finished.values()), time.monotonic() - (timed.first or 0)


def bare(kafka: KafkaSettings, client: MongoClient[dict[str, Any]], database: str, count: int) -> Result:
    """The least that works in batches: consume, insert_many, commit. Nothing is checked."""
    consumer = Consumer(consumer_options(kafka, uuid.uuid4().hex))
    consumer.subscribe(list(COLLECTIONS))
    done, started = 0, 0.0
    while done < count:
        messages = consumer.consume(BATCH_SIZE, 0.2)
        if not messages:
            continue
        started = started or time.monotonic()
        documents: dict[str, list[dict[str, Any]]] = {}
        for message in messages:
            document = json.loads(message.value() or b"")
            document["_id"] = document.pop("event_id")
            documents.setdefault(str(message.topic()), []).append(document)
        for topic, batch in documents.items():
            client[database][COLLECTIONS[topic]].insert_many(batch, ordered=False)
        consumer.store_offsets(message=messages[-1])
        consumer.commit(asynchronous=False)
        done += len(messages)
    seconds = time.monotonic() - started
    consumer.close()
    return done, seconds


def one_by_one(kafka: KafkaSettings, client: MongoClient[dict[str, Any]], database: str, count: int) -> Result:
    """What is usually written: poll, insert_one, auto-commit."""
    options = consumer_options(kafka, uuid.uuid4().hex)
    consumer = Consumer(options | {"enable.auto.commit": True, "enable.auto.offset.store": True})
    consumer.subscribe(list(COLLECTIONS))
    done, started = 0, 0.0
    while done < count:
        message = consumer.poll(0.2)
        if message is None:
            continue
        started = started or time.monotonic()
        document = json.loads(message.value() or b"")
        document["_id"] = document.pop("event_id")
        client[database][COLLECTIONS[str(message.topic())]].insert_one(document)
        done += 1
    seconds = time.monotonic() - started
    consumer.close()
    return done, seconds


CONTENDERS = {"processor": processor, "bare": bare, "one_by_one": one_by_one}


def main() -> None:
    """processor_contender NAME BROKER DATABASE_ADDRESS COUNT."""
    name, broker, address, count = sys.argv[1:]
    client: MongoClient[dict[str, Any]] = MongoClient(address)
    database = f"bench_{uuid.uuid4().hex[:8]}"
    kafka = KafkaSettings(bootstrap_servers=broker, client_id=f"bench-{name}")
    try:
        client[database]["gpu_metrics"].create_index([("ts", -1)])
        client[database]["token_usage"].create_index([("ts", -1)])
        events, seconds = CONTENDERS[name](kafka, client, database, int(count))
        sys.stdout.write(json.dumps({"events": events, "seconds": seconds}) + "\n")
    finally:
        client.drop_database(database)


if __name__ == "__main__":
    main()
