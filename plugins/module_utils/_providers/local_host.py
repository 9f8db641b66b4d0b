# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a container needs so that systemd and a Docker Engine work inside it, on cgroup v1 and v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Request

if TYPE_CHECKING:
    from docker import APIClient

# Measured with Docker 20.10: to read a file of a container, the engine binds its volumes into its root once more. Where
# the root takes part in what is mounted outside, these stay inside: eleven more for each look at a host's key, which
# every start of a sandboxed unit then pays for.
_PRIVATE_ROOT = ["/bin/sh", "-c", 'mount --make-rprivate / && exec "$0" "$@"']
_INIT = [*_PRIVATE_ROOT, "/lib/systemd/systemd"]
# systemd 256 and newer refuse cgroup v1 unless told so; older ones ignore what they don't know.
_CGROUP_V1_ARGUMENTS = ["systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]

# Measured: with these, systemd 257 reaches "running" and Docker 26 runs hardened containers inside.
_CAPABILITIES = [
    "SYS_ADMIN",
    "NET_ADMIN",
    "SYS_PTRACE",
    "SYS_CHROOT",
    "MKNOD",
    "SETFCAP",
    "NET_RAW",
    "SYS_NICE",
    "AUDIT_WRITE",
    "SYSLOG",
    "IPC_LOCK",
]


def container_body(
    client: APIClient, isolation: str, request: Request, network: str, address: str, labels: dict[str, str]
) -> dict[str, Any]:
    """The arguments of the engine's create call that make a container a host.

    isolation "auto" chooses by what the engine reports: on cgroup v2 a privileged container with a control group
    namespace of its own; on v1 named capabilities, which also work where the engine itself may not do everything.
    """
    cgroup_v2 = str(client.info().get("CgroupVersion", "1")) == "2"
    privileged = isolation == "privileged" or (isolation == "auto" and cgroup_v2)
    options: dict[str, Any] = {
        "network_mode": network,
        "restart_policy": {"Name": "unless-stopped"},  # a reboot inside ends the container; the engine starts it again
        "tmpfs": {"/run": "", "/run/lock": "", "/tmp": "exec"},  # noqa: S108 (inside the host, not here)
        # An engine may forbid new privileges by default; a host is a whole machine and needs sudo and login.
        "security_opt": ["seccomp=unconfined", "apparmor=unconfined", "no-new-privileges=false"],
        "privileged": privileged,
    }
    if request.offer.memory_mib:
        options["mem_limit"] = f"{request.offer.memory_mib}m"
    if not privileged:
        options["cap_add"] = _CAPABILITIES
    if not cgroup_v2:
        options["binds"] = ["/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    host_config = client.create_host_config(**options)
    host_config["CgroupnsMode"] = "private" if cgroup_v2 else "host"
    if request.offer.cpu_count:
        host_config["NanoCpus"] = request.offer.cpu_count * 10**9
    # What the command line calls systempaths=unconfined; the library has no word for it.
    host_config["MaskedPaths"] = []
    host_config["ReadonlyPaths"] = []
    # The inner engine needs a real file system. The volume has no name, so that it is removed with the host; if it ever
    # is not, its labels say whose it was.
    host_config["Mounts"] = [{"Type": "volume", "Target": "/var/lib/docker", "VolumeOptions": {"Labels": labels}}]
    return {
        "command": _INIT if cgroup_v2 else [*_INIT, *_CGROUP_V1_ARGUMENTS],
        "stop_signal": "SIGRTMIN+3",
        "host_config": host_config,
        "networking_config": networking_config(client, network, address),
    }


def networking_config(client: APIClient, network: str, address: str) -> Any:
    """One network, with a promised address."""
    endpoints: Any = {
        network: client.create_endpoint_config(ipv4_address=address)
    }  # the library's types are wrong here
    return client.create_networking_config(endpoints)
