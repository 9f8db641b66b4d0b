# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A consumer that gets nothing although messages come is told from one for which nothing comes."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from gpuops_telemetry.progress import LOOK_SECONDS, STRIKES, Progress, StuckError

ASSIGNMENT = [TopicPartition("token.usage.v1", 0), TopicPartition("gpu.metrics.v1", 2)]


class Broker:
    """Its partitions end where `ends` says; away: it does not answer."""

    def __init__(self) -> None:
        self.ends = {"token.usage.v1": 10, "gpu.metrics.v1": 0}
        self.away = False
        self.asked = 0

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float, cached: bool) -> tuple[int, int]:
        assert not cached, "what a client that fetches nothing remembers says nothing"
        self.asked += 1
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return 0, self.ends[partition.topic]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def progress(broker: Broker, clock: list[float]) -> Progress:
    return Progress(broker, lambda: clock[0])


def look(progress: Progress, clock: list[float]) -> None:
    clock[0] += LOOK_SECONDS
    progress.look(ASSIGNMENT)


def test_where_nothing_comes_nothing_is_wrong(progress: Progress, clock: list[float]) -> None:
    for _look in range(10):
        look(progress, clock)


def test_messages_that_come_and_are_not_read_end_it_after_a_minute(
    progress: Progress, broker: Broker, clock: list[float]
) -> None:
    look(progress, clock)
    for _look in range(STRIKES - 1):
        broker.ends["gpu.metrics.v1"] += 1
        look(progress, clock)
    look(progress, clock)  # nothing came meanwhile: that proves nothing either way
    broker.ends["gpu.metrics.v1"] += 1
    with pytest.raises(StuckError, match=r"For 60 seconds messages have come to gpu\.metrics\.v1/2"):
        look(progress, clock)


def test_whatever_is_read_begins_the_count_anew(progress: Progress, broker: Broker, clock: list[float]) -> None:
    for _look in range(4 * STRIKES):
        broker.ends["token.usage.v1"] += 5
        look(progress, clock)
        if _look % 2:
            progress.read()


def test_a_broker_that_is_away_is_another_problem(progress: Progress, broker: Broker, clock: list[float]) -> None:
    look(progress, clock)
    for number in range(4 * STRIKES):
        broker.ends["token.usage.v1"] += 1
        broker.away = number % 2 == 1
        look(progress, clock)


def test_the_broker_is_asked_now_and_then(progress: Progress, broker: Broker, clock: list[float]) -> None:
    for _moment in range(100):
        clock[0] += LOOK_SECONDS / 50
        progress.look(ASSIGNMENT)
    assert broker.asked <= 2 * len(ASSIGNMENT)
