# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the end-to-end tests share. They look at the running demo with testinfra over SSH, not through our playbooks.

The demo must run (`make demo`); FLEET_FILE names another fleet file. Files run in the order of their names, so that what
only looks comes before what breaks things.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLEET_FILE = pathlib.Path(os.environ.get("FLEET_FILE", ROOT / "examples" / "local" / "fleet.yml"))
BIN = pathlib.Path(sys.executable).parent

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
        except (AssertionError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as error:
            last = error
        time.sleep(0.5)
    pytest.fail(f"{what} did not happen within {seconds:.0f} s; last seen: {last}")


@dataclass
class Run:
    """One run of ansible-playbook."""

    status: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Host → {ok, changed, unreachable, failed, …}, from Ansible's own recap."""
        lines = re.findall(r"^(\S+)\s+: (ok=.*)$", self.output, re.MULTILINE)
        return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", rest)} for host, rest in lines}

    @property
    def changed(self) -> dict[str, int]:
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}


@dataclass
class Fleet:
    """A deployment, as its fleet file and the provider describe it."""

    file: pathlib.Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str, timeout: float = 1800, **environment: str) -> Run:
        """Run one of Ansible's commands on this fleet."""
        done = subprocess.run(
            [str(BIN / arguments[0]), "-i", str(self.file), *arguments[1:]],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    def playbook(self, name: str, *arguments: str, **environment: str) -> Run:
        return self.command("ansible-playbook", f"playbooks/{name}.yml", *arguments, **environment)

    def inventory(self) -> dict[str, Any]:
        """What the inventory plugin says now (addresses change)."""
        run = self.command("ansible-inventory", "--list")
        assert run.status == 0, run.output
        inventory: dict[str, Any] = json.loads(run.output[run.output.index("{") :])
        return inventory

    def variables(self, name: str) -> dict[str, Any]:
        variables: dict[str, Any] = self.inventory()["_meta"]["hostvars"][name]
        return variables

    def host(self, name: str) -> Host:
        """The host over SSH, with the key that the inventory pins."""
        known = self.variables(name)
        return testinfra.get_host(
            f"ssh://{known['ansible_user']}@{known['ansible_host']}:{known['ansible_port']}",
            ssh_identity_file=known["ansible_ssh_private_key_file"],
            ssh_extra_args=known["ansible_ssh_common_args"],
            controlpersist=0,
        )

    def name_of(self, role: str) -> str:
        """The host with that role."""
        name: str = self.inventory()[role]["hosts"][0]
        return name


@dataclass
class Service:
    """One Compose service on its host."""

    name: str
    host: Host

    def container(self) -> str:
        """The id of its running container."""
        found = self.host.run("docker compose --project-name %s ps --quiet %s", self.name, self.name)
        assert found.rc == 0, found.stderr
        assert found.stdout.strip(), f"{self.name} has no running container"
        return str(found.stdout.strip())

    def inspect(self) -> dict[str, Any]:
        shown = self.host.run("docker inspect %s", self.container())
        assert shown.rc == 0, shown.stderr
        inspected: dict[str, Any] = json.loads(shown.stdout)[0]
        return inspected

    def healthy(self) -> bool:
        return bool(self.inspect()["State"]["Health"]["Status"] == "healthy")

    def run_inside(self, *command: str) -> str:
        """What a command inside the container prints."""
        quoted = " ".join("%s" for _word in command)
        done = self.host.run(f"docker exec %s {quoted}", self.container(), *command)
        assert done.rc == 0, f"{command} in {self.name}: {done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program prints that is piped into the container."""
        quoted = " ".join("%s" for _word in arguments)
        done = self.host.run(
            f"printf %%s %s | docker exec --interactive %s python - {quoted}", program, self.container(), *arguments
        )
        assert done.rc == 0, f"{self.name}: {done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def kill_9(self) -> None:
        """kill -9 of the container's main process; nothing when there is none at the moment."""
        self.host.run(
            "pid=$(docker inspect --format '{{.State.Pid}}' $(docker compose --project-name %s ps --quiet %s)) "
            '&& [ "$pid" -gt 1 ] && kill -9 "$pid"',
            self.name,
            self.name,
        )


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    demo = Fleet(FLEET_FILE)
    missing = [role for role in SERVICES if not demo.inventory().get(role, {}).get("hosts")]
    if missing:
        pytest.fail(f"The demo does not run ({', '.join(missing)} missing): run 'make demo' first.", pytrace=False)
    return demo


@pytest.fixture
def service(fleet: Fleet) -> Callable[[str], Service]:
    """service("kafka"): the service on the host that it has at the moment."""
    return lambda name: Service(name, fleet.host(fleet.name_of(name)))


@pytest.fixture
def all_healthy(service: Callable[[str], Service]) -> Iterator[Callable[[float], None]]:
    """Call it to wait until every service is healthy; also done after the test, so that the next one begins well."""

    def wait(seconds: float = 240) -> None:
        for name in SERVICES:
            eventually(lambda name=name: service(name).healthy(), seconds, f"health of {name}")  # type: ignore[misc]

    wait()
    yield wait
    wait()
