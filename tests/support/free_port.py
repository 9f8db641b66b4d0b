# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A port for a process that a test starts, or at which nobody shall listen."""

from __future__ import annotations

import contextlib
import random
import socket


def free_port() -> int:
    """Free at every address, and one that no connection takes meanwhile: the system gives those higher ones."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 (no secret)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
