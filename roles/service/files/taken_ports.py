# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has the ports that a service wants: python3 - HOST PORTS prints a sentence for each that it can't have.

HOST is what this machine is called in the sentences; PORTS is JSON, [{"variable": "gateway_https_port", "port": 443,
"address_variable": "gateway_addresses", "addresses": ["*"], "unit": "gateway.service"}, …]. An empty address is the
source of the default route, "*" is all of IPv4, "[::]" is everything, and port 0 is none. What the unit has already is
its own, and so is what a container of the Compose project in /opt has that is named like it. Needs nothing but Python
and /proc; docker and systemctl are asked where they are there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import ipaddress
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PROC = pathlib.Path("/proc")
LISTENING = "0A"
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
UNSEEN = "a program that can't be seen from here"
DOCKER = ("docker-proxy", "dockerd")
RUNNING = ("active", "activating", "deactivating", "reloading")
CONTAINER = (
    '{"id":{{json .Id}},"name":{{json .Name}},"labels":{{json .Config.Labels}},"ports":{{json .NetworkSettings.Ports}}}'
)


class Place(NamedTuple):
    """One address at which a service is to listen, and the variables that say so."""

    variable: str
    port: int
    address_variable: str
    address: Address
    unit: str


class Listener(NamedTuple):
    address: Address
    port: int
    socket: str


class Process(NamedTuple):
    number: int
    name: str
    # Its control groups; one of them is named after its unit, or after its container.
    groups: str


class Container(NamedTuple):
    id: str
    name: str
    # Of its Compose project; empty where it has none.
    directory: str
    published: list[tuple[Address, int]]


class Host(NamedTuple):
    listeners: list[Listener]
    processes: Mapping[str, list[Process]]
    # Asked once, and only about a port that the unit itself doesn't have; None where Docker does not answer.
    containers: Callable[[], list[Container] | None]


def problems(host: str, wanted: Iterable[Mapping[str, Any]], proc: pathlib.Path = PROC) -> list[str]:
    errors = {place: error for place in places(wanted) if (error := bind_error(place.address, place.port))}
    there = look({place.port for place in errors}, proc)
    said, taken = [], dict[tuple[str, int], list[str]]()
    for place, error in errors.items():
        if error in ABSENT:
            said.append(
                f"{place.address_variable} names {place.address}, and {host} has no such address. Name one of its own."
            )
        elif names := others(place, error, there):
            taken.setdefault((place.variable, place.port), []).extend(names)
    for (variable, port), names in taken.items():
        who = " and ".join(dict.fromkeys(names))
        said.append(f"Port {port} of {host} is in use by {who}. Stop that, or choose another {variable}.")
    return list(dict.fromkeys(said))


def places(wanted: Iterable[Mapping[str, Any]]) -> Iterator[Place]:
    for one in wanted:
        for word in one["addresses"] if int(one["port"]) else ():
            if address := read_address(word):
                yield Place(one["variable"], int(one["port"]), one["address_variable"], address, one["unit"])


def read_address(word: str) -> Address | None:
    """None where the host has no address yet: the service waits for the network."""
    if word == "*":
        return ipaddress.IPv4Address(0)
    if word:
        return ipaddress.ip_address(word.removeprefix("[").removesuffix("]"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): nothing is sent
        return ipaddress.ip_address(probe.getsockname()[0])
    return None


def bind_error(address: Address, port: int) -> int:
    """The kernel's own answer: it alone knows whether somebody's [::] includes IPv4."""
    try:
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((str(address), port))
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def others(place: Place, error: int, there: Host) -> list[str]:
    """Who is in the way, other than the service itself."""
    found = [
        (listener.address, holder(listener, place.unit, there))
        for listener in there.listeners
        if listener.port == place.port and meet(listener.address, place.address)
    ]
    if not found and error == errno.EADDRINUSE:
        return [UNSEEN]
    # Where the service is there already, who has [::] beside its IPv4, or the reverse, took one family alone.
    beside = any(not name for _address, name in found)
    return [name for at, name in found if name and not (beside and at.version != place.address.version)]


def meet(one: Address, other: Address) -> bool:
    """Whether two programs can't have one port at these addresses."""
    if one.version != other.version:
        return (one if one.version == 6 else other).is_unspecified
    return one == other or one.is_unspecified or other.is_unspecified


def holder(listener: Listener, unit: str, there: Host) -> str:
    """Who listens there, in words; empty where it is the unit, or where nobody but it is known to be there."""
    processes = sorted(there.processes.get(listener.socket, []))
    if any(unit in re.split(r"[/\n]", process.groups) for process in processes):
        return ""
    containers = there.containers()
    for container in containers or ():
        publishes = any(port == listener.port and meet(at, listener.address) for at, port in container.published)
        if publishes or any(container.id in process.groups for process in processes):
            own = os.path.realpath(f"/opt/{unit.removesuffix('.service')}")
            is_own = container.directory and os.path.realpath(container.directory) == own
            return "" if is_own else f"the container {container.name}"
    # Not everybody sees who has a socket, and only Docker knows for which container it listens.
    is_unknown = not processes or (containers is None and any(process.name in DOCKER for process in processes))
    if is_unknown and is_running(unit):
        return ""
    if not processes:
        return UNSEEN
    # The first one that isn't systemd, which holds the sockets of socket units.
    first = next((process for process in processes if process.number != 1), processes[0])
    units = [name for name in re.split(r"[/\n]", first.groups) if name.endswith(".service")]
    return f"{first.name} (process {first.number}{f', unit {units[-1]}' if units else ''})"


def look(ports: set[int], proc: pathlib.Path) -> Host:
    listeners = [listener for table in ("tcp", "tcp6") for listener in listening(proc / "net" / table, ports)]
    sockets = {listener.socket for listener in listeners}
    processes: dict[str, list[Process]] = {}
    # Not pathlib's glob, which stumbles over a process that ends meanwhile.
    for link in glob.iglob(f"{proc}/[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):  # ended meanwhile
            if (name := os.readlink(link)) in sockets:
                place = pathlib.Path(link).parents[1]
                process = Process(int(place.name), (place / "comm").read_text().strip(), (place / "cgroup").read_text())
                processes.setdefault(name, []).append(process)
    return Host(listeners, processes, functools.cache(running_containers))


def listening(table: pathlib.Path, ports: set[int]) -> Iterator[Listener]:
    with contextlib.suppress(FileNotFoundError):  # no IPv6
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            place, _colon, port = words[1].partition(":")
            if words[3] == LISTENING and int(port, 16) in ports:
                # Words of 32 bits, each in the byte order of this machine.
                parts = (struct.pack("=I", int(place[start : start + 8], 16)) for start in range(0, len(place), 8))
                address = ipaddress.ip_address(b"".join(parts))
                mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
                yield Listener(mapped or address, int(port, 16), f"socket:[{words[9]}]")


def running_containers() -> list[Container] | None:
    """Those that run; None where Docker does not answer."""
    known = _answer("docker", "ps", "--quiet", "--no-trunc")
    ids = (known or "").split()
    told = _answer("docker", "inspect", "--format", CONTAINER, *ids) if ids else known
    if told is None:
        return None
    found = []
    for line in filter(None, told.splitlines()):
        read = json.loads(line)
        published = [
            (ipaddress.ip_address(place["HostIp"] or "0.0.0.0"), int(place["HostPort"]))  # noqa: S104 (not bound)
            for inside, places in (read["ports"] or {}).items()
            for place in (places or () if inside.endswith("/tcp") else ())
            if place["HostPort"]
        ]
        found.append(
            Container(
                read["id"],
                read["name"].removeprefix("/"),
                (read["labels"] or {}).get("com.docker.compose.project.working_dir", ""),
                published,
            )
        )
    return found


def is_running(unit: str) -> bool:
    return (_answer("systemctl", "show", "--property=ActiveState", "--value", unit) or "").strip() in RUNNING


def _answer(*command: str) -> str | None:
    """None where the program is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    for sentence in problems(sys.argv[1], json.loads(sys.argv[2])):
        print(sentence)
