# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gpuops_telemetry.ledger: does the ledger balance?

Counts, for ledger lines as `load` writes them:
- acknowledged: distinct event ids that the broker acknowledged;
- documents: those of them that are a document (`_id`);
- dead letters: those of them whose message (topic, partition, offset) is the origin of a committed dead letter.
It balances when acknowledged = documents + dead letters, no event id is both, no message was dead-lettered twice, and
each became what the ledger expects.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from pymongo.errors import PyMongoError

from gpuops_telemetry.dead_letters import origin_of
from gpuops_telemetry.events import COLLECTIONS, DEAD_LETTER_SUFFIX
from gpuops_telemetry.kafka_options import CALL_TIMEOUT_SECONDS, consumer_options
from gpuops_telemetry.settings import Environment, KafkaSettings, MongoSettings, SettingsError
from gpuops_telemetry.store import connect

Origin = tuple[str, int, int]
Line = Mapping[str, Any]


def balance(lines: Iterable[Line], documents: set[str], dead_letters: Counter[Origin]) -> dict[str, Any]:
    """The verdict, with the first few event ids of whatever is wrong."""
    origins: dict[Origin, str] = {}
    expected: dict[str, str] = {}
    for line in lines:
        origins[(line["topic"], line["partition"], line["offset"])] = line["event_id"]
        expected.setdefault(line["event_id"], line.get("expected", ""))
    acknowledged = set(expected)
    stored = acknowledged & documents
    dead = {origins[origin] for origin in dead_letters if origin in origins}
    wrong = {
        "missing": acknowledged - stored - dead,
        "in_both": stored & dead,
        "dead_lettered_twice": {origins[o] for o, times in dead_letters.items() if times > 1 and o in origins},
        "unexpected": {
            event_id
            for event_id, what in expected.items()
            if (what == "stored" and event_id in dead) or (what == "dead_letter" and event_id in stored)
        },
    }
    return {
        "ok": not any(wrong.values()),
        "messages": len(origins),
        "acknowledged": len(acknowledged),
        "documents": len(stored),
        "dead_letters": len(dead),
        **{name: len(ids) for name, ids in wrong.items()},
        "examples": {name: sorted(ids)[:5] for name, ids in wrong.items() if ids},
    }


def stored_ids(mongo: MongoSettings, lines: Iterable[Line]) -> set[str]:
    """Which of the event ids are documents."""
    database = connect(mongo)[mongo.database]
    wanted: dict[str, set[str]] = {}
    for line in lines:
        wanted.setdefault(COLLECTIONS[line["topic"]], set()).add(line["event_id"])
    found: set[str] = set()
    for collection, ids in wanted.items():
        # One pass over the collection: FerretDB compares every document with every member of an $in.
        cursor = database[collection].find({}, {"_id": 1}, batch_size=5000)
        found.update(document["_id"] for document in cursor if document["_id"] in ids)
    return found


def committed_dead_letters(kafka: KafkaSettings, topics: Iterable[str], seconds: float = 120) -> Counter[Origin]:
    """The origins of all committed dead letters, up to the ends of the topics as they are now."""
    options = consumer_options(kafka, f"ledger-{uuid.uuid4().hex}") | {"enable.partition.eof": True}
    del options["group.instance.id"]
    consumer = Consumer(options)
    found: Counter[Origin] = Counter()
    try:
        partitions = []
        for topic in sorted(set(topics)):
            name = topic + DEAD_LETTER_SUFFIX
            described = consumer.list_topics(name, timeout=CALL_TIMEOUT_SECONDS).topics[name]
            partitions += [TopicPartition(name, number, 0) for number in described.partitions]
        consumer.assign(partitions)
        open_ends = {(partition.topic, partition.partition) for partition in partitions}
        deadline = time.monotonic() + seconds
        while open_ends:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the dead-letter topics could not be read to their ends in {seconds:.0f} s")
            for message in consumer.consume(500, 1.0):
                if message.error() is not None:  # the end of a partition; anything else runs into the deadline
                    open_ends.discard((str(message.topic()), int(message.partition() or 0)))
                elif (origin := origin_of(message)) is not None:
                    found[origin] += 1
    finally:
        consumer.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when it balances."""
    parser = argparse.ArgumentParser(prog="gpuops_telemetry.ledger", description=__doc__)
    parser.add_argument("--ledger", default="-", help="file of ledger lines; -: standard input")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait until it balances")
    chosen = parser.parse_args(arguments)
    text = sys.stdin.read() if chosen.ledger == "-" else pathlib.Path(chosen.ledger).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    try:
        kafka = KafkaSettings.from_environment(Environment())
        mongo = MongoSettings.from_environment(Environment())
    except SettingsError as error:
        parser.error(str(error))
    deadline = time.monotonic() + chosen.wait
    while True:
        try:
            letters = committed_dead_letters(kafka, {line["topic"] for line in lines})
            verdict = balance(lines, stored_ids(mongo, lines), letters)
        except (PyMongoError, TimeoutError, KeyError) as error:
            verdict = {"ok": False, "problem": str(error)[:300]}
        if verdict["ok"] or time.monotonic() >= deadline:
            break
        time.sleep(2)
    sys.stdout.write(json.dumps(verdict) + "\n")
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
