# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gpuops_telemetry.load: synthetic events, good and bad, with a ledger of what the broker acknowledged.

A ledger line is {"topic", "event_id", "partition", "offset", "expected"}; `expected` is "stored" or "dead_letter".
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import pathlib
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from confluent_kafka import Message, Producer

from gpuops_telemetry.events import GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC, Event, GpuMetrics, TokenUsage, now
from gpuops_telemetry.kafka_options import MESSAGE_MAX_BYTES, producer_options
from gpuops_telemetry.kafka_publisher import Publisher, PublisherMetrics
from gpuops_telemetry.settings import Environment, KafkaSettings, SettingsError

STORED, DEAD_LETTER, REFUSED = "stored", "dead_letter", "refused"


@dataclass(frozen=True)
class Load:
    """One message to publish, and what should become of it."""

    topic: str
    event_id: str
    value: bytes
    expected: str


def good_event(topic: str, event_id: str, choice: random.Random) -> Event:
    """A plausible event."""
    host = f"load-{choice.randrange(4)}"
    if topic == GPU_METRICS_TOPIC:
        return GpuMetrics(
            event_id=event_id,
            ts=now(),
            host=host,
            gpu_index=choice.randrange(8),
            name="synthetic",
            utilization=round(choice.random(), 4),
            mem_used_mb=float(choice.randrange(81_920)),
            mem_total_mb=81_920.0,
            power_w=round(choice.uniform(30, 700), 1),
            price_per_hour_usd=None,
            source="simulated",
        )
    return TokenUsage(
        event_id=event_id,
        ts=now(),
        host=host,
        model="synthetic",
        prompt_tokens=choice.randrange(1, 2000),
        completion_tokens=choice.randrange(1, 500),
        latency_ms=round(choice.uniform(10, 3000), 3),
        gpu_index=0,
    )


def _not_json(value: bytes, _choice: random.Random) -> bytes:
    return value[:-1] + b",]"


def _missing_field(value: bytes, _choice: random.Random) -> bytes:
    fields = json.loads(value)
    del fields["host"]
    return json.dumps(fields).encode()


def _wrong_type(value: bytes, _choice: random.Random) -> bytes:
    return json.dumps(json.loads(value) | {"gpu_index": "zero"}).encode()


def _rubbish(_value: bytes, choice: random.Random) -> bytes:
    return choice.randbytes(900_000)


def _oversized(_value: bytes, _choice: random.Random) -> bytes:
    return b"x" * (MESSAGE_MAX_BYTES + 1)


BAD_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "not-json": _not_json,
    "missing-field": _missing_field,
    "wrong-type": _wrong_type,
    "rubbish": _rubbish,
    "oversized": _oversized,
}


def make_load(
    *, count: int, run: str, bad_share: float, bad_kinds: list[str], duplicate_share: float, seed: int
) -> Iterator[Load]:
    """Both topics in turn; some messages bad, some a second event under an event_id that was used already."""
    choice = random.Random(seed)  # noqa: S311 - test data
    topics = itertools.cycle((GPU_METRICS_TOPIC, TOKEN_USAGE_TOPIC))
    used: dict[str, str] = {}
    for number, topic in zip(range(count), topics, strict=False):
        event_id = f"{run}-{number:08d}"
        if topic in used and choice.random() < duplicate_share:
            yield Load(topic, used[topic], good_event(topic, used[topic], choice).to_json(), STORED)
            continue
        value = good_event(topic, event_id, choice).to_json()
        if choice.random() < bad_share:
            kind = choice.choice(bad_kinds)
            yield Load(topic, event_id, BAD_KINDS[kind](value, choice), REFUSED if kind == "oversized" else DEAD_LETTER)
        else:
            used[topic] = event_id
            yield Load(topic, event_id, value, STORED)


def publish(
    loads: Iterator[Load], producer: Producer, ledger: IO[str], rate: float, flush_seconds: float
) -> dict[str, int]:
    """Publishes everything; each acknowledged message becomes a ledger line at once."""
    expected: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()

    def acknowledged(message: Message) -> None:
        key = message.key()
        event_id = key.decode() if isinstance(key, bytes) else str(key)
        topic = message.topic() or ""
        line = {
            "topic": topic,
            "event_id": event_id,
            "partition": message.partition(),
            "offset": message.offset(),
            "expected": expected.get((topic, event_id), STORED),
        }
        ledger.write(json.dumps(line) + "\n")
        counts["acknowledged"] += 1

    publisher = Publisher(producer, PublisherMetrics(), acknowledged)
    started = time.monotonic()
    for number, load in enumerate(loads):
        if rate > 0:
            time.sleep(max(0.0, number / rate - (time.monotonic() - started)))
        if load.expected == DEAD_LETTER:
            expected[(load.topic, load.event_id)] = DEAD_LETTER
        while publisher.waiting() > 5_000 or (len(load.value) > 100_000 and publisher.waiting() > 20):
            time.sleep(0.01)
        counts["published" if publisher.publish(load.topic, load.event_id, load.value) else "refused"] += 1
    counts["left_behind"] = publisher.close(flush_seconds)
    ledger.flush()
    counts["failed"] = counts["published"] - counts["acknowledged"] - counts["left_behind"]
    return dict(counts)


def main(arguments: list[str] | None = None) -> int:
    """Publishes, and prints what became of it on standard error."""
    parser = argparse.ArgumentParser(prog="gpuops_telemetry.load", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="messages to publish")
    parser.add_argument("--rate", type=float, default=0, help="messages per second; 0: as fast as the broker takes")
    parser.add_argument("--bad-share", type=float, default=0, help="share of bad messages, 0 to 1")
    parser.add_argument("--bad-kinds", default="not-json,missing-field,wrong-type", help=f"of {', '.join(BAD_KINDS)}")
    parser.add_argument("--duplicate-share", type=float, default=0, help="share of event_ids used again, 0 to 1")
    parser.add_argument("--run", default=f"load-{uuid.uuid4().hex[:12]}", help="beginning of every event_id")
    parser.add_argument("--seed", type=int, default=0, help="for the same messages again")
    parser.add_argument("--ledger", default="-", help="file to append to; -: standard output")
    parser.add_argument("--delivery-timeout", type=float, default=300, help="seconds until a message is given up")
    chosen = parser.parse_args(arguments)
    kinds = [kind for kind in chosen.bad_kinds.split(",") if kind]
    if unknown := [kind for kind in kinds if kind not in BAD_KINDS]:
        parser.error(f"--bad-kinds: unknown {', '.join(unknown)}; known are {', '.join(BAD_KINDS)}")
    if chosen.bad_share > 0 and not kinds:
        parser.error("--bad-share needs at least one of --bad-kinds")
    try:
        kafka = KafkaSettings.from_environment(Environment())
    except SettingsError as error:
        parser.error(str(error))
    options = producer_options(kafka) | {"message.timeout.ms": int(chosen.delivery_timeout * 1000)}
    loads = make_load(
        count=chosen.count,
        run=chosen.run,
        bad_share=chosen.bad_share,
        bad_kinds=kinds,
        duplicate_share=chosen.duplicate_share,
        seed=chosen.seed,
    )
    with contextlib.ExitStack() as stack:
        ledger: IO[str] = sys.stdout
        if chosen.ledger != "-":
            ledger = stack.enter_context(pathlib.Path(chosen.ledger).open("a", encoding="utf-8", buffering=1))
        counts = publish(loads, Producer(options), ledger, chosen.rate, chosen.delivery_timeout)
    sys.stderr.write(json.dumps(counts) + "\n")
    return 1 if counts["left_behind"] or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
