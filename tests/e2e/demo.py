# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the end-to-end tests share. They look at the running demo with testinfra over SSH, not through our playbooks.

The demo must run (`make demo`); FLEET_FILE names another fleet file. TEST_SCALE=10 makes the long form of what is
repeated (`make soak`).
"""

from __future__ import annotations

import contextlib
import functools
import http.client as http_client
import json
import os
import pathlib
import re
import shlex
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLEET_FILE = pathlib.Path(os.environ.get("FLEET_FILE", ROOT / "examples" / "local" / "fleet.yml"))
BIN = pathlib.Path(sys.executable).parent
SCALE = max(int(os.environ.get("TEST_SCALE", "1")), 1)

SERVICES = ("kafka", "mongodb", "vllm", "processor", "producer")


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until condition() is true and return what it gave; errors on the way count as "not yet"."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = condition()
            if last:
                return last
        except (AssertionError, OSError, RuntimeError, ValueError, LookupError, subprocess.SubprocessError) as error:
            last = error
        time.sleep(2)
    return pytest.fail(f"{what} did not happen within {seconds:.0f} s; last seen: {last}")


def http(url: str, body: object = None, key: str | None = None, certificate: str | None = None) -> tuple[int, str]:
    """Status and body of an HTTP answer, without any proxy; certificate: the text of the one to trust, for TLS."""
    place = urllib.parse.urlsplit(url)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    if certificate is None:
        connection = http_client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    else:
        trusted = ssl.create_default_context(cadata=certificate)
        connection = http_client.HTTPSConnection(str(place.hostname), place.port, timeout=60, context=trusted)
    with contextlib.closing(connection):
        method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, place.path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@dataclass
class Run:
    """One run of one of Ansible's commands."""

    status: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """Host → how many tasks changed something there, from Ansible's own recap."""
        lines = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.output, re.MULTILINE)
        assert lines, self.output[-2000:]
        return {host: int(count) for host, count in lines if count != "0"}

    @property
    def words(self) -> str:
        """The output without its line breaks, to look for sentences in it."""
        return " ".join(self.output.split())


@dataclass
class Fleet:
    """A deployment, as its fleet file and the provider describe it."""

    file: pathlib.Path
    environment: dict[str, str] = field(default_factory=dict)
    _inventory: dict[str, Any] | None = None

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Begin one of Ansible's commands on this fleet, in a process group of its own."""
        self._inventory = None  # whatever runs now may change where the machines are
        return subprocess.Popen(
            [str(BIN / arguments[0]), "-i", str(self.file), *arguments[1:]],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def playbook(self, name: str, *arguments: str, **environment: str) -> Run:
        started = self.start("ansible-playbook", f"playbooks/{name}.yml", *arguments, **environment)
        output, _none = started.communicate(timeout=1800)
        return Run(started.returncode, output)

    def inventory(self) -> dict[str, Any]:
        """What the inventory plugin says; asked again after each run of a playbook."""
        if self._inventory is None:
            started = self.start("ansible-inventory", "--list")
            output, _none = started.communicate(timeout=120)
            assert started.returncode == 0, output
            found: dict[str, Any] = json.loads(output[output.index("{\n") :])
            self._inventory = found
        return self._inventory

    def variables(self, name: str) -> dict[str, Any]:
        variables: dict[str, Any] = self.inventory()["_meta"]["hostvars"][name]
        return variables

    def machine(self, role: str) -> Machine:
        """The machine of the (only) host with that role, where it is at the moment."""
        inventory = self.inventory()
        name = inventory[role]["hosts"][0]
        return Machine(name, inventory["_meta"]["hostvars"][name])

    def service(self, name: str) -> Service:
        return Service(name, self.machine(name))


class Machine:
    """A host of the fleet over SSH, with the host key that the inventory pins."""

    def __init__(self, name: str, variables: dict[str, Any]) -> None:
        self.name = name
        self.variables = variables
        self.address: str = variables["ansible_host"]
        self.host: Host = testinfra.get_host(
            f"ssh://{variables['ansible_user']}@{self.address}:{variables['ansible_port']}",
            ssh_identity_file=variables["ansible_ssh_private_key_file"],
            ssh_extra_args=variables["ansible_ssh_common_args"],
            controlpersist=0,
        )

    def ssh(self, command: str) -> list[str]:
        """The arguments of ssh that run this command there."""
        return [
            "ssh",
            *shlex.split(self.variables["ansible_ssh_common_args"]),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
            *("-i", self.variables["ansible_ssh_private_key_file"], "-p", str(self.variables["ansible_port"])),
            f"{self.variables['ansible_user']}@{self.address}",
            command,
        ]

    def run(self, command: str, stdin: str = "") -> str:
        """What a command prints; fails when it does."""
        done = subprocess.run(self.ssh(command), input=stdin, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def boot_id(self) -> str:
        """Another one after each boot: the kernel's, and, for a host that is a container, when its init began."""
        return self.run("cat /proc/sys/kernel/random/boot_id; cut -d' ' -f22 /proc/1/stat")

    def reboot(self) -> None:
        """Begin a reboot; the connection may end with it."""
        subprocess.run(self.ssh("systemctl reboot"), capture_output=True, timeout=60, check=False)


class Service:
    """One Compose service and the machine it runs on."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.name = name
        self.machine = machine

    def container(self) -> str:
        """The id of its running container."""
        found = self.machine.run(f"docker compose --project-name {self.name} ps --quiet {self.name}").strip()
        assert found, f"{self.name} has no running container"
        return found

    def inspect(self) -> dict[str, Any]:
        find = f"docker compose --project-name {self.name} ps --quiet {self.name}"
        inspected: dict[str, Any] = json.loads(self.machine.run(f"docker inspect $({find})"))[0]
        return inspected

    def healthy(self) -> bool:
        return bool(self.inspect()["State"]["Health"]["Status"] == "healthy")

    def secret(self, name: str) -> str:
        return self.machine.run(f"cat /opt/{self.name}/secrets/{name}").strip()

    def command(self, *arguments: str) -> str:
        """The shell command that runs this inside the container."""
        return f"docker exec --interactive {self.container()} {shlex.join(arguments)}"

    def inside(self, *arguments: str, stdin: str = "") -> str:
        """What a command inside the container prints."""
        return self.machine.run(self.command(*arguments), stdin)

    def kill_9(self) -> bool:
        """kill -9 of the container's main process; False when there was none at the moment."""
        told = self.machine.run(
            f"id=$(docker compose --project-name {self.name} ps --quiet {self.name}); "
            "pid=$(docker inspect --format '{{.State.Pid}}' $id 2>/dev/null || echo 0); "
            'if [ "$pid" -gt 1 ] && kill -9 "$pid"; then echo killed; fi'
        )
        return told.split()[-1:] == ["killed"]


def reached(fleet: Fleet, address: str, port: int, role: str | None = None) -> bool:
    """Whether something answers there, asked from the host with that role, or from this machine."""
    connecting = f"timeout 4 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo yes || echo no"
    if role:
        return fleet.machine(role).run(connecting) == "yes\n"
    return subprocess.run(["bash", "-c", connecting], capture_output=True, check=True).stdout == b"yes\n"


def _is_healthy(fleet: Fleet, name: str) -> bool:
    return fleet.service(name).healthy()


def wait_until_healthy(fleet: Fleet, *names: str, seconds: float = 240) -> None:
    """Wait until these services, or all, are healthy."""
    for name in names or SERVICES:
        eventually(functools.partial(_is_healthy, fleet, name), seconds, f"health of {name}")


LOAD = ("python", "-m", "gpuops_telemetry.load")


def balance(fleet: Fleet, ledger: str, wait_seconds: int = 90) -> dict[str, Any]:
    """What became of the acknowledged events of this ledger; waits until all of them arrived."""
    program = ("python", "-m", "gpuops_telemetry.ledger", "--wait", str(wait_seconds))
    processor = fleet.service("processor")
    verdict: dict[str, Any] = json.loads(processor.machine.run(f"{processor.command(*program)} || true", ledger))
    return verdict


def things_of(deployment_id: str) -> str:
    """Everything on this machine that belongs to that deployment."""
    label = f"label=gpuops.fleet.deployment={deployment_id}"
    shown = ""
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        done = subprocess.run(
            ["docker", *kind, "--quiet", "--filter", label], capture_output=True, text=True, check=True
        )
        shown += done.stdout
    return shown
