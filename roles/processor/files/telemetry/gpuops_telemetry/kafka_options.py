# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of our Kafka clients, in one place and each with its reason."""

from __future__ import annotations

from typing import Any

from gpuops_telemetry.settings import KafkaSettings

# What broker, producer and consumer agree on: nothing larger travels.
MESSAGE_MAX_BYTES = 1_000_000

# How long one call to the broker may take before the client tries again.
CALL_TIMEOUT_SECONDS = 10.0


def _connection(kafka: KafkaSettings) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": kafka.client_id,
        # A broker that comes back with another address: notice a dead connection, look its name up again, soon.
        "socket.keepalive.enable": True,
        "socket.timeout.ms": 10_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 2_000,
        "topic.metadata.refresh.interval.ms": 30_000,
    }


def consumer_options(kafka: KafkaSettings, group_id: str) -> dict[str, Any]:
    """A group member that commits only what it says, after the write."""
    return _connection(kafka) | {
        "group.id": group_id,
        # The same member after a restart: it takes its partitions back at once, without waiting for a time-out.
        "group.instance.id": kafka.client_id,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 2_000,
        "max.poll.interval.ms": 300_000,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # Bounds what waits in memory: 900 kB of rubbish times queued.min.messages would not fit anywhere.
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 32_768,
        "fetch.wait.max.ms": 100,
    }


def producer_options(kafka: KafkaSettings) -> dict[str, Any]:
    """A producer whose retries store nothing twice and whose queue is bounded."""
    return _connection(kafka) | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 20,
        "compression.type": "lz4",
        "message.max.bytes": MESSAGE_MAX_BYTES,
        "queue.buffering.max.messages": 10_000,
        "queue.buffering.max.kbytes": 65_536,
    }


def dead_letter_producer_options(kafka: KafkaSettings, group_id: str) -> dict[str, Any]:
    """A transactional producer: a dead letter and the offset behind it are committed together, or not at all."""
    return producer_options(kafka) | {
        # The same id after a crash: opening it aborts what the dead process left open.
        "transactional.id": f"{group_id}-{kafka.client_id}",
        "transaction.timeout.ms": 30_000,
        "linger.ms": 0,
    }
