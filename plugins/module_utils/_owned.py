# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Machines that their user owns (provider ssh): who they are stands in the fleet file, because nobody lists them.

They carry no marker and have no lifetime, so nothing here creates, changes the power of, or ends one. What this
controller may remember of one is its host key, and that is all that can be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _arguments,
    _gpus,
    _host_keys,
    _provider,
    _ssh_words,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_values import opened_later
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Status

PROVIDER = "ssh"
# What is said about nothing that is rented: its provider knows it.
OPTIONS = ("address", "port", "user", "host_key")
DEFAULT_PORT = 22
DEFAULT_USER = "root"

# What asks for something that would not happen, and what there is instead.
_WITHOUT_EFFECT = {
    "instance_type": "makes no machine, so there are no sizes to choose from; leave it out.",
    "image": "makes no machine, so nothing would boot from it; leave it out.",
    "disk_gib": "makes no machine, so its disk is as large as it is; leave it out.",
    "ssh_public_key": "puts no key onto a machine; do that yourself, and leave it out.",
    "max_price_per_hour_usd": (
        "rents nothing, so there is no price to refuse; leave it out (price_per_hour_usd says what it costs you)."
    ),
}


def is_owned(settings: Mapping[str, Any]) -> bool:
    """Whether these settings of an instance mean a machine of one's own."""
    return any(map(_provider.owned, settings.get("providers") or ()))


def place(settings: Mapping[str, Any]) -> str:
    """Which machine that is: where its SSH server answers. Also its id."""
    return f"{settings['address']}:{settings.get('port') or DEFAULT_PORT}"


def mistakes(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(option, sentence) for what is wrong with complete settings, as far as it is about owning a machine."""
    if not is_owned(settings):
        for option in OPTIONS:
            if settings[option] is not None:
                yield (
                    option,
                    f"{option} is for a machine that you own; write 'providers: [{PROVIDER}]', or leave {option} out.",
                )
    elif len(settings["providers"]) > 1:
        yield (
            "providers",
            f"provider '{PROVIDER}' stands beside others, but a machine that you own is rented nowhere; write "
            f"'providers: [{PROVIDER}]', or leave {PROVIDER} out.",
        )
    else:
        yield from _wrong_words(settings)
        yield from _without_effect(settings)


def _wrong_words(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    address, user, key = settings["address"], settings["user"], settings["host_key"]
    if address is None:
        yield (
            "address",
            f"address is missing: nobody but you knows where a machine of provider '{PROVIDER}' is; write for example "
            "'address: 203.0.113.20'.",
        )
    elif not _is_word(address, _ssh_words.ADDRESS):
        yield (
            "address",
            f"address '{address}' is none; write a name or an IP address, without a port, a user or a template.",
        )
    if user is not None and not _is_word(user, _ssh_words.USER):
        yield "user", f"user '{user}' is none; write the name that ssh logs in with, such as 'root' or 'ubuntu'."
    if key is not None and not _is_word(key, _ssh_words.HOST_KEY_LINE):
        yield (
            "host_key",
            "host_key is not one line of a host's public key ('ssh-ed25519 AAAA…'); copy that of "
            "/etc/ssh/ssh_host_ed25519_key.pub on the machine.",
        )


def _is_word(value: object, pattern: re.Pattern[str]) -> bool:
    """A vaulted value is no text yet: it is opened when it is too late to look at it."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _without_effect(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for option, why in _WITHOUT_EFFECT.items():
        if settings[option] != _arguments.INSTANCE_SPEC[option].get("default"):
            yield option, f"{option}: provider '{PROVIDER}' {why}"
    if settings["max_lifetime"] not in (None, "unlimited"):
        yield (
            "max_lifetime",
            f"max_lifetime '{settings['max_lifetime']}': nobody ends a machine that you own; leave it out, or write "
            "'unlimited' where defaults say something else.",
        )
    if settings["on_unready"] != "keep":
        yield (
            "on_unready",
            f"on_unready '{settings['on_unready']}': provider '{PROVIDER}' can't stop, replace or destroy a machine "
            "that you own; use 'keep'.",
        )
    if settings["on_drift"] != "fail":
        yield (
            "on_drift",
            f"on_drift '{settings['on_drift']}': provider '{PROVIDER}' can't replace a machine that you own; "
            "use 'fail'.",
        )


def with_machines(
    provider_settings: Mapping[str, Any] | None, deployment_id: str, instances: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The settings of the providers, and with them the machines among the instances that their user owns."""
    machines = [_machine(deployment_id, settings) for settings in instances if is_owned(settings)]
    return {**(provider_settings or {}), **({PROVIDER: {"machines": machines}} if machines else {})}


def with_remembered(
    provider_settings: Mapping[str, Any] | None, deployment_id: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Like with_machines, for one that is no longer wanted: what this controller remembers under its name or place."""
    if not is_owned(settings):
        return dict(provider_settings or {})
    here = place(settings) if settings.get("address") else None
    machines = [
        Instance(PROVIDER, identity, Marker(deployment_id, settings["name"], ""), Status.RUNNING, host_key=key)
        for identity, name, key in _host_keys.learnt(deployment_id, PROVIDER)
        if identity == here or name == settings["name"]
    ]
    return {**(provider_settings or {}), PROVIDER: {"machines": machines}}


def left_alone(name: str) -> str:
    """What whoever wants one absent has to know."""
    return (
        f"{name} is a machine that you own, so nothing on it was changed: what was deployed to it is still there and "
        "runs. Only what this controller remembered of it, its host key, is forgotten."
    )


def _machine(deployment_id: str, settings: Mapping[str, Any]) -> Instance:
    """As the fleet describes it. Nobody asks whether it runs: that is seen when it is reached."""
    address, gpu, key = settings["address"], settings.get("gpu"), settings.get("host_key")
    if opened_later(gpu):
        gpu = None  # the inventory does without; a module gets it opened
    return Instance(
        provider=PROVIDER,
        id=place(settings),
        marker=Marker(deployment_id, settings["name"], nonce=""),
        status=Status.RUNNING,
        gpu=_gpus.resolve(gpu).name if gpu else None,
        gpu_count=(settings.get("gpu_count") or 1) if gpu else 0,
        price_per_hour_usd=settings.get("price_per_hour_usd"),
        address=address,
        ssh_endpoints=(Endpoint(address, settings.get("port") or DEFAULT_PORT),),
        ssh_user=settings.get("user") or DEFAULT_USER,
        host_key=" ".join(key.split()[:2]) if key else None,  # without a comment
        detail="yours, used as it is",
    )
