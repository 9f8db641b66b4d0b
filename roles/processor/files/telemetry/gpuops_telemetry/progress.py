# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does the consumer still fetch? A client may believe that all is well, and get nothing until a new one replaces it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from confluent_kafka import KafkaException, TopicPartition

LOOK_SECONDS = 20.0
ASK_SECONDS = 5.0
STRIKES = 3  # looks in a row at which more had come, and nothing of it to us


class StuckError(RuntimeError):
    """Only a restart helps."""


class Broker(Protocol):
    """What is asked."""

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float, cached: bool
    ) -> tuple[int, int] | None: ...


class Progress:
    """Compares what the broker has with what was read.

    Counted is only what came after something was read for the last time: a message that nobody will ever read, such as
    one of a transaction that was aborted, may stand at the end of a partition for ever.
    """

    def __init__(self, broker: Broker, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._monotonic = monotonic
        self._looked = monotonic()
        self._ends: dict[tuple[str, int], int] = {}
        self._strikes = 0

    def read(self) -> None:
        """Something was read, or other partitions are ours: begin to count anew."""
        self._ends = {}
        self._strikes = 0

    def look(self, assignment: Iterable[TopicPartition]) -> None:
        """Now and then asks where the partitions end; raises StuckError when they grow and nothing is read."""
        present = self._monotonic()
        if present - self._looked < LOOK_SECONDS:
            return
        self._looked = present
        ends: dict[tuple[str, int], int] = {}
        for partition in assignment:
            try:
                found = self._broker.get_watermark_offsets(partition, ASK_SECONDS, False)
            except KafkaException:  # the broker is away: that is another problem
                self.read()
                return
            if found is not None:
                ends[(partition.topic, partition.partition)] = found[1]
        grown = [place for place, end in ends.items() if end > self._ends.get(place, end)]
        self._ends = ends
        self._strikes = self._strikes + 1 if grown else self._strikes
        if self._strikes >= STRIKES:
            places = ", ".join(f"{topic}/{number}" for topic, number in sorted(grown))
            raise StuckError(
                f"For {LOOK_SECONDS * STRIKES:.0f} seconds messages have come to {places}, and none of them to us."
            )
