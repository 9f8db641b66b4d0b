"""Who has a port: told from what the kernel and Docker say, and tried with sockets of this machine."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.free_port import free_port
from support.load_program import load_program

SCRIPT = Path(__file__).parents[4] / "roles/service/files/taken_ports.py"
ID = "7c" * 32


taken_ports = load_program(SCRIPT)


class Machine:
    """A /proc and a docker command of the test's; bind fails where somebody has the port, as in the kernel."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.proc, self.commands = root / "proc", root / "bin"
        (self.proc / "net").mkdir(parents=True)
        self.commands.mkdir()
        self.rows: dict[str, list[str]] = {"tcp": [], "tcp6": []}
        self.containers: list[dict[str, Any]] = []
        patch.setenv("PATH", f"{self.commands}:{os.environ['PATH']}")
        patch.setattr(taken_ports, "bind_error", lambda _address, _port: errno.EADDRINUSE)
        self.command("systemctl", "echo inactive")
        self.docker_answers()

    def docker_answers(self, *containers: dict[str, Any]) -> None:
        lines = "\n".join(map(json.dumps, containers))
        self.command("docker", f"if [ $1 = ps ]; then echo '{ID if containers else ''}'; exit; fi\necho '{lines}'")

    def command(self, name: str, script: str) -> None:
        (self.commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.commands / name).chmod(0o755)

    def listens(self, address: str, port: int, pid: int = 0, name: str = "", groups: str = "0::/\n") -> None:
        """A listener; of no process that can be seen where the process is 0."""
        inode = str(5000 + sum(map(len, self.rows.values())))
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
        text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
        row = f" 0: {text}:{port:04X} {'0' * len(text)}:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1"
        self.rows["tcp6" if ":" in address else "tcp"].append(row)
        if pid:
            place = self.proc / str(pid)
            (place / "fd").mkdir(parents=True, exist_ok=True)
            (place / "fd" / inode).symlink_to(f"socket:[{inode}]")
            (place / "comm").write_text(f"{name}\n")
            (place / "cgroup").write_text(groups)

    def says(self, addresses: list[str], unit: str = "vllm.service", port: int = 8000) -> list[str]:
        for table, rows in self.rows.items():
            (self.proc / "net" / table).write_text("\n".join(["  sl  local_address", *rows, ""]))
        wanted = {
            "variable": "vllm_port",
            "port": port,
            "address_variable": "vllm_listen_address",
            "addresses": addresses,
            "unit": unit,
        }
        return list(taken_ports.problems("vllm-1", [wanted], self.proc))

    def in_use_by(self, addresses: list[str], unit: str = "vllm.service") -> str:
        """Who, in the one sentence; empty where there is none."""
        said = self.says(addresses, unit)
        if not said:
            return ""
        (sentence,) = said
        before, _by, rest = sentence.partition(" is in use by ")
        who, _stop, advice = rest.partition(". Stop that, ")
        assert (before, advice) == ("Port 8000 of vllm-1", "or choose another vllm_port.")
        return who


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def container(port: int, address: str, home: str, name: str = "web") -> dict[str, Any]:
    return {
        "id": ID,
        "name": f"/{name}",
        "labels": {"com.docker.compose.project.working_dir": home} if home else None,
        "ports": {"80/tcp": [{"HostIp": address, "HostPort": str(port)}], "53/udp": None},
    }


def test_a_program_is_named_with_its_unit(machine: Machine) -> None:
    machine.listens("127.0.0.1", 8000, 812, "nginx", "1:name=systemd:/system.slice/nginx.service\n0::/\n")
    assert machine.in_use_by(["127.0.0.1"]) == "nginx (process 812, unit nginx.service)"


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError])
def test_a_program_that_ends_meanwhile_is_no_problem(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    machine.listens("127.0.0.1", 8000, 812, "nginx")
    (machine.proc / "813" / "fd").mkdir(parents=True)
    scandir = os.scandir

    def ended(path: Any) -> Any:
        if str(path).endswith("/813/fd"):
            raise error(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", ended)
    assert machine.in_use_by(["127.0.0.1"]) == "nginx (process 812)"


def test_a_program_of_no_unit_is_named_by_its_number(machine: Machine) -> None:
    machine.listens("127.0.0.1", 8000, 77, "python3", "0::/user.slice/session-3.scope\n")
    assert machine.in_use_by(["127.0.0.1"]) == "python3 (process 77)"


def test_who_has_the_socket_of_a_socket_unit_is_named_not_systemd(machine: Machine) -> None:
    machine.listens("127.0.0.1", 8000, 1, "systemd", "0::/init.scope\n")
    assert machine.in_use_by(["127.0.0.1"]) == "systemd (process 1)"
    place = machine.proc / "90"
    (place / "fd").mkdir(parents=True)
    (place / "fd/3").symlink_to("socket:[5000]")
    (place / "comm").write_text("cockpit\n")
    (place / "cgroup").write_text("0::/system.slice/cockpit.service\n")
    assert machine.in_use_by(["127.0.0.1"]) == "cockpit (process 90, unit cockpit.service)"


@pytest.mark.parametrize(
    ("listener", "wanted", "meet"),
    [
        ("10.0.0.5", "127.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", True),  # noqa: S104 (not bound)
        ("127.0.0.1", "*", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("2001:db8::7", "[2001:db8:0::7]", True),
        ("::", "[::1]", True),
        ("127.0.0.1", "[::1]", False),
        ("127.0.0.1", "[::]", True),
    ],
)
def test_only_who_is_in_the_way_at_the_address_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, listener: str, wanted: str, meet: bool
) -> None:
    """The table decides where this user may not try the port."""
    monkeypatch.setattr(taken_ports, "bind_error", lambda _address, _port: errno.EACCES)
    machine.listens(listener, 8000, 12, "nginx")
    assert machine.in_use_by([wanted]) == ("nginx (process 12)" if meet else "")


def test_what_the_unit_has_is_its_own_at_any_address(machine: Machine) -> None:
    machine.listens("127.0.0.1", 8000, 40, "haproxy", "0::/system.slice/gateway.service\n")
    assert machine.says(["*", "[::]"], "gateway.service") == []
    machine.listens("10.0.0.5", 8000, 41, "nginx")
    assert machine.in_use_by(["*"], "gateway.service") == "nginx (process 41)"


def test_who_took_ipv6_alone_beside_us_is_not_in_our_way(machine: Machine) -> None:
    machine.listens("0.0.0.0", 8000, 40, "haproxy", "0::/system.slice/gateway.service\n")  # noqa: S104 (not bound)
    machine.listens("::", 8000, 41, "nginx")
    assert machine.says(["*"], "gateway.service") == []


@pytest.mark.parametrize("proxy", ["docker-proxy", "dockerd"])
def test_what_a_container_of_its_own_publishes_is_its_own(machine: Machine, proxy: str) -> None:
    """Docker listens for it, in a unit of Docker's."""
    machine.listens("127.0.0.1", 8000, 50, proxy, "0::/system.slice/docker.service\n")
    machine.docker_answers(container(8000, "127.0.0.1", "/opt/vllm"))
    assert machine.says(["*"]) == []
    machine.docker_answers(container(8000, "127.0.0.1", "/home/me/vllm", name="vllm-vllm-1"))
    assert machine.in_use_by(["*"]) == "the container vllm-vllm-1"
    machine.docker_answers(container(8000, "127.0.0.1", ""))
    assert machine.in_use_by(["*"]) == "the container web"


def test_a_service_that_runs_at_another_port_does_not_get_a_strangers(machine: Machine) -> None:
    machine.command("systemctl", "echo active")
    machine.docker_answers(container(8001, "127.0.0.1", "/opt/vllm"))
    machine.listens("127.0.0.1", 8000, 60, "nginx", "0::/system.slice/nginx.service\n")
    assert machine.in_use_by(["127.0.0.1"]) == "nginx (process 60, unit nginx.service)"


def test_a_container_without_a_network_of_its_own_is_named(machine: Machine) -> None:
    machine.listens("127.0.0.1", 8000, 50, "nginx", f"0::/system.slice/docker-{ID}.scope\n")
    machine.docker_answers(container(9999, "", ""))
    assert machine.in_use_by(["127.0.0.1"]) == "the container web"


def test_two_listeners_of_one_container_are_named_once(machine: Machine) -> None:
    machine.listens("0.0.0.0", 8000, 50, "docker-proxy")  # noqa: S104 (not bound)
    machine.listens("::", 8000, 51, "docker-proxy")
    machine.docker_answers(container(8000, "", ""))
    assert machine.in_use_by(["*", "[::]"]) == "the container web"


@pytest.mark.parametrize(("state", "refused"), [("active", False), ("inactive", True)])
def test_where_docker_does_not_answer_a_port_of_a_running_service_is_its_own(
    machine: Machine, state: str, refused: bool
) -> None:
    machine.listens("127.0.0.1", 8000, 50, "docker-proxy")
    machine.command("docker", "exit 1")
    machine.command("systemctl", f"echo {state}")
    assert machine.in_use_by(["127.0.0.1"]) == ("docker-proxy (process 50)" if refused else "")
    machine.listens("127.0.0.1", 8000, 60, "nginx")
    assert "nginx (process 60)" in machine.in_use_by(["127.0.0.1"])


@pytest.mark.parametrize(("state", "refused"), [("active", False), ("failed", True)])
def test_who_can_not_see_the_program_takes_it_for_the_service_where_that_runs(
    machine: Machine, state: str, refused: bool
) -> None:
    """Without root, or in a container that may not look at other users' processes."""
    machine.listens("127.0.0.1", 8000)
    machine.command("systemctl", f"echo {state}")
    assert machine.in_use_by(["127.0.0.1"]) == ("a program that can't be seen from here" if refused else "")


def test_a_port_that_a_connection_has_is_refused(machine: Machine) -> None:
    assert machine.in_use_by(["127.0.0.1"]) == "a program that can't be seen from here"


def test_a_port_that_is_none_is_not_looked_at(machine: Machine) -> None:
    assert machine.says(["*"], port=0) == []


def tried(address: str, port: int) -> list[str]:
    """What the program itself says about this machine."""
    wanted = [
        {"variable": "vllm_port", "port": port, "address_variable": "a", "addresses": [address], "unit": "none.service"}
    ]
    done = subprocess.run(
        [sys.executable, SCRIPT, "here", json.dumps(wanted)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("family", "listener", "wanted", "only_six", "taken"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", False, True),
        (socket.AF_INET, "127.0.0.1", "*", False, True),
        (socket.AF_INET, "127.0.0.1", "127.0.0.2", False, False),
        (socket.AF_INET6, "::1", "[::1]", False, True),
        (socket.AF_INET6, "::1", "127.0.0.1", False, False),
        (socket.AF_INET6, "::", "127.0.0.1", False, True),
        (socket.AF_INET6, "::", "127.0.0.1", True, False),
        (socket.AF_INET, "127.0.0.1", "[::]", False, True),
    ],
)
def test_the_kernel_decides(
    family: socket.AddressFamily, listener: str, wanted: str, only_six: bool, taken: bool
) -> None:
    if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6")
    with socket.socket(family) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_six)
        server.bind((listener, 0))
        server.listen()
        port = server.getsockname()[1]
        said = tried(wanted, port)
        own = f"(process {os.getpid()}"
    if taken:
        (sentence,) = said
        assert sentence.startswith(f"Port {port} of here is in use by ")
        assert own in sentence
    else:
        assert said == []


def test_a_free_port_and_an_address_that_is_not_there() -> None:
    assert tried("", free_port()) == []
    assert tried("192.0.2.77", free_port()) == [
        "a names 192.0.2.77, and here has no such address. Name one of its own.",
    ]
