# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How soon a machine is seen that became ready: real sockets, the real schedule, and a stand-in for the ssh command.

Many machines wait at the same time, each for a moment of its own, in which what was wrong with it ends. What is
measured is the time from there until the wait returns; the 99th of a hundred counts.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import select
import socket
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

from ansible_collections.gpuops.fleet.plugins.module_utils import _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import Budget
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider

from benchmarks.results import Row

MACHINES = 100
AT_ONCE = 50  # more would measure how fast this controller starts processes
LONGEST_UNREADY_SECONDS = 20.0
BANNER = b"SSH-2.0-bench\r\n"
# What was wrong until then, and the goal in seconds.
SITUATIONS = {"refused": 3.0, "closed": 3.0, "silent": 6.0, "key missing": 6.0}
# Lets in when the file that stands for the key on the machine is there.
SSH = """\
#!/bin/sh
while [ "$1" != "-p" ]; do shift; done
[ -e "{folder}/$2" ] && exit 0
echo 'root@bench: Permission denied (publickey).' >&2
exit 255
"""


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(_chosen: argparse.Namespace) -> list[Row]:
    """A row for each situation."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-bench-") as name:
        folder = pathlib.Path(name)
        program = folder / "ssh"
        program.write_text(SSH.format(folder=folder))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        path, os.environ["PATH"] = os.environ["PATH"], f"{folder}:{os.environ['PATH']}"
        try:
            return [_row(what, goal, folder) for what, goal in SITUATIONS.items()]
        finally:
            os.environ["PATH"] = path


def _row(what: str, goal: float, folder: pathlib.Path) -> Row:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        delays = sorted(pool.map(lambda _number: _seen_after(what, folder), range(MACHINES)))
    median, worst = delays[MACHINES // 2], delays[int(MACHINES * 0.99) - 1]
    reference = f"{median:.1f} s (the median)"
    name = f"readiness seen after {what}, p99"
    return Row(name, round(worst, 2), "s", reference, round(worst / median, 3), f"<= {goal:g} s", worst <= goal)


def _seen_after(what: str, folder: pathlib.Path) -> float:
    """Seconds from the moment when this machine is ready until the wait for it returns."""
    machine = _Machine(what, folder)
    try:
        instance = Instance(
            "vastai",
            "1",
            Marker("acme-bench", "a", "abc123"),
            Status.RUNNING,
            ssh_endpoints=(Endpoint("127.0.0.1", machine.port),),
        )
        provider = cast(Provider, SimpleNamespace(name="vastai", capabilities=frozenset(), get=lambda _id: instance))
        budget = Budget(provider_seconds=60, ready_seconds=60, key_seconds=60)
        _instance, report = _readiness.wait_until_ready(provider, instance, "ssh", budget, None)
        seen = time.monotonic()
        assert report.ready, report
        return max(0.0, seen - machine.ready_at)
    finally:
        machine.end()


class _Machine:
    """A port of loopback that is not ready until its moment comes."""

    def __init__(self, what: str, folder: pathlib.Path) -> None:
        self._what, self._ended = what, threading.Event()
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._key = folder / str(self.port)
        self.ready_at = time.monotonic() + random.uniform(1.0, LONGEST_UNREADY_SECONDS)  # noqa: S311 (no secret)
        if what != "key missing":
            self._key.touch()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        if self._what == "refused":
            self._ended.wait(self.ready_at - time.monotonic())
        self._listening.listen(16)
        held: list[socket.socket] = []  # silent ones stay open, as a wedged server leaves them
        while not self._ended.is_set():
            ready = time.monotonic() >= self.ready_at
            if ready and not self._key.exists():
                self._key.touch()
            if not select.select([self._listening], [], [], 0.01)[0]:
                continue
            connection, _peer = self._listening.accept()
            if ready or self._what in ("refused", "key missing"):
                with suppress(OSError):
                    connection.sendall(BANNER)
            if not ready and self._what == "silent":
                held.append(connection)
            else:
                connection.close()
        for connection in held:
            connection.close()
        self._listening.close()

    def end(self) -> None:
        self._ended.set()
        self._key.unlink(missing_ok=True)
