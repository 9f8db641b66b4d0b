# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands behind a rental: nothing (the light mode, here), or what docker_machines.py starts.

Every rental's ports answer on loopback, at numbers that are others after each start, as behind a provider's router.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

DEAD_END_HOST = "127.0.0.1"


class WayIn(NamedTuple):
    """Where a port of a rental answers from outside."""

    host: str
    port: int


@dataclass(frozen=True)
class Order:
    """What was rented, as its provider starts it.

    A machine has SSH and runs start_script once, as root; else it is a container of that image, whose entrypoint and
    args are the image's own where they are None.
    """

    image: str
    machine: bool = False
    start_script: str = ""
    entrypoint: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: dict[str, str] = field(default_factory=dict, repr=False)
    ports: tuple[int, ...] = ()
    restarts: bool = False  # the provider starts the container again when its command ends
    keeps_disk: bool = True  # over a stop


class NoMachines:
    """The interface, and the light mode: nothing is started, so nothing answers."""

    def start(
        self, rental_id: str, order: Order | None, *, key_after_seconds: float = 0.0, other_host_key: bool = False
    ) -> None:
        """Start what was ordered; without an order, what was stopped. Returns before that is done."""

    def add_key(self, rental_id: str, public_key: str) -> None:
        """Let this key log in, too."""

    def stop(self, rental_id: str) -> None:
        """Returns before that is done."""

    def log(self, rental_id: str) -> str:
        """What it has printed."""
        return ""

    def delete(self, rental_id: str) -> None:
        """Returns before that is done; harmless for what is not there."""

    def way_in(self, rental_id: str, port: int) -> WayIn | None:
        """Where that port answers now; None where there are no machines."""
        return None

    def address(self, rental_id: str) -> str | None:
        """The machine's own address, where this machine reaches it; None where there is none (yet)."""
        return None

    def host_key(self, rental_id: str) -> str | None:
        """The host key of its SSH server; None where there is none (yet)."""
        return None

    def problem(self, rental_id: str) -> str | None:
        """Why it could not be started, in the engine's words."""
        return None

    def close(self) -> None:
        """End everything, and wait until it is gone."""


class DeadEnds:
    """Two ports of loopback: one that refuses, and one where connections are taken and nobody ever says a word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: dict[str, socket.socket] = {}

    def port(self, kind: str) -> int:
        with self._lock:
            if kind not in self._sockets:
                end = socket.socket()
                end.bind((DEAD_END_HOST, 0))  # bound, so that nobody else gets this port; without listen() it refuses
                if kind == "silent_server":
                    end.listen(128)  # the kernel takes the connections; nobody accepts them
                self._sockets[kind] = end
            return int(self._sockets[kind].getsockname()[1])
