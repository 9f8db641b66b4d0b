# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The only source of time and sleep; tests replace the functions of this module."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def monotonic() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait; negative values return at once."""
    if seconds > 0:
        time.sleep(seconds)


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """What is done inside is to be over after so many seconds: for somebody who can do without an answer."""
    token = _DEADLINE.set(monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def seconds_left() -> float | None:
    """Of the limit, at least 0; None without one."""
    deadline = _DEADLINE.get()
    return None if deadline is None else max(0.0, deadline - monotonic())
