# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a Compose service's containers with what its Compose file declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.filter.mask_environment import mask_environment

DOCUMENTATION = r"""
name: container_checks
short_description: Compare a service's containers with what its Compose file declares
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes the output of C(docker inspect) for the containers of one Compose service and the service's part of
    C(docker compose config --format json), and returns one check per property that a hardened service must have.
  - Nothing is fetched or changed. The filter only compares.
positional: declared, service
options:
  _input:
    description: What C(docker inspect) printed, parsed.
    type: list
    elements: dict
    required: true
  declared:
    description: >-
      What C(docker compose config --format json) printed, parsed. An empty dictionary when it printed nothing.
    type: dict
    required: true
  service:
    description: Name of the service, which is the name of its systemd unit and of its Compose project as well.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong with the broker's container
  ansible.builtin.debug:
    msg: "{{ inspected | gpuops.fleet.container_checks(declared, 'kafka') | rejectattr('ok') }}"
"""

RETURN = r"""
_value:
  description: One check per property.
  type: list
  elements: dict
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it holds.
      type: bool
    detail:
      description: What was found.
      type: str
    fix:
      description: What to do when it does not hold.
      type: str
"""

_UNITS = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def _bytes(value: Any) -> int:
    """Docker's and Compose's spellings of an amount of memory: 512m, "536870912", 536870912, None."""
    text = str(value or 0).strip().lower().removesuffix("ib").removesuffix("b") or "0"
    if text[-1] in _UNITS:
        return int(float(text[:-1]) * _UNITS[text[-1]])
    return int(float(text))


def _check(name: str, ok: bool, detail: str, fix: str) -> dict[str, Any]:
    return {"name": name, "ok": bool(ok), "detail": detail, "fix": "" if ok else fix}


def _short(options: Sequence[str] | None) -> set[str]:
    """Capabilities and security options, in one spelling (CAP_CHOWN is CHOWN, x=true is x:true)."""
    return {str(option).upper().removeprefix("CAP_").replace("=", ":") for option in options or ()}


def container_checks(
    inspected: Sequence[Mapping[str, Any]], declared: Mapping[str, Any], service: str
) -> list[dict[str, Any]]:
    """One check per property of the service's one container."""
    redeploy = "Run gpuops.fleet.deploy for this host; it restores what was declared."
    wish = (declared.get("services") or {}).get(service)
    if wish is None:
        detail = f"/opt/{service}/compose.yaml is missing or declares no service {service}"
        return [_check("declared", False, detail, redeploy)]
    ours = [
        container
        for container in inspected
        if (container.get("Config", {}).get("Labels") or {}).get("com.docker.compose.service") == service
    ]
    if len(ours) != 1:
        fix = f"Look at `systemctl status {service}` and `journalctl -u {service}` on the host."
        return [_check("one container", False, f"{len(ours)} containers of the service exist, 1 is wanted", fix)]

    container = ours[0]
    config = container.get("Config") or {}
    host = container.get("HostConfig") or {}
    state = container.get("State") or {}
    health = (state.get("Health") or {}).get("Status", "has no health check")
    user = str(config.get("User") or "")
    environment = [str(entry) for entry in config.get("Env") or ()]
    masked = mask_environment(environment)
    options = _short(host.get("SecurityOpt"))
    logging = host.get("LogConfig") or {}
    memory, pids = host.get("Memory") or 0, host.get("PidsLimit") or 0
    hostlike = [key for key in ("NetworkMode", "PidMode", "IpcMode", "UTSMode") if host.get(key) == "host"]
    restart = (host.get("RestartPolicy") or {}).get("Name") or "no"
    return [
        _check(
            "healthy",
            state.get("Status") == "running" and health == "healthy",
            f"{state.get('Status', 'unknown')}, {health}",
            f"Read the last lines of `docker logs {service}-{service}-1`, shown below where this check failed.",
        ),
        _check(
            "runs as the declared user, not as root",
            user == str(wish.get("user") or "") and user.partition(":")[0] not in ("", "0", "root"),
            f"user {user or 'root'}, declared {wish.get('user') or 'none'}",
            redeploy,
        ),
        _check(
            "capabilities as declared, all others dropped",
            "ALL" in _short(host.get("CapDrop")) and _short(host.get("CapAdd")) == _short(wish.get("cap_add")),
            f"dropped {sorted(_short(host.get('CapDrop')))}, added {sorted(_short(host.get('CapAdd')))}",
            redeploy,
        ),
        _check(
            "no new privileges, not privileged, no namespace of the host",
            bool(options & {"NO-NEW-PRIVILEGES", "NO-NEW-PRIVILEGES:TRUE"})
            and not host.get("Privileged")
            and not hostlike,
            f"security options {sorted(options)}, privileged {bool(host.get('Privileged'))}, of the host {hostlike}",
            redeploy,
        ),
        _check(
            "root file system as declared",
            bool(host.get("ReadonlyRootfs")) == bool(wish.get("read_only")),
            "read-only" if host.get("ReadonlyRootfs") else "writable",
            redeploy,
        ),
        _check(
            "memory limit as declared",
            memory > 0 and memory == _bytes(wish.get("mem_limit")),
            f"{memory // 1024**2} MiB, declared {_bytes(wish.get('mem_limit')) // 1024**2} MiB",
            redeploy,
        ),
        _check(
            "process limit as declared",
            pids > 0 and pids == int(wish.get("pids_limit") or 0),
            f"{pids}, declared {wish.get('pids_limit') or 'none'}",
            redeploy,
        ),
        _check(
            "logs are rotated",
            bool((logging.get("Config") or {}).get("max-size")) or logging.get("Type") in ("local", "journald"),
            f"{logging.get('Type')} {logging.get('Config') or ''}".strip(),
            redeploy,
        ),
        _check(
            "environment holds no secret",
            masked == sorted(environment),
            " ".join(masked) or "empty",
            f"Give it to the role as a secret: it then is a file under /opt/{service}/secrets.",
        ),
        _check("restarts belong to systemd", restart == "no", f"Docker's restart policy is {restart}", redeploy),
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"container_checks": container_checks}
