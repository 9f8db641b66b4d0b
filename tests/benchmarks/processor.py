# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processor end to end against two references in the same run, with a real broker and a real database."""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from gpuops_telemetry import load
from gpuops_telemetry.events import COLLECTIONS
from gpuops_telemetry.kafka_options import producer_options
from gpuops_telemetry.settings import KafkaSettings

from benchmarks import peers
from benchmarks.results import Row

GOAL_EVENTS_PER_SECOND = 10_000
GOAL_OF_BARE = 0.8
GOAL_OF_ONE_BY_ONE = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen about this benchmark."""
    parser.add_argument("--events", type=int, default=60_000, help="events per measurement")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each contender")
    parser.add_argument("--kafka-image", default="gpufleet/bench-kafka", help="built from the role when missing")
    parser.add_argument("--mongo-image", default="gpufleet/bench-ferretdb", help="built from the role when missing")
    parser.add_argument("--base-image", default=os.environ.get("BENCH_BASE_IMAGE", "debian:trixie-slim"))


def run(chosen: argparse.Namespace) -> list[Row]:
    """Measures every contender and compares medians."""
    roles = peers.ROOT / "roles"
    kafka_image = peers.ensure_image(chosen.kafka_image, roles / "kafka/files/kafka-image", chosen.base_image)
    mongo_image = peers.ensure_image(chosen.mongo_image, roles / "mongodb/files/ferretdb-image", chosen.base_image)
    with peers.running(kafka_image, mongo_image) as (broker, database):
        _fill(broker, chosen.events)
        rates: dict[str, list[float]] = {"processor": [], "bare": [], "one_by_one": []}
        for repetition in range(chosen.repeat):
            for name, found in rates.items():
                # One by one is slow, and no faster with more of them.
                count = chosen.events if name != "one_by_one" else max(500, chosen.events // 20)
                rate = _measure(name, broker, database, count)
                sys.stderr.write(f"processor benchmark {repetition + 1}/{chosen.repeat}: {name} {rate:,.0f} events/s\n")
                found.append(rate)
    ours, bare, one_by_one = (statistics.median(rates[name]) for name in ("processor", "bare", "one_by_one"))
    unit = "events/s"
    return [
        Row("processor", ours, unit, goal=f">= {GOAL_EVENTS_PER_SECOND}", ok=ours >= GOAL_EVENTS_PER_SECOND),
        _ratio("processor vs bare loop", ours, bare, GOAL_OF_BARE),
        _ratio("processor vs one-by-one loop", ours, one_by_one, GOAL_OF_ONE_BY_ONE),
    ]


def _ratio(name: str, value: float, reference: float, goal: float) -> Row:
    ratio = round(value / reference, 3)
    return Row(name, value, "events/s", f"{reference:,.0f} events/s", ratio, f"ratio >= {goal:g}", ratio >= goal)


def _fill(broker: str, count: int) -> None:
    """Creates the topics and publishes the events that every contender then reads."""
    admin = AdminClient({"bootstrap.servers": broker})
    names = [topic + suffix for topic in COLLECTIONS for suffix in ("", ".dlq")]
    for future in admin.create_topics([NewTopic(name, 3, 1) for name in names]).values():
        future.result()
    loads = load.make_load(count=count, run="bench", bad_share=0, bad_kinds=[], duplicate_share=0, seed=1)
    kafka = KafkaSettings(bootstrap_servers=broker, client_id="bench-load")
    counts = load.publish(loads, Producer(producer_options(kafka)), io.StringIO(), 0, 120)
    if counts["acknowledged"] != count:
        raise RuntimeError(f"the broker took {counts['acknowledged']} of {count} events")


def _measure(name: str, broker: str, database: str, count: int) -> float:
    command = [sys.executable, "-m", "benchmarks.processor_contender", name, broker, database, str(count)]
    path = os.pathsep.join([str(peers.ROOT / "tests"), str(peers.ROOT / "roles/processor/files/telemetry")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, timeout=900)
    result = json.loads(done.stdout.splitlines()[-1])
    return float(result["events"] / result["seconds"])
