# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that the role gateway writes, by the role itself, below a directory of the test's; nothing is started."""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import pathlib
import pwd
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from support import debian_program, local_play


def haproxy() -> str:
    """Of this machine or fetched; raises debian_program.Missing."""
    return str(debian_program.program("haproxy", "haproxy"))


def run_step(
    work: pathlib.Path, step: str, variables: dict[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    """Only this step of the role, as talkative as Ansible can be. Its files lie in work/gateway, the unit in work."""
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    values = {
        "__gateway_directory": str(work / "gateway"),
        "__gateway_runtime_directory": str(work / "run"),
        "__gateway_unit_directory": str(work),
        "__gateway_owner": user,
        "__gateway_group": group,
        # Only this step writes, and validates, what it reads.
        **({"__gateway_haproxy": haproxy()} if step == "configure" else {}),
        "gateway_tls_names": ["localhost", "127.0.0.1", "::1"],
        **variables,
    }
    (work / "run").mkdir(exist_ok=True)
    return local_play.run_here(work, [local_play.step("gateway", step)], values, *options)


class Gateway:
    """A real HAProxy with what the role wrote, on loopback, as the unit starts it."""

    def __init__(self, work: pathlib.Path, variables: dict[str, Any]) -> None:
        self.work, self.variables = work, variables
        self.log = work / "access.log"
        self.configure()
        self.tls = ssl.create_default_context(cafile=str(work / "gateway" / "certificate.pem"))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [haproxy(), "-W", "-f", str(work / "gateway" / "haproxy.cfg")], stdout=output, stderr=output
            )
        self.wait_until_it_answers()

    def configure(self, **changed: Any) -> str:
        """The role's step of that name; returns its output."""
        self.variables.update(changed)
        done = run_step(self.work, "configure", self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def reload(self) -> None:
        """As ExecReload does; returns when the old process takes no more connections."""
        before = set(self.workers())
        self._process.send_signal(signal.SIGUSR2)
        while not set(self.workers()) - before:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def workers(self) -> list[int]:
        children = pathlib.Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(word) for word in children.read_text().split()]

    def wait_until_it_answers(self) -> None:
        ends = time.monotonic() + 60
        while True:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(OSError):
                self.ask("GET", "/health", source="127.9.9.9").close()
                return
            assert time.monotonic() < ends, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str = "",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        source: str = "127.0.0.1",
        plain: bool = False,
    ) -> http.client.HTTPResponse:
        """One request on a connection of its own, from this address of loopback."""
        if plain:
            connection = http.client.HTTPConnection(
                "localhost", self.variables["gateway_http_port"], timeout=60, source_address=(source, 0)
            )
        else:
            connection = http.client.HTTPSConnection(
                "localhost",
                self.variables["gateway_https_port"],
                timeout=60,
                context=self.tls,
                source_address=(source, 0),
            )
        data = body if body is None or isinstance(body, (bytes, Iterator)) else json.dumps(body).encode()
        asked = {**({"Authorization": f"Bearer {key}"} if key else {}), "Connection": "close", **(headers or {})}
        connection.request(method, path, data, asked, encode_chunked=isinstance(data, Iterator))
        return connection.getresponse()

    def admin(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.work / "run" / "admin.sock"))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def largest_memory_mib(self) -> float:
        """The most that any process of it has held, in MiB."""
        texts = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        return max(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 1024

    def lines(self) -> list[dict[str, Any]]:
        """The access log; what HAProxy's master says at a start or a reload is not JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
