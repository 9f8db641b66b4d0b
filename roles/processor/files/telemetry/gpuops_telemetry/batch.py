# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read from the broker in one go: valid events, dead letters, and the offsets behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Message

from gpuops_telemetry.dead_letters import DeadLetter, Offsets
from gpuops_telemetry.events import Event, InvalidEventError, parse_event


@dataclass
class Entry:
    """One valid event and where it came from."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    event: Event


@dataclass
class Batch:
    """What was read and isn't durable yet."""

    offsets: Offsets = field(default_factory=dict)
    entries: dict[str, list[Entry]] = field(default_factory=dict)  # by topic, not written yet
    letters: list[DeadLetter] = field(default_factory=list)
    messages: int = 0
    unsure: bool = False  # a commit was tried and nobody knows whether it happened
    moved: set[tuple[str, int]] = field(default_factory=set)  # its partitions that are no longer ours as they were

    def without_moved(self) -> Batch:
        """The batch without the partitions that moved."""
        partitions = self.moved
        if not partitions:
            return self
        return Batch(
            offsets={place: offset for place, offset in self.offsets.items() if place not in partitions},
            entries={
                topic: [entry for entry in entries if (topic, entry.partition) not in partitions]
                for topic, entries in self.entries.items()
            },
            letters=[letter for letter in self.letters if (letter.topic, letter.partition) not in partitions],
            messages=self.messages,
            unsure=self.unsure,
        )


def sort_messages(messages: Iterable[Message]) -> Batch:
    """Valid events, dead letters, and the offsets behind them."""
    batch = Batch()
    for message in messages:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if topic is None or partition is None or offset is None:
            raise ValueError("a message without an origin")
        value, key = message.value() or b"", message.key()
        batch.offsets[(topic, partition)] = offset + 1
        batch.messages += 1
        try:
            event = parse_event(topic, value)
        except InvalidEventError as error:
            batch.letters.append(DeadLetter.of(topic, partition, offset, str(error), key, value))
        else:
            entry = Entry(partition, offset, key, value, event)
            batch.entries.setdefault(topic, []).append(entry)
    return batch


def to_documents(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    return [entry.event.to_document() for entry in entries]
