# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging to standard output, one line an entry, times in UTC."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

REPEAT_SECONDS = 30.0


class Repeats(logging.Filter):
    """Lets one message of each kind through in so many seconds; the next one says how many were held back.

    The kind is the first word: librdkafka begins with it (FAIL, SESSTMOUT), and says FAIL for each of the twenty
    attempts that it makes in a second while a broker is away. Docker keeps so many bytes of log, and no more.
    """

    def __init__(self, seconds: float = REPEAT_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._monotonic = monotonic
        self._shown: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        kind = message.partition(" ")[0]
        present = self._monotonic()
        if present - self._shown.get(kind, float("-inf")) < self._seconds:
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._shown[kind] = present
        held = self._held.pop(kind, 0)
        if held:
            record.msg, record.args = f"{message} (and {held} more of this kind before)", ()
        return True


def kafka_logger() -> logging.Logger:
    """For the clients of Kafka, which repeat themselves."""
    logger = logging.getLogger("gpuops_telemetry.kafka")
    if not logger.filters:
        logger.addFilter(Repeats())
    return logger


def set_up_logging() -> None:
    """The root logger; quieter for libraries that log each of their own retries."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("pymongo", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
