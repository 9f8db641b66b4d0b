# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of this machine that lead to ports of machines, as a provider's router does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

CONNECT_SECONDS = 5.0
_CHUNK_BYTES = 65536


class Gate:
    """One port outside. Until open() it refuses; while what is behind it doesn't answer, it closes at once."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._socket = socket.socket()
        self._socket.bind((host, 0))
        self.port: int = self._socket.getsockname()[1]
        self._inside: tuple[Callable[[], str], int] | None = None

    def open(self, address: Callable[[], str], port: int) -> None:
        """Lead to that port; the address is asked for at each connection, as a machine that restarts may change it."""
        is_new, self._inside = self._inside is None, (address, port)
        if is_new:
            with contextlib.suppress(OSError):  # closed in the meantime
                self._socket.listen(64)
                threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for connections
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(connection,), daemon=True).start()

    def _lead(self, outside: socket.socket) -> None:
        assert self._inside
        address, port = self._inside
        with outside:
            try:
                inside = socket.create_connection((address(), port), timeout=CONNECT_SECONDS)
            except Exception:  # nobody is there, or the engine knows of no address now
                return
            inside.settimeout(None)
            with inside:
                back = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
                back.start()
                _copy(outside, inside)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Everything, and then the end of it."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
