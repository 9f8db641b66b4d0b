# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a message that is no event.

A dead letter and the offset behind its message are committed in one Kafka transaction, so a crash at any point leaves
either both or neither: each bad message is dead-lettered once for whoever reads committed messages (librdkafka's
default; `--isolation-level read_committed` in Kafka's own tools). The key of a dead letter is its origin
(`topic/partition/offset`), so a reader that sees uncommitted messages as well can still count each once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from gpuops_telemetry.events import DEAD_LETTER_SUFFIX
from gpuops_telemetry.kafka_options import CALL_TIMEOUT_SECONDS

LOG = logging.getLogger(__name__)

KEPT_BYTES = 64 * 1024

Offsets = dict[tuple[str, int], int]  # (topic, partition) → the next offset to read


@dataclass(frozen=True)
class DeadLetter:
    """A refused message: where it came from, why it was refused, and what it was."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    kept_value: bytes
    size_bytes: int
    sha256: str  # of the whole value

    @classmethod
    def of(cls, topic: str, partition: int, offset: int, reason: str, key: bytes | None, value: bytes) -> DeadLetter:
        """Keeps the beginning, and of all of it the hash: a batch of rubbish doesn't fill the memory."""
        return cls(
            topic=topic,
            partition=partition,
            offset=offset,
            reason=reason,
            key=key[:1024] if key else None,
            kept_value=value[:KEPT_BYTES],
            size_bytes=len(value),
            sha256=hashlib.sha256(value).hexdigest(),
        )

    @property
    def destination(self) -> str:
        return self.topic + DEAD_LETTER_SUFFIX

    @property
    def origin(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    def headers(self) -> dict[str, bytes]:
        """What a person or a program needs to judge it; every value is text."""
        headers = {
            "reason": self.reason,
            "origin_topic": self.topic,
            "origin_partition": str(self.partition),
            "origin_offset": str(self.offset),
            "size_bytes": str(self.size_bytes),
            "truncated": "true" if self.size_bytes > len(self.kept_value) else "false",
            "sha256": self.sha256,
        }
        encoded = {name: text.encode() for name, text in headers.items()}
        if self.key:
            encoded["origin_key"] = self.key
        return encoded


def origin_of(message: Message) -> tuple[str, int, int] | None:
    """The origin that a dead letter states, or None when it is none of ours."""
    headers = dict(message.headers() or [])
    try:
        topic, partition, offset = (headers[f"origin_{part}"] for part in ("topic", "partition", "offset"))
        return _text(topic), int(_text(partition)), int(_text(offset))
    except (KeyError, ValueError):
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Committer(Protocol):
    """Makes progress durable: offsets, and the dead letters that belong to them."""

    def open(self) -> object: ...

    def commit(self, offsets: Offsets, letters: Sequence[DeadLetter]) -> None: ...

    def settled(self, offsets: Offsets) -> Offsets: ...


def to_partitions(offsets: Offsets) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in sorted(offsets.items())]


class TransactionalCommitter:
    """Commits offsets; with dead letters, both in one transaction."""

    def __init__(self, consumer: Consumer, make_producer: Callable[[], Producer]) -> None:
        self._consumer = consumer
        self._make_producer = make_producer
        self._producer: Producer | None = None

    def open(self) -> Producer:
        """Opens the transactional id, which ends whatever a predecessor that was killed left open."""
        if self._producer is None:
            producer = self._make_producer()
            producer.init_transactions(CALL_TIMEOUT_SECONDS)
            self._producer = producer
        return self._producer

    def commit(self, offsets: Offsets, letters: Sequence[DeadLetter]) -> None:
        """Returns when everything is durable. After an exception, call `settled` before trying again."""
        if not offsets:
            return
        if not letters:
            self._consumer.commit(offsets=to_partitions(offsets), asynchronous=False)
            return
        producer = self.open()
        try:
            producer.begin_transaction()
            for letter in letters:
                self._produce(producer, letter)
            group = self._consumer.consumer_group_metadata()
            partitions = to_partitions(offsets)
            _until_settled(lambda timeout: producer.send_offsets_to_transaction(partitions, group, timeout))
            _until_settled(producer.commit_transaction)
        except (KafkaException, BufferError):
            # Whether it was committed can't be known from here. A new producer under the same transactional id ends
            # the old transaction one way or the other; then the committed offsets tell which way.
            self._producer = None
            raise

    def settled(self, offsets: Offsets) -> Offsets:
        """The offsets that are already committed among these, once no transaction of ours is open any more."""
        self.open()
        partitions = [TopicPartition(topic, partition) for topic, partition in sorted(offsets)]
        committed: Offsets = {}
        for found in self._consumer.committed(partitions, timeout=CALL_TIMEOUT_SECONDS):
            if found.error is not None:
                raise KafkaException(found.error)
            if found.offset >= 0:
                committed[(found.topic, found.partition)] = found.offset
        return committed

    @staticmethod
    def _produce(producer: Producer, letter: DeadLetter) -> None:
        message: dict[str, Any] = {
            "key": letter.origin.encode(),
            "value": letter.kept_value,
            "headers": list(letter.headers().items()),
        }
        for _attempt in range(100):
            try:
                producer.produce(letter.destination, **message)
                return
            except BufferError:  # the queue is full: let it drain
                producer.poll(0.1)
        producer.produce(letter.destination, **message)


def _until_settled(step: Callable[[float], Any], attempts: int = 3) -> None:
    """Repeats a step of a transaction while the client says that repeating is safe."""
    for attempt in range(1, attempts + 1):
        try:
            step(CALL_TIMEOUT_SECONDS)
            return
        except KafkaException as error:
            if attempt == attempts or not error.args[0].retriable():
                raise


def without_committed(letters: Iterable[DeadLetter], committed: Offsets) -> list[DeadLetter]:
    """The dead letters whose message isn't behind a committed offset yet."""
    return [letter for letter in letters if letter.offset >= committed.get((letter.topic, letter.partition), -1)]
