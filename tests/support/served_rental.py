# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rented containers as processes of this machine: the very entry point and environment that were ordered, on loopback.

The container's /cache is a directory of the test, the server's port is a free one, and `vllm` is fake_vllm.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emulators.machines import NoMachines, Order, WayIn
from support.free_port import free_port

FAKE = Path(__file__).parent / "fake_vllm.py"


@dataclass
class Container:
    """One rented container: what it was ordered with, and the process that runs, if one does."""

    directory: Path
    command: Sequence[str]
    environment: dict[str, str]
    serves: bool = True
    outside: dict[int, int] = field(default_factory=dict)  # ports: ordered, and where they answer
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        commands = self.directory / "bin"
        commands.mkdir(parents=True)
        # No links: by one, Python finds its base installation, and not the packages of this environment.
        for name, program in {"vllm": f"{sys.executable} {FAKE}", "python3": sys.executable}.items():
            (commands / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
            (commands / name).chmod(0o755)

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def record(self) -> Path:
        """Where fake_vllm.py writes how it was started."""
        return self.directory / "record.json"

    @property
    def broken(self) -> Path:
        """While this file is there, the server fails what it is asked, and still says that it is healthy."""
        return self.directory / "broken"

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def start(self) -> subprocess.Popen[str]:
        moved = {str(inside): str(outside) for inside, outside in self.outside.items()}
        command = [moved.get(word, word).replace("/cache", str(self.cache)) for word in self.command]
        environment = {name: value.replace("/cache", str(self.cache)) for name, value in self.environment.items()}
        environment |= {
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "FAKE_VLLM_RECORD": str(self.record),
            "FAKE_VLLM_BROKEN": str(self.broken),
            "FAKE_VLLM_SERVES": "1" if self.serves else "",
        }
        with (self.directory / "log").open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        return self.process

    def end(self) -> None:
        """As the end of a container ends all that runs in it."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=30)
            self.process = None


class ProcessMachines(NoMachines):
    """What stands behind the rentals of an emulated provider."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.containers: dict[str, Container] = {}

    def start(
        self, rental_id: str, order: Order | None, *, key_after_seconds: float = 0.0, other_host_key: bool = False
    ) -> None:
        if order:
            command = [*(order.entrypoint or ()), *(order.args or ())]
            outside = {port: free_port() for port in order.ports}
            self.containers[rental_id] = Container(
                self._directory / rental_id, command, dict(order.env), outside=outside
            )
        self.containers[rental_id].start()

    def stop(self, rental_id: str) -> None:
        self.containers[rental_id].end()

    def delete(self, rental_id: str) -> None:
        if rental_id in self.containers:
            self.containers[rental_id].end()

    def log(self, rental_id: str) -> str:
        return self.containers[rental_id].log() if rental_id in self.containers else ""

    def way_in(self, rental_id: str, port: int) -> WayIn | None:
        found = self.containers.get(rental_id)
        return WayIn("127.0.0.1", found.outside[port]) if found and port in found.outside else None

    def close(self) -> None:
        for container in self.containers.values():
            container.end()
