# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What can be refused before a provider is asked and money is spent.

The instance module and the inventory plugin use the same checks, so a fleet file that loads can also be rented.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _gpus, _limits, _marker, _owned
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    PROVIDER_NAMES,
    Capability,
    owned,
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the field, and a sentence with the value and the fix."""

    field: str
    message: str

    def __str__(self) -> str:
        return self.message


def check_instance(settings: Mapping[str, Any]) -> list[Problem]:
    """All that is wrong with one instance's settings; empty when it can be rented. Asks nobody."""
    complete, errors = _arguments.complete_instance(settings)
    if errors:
        return [Problem(field, message) for field, message in errors]
    return [problem for check in _CHECKS for problem in check(complete)]


def check_deployment_id(value: object) -> list[Problem]:
    """Like check_instance, for the one setting of a fleet that has no default."""
    return _refused("deployment_id", lambda: _marker.check_deployment_id(value))


def check_state(settings: Mapping[str, Any], state: str) -> list[Problem]:
    """What can't be reached at these providers."""
    if state != "stopped":
        return []
    if _owned.is_owned(settings):
        return [
            Problem("state", "state 'stopped': provider 'ssh' can't stop a machine that you own; do that yourself.")
        ]
    return [
        Problem("state", f"state 'stopped': provider '{name}' can't stop a machine; use 'absent' or another provider.")
        for name in _without(settings, Capability.STOP)
    ]


def check_extend(settings: Mapping[str, Any], extend: str | None) -> list[Problem]:
    """Whether what lives can be given more time; with several providers, one that can is enough to go and look."""
    if extend is None:
        return []
    problems = _refused("extend", lambda: _arguments.extend_seconds(extend))
    unable = _without(settings, Capability.RENEW)
    if unable and len(unable) == len(settings["providers"]):
        names = " and ".join(f"'{name}'" for name in unable)
        problems.append(
            Problem(
                "extend",
                f"extend '{extend}': provider {names} can't change the expiry of what lives; leave it out (with "
                "fleet_extend: leave the instance out by --limit), and rent anew with a longer max_lifetime in time.",
            )
        )
    return problems


def _refused(field: str, check: Callable[[], object]) -> list[Problem]:
    try:
        check()
    except ValueError as error:
        return [Problem(field, str(error))]
    return []


def _name(settings: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _refused("name", lambda: _marker.check_name(settings["name"]))


def _providers(settings: Mapping[str, Any]) -> Iterator[Problem]:
    if not settings["providers"]:
        yield Problem("providers", f"providers is empty; name at least one of: {', '.join(PROVIDER_NAMES)}.")
    for name in settings["providers"]:
        if name not in CAPABILITIES:
            yield Problem("providers", f"provider '{name}' is not known; use one of: {', '.join(PROVIDER_NAMES)}.")


def _capabilities(settings: Mapping[str, Any]) -> Iterator[Problem]:
    needed = {
        "interruptible": (
            Capability.SPOT,
            settings["interruptible"],
            "rents no interruptible machines",
            "interruptible: false",
        ),
        "entrypoint": (Capability.ENTRYPOINT, settings["entrypoint"] is not None, "can't set an entry point", "args"),
        "args": (Capability.ARGS, settings["args"] is not None, "can't pass arguments to an image", "a role"),
        "tls_args": (Capability.ARGS, bool(settings["tls_args"]), "can't pass arguments to an image", "a role"),
        "public_env": (
            Capability.ENV,
            bool(settings["public_env"]),
            "can't set environment variables",
            "role variables",
        ),
        "env": (Capability.ENV, bool(settings["env"]), "can't set environment variables", "role variables"),
        "secret_env": (
            Capability.ENV,
            bool(settings["secret_env"]),
            "can't set environment variables",
            "role variables",
        ),
        "regions": (Capability.REGIONS, bool(settings["regions"]), "has no regions", "regions: []"),
        "ports": (Capability.PORTS, bool(settings["ports"]), "opens no ports", "ports: []"),
    }
    for field, (capability, wanted, cannot, instead) in needed.items():
        for name in _without(settings, capability) if wanted else []:
            yield Problem(field, f"{field}: provider '{name}' {cannot}; use {instead} or another provider.")
    runtime = Capability.VM if settings["runtime"] == "vm" else Capability.CONTAINER
    for name in _without(settings, runtime):
        other = "container" if settings["runtime"] == "vm" else "vm"
        yield Problem(
            "runtime",
            f"runtime '{settings['runtime']}': provider '{name}' doesn't rent such; set runtime: {other}, or name "
            "another provider.",
        )
    if settings["runtime"] == "container":
        for role in settings["roles"]:
            if role != "vllm":
                yield Problem(
                    "roles",
                    f"roles: '{role}' needs a machine, because Docker can't run in a rented container; give it an "
                    "instance with runtime vm.",
                )
    if settings["wait"] == "endpoint" and settings["runtime"] == "vm":
        yield Problem(
            "wait",
            "wait 'endpoint' is for container rentals; a machine has no endpoint before its roles ran: use 'ssh'.",
        )
    if settings["wait"] in ("ssh", "gpu") and settings["runtime"] == "container":
        yield Problem(
            "wait", f"wait '{settings['wait']}' is for machines; a container rental has no SSH: use 'endpoint'."
        )
    if _waits_for_endpoint(settings):
        yield from _endpoint(settings)
    if settings["on_unready"] == "stop":
        for name in _unable(settings, Capability.STOP):
            yield Problem(
                "on_unready", f"on_unready 'stop': provider '{name}' can't stop a machine; use 'keep' or 'destroy'."
            )


def _start(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """What a rental begins with, and on how large a disk."""
    entrypoint, args, tls_args = (settings[name] or [] for name in ("entrypoint", "args", "tls_args"))
    field = "args" if args else "entrypoint"
    if (entrypoint or args) and settings["runtime"] == "vm" and not _without(settings, Capability.ARGS):
        yield Problem(field, f"{field}: a machine takes neither args nor entrypoint; set runtime: container.")
    for name, most in _limits.LONGEST_START.items():
        ends_tls = Capability.TLS in CAPABILITIES[name]
        length = _limits.start_length([*entrypoint, *args, *(() if ends_tls else tls_args)])
        if name in settings["providers"] and length > most:
            yield Problem(
                field,
                f"{field}: entrypoint and args have {length} characters together, {length - most} more than the {most} "
                f"that provider '{name}' takes; shorten them (of the role vllm: vllm_extra_arguments), or name another "
                "provider.",
            )
    for name, least in _limits.LEAST_DISK_GIB.items():
        if name in settings["providers"] and settings["disk_gib"] < least:
            yield Problem(
                "disk_gib",
                f"disk_gib {settings['disk_gib']} is less than the {least} that provider '{name}' rents; write {least} "
                "or more.",
            )
    for field in ("public_env", "env", "secret_env"):
        for name in settings[field] or {}:
            if not _limits.ENV_NAME.fullmatch(str(name)):
                yield Problem(field, f"{field}: '{name}' is no name of a variable; use letters, digits and '_'.")


def _is_computed(settings: Mapping[str, Any]) -> bool:
    """Whether it is a container rental that _vllm_rental.py computes: its user named no image or start."""
    own = any(settings.get(name) is not None for name in ("image", "entrypoint", "args"))
    return settings["runtime"] == "container" and "vllm" in (settings.get("roles") or ()) and not own


def _endpoint(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """An endpoint to wait for needs an address and TLS; what we compute ourselves brings both."""
    for name in _without(settings, Capability.ENDPOINT):
        yield Problem("wait", f"wait 'endpoint': provider '{name}' opens no address for one; use wait 'running'.")
    if _is_computed(settings):
        return
    for name in _without(settings, Capability.TLS) if not settings["tls_args"] else []:
        yield Problem(
            "wait",
            f"wait 'endpoint': provider '{name}' ends no TLS, and a key must not travel without it; give tls_args, "
            "with which the server does, or use wait 'running'.",
        )
    if not any(entry["protocol"] == "http" for entry in settings["ports"]):
        yield Problem(
            "ports",
            "ports has no http port, so there is no endpoint to wait for; add '{port: 8000, protocol: http}', or set "
            "wait to 'running'.",
        )


def _waits_for_endpoint(settings: Mapping[str, Any]) -> bool:
    """Whether this is a container that can be rented, and the run ends only when its endpoint answers."""
    can_be_rented = not _without(settings, Capability.CONTAINER)
    return settings["runtime"] == "container" and can_be_rented and settings["wait"] in (None, "endpoint")


def _without(settings: Mapping[str, Any], capability: Capability) -> list[str]:
    return [name for name in settings["providers"] if name in CAPABILITIES and capability not in CAPABILITIES[name]]


def _unable(settings: Mapping[str, Any], capability: Capability) -> list[str]:
    """Like _without, among those that rent; what is said about machines of one's own is said by _owned.py."""
    return [name for name in _without(settings, capability) if not owned(name)]


def _ownership(settings: Mapping[str, Any]) -> Iterator[Problem]:
    for field, sentence in _owned.mistakes(settings):
        yield Problem(field, sentence)


def _lifetime(settings: Mapping[str, Any]) -> Iterator[Problem]:
    text = settings["max_lifetime"]
    if text is not None:
        refused = _refused("max_lifetime", lambda: _arguments.lifetime_seconds(text))
        yield from refused or _too_long(settings["providers"], text)
        return
    for name in _unable(settings, Capability.FREE):
        yield Problem(
            "max_lifetime",
            f"max_lifetime is missing, and provider '{name}' costs money; say how long at most ('8h') or 'unlimited'.",
        )


def _too_long(providers: Iterable[str], text: str) -> Iterator[Problem]:
    """Longer than a provider that ends rentals itself can wait."""
    for name in providers:
        longest, wanted = _limits.LONGEST_LIFETIME_SECONDS.get(name), _arguments.lifetime_seconds(text)
        if longest is not None and wanted is not None and wanted > longest:
            yield Problem(
                "max_lifetime",
                f"max_lifetime '{text}': provider '{name}' ends a rental after {longest // 86400} days at the latest; "
                f"write '{longest // 86400}d' or less, or 'unlimited'.",
            )


def _gpu(settings: Mapping[str, Any]) -> Iterator[Problem]:
    if settings["gpu"]:
        yield from _refused("gpu", lambda: _gpus.resolve(settings["gpu"]))
    elif settings["gpu_count"]:
        yield Problem(
            "gpu_count", f"gpu_count {settings['gpu_count']} has no gpu beside it; add gpu, such as 'gpu: L4'."
        )
    elif settings["wait"] == "gpu":
        yield Problem("wait", "wait 'gpu' needs a gpu; add gpu, such as 'gpu: L4', or use wait 'ssh'.")


def _ports(settings: Mapping[str, Any]) -> Iterator[Problem]:
    seen = set()
    for entry in settings["ports"]:
        port = entry["port"]
        if not 1 <= port <= 65535:
            yield Problem("ports", f"ports: {port} is not a port; write a number from 1 to 65535.")
        if port in seen:
            yield Problem("ports", f"ports: {port} is listed twice; remove one of the entries.")
        seen.add(port)


# The least and the most that makes sense; the most catches bytes or MiB written by mistake.
_LIMITS = {
    "gpu_count": (1, 64),
    "disk_gib": (1, 65536),
    "wait_timeout_seconds": (1, 86400),
    "max_price_per_hour_usd": (0, 10000),
    "price_per_hour_usd": (0, 10000),
    "port": (1, 65535),
}


def _numbers(settings: Mapping[str, Any]) -> Iterator[Problem]:
    for field, (least, most) in _LIMITS.items():
        value = settings[field]
        if value is not None and not least <= value <= most:
            yield Problem(field, f"{field} {value} is out of range; write a number from {least} to {most}.")


def _insisted(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """What one of the providers rents nothing without."""
    for name in settings["providers"]:
        if name in _limits.NEEDS_SSH_KEY and not _arguments.public_key(settings):
            yield from _public_key_missing(name, settings["ssh_private_key_file"])


def _zones(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """A zone is chosen by what is left in it."""
    for region in settings["regions"] if "gcp" in settings["providers"] else ():
        if re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z][0-9a-z]*", region):
            whole = region.rpartition("-")[0]
            yield Problem("regions", f"regions: '{region}' is a zone of Google Cloud; write its region, '{whole}'.")


def _public_key_missing(provider: str, private_key_file: str | None) -> Iterator[Problem]:
    if not private_key_file:
        yield Problem(
            "ssh_public_key",
            f"ssh_public_key is missing, and provider '{provider}' rents no machine without; give the text of a .pub "
            "file, or an ssh_private_key_file that has its .pub beside it.",
        )
    elif os.path.exists(private_key_file):  # else that is what is said
        yield Problem(
            "ssh_private_key_file",
            f"ssh_private_key_file '{private_key_file}' has no .pub beside it, and provider '{provider}' rents no "
            f"machine without; make it with: ssh-keygen -y -f {private_key_file} > {private_key_file}.pub",
        )


def _keys(settings: Mapping[str, Any]) -> Iterator[Problem]:
    path, text = settings["ssh_private_key_file"], settings["ssh_public_key"]
    if path:
        problem = _private_key_problem(path)
        if problem:
            yield Problem("ssh_private_key_file", f"ssh_private_key_file '{path}' {problem}")
    if text and (len(text.split()) < 2 or "\n" in text.strip() or not text.startswith(("ssh-", "ecdsa-", "sk-"))):
        yield Problem(
            "ssh_public_key",
            "ssh_public_key is not one line of a public key ('ssh-ed25519 AAAA…'); give the text of the .pub file.",
        )


def _private_key_problem(path: str) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        return f"does not exist; create it with: ssh-keygen -t ed25519 -N '' -f {path}"
    except OSError as error:
        return f"can't be read ({error.strerror}); check its owner and mode."
    if b"PRIVATE KEY-----" not in head:
        return "is not a private key; give the file without .pub."
    if os.stat(path).st_mode & 0o077:
        return f"can be read by others, so ssh refuses it; run: chmod 600 {path}"
    return ""


_CHECKS = (
    _name,
    _providers,
    _ownership,
    _capabilities,
    _start,
    _lifetime,
    _gpu,
    _ports,
    _numbers,
    _insisted,
    _zones,
    _keys,
)
