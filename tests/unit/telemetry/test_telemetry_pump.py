# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Invariant 10 against a model of the broker and the database in which anything may fail or be killed anywhere."""

from __future__ import annotations

import concurrent.futures
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from gpuops_telemetry.batch import sort_messages
from gpuops_telemetry.dead_letters import DeadLetter, Offsets
from gpuops_telemetry.events import TOKEN_USAGE_TOPIC
from gpuops_telemetry.progress import LOOK_SECONDS, STRIKES, StuckError
from gpuops_telemetry.pump import Pump
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import StoreUnavailableError, WriteResult
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


class KilledError(BaseException):
    """The process is gone."""


class FakeMessage:
    def __init__(self, partition: int, offset: int, value: bytes, error: KafkaError | None = None) -> None:
        self._fields = (partition, offset, value, error)

    def topic(self) -> str:
        return TOKEN_USAGE_TOPIC

    def partition(self) -> int:
        return self._fields[0]

    def offset(self) -> int:
        return self._fields[1]

    def value(self) -> bytes:
        return self._fields[2]

    def key(self) -> bytes | None:
        return None

    def error(self) -> KafkaError | None:
        return self._fields[3]


class World:
    """What survives a kill: the topic, the committed offsets, the dead letters and the documents."""

    def __init__(self, partitions: list[list[bytes]], fate: list[str]) -> None:
        self.partitions = partitions
        self.committed: Offsets = {}
        self.letters: Counter[str] = Counter()
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.fate = list(fate)
        self.now = 0.0

    def next_fate(self, *possible: str) -> str:
        fate = self.fate.pop(0) if self.fate else "well"
        return fate if fate in possible else "well"

    def monotonic(self) -> float:
        self.now += 0.05
        return self.now


class FakeConsumer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.paused = False
        self.positions: dict[int, int] = {}
        self.on_change: Any = None

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.on_change = on_assign
        self.reassign(range(len(self.world.partitions)))

    def reassign(self, partitions: Any) -> None:
        """A rebalance: reading begins again where the broker says; what was paused stays so (measured)."""
        for partition in partitions:
            self.positions[partition] = self.world.committed.get((TOKEN_USAGE_TOPIC, partition), 0)
        self.on_change(self, [TopicPartition(TOKEN_USAGE_TOPIC, partition) for partition in partitions])

    def consume(self, num_messages: int, timeout: float) -> list[Any]:
        fate = self.world.next_fate("rebalance", "killed", "complains")
        if fate == "killed":
            raise KilledError
        if fate == "rebalance":
            self.reassign([0])
        if fate == "complains":
            return [FakeMessage(0, 0, b"", KafkaError(KafkaError._ALL_BROKERS_DOWN))]
        found: list[Any] = []
        if not self.paused:
            for partition, values in enumerate(self.world.partitions):
                while self.positions[partition] < len(values) and len(found) < num_messages:
                    offset = self.positions[partition]
                    found.append(FakeMessage(partition, offset, values[offset]))
                    self.positions[partition] += 1
        return found

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(TOKEN_USAGE_TOPIC, partition) for partition in self.positions]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= bool(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused &= not partitions

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self.world.committed.get((p.topic, p.partition), -1001))
            for p in partitions
        ]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float, cached: bool) -> tuple[int, int]:
        return 0, len(self.world.partitions[partition.partition])

    def close(self) -> None:
        """Nothing to give back."""


class FakeStore:
    def __init__(self, world: World) -> None:
        self.world = world

    def write(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> WriteResult:
        fate = self.world.next_fate("killed", "fails", "killed-after", "fails-after", "fails-halfway")
        if fate == "killed":
            raise KilledError
        if fate == "fails":
            raise StoreUnavailableError("away")
        result = WriteResult()
        for position, document in enumerate(documents):
            if fate == "fails-halfway" and position >= len(documents) // 2:
                raise StoreUnavailableError("went away")
            if document["model"] == "unstorable":
                result.refused[position] = "the database refused it"
            elif document["_id"] in self.world.documents:
                result.duplicates.add(position)
            else:
                self.world.documents[document["_id"]] = document
        if fate == "killed-after":
            raise KilledError
        if fate == "fails-after":
            raise StoreUnavailableError("no answer")
        return result

    def ping(self) -> None:
        if self.world.next_fate("fails") == "fails":
            raise StoreUnavailableError("away")

    def latest(self, collection: str) -> dict[str, Any] | None:
        return None


class FakeCommitter:
    """Atomic, as Kafka's transactions are; but the answer may get lost."""

    def __init__(self, world: World) -> None:
        self.world = world

    def open(self) -> None:
        if self.world.next_fate("fails") == "fails":
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def commit(self, offsets: Offsets, letters: Sequence[DeadLetter]) -> None:
        fate = self.world.next_fate("killed", "fails", "killed-after", "fails-after")
        if fate == "killed":
            raise KilledError
        if fate == "fails":
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        self.world.committed |= offsets
        self.world.letters.update(letter.origin for letter in letters)
        if fate == "killed-after":
            raise KilledError
        if fate == "fails-after":
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def settled(self, offsets: Offsets) -> Offsets:
        self.open()
        return {place: self.world.committed[place] for place in offsets if place in self.world.committed}


class AtOnce(concurrent.futures.Executor):
    """An executor whose work is done when it is handed in, so that fate strikes in the same order each time."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


def event(event_id: str, **changes: Any) -> bytes:
    fields = {
        "event_id": event_id,
        "ts": "2026-11-21T09:40:00Z",
        "host": "h",
        "model": "m",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "latency_ms": 1.0,
        "gpu_index": 0,
    }
    return json.dumps(fields | changes).encode()


def start(world: World, batch_size: int = 4) -> tuple[Pump, FakeConsumer, ProcessorState]:
    state = ProcessorState(60, None, clock=lambda: 1_795_254_000.0, monotonic=lambda: world.now)
    consumer = FakeConsumer(world)
    pump = Pump(
        consumer,
        FakeStore(world),
        FakeCommitter(world),
        state,
        topics=[TOKEN_USAGE_TOPIC],
        batch_size=batch_size,
        monotonic=world.monotonic,
        writer=AtOnce(),
    )
    pump._stop.wait = lambda timeout=None: False  # type: ignore[method-assign]
    return pump, consumer, state


def run_until_drained(world: World) -> None:
    """Restarts a killed processor until everything is committed."""
    for _life in range(200):
        pump, consumer, _state = start(world)
        try:
            pump._open()
            consumer.subscribe([TOKEN_USAGE_TOPIC], on_assign=pump._on_change, on_revoke=None, on_lost=None)
            for _step in range(500):
                if all(
                    world.committed.get((TOKEN_USAGE_TOPIC, number), 0) == len(values)
                    for number, values in enumerate(world.partitions)
                ):
                    return
                pump.step()
        except KilledError:
            continue
    raise AssertionError("it never finished")


FATES = [
    "well",
    "killed",
    "killed-after",
    "fails",
    "fails-after",
    "fails-halfway",
    "rebalance",
    "complains",
]
KINDS = st.lists(st.lists(st.sampled_from(["good", "bad", "again", "unstorable"]), max_size=12), min_size=1, max_size=3)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(KINDS, st.lists(st.sampled_from(FATES), max_size=60))
def test_every_event_is_stored_once_or_dead_lettered_once(kinds: list[list[str]], fate: list[str]) -> None:
    partitions: list[list[bytes]] = []
    expected_documents: set[str] = set()
    expected_letters: set[str] = set()
    for number, wanted in enumerate(kinds):
        values: list[bytes] = []
        for offset, kind in enumerate(wanted):
            event_id = f"{number}-{offset}"
            if kind == "bad":
                values.append(b"{")
                expected_letters.add(f"{TOKEN_USAGE_TOPIC}/{number}/{offset}")
            elif kind == "unstorable":
                values.append(event(event_id, model="unstorable"))
                expected_letters.add(f"{TOKEN_USAGE_TOPIC}/{number}/{offset}")
            else:
                if kind == "again" and expected_documents:
                    event_id = min(expected_documents)
                values.append(event(event_id, prompt_tokens=offset))
                expected_documents.add(event_id)
        partitions.append(values)
    world = World(partitions, fate)
    run_until_drained(world)
    assert set(world.documents) == expected_documents
    assert world.letters == Counter(expected_letters)


def test_while_the_database_is_away_nothing_more_is_read_and_nothing_is_dead_lettered() -> None:
    world = World([[event(f"e{number}") for number in range(20)]], [])
    pump, consumer, state = start(world)
    consumer.subscribe([TOKEN_USAGE_TOPIC], on_assign=pump._on_change, on_revoke=None, on_lost=None)
    reads: list[int] = []
    world.fate = ["well", "fails", *["well"] * 3, "fails"]
    original = consumer.pause

    def pause(partitions: list[TopicPartition]) -> None:
        original(partitions)
        reads.append(consumer.positions[0])
        assert any("database" in problem for problem in state.problems())

    consumer.pause = pause  # type: ignore[method-assign]
    pump.step()
    assert set(reads) == {8}  # one batch in hand, one ahead
    assert not consumer.paused
    assert world.committed == {(TOKEN_USAGE_TOPIC, 0): 4}
    assert not world.letters
    assert state.problems() == []


def test_what_was_paused_when_it_was_lost_is_read_again() -> None:
    """Lost while we wait for the broker, and given back, still paused, when nobody waits any more."""
    world = World([[event(f"e{number}") for number in range(20)]], [])
    pump, consumer, _state = start(world)
    consumer.subscribe([TOKEN_USAGE_TOPIC], on_assign=pump._on_change, on_revoke=None, on_lost=None)
    world.fate = ["well", "well", "well", "fails"]  # the commit
    original, here = consumer.consume, [TopicPartition(TOKEN_USAGE_TOPIC, 0)]

    def consume(num_messages: int, timeout: float) -> list[Any]:
        if consumer.paused and consumer.positions:
            consumer.positions = {}
            pump._on_change(consumer, here)  # lost
            return []
        if not consumer.positions:
            if pump._wait_seconds == 0.0:  # nobody waits
                consumer.positions = {0: 0}
                pump._on_change(consumer, here)  # given back, still paused
            return []
        return original(num_messages, timeout)

    consumer.consume = consume  # type: ignore[method-assign]
    for _step in range(20):
        pump.step()
    assert len(world.documents) == 20
    assert world.committed == {(TOKEN_USAGE_TOPIC, 0): 20}


def test_a_duplicate_with_another_payload_is_counted_and_changes_nothing() -> None:
    world = World([[event("same"), event("same", prompt_tokens=9), event("other")]], [])
    pump, consumer, state = start(world)
    consumer.subscribe([TOKEN_USAGE_TOPIC], on_assign=pump._on_change, on_revoke=None, on_lost=None)
    pump.step()
    assert world.documents["same"]["prompt_tokens"] == 1
    read = state.metrics.registry.get_sample_value
    labels = {"topic": TOKEN_USAGE_TOPIC}
    assert read("gpuops_processor_duplicates_total", labels) == 1
    assert read("gpuops_processor_events_stored_total", labels) == 2
    assert read("gpuops_processor_lag_messages", {**labels, "partition": "0"}) == 0
    assert read("gpuops_processor_assigned_partitions") == 1


def test_two_processors_under_one_name_end_the_older_one() -> None:
    world = World([[event("a")]], [])
    pump, consumer, _state = start(world)
    consumer.subscribe([TOKEN_USAGE_TOPIC], on_assign=pump._on_change, on_revoke=None, on_lost=None)

    def fenced(offsets: Offsets, letters: Sequence[DeadLetter]) -> None:
        raise KafkaException(KafkaError(KafkaError.FENCED_INSTANCE_ID))

    pump._committer.commit = fenced  # type: ignore[method-assign]
    with pytest.raises(KafkaException):
        pump.step()


def test_the_offsets_of_a_batch_are_the_next_ones_to_read() -> None:
    batch = sort_messages([FakeMessage(0, 4, event("a")), FakeMessage(1, 9, b"?"), FakeMessage(0, 5, event("b"))])  # type: ignore[list-item]
    assert batch.offsets == {(TOKEN_USAGE_TOPIC, 0): 6, (TOKEN_USAGE_TOPIC, 1): 10}
    assert [letter.origin for letter in batch.letters] == [f"{TOKEN_USAGE_TOPIC}/1/9"]
    batch.moved.add((TOKEN_USAGE_TOPIC, 1))
    assert batch.without_moved().letters == []


def test_it_ends_when_messages_come_that_it_never_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its service is started again then, with a new client."""
    world = World([[]], [])
    pump, consumer, _state = start(world)
    monkeypatch.setattr(consumer, "get_watermark_offsets", lambda *_asked: (0, int(world.now)))
    with pytest.raises(StuckError, match="none of them to us"):
        pump.run()
    assert world.now > LOOK_SECONDS * STRIKES
