# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a process has to end, so that a restart can help: nobody outside acts on a health check that fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

LOG = logging.getLogger(__name__)
WATCH_SECONDS = 5.0


def watch(stop: threading.Event, problems: Callable[[], list[str]]) -> str | None:
    """Wait for the stop; before it, return what went wrong as soon as something did that only a restart mends."""
    while not stop.wait(WATCH_SECONDS):
        if found := problems():
            LOG.error("Ending, so that a restart can help: %s", " ".join(found))
            return found[0]
    return None
