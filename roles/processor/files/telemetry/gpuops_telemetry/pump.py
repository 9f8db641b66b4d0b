# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the broker to the database: read a batch, validate, write, and only then commit.

Whatever is killed at whatever moment, every acknowledged event ends up stored once or dead-lettered once:
- offsets are committed after the write, so nothing is skipped; what is read again has the same `_id`, so it isn't
  stored twice;
- a dead letter and the offsets of its batch are one transaction (see dead_letters.py);
- while one batch is being written the next one is read and validated, but batches are finished one after the other;
- a batch belongs to an assignment: when a partition is taken from us or given to us anew while its batch waits, that
  part of the batch is dropped, because whoever has the partition now reads it again.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from gpuops_telemetry.batch import Batch, Entry, sort_messages, to_documents
from gpuops_telemetry.dead_letters import Committer, DeadLetter, Offsets, without_committed
from gpuops_telemetry.events import COLLECTIONS
from gpuops_telemetry.progress import Progress
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import Store, StoreUnavailableError, WriteResult

LOG = logging.getLogger(__name__)

CONSUME_SECONDS = 0.2
IDLE_PING_SECONDS = 10.0
LAG_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 5.0
LOGGED_LETTERS = 3  # of a batch; all of them are in the dead-letter topic with their reasons


class Consumer(Protocol):
    """What we use of a Kafka consumer."""

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None: ...

    def consume(self, num_messages: int, timeout: float) -> list[Message]: ...

    def assignment(self) -> list[TopicPartition]: ...

    def pause(self, partitions: list[TopicPartition]) -> None: ...

    def resume(self, partitions: list[TopicPartition]) -> None: ...

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]: ...

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float, cached: bool
    ) -> tuple[int, int] | None: ...

    def close(self) -> None: ...


class Pump:
    """The loop. It owns the consumer: every call to it, and every callback, happens in the loop's thread."""

    def __init__(
        self,
        consumer: Consumer,
        store: Store,
        committer: Committer,
        state: ProcessorState,
        *,
        topics: Sequence[str],
        batch_size: int,
        monotonic: Callable[[], float] = time.monotonic,
        writer: concurrent.futures.Executor | None = None,
    ) -> None:
        self._writer = writer or concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._consumer = consumer
        self._store = store
        self._committer = committer
        self._state = state
        self._topics = list(topics)
        self._batch_size = batch_size
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._moved: set[tuple[str, int]] = set()  # partitions whose assignment changed since we last looked
        self._ahead: Batch | None = None  # read and validated while the batch before it was written
        self._early: list[Message] = []  # read while an older batch was waiting
        self._finished: Offsets = {}
        self._progress = Progress(consumer, monotonic)
        self._pinged = self._measured = float("-inf")
        self._wait_seconds = 0.0

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Until stop(); what is in hand is finished if that needs no waiting, else it is read again next time."""
        try:
            self._open()
            self._consumer.subscribe(
                self._topics, on_assign=self._on_change, on_revoke=self._on_change, on_lost=self._on_change
            )
            while not self._stop.is_set():
                self.step()
        finally:
            self._consumer.close()

    def _open(self) -> None:
        """Ends what a killed predecessor left open, before we read what that transaction may have committed."""
        while not self._stop.is_set():
            self._state.alive()
            try:
                self._committer.open()
            except KafkaException as error:
                self._broker_failed(error)
                self._stop.wait(self._next_wait())
            else:
                self._state.broker_problem(None)
                self._wait_seconds = 0.0
                return

    def step(self) -> None:
        """One batch, or a moment of rest."""
        self._state.alive()
        batch, self._ahead = self._ahead, None
        if batch is not None:
            batch = batch.without_moved()
        else:
            batch = self._next_batch(CONSUME_SECONDS)
            self._moved.clear()  # nothing was in hand
        if batch is not None:
            self._finish(batch)
        self._look_around(idle=batch is None)

    def _next_batch(self, seconds: float) -> Batch | None:
        messages, self._early = self._early, []
        if not messages:
            messages = self._read(self._batch_size, seconds)
            if self._moved:
                # What was paused when it was lost comes back paused, perhaps when nothing waits any more.
                self._consumer.resume(self._consumer.assignment())
        return sort_messages(messages) if messages else None

    def _read(self, count: int, seconds: float) -> list[Message]:
        good = []
        for message in self._consumer.consume(count, seconds):
            error = message.error()
            if error is None:
                good.append(message)
            elif error.fatal():
                raise KafkaException(error)
            elif error.code() != KafkaError._PARTITION_EOF:
                LOG.warning("The broker says: %s", error)
        if good:
            self._progress.read()
        return good

    def _finish(self, batch: Batch) -> None:
        """Makes the batch durable, however long that takes, while staying a member of the group."""
        attempt = 0
        waited = False
        while not self._stop.is_set():
            attempt += 1
            self._state.alive()
            if self._settle(batch) and self._write(batch, attempt):
                batch = batch.without_moved()
                if self._commit(batch):
                    break
            waited = True
            batch = self._wait(batch)
        self._wait_seconds = 0.0
        if waited:
            self._consumer.resume(self._consumer.assignment())

    def _settle(self, batch: Batch) -> bool:
        """After a commit whose outcome nobody knows: asks the broker, so that no dead letter is published twice."""
        if not batch.unsure or not batch.letters:
            return True
        try:
            committed = self._committer.settled(batch.offsets)
        except KafkaException as error:
            self._broker_failed(error)
            return False
        remaining = without_committed(batch.letters, committed)
        if len(remaining) < len(batch.letters):
            self._done(Batch(letters=[letter for letter in batch.letters if letter not in remaining]))
        batch.letters = remaining
        batch.unsure = False
        return True

    def _write(self, batch: Batch, attempt: int) -> bool:
        if not batch.entries:
            return True
        started = self._monotonic()
        try:
            self._write_entries(batch, attempt)
        except StoreUnavailableError as error:
            self._store_failed(error)
            return False
        self._pinged = self._monotonic()
        self._state.metrics.write_seconds.observe(self._pinged - started)
        self._state.store_problem(None)
        return True

    def _write_entries(self, batch: Batch, attempt: int) -> None:
        for topic in list(batch.entries):
            entries = batch.entries[topic]
            if entries:
                writing = self._writer.submit(self._store.write, COLLECTIONS[topic], to_documents(entries))
                # The database works now; meanwhile the processor of this machine has something better to do than wait.
                # Without waiting for messages, and never more than one batch ahead.
                if self._ahead is None and attempt == 1 and not self._stop.is_set():
                    self._ahead = self._next_batch(0.0)
                    # At once: what was just read belongs to the new assignment already.
                    batch.moved |= self._moved
                    self._moved.clear()
                self._account(batch, topic, entries, writing.result(), attempt)
            del batch.entries[topic]  # a second attempt doesn't need it

    def _account(self, batch: Batch, topic: str, entries: list[Entry], result: WriteResult, attempt: int) -> None:
        for position, reason in result.refused.items():
            entry = entries[position]
            place = topic, entry.partition, entry.offset
            batch.letters.append(DeadLetter.of(*place, reason, entry.key, entry.value))
        # After an interrupted attempt our own documents look like duplicates.
        duplicates = result.duplicates if attempt == 1 else set()
        left_out = duplicates | result.refused.keys()
        fresh = [entry.event for position, entry in enumerate(entries) if position not in left_out]
        self._state.stored(topic, fresh, len(duplicates))

    def _commit(self, batch: Batch) -> bool:
        started = self._monotonic()
        try:
            self._committer.commit(batch.offsets, batch.letters)
        except (KafkaException, BufferError) as error:
            batch.unsure = True
            self._broker_failed(error)
            return False
        self._state.metrics.commit_seconds.observe(self._monotonic() - started)
        self._state.metrics.batch_size.observe(batch.messages)
        self._done(batch)
        return True

    def _done(self, batch: Batch) -> None:
        self._state.broker_problem(None)
        self._finished |= batch.offsets
        for letter in batch.letters:
            self._state.metrics.dead_letters.labels(letter.topic).inc()
        for letter in batch.letters[:LOGGED_LETTERS]:
            LOG.warning("Dead letter from %s: %s", letter.origin, letter.reason)
        if len(batch.letters) > LOGGED_LETTERS:
            LOG.warning("And %d more dead letters in the same batch", len(batch.letters) - LOGGED_LETTERS)

    def _wait(self, batch: Batch) -> Batch:
        """Waits a little without leaving the group; returns what of the batch is still ours."""
        seconds = self._next_wait()
        until = self._monotonic() + seconds
        while not self._stop.is_set():
            # Also what was assigned a moment ago.
            self._consumer.pause(self._consumer.assignment())
            early = self._read(self._batch_size, min(0.5, seconds))
            if self._moved:
                # Not what was read in the same call: that belongs to the new assignment already.
                self._early = [m for m in self._early if (m.topic(), m.partition()) not in self._moved]
                if self._ahead is not None:
                    self._ahead.moved |= self._moved
                batch.moved |= self._moved
                self._moved.clear()
            self._early += early
            self._state.alive()
            if self._monotonic() >= until:
                break
        return batch.without_moved()

    def _next_wait(self) -> float:
        self._wait_seconds = min(LONGEST_WAIT_SECONDS, self._wait_seconds * 2 or 0.25)
        return self._wait_seconds

    def _store_failed(self, error: Exception) -> None:
        LOG.warning("The database can't store now, trying again: %s", error)
        self._state.store_problem(str(error))
        self._state.metrics.retries.labels("database").inc()

    def _broker_failed(self, error: Exception) -> None:
        reason = error.args[0] if error.args else error
        if isinstance(reason, KafkaError) and reason.code() == KafkaError.FENCED_INSTANCE_ID:
            raise error  # another processor runs under our name; the one that started later has the partitions
        LOG.warning("The broker did not accept a commit, trying again: %s", reason)
        self._state.broker_problem(str(reason))
        self._state.metrics.retries.labels("broker").inc()

    def _on_change(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            place = (partition.topic, partition.partition)
            self._moved.add(place)
            self._finished.pop(place, None)
        self._progress.read()
        LOG.info(
            "The assignment changed for %s", ", ".join(f"{p.topic}/{p.partition}" for p in partitions) or "nothing"
        )

    def _look_around(self, *, idle: bool) -> None:
        present = self._monotonic()
        if idle and present - self._pinged > IDLE_PING_SECONDS:
            self._pinged = present
            try:
                self._store.ping()
            except StoreUnavailableError as error:
                self._store_failed(error)
                self._pinged = present - IDLE_PING_SECONDS + 1  # look again soon
            else:
                self._state.store_problem(None)
        if present - self._measured > LAG_SECONDS:
            self._measured = present
            self._measure_lag()
        if idle:
            self._progress.look(self._consumer.assignment())

    def _measure_lag(self) -> None:
        assignment = self._consumer.assignment()
        self._state.assigned((partition.topic, partition.partition) for partition in assignment)
        lag = self._state.metrics.lag
        lag.clear()
        for partition in assignment:
            watermarks = self._consumer.get_watermark_offsets(partition, 1.0, True)
            if watermarks is None or watermarks[1] < 0:
                continue  # nothing was fetched yet
            low, high = watermarks
            place = (partition.topic, partition.partition)
            if place not in self._finished:
                self._finished[place] = self._committed(partition, max(low, 0))
            lag.labels(*map(str, place)).set(max(0, high - self._finished[place]))

    def _committed(self, partition: TopicPartition, earliest: int) -> int:
        try:
            offset = self._consumer.committed([TopicPartition(partition.topic, partition.partition)], 5.0)[0].offset
        except KafkaException:
            return earliest
        return offset if offset >= 0 else earliest
