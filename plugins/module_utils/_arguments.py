# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The one argument spec of an instance: the module uses it, and the inventory validates the fleet file with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _marker, _model_engines, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Runtime, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, Capability

# What a user can say about one instance, in the fleet file as well as in a task.
INSTANCE_SPEC: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "roles": {"type": "list", "elements": "str", "default": []},
    "providers": {"type": "list", "elements": "str", "required": True},
    "prefer_order": {"type": "bool", "default": False},
    "gpu": {"type": "str"},
    "gpu_count": {"type": "int"},
    "instance_type": {"type": "str"},
    "regions": {"type": "list", "elements": "str", "default": []},
    "runtime": {"type": "str", "choices": ["vm", "container"]},
    "max_price_per_hour_usd": {"type": "float"},
    "price_per_hour_usd": {"type": "float"},
    "max_lifetime": {"type": "str"},
    "image": {"type": "str"},
    "entrypoint": {"type": "list", "elements": "str"},
    "args": {"type": "list", "elements": "str"},
    "tls_args": {"type": "list", "elements": "str"},
    "public_env": {"type": "dict"},
    "env": {"type": "dict", "no_log": True},
    "secret_env": {"type": "dict", "no_log": True},
    "ports": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "port": {"type": "int", "required": True},
            "protocol": {"type": "str", "choices": ["tcp", "http"], "default": "tcp"},
        },
    },
    "disk_gib": {"type": "int", "default": 50},
    "interruptible": {"type": "bool", "default": False},
    "address": {"type": "str"},
    "port": {"type": "int"},
    "user": {"type": "str"},
    "host_key": {"type": "str", "no_log": False},
    "ssh_public_key": {"type": "str", "no_log": False},
    "ssh_private_key_file": {"type": "path", "no_log": False},
    "wait": {"type": "str", "choices": ["none", "running", "ssh", "gpu", "endpoint"]},
    "wait_timeout_seconds": {"type": "int"},
    "on_unready": {"type": "str", "choices": ["keep", "stop", "replace", "destroy"], "default": "keep"},
    "on_drift": {"type": "str", "choices": ["fail", "replace"], "default": "fail"},
}

# Where a provider's API is, and who asks; both also from the environment.
_API_OPTIONS: dict[str, dict[str, Any]] = {"api_key": {"type": "str", "no_log": True}, "api_url": {"type": "str"}}

# What decides whose machines are meant, and where the providers are.
FLEET_SPEC: dict[str, dict[str, Any]] = {
    "deployment_id": {"type": "str", "required": True},
    # Without a default: Ansible would fill in a shared one in place.
    "provider_settings": {
        "type": "dict",
        "options": {
            "local": {
                "type": "dict",
                "options": {
                    "api_url": {"type": "str"},
                    "image": {"type": "str"},
                    "isolation": {"type": "str", "choices": ["auto", "privileged", "capabilities"], "default": "auto"},
                    "subnet_pool": {"type": "str"},
                },
            },
            "runpod": {"type": "dict", "options": {**_API_OPTIONS, "proxy_url": {"type": "str"}}},
            "vastai": {"type": "dict", "options": _API_OPTIONS},
            "tensordock": {"type": "dict", "options": _API_OPTIONS},
            "gcp": {
                "type": "dict",
                "options": {
                    "project": {"type": "str"},
                    "api_url": {"type": "str"},
                    "network": {"type": "str"},
                    "subnetwork": {"type": "str"},
                    "network_tags": {"type": "list", "elements": "str"},
                },
            },
            "aws": {
                "type": "dict",
                "options": {
                    "api_url": {"type": "str"},
                    "regions": {"type": "list", "elements": "str"},
                    "source_ranges": {"type": "list", "elements": "str"},
                    "security_group_ids": {"type": "list", "elements": "str"},
                    "subnet_ids": {"type": "list", "elements": "str"},
                },
            },
        },
    },
}

_UNITS = {"h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"([1-9][0-9]{0,4})([hdw])", re.ASCII)
# More is a slip of the pen, and far beyond it the expiry would no longer fit into a marker.
_LONGEST_SECONDS = 3650 * 86400


def lifetime_seconds(text: str) -> int | None:
    """'8h', '7d' or '2w' in seconds, None for the word 'unlimited'; raises ValueError for anything else."""
    if text == "unlimited":
        return None
    seconds = _duration_seconds(text)
    if seconds is None:
        raise ValueError(
            f"max_lifetime '{text}' can't be read; write hours, days or weeks ('8h', '7d', '2w') or 'unlimited'."
        )
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"max_lifetime '{text}' is more than 10 years; write '3650d' or less, or 'unlimited'.")
    return seconds


def extend_seconds(text: str) -> int:
    """How long from now on; raises ValueError for what is no duration, and for more than 10 years."""
    seconds = _duration_seconds(text)
    if seconds is None:
        raise ValueError(f"extend '{text}' can't be read; write hours, days or weeks from now on ('8h', '7d', '2w').")
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"extend '{text}' is more than 10 years from now on; write '3650d' or less.")
    return seconds


def _duration_seconds(text: str) -> int | None:
    """'8h', '7d' or '2w' in seconds; None for what is no duration."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def complete_instance(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The settings with defaults and the right types, and (field, sentence) for each wrong name or type."""
    errors = []
    known = {}
    for key, value in settings.items():
        if key in INSTANCE_SPEC:
            if value is not None:  # null means the same as not written
                known[key] = value
        else:
            import difflib  # only when something is wrong

            near = difflib.get_close_matches(str(key), list(INSTANCE_SPEC), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"use one of: {', '.join(sorted(INSTANCE_SPEC))}."
            errors.append((str(key), f"{key}: there is no such option of an instance; {hint}"))
    result = ArgumentSpecValidator(INSTANCE_SPEC).validate(known)
    errors += [(_field_in(message), f"{message}.") for message in result.error_messages]
    complete = result.validated_parameters
    return complete | {"runtime": runtime_of(complete)}, errors


def runtime_of(settings: Mapping[str, Any]) -> str:
    """What is rented: as said, else a machine where every provider in the list rents such, else a container.

    It follows from the list alone, and holds for all of it: a fleet file never gets a machine today and a container,
    in which no host role can run, tomorrow.
    """
    if settings.get("runtime"):
        return str(settings["runtime"])
    known = [CAPABILITIES[name] for name in settings.get("providers") or () if name in CAPABILITIES]
    can = {name: all(capability in one for one in known) for name, capability in _RUNTIMES}
    return next((name for name, ability in can.items() if ability), "vm")


_RUNTIMES = (("vm", Capability.VM), ("container", Capability.CONTAINER))


def _field_in(message: str) -> str:
    """The option that an error of Ansible's argument spec is about; these errors come as text only."""
    words = re.findall(r"[a-z_]+", message)
    return next((word for word in words if word in INSTANCE_SPEC), "")


def wish_from(params: Mapping[str, Any]) -> Wish:
    """What the user wants, from parameters that were validated and passed the preflight."""
    provider_settings = params.get("provider_settings") or {}
    gpu, runtime = params.get("gpu"), runtime_of(params)
    return Wish(
        deployment_id=params["deployment_id"],
        name=params["name"],
        state=params["state"],
        providers=tuple(params["providers"]),
        look_at=_look_at(params, provider_settings),
        prefer_order=params["prefer_order"],
        gpu=_gpus.resolve(gpu).name if gpu else None,
        gpu_count=(params.get("gpu_count") or 1) if gpu else 0,
        instance_type=params.get("instance_type"),
        regions=tuple(params["regions"]),
        runtime=Runtime(runtime),
        max_price_per_hour_usd=params.get("max_price_per_hour_usd"),
        price_per_hour_usd=params.get("price_per_hour_usd"),
        # Nobody has checked it where something is only ended, and there it means nothing.
        lifetime_seconds=(
            None if params["state"] == "absent" else lifetime_seconds(params.get("max_lifetime") or "unlimited")
        ),
        extend_to_epoch_hours=(
            _marker.expiry_epoch_hours(extend_seconds(params["extend"])) if params.get("extend") else None
        ),
        image=params.get("image"),
        entrypoint=_optional_tuple(params.get("entrypoint")),
        args=_optional_tuple(params.get("args")),
        tls_args=_optional_tuple(params.get("tls_args")),
        env={**_texts(params.get("public_env")), **_texts(params.get("env"))},
        secret_env=_texts(params.get("secret_env")),
        computed_from=params.get("computed_from"),
        computed_env=_texts(params.get("public_env")) if params.get("computed_from") is not None else {},
        ports=tuple(sorted((port["port"], port["protocol"]) for port in params["ports"])),
        disk_gib=params["disk_gib"],
        # A machine gets its driver later, or with its image; a container has to take that of its host.
        minimum_cuda_version=_model_engines.cuda_of(params.get("image") or "") if runtime == "container" else "",
        interruptible=params["interruptible"],
        ssh_public_key=public_key(params),
        ssh_private_key_file=params.get("ssh_private_key_file"),
        wait=params.get("wait") or ("ssh" if runtime == "vm" else "endpoint"),
        wait_timeout_seconds=params.get("wait_timeout_seconds"),
        on_unready=params["on_unready"],
        on_drift=params["on_drift"],
    )


def _look_at(params: Mapping[str, Any], provider_settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Where it may live: what is about to be rented, or ended, may be anywhere; a machine of one's own is not."""
    if params["state"] != "absent" and any(map(_provider.owned, params["providers"])):
        return tuple(params["providers"])
    # Ansible's argument spec makes null of a provider that isn't named; one without settings is named with {}.
    named = (key for key, value in provider_settings.items() if value is not None)
    return tuple(dict.fromkeys([*params["providers"], *named]))


def public_key(params: Mapping[str, Any]) -> str | None:
    """The public key to put on the machine: as given, else the one beside the private key file."""
    text: str | None = params.get("ssh_public_key")
    private_key_file = params.get("ssh_private_key_file")
    if not text and private_key_file and os.path.exists(f"{private_key_file}.pub"):
        with open(f"{private_key_file}.pub", encoding="utf-8") as file:
            text = file.read()
    return text.strip() if text else None


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {key: str(value) for key, value in (values or {}).items()}


def _optional_tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
