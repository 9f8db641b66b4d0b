# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `docker inspect` would say about a service of a Compose file, for the audit: without an engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# `docker info` of a host that the role docker set up, and the limit that it writes into daemon.json.
ENGINE: dict[str, Any] = {
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=no-new-privileges"],
    "Swarm": {"LocalNodeState": "inactive"},
}
DAEMON_LIMITS = [{"Name": "nofile", "Hard": 20000, "Soft": 20000}]

_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}
# What is said here about a container; a key that is in none of both lists has to be thought about.
READ = {
    *("cap_add", "cap_drop", "cgroup_parent", "cpu_shares", "cpus", "deploy", "devices", "healthcheck", "image", "ipc"),
    *("mem_limit", "memswap_limit", "network_mode", "pid", "pids_limit", "ports", "privileged", "read_only", "restart"),
    *("secrets", "security_opt", "ulimits", "user", "userns_mode", "uts", "volumes"),
}
# What the audit doesn't ask for.
HARMLESS = {
    *(
        "command",
        "entrypoint",
        "env_file",
        "environment",
        "extra_hosts",
        "logging",
        "shm_size",
        "stop_grace_period",
        "stop_signal",
    ),
    *("tmpfs", "working_dir"),
}


def _bytes(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]] if text else 0


def _mounts(project: str, service: Mapping[str, Any], secrets: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = [str(volume).split(":") for volume in service.get("volumes", ())]
    entries += [[secrets[name]["file"], f"/run/secrets/{name}"] for name in service.get("secrets", ())]
    mounts = []
    for source, target, *options in entries:
        bind = source.startswith(("/", "."))
        mounts.append(
            {
                "Type": "bind" if bind else "volume",
                "Source": source.replace("./", f"/opt/{project}/", 1) if bind else f"/var/lib/docker/volumes/{source}",
                "Destination": target,
                # Compose's default is rprivate; options are written as ro,rshared.
                "Propagation": next((one for one in ",".join(options).split(",") if "shared" in one), "rprivate"),
            }
        )
    return mounts


def _port_bindings(service: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    bindings = {}
    for entry in service.get("ports", ()):
        *address, host_port, port = str(entry).rsplit(":", 2)
        address_text = "".join(address).replace("${HOST_ADDRESS}", "192.0.2.7")
        bindings[f"{port}/tcp"] = [{"HostIp": address_text, "HostPort": host_port}]
    return bindings


def inspected(project: str, name: str, compose: Mapping[str, Any]) -> dict[str, Any]:
    """The container of this service of the project, once it runs."""
    service = compose["services"][name]
    if unknown := set(service) - READ - HARMLESS:
        raise ValueError(f"{project}/{name} has {sorted(unknown)}: say in compose_inspect.py what that does")
    health = service.get("healthcheck", {})
    tested = [] if health.get("disable") else health.get("test", [])
    network = service.get("network_mode", f"{project}_default")
    reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {})
    return {
        "Name": f"/{project}-{name}-1",
        "AppArmorProfile": "docker-default",
        "ProcessLabel": "",
        "Mounts": _mounts(project, service, compose.get("secrets", {})),
        "State": {"Health": {"Status": "starting"}} if tested else {},
        "NetworkSettings": {"Networks": {network: {}}},
        "Config": {
            "Image": service["image"],
            "User": str(service.get("user", "")),
            "Healthcheck": {"Test": tested} if tested else None,
        },
        "HostConfig": {
            "CapAdd": service.get("cap_add"),
            "CapDrop": service.get("cap_drop"),
            "CgroupParent": service.get("cgroup_parent", ""),
            "CpuShares": service.get("cpu_shares", 0),
            "NanoCpus": math.floor(float(service.get("cpus", 0)) * 1e9),
            "DeviceCgroupRules": None,
            "DeviceRequests": [{"Driver": one.get("driver", "")} for one in reserved.get("devices", ())],
            "Devices": service.get("devices"),
            "IpcMode": service.get("ipc", "private"),
            "Memory": _bytes(service.get("mem_limit", "")),
            # Without a limit of its own it is as much again.
            "MemorySwap": _bytes(service.get("memswap_limit", "")) or 2 * _bytes(service.get("mem_limit", "")),
            "NetworkMode": network,
            "PidMode": service.get("pid", ""),
            "PidsLimit": service.get("pids_limit"),
            "PortBindings": _port_bindings(service),
            "Privileged": service.get("privileged", False),
            "PublishAllPorts": False,
            "ReadonlyRootfs": service.get("read_only", False),
            "RestartPolicy": {"Name": service.get("restart", "no")},
            "SecurityOpt": service.get("security_opt"),
            "Ulimits": service.get("ulimits", DAEMON_LIMITS),
            "UTSMode": service.get("uts", ""),
            "UsernsMode": service.get("userns_mode", ""),
        },
    }
