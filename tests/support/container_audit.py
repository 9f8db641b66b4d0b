# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an audit by the CIS Docker Benchmark 1.6.0 says about a container: all of section 5, and 4.1 and 4.6.

The numbers are the benchmark's, as docker-bench-security counts them, too. Nothing is asked here: `audit` takes what
`docker inspect`, `docker info` and `docker top` said. Where the benchmark only lists for a person to look at (its
"manual" checks), the rule here is ours, and at least as strict.

A check that depends on the host (5.2, 5.3) holds where the engine says that it doesn't have the thing. 5.15 is the one
deviation: the benchmark wants `on-failure:5`, we want `no`, because systemd restarts our containers; Docker would start
them at boot before the host's address is known, and give up after the fifth crash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

BENCHMARK = frozenset({"4.1", "4.6"} | {f"5.{number}" for number in range(1, 33)})
DEVIATIONS = {"5.15": "the restart policy is no, not on-failure:5, because systemd restarts the containers"}
# What no container can show; tests/unit/roles/test_container_benchmark.py looks at our texts instead.
ELSEWHERE = {
    "5.23": "how commands are run in a container: no shipped text runs `docker exec --privileged`",
    "5.24": "how commands are run in a container: no shipped text runs `docker exec --user root`",
}

# By Compose project: what somebody needs. Whoever publishes more has to say it here.
NEEDED_PORTS: dict[str, set[int]] = {
    "kafka": {9092},
    "mongodb": {27017},
    "vllm": {8000},
    "processor": {8080},
    "producer": set(),
}

# A mount of one of them, of what holds one, or of what lies in one.
SENSITIVE = (
    *("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"),
    *("/var/run", "/var/lib/containerd", "/var/lib/docker"),
)
ENGINE_SOCKETS = {"docker.sock", "containerd.sock", "podman.sock"}
# By digest, or built on the host, where the tag is the checksum of what went in.
PINNED = re.compile(r"@sha256:[0-9a-f]{64}$|:[0-9a-f]{12}$")
UNPRIVILEGED_PORTS_FROM = 1024
# What Docker gives to a container that asks for nothing: no priority.
DEFAULT_CPU_SHARES = (0, 1024)


@dataclass(frozen=True)
class Subject:
    """One container, and what its engine says about itself."""

    container: Mapping[str, Any]  # one entry of `docker inspect`
    engine: Mapping[str, Any]  # `docker info`
    processes: Collection[str]  # the names of what runs in it
    needed_ports: Collection[int]  # what it is meant to publish, as it knows them

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.container["Config"])

    @property
    def host(self) -> Mapping[str, Any]:
        return dict(self.container["HostConfig"])

    @property
    def options(self) -> set[str]:
        """Security options in one spelling."""
        return {str(option).lower().replace("=", ":") for option in self.host["SecurityOpt"] or ()}

    @property
    def engine_has(self) -> set[str]:
        """seccomp, apparmor, selinux, … and how: `name=seccomp,profile=builtin`."""
        return {word for option in self.engine["SecurityOptions"] or () for word in str(option).split(",")}

    @property
    def published(self) -> Iterator[tuple[int, str, int]]:
        """Port of the container, address and port of the host."""
        for port, places in (self.host["PortBindings"] or {}).items():
            for place in places or ():
                yield int(port.split("/")[0]), str(place["HostIp"]), int(place["HostPort"] or 0)


Problems = Iterator[str]
Check = Callable[[Subject], Problems]


def _user(seen: Subject) -> Problems:
    if str(seen.config["User"]).partition(":")[0] in ("", "0", "root"):
        yield "runs as root"


def _health_declared(seen: Subject) -> Problems:
    if (seen.config.get("Healthcheck") or {}).get("Test") in (None, [], ["NONE"]):
        yield "declares no health check"


def _no_swarm(seen: Subject) -> Problems:
    if seen.engine["Swarm"]["LocalNodeState"] != "inactive":
        yield "its engine is part of a swarm"


def _apparmor(seen: Subject) -> Problems:
    if "name=apparmor" in seen.engine_has and seen.container["AppArmorProfile"] in ("", "unconfined"):
        yield "is confined by no AppArmor profile"


def _selinux(seen: Subject) -> Problems:
    if "name=selinux" in seen.engine_has and (not seen.container["ProcessLabel"] or "label:disable" in seen.options):
        yield "has no SELinux label"


def _capabilities(seen: Subject) -> Problems:
    if "ALL" not in (seen.host["CapDrop"] or ()):
        yield "doesn't drop all capabilities"
    if seen.host["CapAdd"]:
        yield f"adds capabilities: {seen.host['CapAdd']}"


def _not_privileged(seen: Subject) -> Problems:
    if seen.host["Privileged"]:
        yield "is privileged"


def _mounts(seen: Subject) -> Problems:
    for mount in seen.container["Mounts"]:
        source = PurePosixPath(mount["Source"])
        if mount["Type"] == "bind" and any(
            source.is_relative_to(directory) or PurePosixPath(directory).is_relative_to(source)
            for directory in SENSITIVE
        ):
            yield f"mounts {source} of the host"


def _no_ssh(seen: Subject) -> Problems:
    if any(name.startswith(("sshd", "dropbear")) for name in seen.processes):
        yield "runs an SSH server"


def _no_privileged_port(seen: Subject) -> Problems:
    for _port, _address, port in seen.published:
        if 0 < port < UNPRIVILEGED_PORTS_FROM:
            yield f"takes port {port} of the host"


def _needed_ports(seen: Subject) -> Problems:
    for port in sorted({port for port, _address, _host_port in seen.published} - set(seen.needed_ports)):
        yield f"publishes port {port}, which nobody needs"
    if seen.host["PublishAllPorts"]:
        yield "publishes whatever its image exposes"


def _memory(seen: Subject) -> Problems:
    if not seen.host["Memory"]:
        yield "has no limit of memory"
    elif seen.host["MemorySwap"] != seen.host["Memory"]:
        yield "may swap beyond its limit of memory"


def _processor_share(seen: Subject) -> Problems:
    if seen.host["CpuShares"] in DEFAULT_CPU_SHARES and not seen.host["NanoCpus"]:
        yield "has no CPU priority"


def _read_only(seen: Subject) -> Problems:
    if not seen.host["ReadonlyRootfs"]:
        yield "can write to its root"


def _bound(seen: Subject) -> Problems:
    for port, address, _host_port in seen.published:
        if address in ("", "0.0.0.0", "::"):  # noqa: S104 that is what is looked for
            yield f"publishes port {port} on every address of the host"


def _restart(seen: Subject) -> Problems:
    if (name := seen.host["RestartPolicy"]["Name"]) not in ("", "no"):
        yield f"has Docker's restart policy {name}"


def _process_limit(seen: Subject) -> Problems:
    if (seen.host["PidsLimit"] or 0) <= 0:
        yield "has no limit of processes"


def _devices(seen: Subject) -> Problems:
    if seen.host["Devices"] or seen.host["DeviceCgroupRules"]:
        yield "has devices of the host"
    for request in seen.host["DeviceRequests"] or ():
        if request["Driver"] != "cdi":  # GPUs come by CDI, with what belongs to them and nothing else
            yield f"has devices by the driver {request['Driver'] or 'of the runtime'}"


def _limits(seen: Subject) -> Problems:
    limits = {limit["Name"]: int(limit["Hard"]) for limit in seen.host["Ulimits"] or ()}
    if limits.get("nofile", -1) < 0:
        yield "may open any number of files"


def _propagation(seen: Subject) -> Problems:
    for mount in seen.container["Mounts"]:
        if "shared" in mount.get("Propagation", ""):
            yield f"shares mounts below {mount['Destination']}"


def _seccomp(seen: Subject) -> Problems:
    if "name=seccomp" not in seen.engine_has or not seen.engine_has & {"profile=builtin", "profile=default"}:
        yield "its engine has no default seccomp profile"
    if any(option.startswith("seccomp:") for option in seen.options):
        yield "replaces the default seccomp profile"


def _control_group(seen: Subject) -> Problems:
    if seen.host["CgroupParent"]:
        yield f"is in the control group {seen.host['CgroupParent']}"


def _no_new_privileges(seen: Subject) -> Problems:
    if not seen.options & {"no-new-privileges", "no-new-privileges:true"}:
        yield "may acquire privileges"


def _health(seen: Subject) -> Problems:
    status = (seen.container["State"].get("Health") or {}).get("Status", "none")
    if status not in ("healthy", "starting"):
        yield f"its health is {status}"


def _pinned(seen: Subject) -> Problems:
    if not PINNED.search(seen.config["Image"]):
        yield f"the name of its image, {seen.config['Image']}, may mean another image tomorrow"


def _own_network(seen: Subject) -> Problems:
    if (
        seen.host["NetworkMode"] in ("", "default", "bridge")
        or "bridge" in seen.container["NetworkSettings"]["Networks"]
    ):
        yield "is on Docker's default bridge"


def _engine_socket(seen: Subject) -> Problems:
    for mount in seen.container["Mounts"]:
        if ENGINE_SOCKETS & {PurePosixPath(mount[end]).name for end in ("Source", "Destination")}:
            yield f"has the engine's socket at {mount['Destination']}"


def _not_the_hosts(key: str, what: str) -> Check:
    def check(seen: Subject) -> Problems:
        if seen.host[key] == "host":
            yield f"shares the host's {what}"

    return check


CHECKS: dict[str, Check] = {
    "4.1": _user,
    "4.6": _health_declared,
    "5.1": _no_swarm,
    "5.2": _apparmor,
    "5.3": _selinux,
    "5.4": _capabilities,
    "5.5": _not_privileged,
    "5.6": _mounts,
    "5.7": _no_ssh,
    "5.8": _no_privileged_port,
    "5.9": _needed_ports,
    "5.10": _not_the_hosts("NetworkMode", "network"),
    "5.11": _memory,
    "5.12": _processor_share,
    "5.13": _read_only,
    "5.14": _bound,
    "5.15": _restart,
    "5.16": _not_the_hosts("PidMode", "processes"),
    "5.17": _not_the_hosts("IpcMode", "IPC"),
    "5.18": _devices,
    "5.19": _limits,
    "5.20": _propagation,
    "5.21": _not_the_hosts("UTSMode", "host name"),
    "5.22": _seccomp,
    "5.25": _control_group,
    "5.26": _no_new_privileges,
    "5.27": _health,
    "5.28": _pinned,
    "5.29": _process_limit,
    "5.30": _own_network,
    "5.31": _not_the_hosts("UsernsMode", "user namespace"),
    "5.32": _engine_socket,
}


def audit(
    container: Mapping[str, Any],
    engine: Mapping[str, Any],
    processes: Collection[str] = (),
    needed_ports: Collection[int] = (),
) -> list[str]:
    """One sentence for each thing that is wrong: `5.5 kafka-kafka-1: is privileged`."""
    seen = Subject(container, engine, processes, needed_ports)
    name = str(container["Name"]).lstrip("/")
    return [f"{number} {name}: {problem}" for number, check in CHECKS.items() for problem in check(seen)]
