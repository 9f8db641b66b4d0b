# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishing events: every delivery is reported and counted, and memory is bounded by the client's queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from prometheus_client import CollectorRegistry, Counter, Gauge

LOG = logging.getLogger(__name__)

Acknowledged = Callable[[Message], None]


class PublisherMetrics:
    """Counts of what became of each event."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        topic = ("topic",)
        name = "gpuops_producer_"
        self.acknowledged = Counter(
            name + "events_acknowledged", "Events that the broker acknowledged.", topic, registry=self.registry
        )
        self.failed = Counter(
            name + "events_failed",
            "Events that were given up, by reason.",
            ("topic", "reason"),
            registry=self.registry,
        )
        self.waiting = Gauge(name + "events_waiting", "Events in the queue to the broker.", registry=self.registry)


class Publisher:
    """A producer with a thread that collects delivery reports."""

    def __init__(self, producer: Producer, metrics: PublisherMetrics, acknowledged: Acknowledged | None = None) -> None:
        self._producer = producer
        self._metrics = metrics
        self._acknowledged = acknowledged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="delivery-reports", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(0.2)
            self._metrics.waiting.set(len(self._producer))

    def waiting(self) -> int:
        return len(self._producer)

    def publish(self, topic: str, key: str, value: bytes) -> bool:
        """Hands an event to the queue. False: refused here (too large, or the queue is full), and counted."""
        try:
            self._producer.produce(topic, value=value, key=key.encode(), on_delivery=self._report)
        except BufferError:
            self._metrics.failed.labels(topic, "queue_full").inc()
            return False
        except Exception as error:
            reason = _error_of(error)
            if reason is None or reason.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            self._metrics.failed.labels(topic, "too_large").inc()
            LOG.warning("An event of %d bytes was refused: it is larger than the broker takes", len(value))
            return False
        return True

    def _report(self, error: KafkaError | None, message: Message) -> None:
        topic = message.topic() or ""
        if error is not None:
            self._metrics.failed.labels(topic, error.name().strip("_").lower()).inc()
            LOG.warning("An event for %s was not delivered: %s", topic, error)
            return
        self._metrics.acknowledged.labels(topic).inc()
        if self._acknowledged is not None:
            self._acknowledged(message)

    def close(self, seconds: float) -> int:
        """Waits for what is queued; returns how many events were left behind."""
        self._stop.set()
        self._thread.join()
        return self._producer.flush(seconds)


def _error_of(error: Exception) -> KafkaError | None:
    first: Any = error.args[0] if error.args else None
    return first if isinstance(first, KafkaError) else None
