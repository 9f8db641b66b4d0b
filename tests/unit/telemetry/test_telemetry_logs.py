# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What repeats itself does not fill the log."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import Producer
from gpuops_telemetry.logs import Repeats, kafka_logger


def test_a_kind_is_said_once_in_a_while_and_then_how_often_it_was_not(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    logger = logging.getLogger("a-client")
    held = Repeats(30, lambda: now[0])
    logger.addFilter(held)
    try:
        for second in range(60):
            now[0] = second
            logger.error("%s [%s] %s", "FAIL", "processor-1", f"attempt {second}")
            if second % 40 == 0:
                logger.warning("SESSTMOUT [processor-1] the session timed out")
    finally:
        logger.removeFilter(held)
    assert [record.getMessage() for record in caplog.records] == [
        "FAIL [processor-1] attempt 0",
        "SESSTMOUT [processor-1] the session timed out",
        "FAIL [processor-1] attempt 30 (and 29 more of this kind before)",
        "SESSTMOUT [processor-1] the session timed out",
    ]


def test_a_client_whose_broker_is_away_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    options = {"bootstrap.servers": "127.0.0.1:1", "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 10}
    producer = Producer(options, logger=kafka_logger())
    with caplog.at_level(logging.INFO):
        for _moment in range(20):
            producer.poll(0.1)
    failed = [record for record in caplog.records if record.getMessage().startswith("FAIL")]
    assert len(failed) == 1
