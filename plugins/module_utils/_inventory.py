# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Pure: a fleet file and what lives become hosts, groups and variables."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _arguments,
    _fleet_file,
    _lifetime,
    _marker,
    _pins,
    _provider,
    _ssh_words,
    _taken_back,
    _views,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_file import Fleet
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_values import opened_later
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Runtime, Status

WANTED_GROUP = "fleet_wanted"
ORPHANS_GROUP = "fleet_orphans"
SSH_GROUP = "fleet_ssh"
ENDPOINTS_GROUP = "fleet_endpoints"
FIXED_GROUPS = (WANTED_GROUP, ORPHANS_GROUP, SSH_GROUP, ENDPOINTS_GROUP)

# What a provider says ends up in a command line of ssh, and Ansible opens templates in variables; what doesn't look
# like the thing it should be is left out.
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._/-]*)?", re.ASCII)
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/@+=-]{0,254}", re.ASCII)


@dataclass
class HostEntry:
    """One host as Ansible will see it."""

    name: str
    groups: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass
class Built:
    """The whole inventory of one fleet file."""

    hosts: list[HostEntry]
    all_variables: dict[str, Any]
    warnings: list[str]


def build(
    fleet: Fleet, listings: Iterable[Listing], report_directory: str, wanted_elsewhere: Collection[str] = ()
) -> Built:
    """Put together what is wanted and what lives.

    wanted_elsewhere: names that another fleet file of the same deployment wants; they are no orphans.
    """
    listings = list(listings)
    warnings = list(fleet.warnings)
    warnings += [_failure_warning(listing) for listing in listings if listing.failure is not None]
    failed = {listing.provider for listing in listings if listing.failure is not None}
    warnings += [_outdated_warning(listing) for listing in listings if listing.outdated is not None]
    rented, owned = _by_ownership(listings)
    kept, surplus = _one_per_name(fleet.deployment_id, rented)
    # Only what this controller remembers: for more the provider has to be asked, and nobody waits for that here.
    pins = _pins.on_record(fleet.deployment_id) if any(found.own_tls for found, _age in kept.values()) else {}
    hosts = []
    for settings in fleet.instances:
        host = HostEntry(settings["name"], [WANTED_GROUP])
        found = owned.get(host.name) or kept.pop(host.name, None)
        _set_wanted(host, fleet, settings)
        if found is not None:
            _set_living(host, *found, pins, warnings)
            _set_usable(host, found[0], settings, fleet, warnings)
            too_many = [] if host.name in owned else surplus.pop(host.name, [])
            warnings += _place_warnings(found[0], settings, too_many)
        elif failed.intersection(settings["providers"]):
            host.variables["fleet_status"] = "unknown"
        hosts.append(host)
    for name in sorted(set(kept).difference(wanted_elsewhere)):
        # A rental that has the name of a machine of one's own is not that host.
        shown = f"{name}--{kept[name][0].marker.nonce}" if name in owned else name
        hosts.append(_orphan(shown, kept[name], fleet, pins, warnings))
        for extra in surplus.get(name, ()):
            hosts.append(_orphan(f"{name}--{extra.marker.nonce}", (extra, kept[name][1]), fleet, pins, warnings))
    variables = {
        "fleet_deployment_id": fleet.deployment_id,
        "fleet_domain": fleet.domain,
        "fleet_complete": not failed,
        "fleet_report_directory": report_directory,
        "fleet_file": os.path.abspath(fleet.path),
        "fleet_providers": list(fleet.providers),
    }
    return Built(hosts, variables, warnings)


def group_name(prefix: str, word: str) -> str:
    """A name that Ansible takes for a group."""
    return f"{prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', word)}"


def ssh_pinning(host_key: str) -> str:
    """Options for ssh that accept this key of the host and no other, without any file.

    %H is ssh's own (the name that it looks up). Ansible splits the text as a shell would, so the quotes keep the
    command in one piece.
    """
    return (
        "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=none -o GlobalKnownHostsFile=none "
        f'-o "KnownHostsCommand=/bin/echo %H {host_key}"'
    )


def _failure_warning(listing: Listing) -> str:
    fix = f" {listing.fix}" if listing.fix else ""
    return (
        f"Provider {listing.provider} did not say what lives there: {listing.failure}{fix} "
        "Its instances are unknown in this run (fleet_complete is false)."
    )


def _place_warnings(instance: Instance, settings: Mapping[str, Any], surplus: Iterable[Instance]) -> Iterator[str]:
    """That it lives where it is not wanted any more, or more than once; and what becomes of that."""
    name, here = settings["name"], instance.provider
    promise = " The next run of gpuops.fleet.provision removes what is too many once it is 10 minutes old."
    if here not in settings["providers"]:
        promise = ""  # the next run doesn't come so far
        if settings.get("on_drift") == "replace":
            outcome = "the next run of gpuops.fleet.provision ends it there and rents another."
        else:
            outcome = (
                f"gpuops.fleet.provision refuses that. Name {here} there again, or set on_drift: replace, which ends "
                "it and rents another."
            )
        wanted = ", ".join(settings["providers"])
        yield f"{name} lives at {here}, which is not among its providers ({wanted}); {outcome}"
    for extra in surplus:
        yield (
            f"{name} was rented more than once: {extra.provider} also has {extra.id}. The oldest one is used.{promise}"
        )


def _outdated_warning(listing: Listing) -> str:
    fix = f" {listing.fix}" if listing.fix else ""
    return (
        f"Provider {listing.provider} did not say what lives there now: {listing.outdated}{fix} "
        f"Its list of {listing.age_seconds:.0f} s ago is used."
    )


def _by_ownership(listings: Iterable[Listing]) -> tuple[list[Listing], dict[str, tuple[Instance, float]]]:
    """Who was rented may be there twice, or in no file; who is owned is exactly what the file says."""
    rented = []
    owned: dict[str, tuple[Instance, float]] = {}
    for listing in listings:
        if _provider.owned(listing.provider):
            owned |= {one.marker.name: (one, listing.age_seconds) for one in listing.instances}
        else:
            rented.append(listing)
    return rented, owned


def _one_per_name(
    deployment_id: str, listings: Iterable[Listing]
) -> tuple[dict[str, tuple[Instance, float]], dict[str, list[Instance]]]:
    """The oldest live instance of each name (ties by nonce), and the ones that are too many."""
    living: dict[str, list[tuple[Instance, float]]] = {}
    for listing in listings:
        for instance in listing.instances:
            ours = instance.marker.deployment_id == deployment_id and instance.marker.owner == "fleet"
            if ours and instance.status is not Status.TERMINATING:
                living.setdefault(instance.marker.name, []).append((instance, listing.age_seconds))
    kept, surplus = {}, {}
    for name, found in living.items():
        found.sort(key=lambda item: (_age_key(item[0]), item[0].marker.nonce))
        kept[name] = found[0]
        surplus[name] = [instance for instance, age in found[1:]]
    return kept, surplus


def _age_key(instance: Instance) -> float:
    return instance.created_at if instance.created_at is not None else float("inf")


def _set_wanted(host: HostEntry, fleet: Fleet, settings: Mapping[str, Any]) -> None:
    # Not the environment: it may hold secrets, and variables are shown, cached and logged.
    wanted = {key: value for key, value in settings.items() if key not in ("env", "secret_env")}
    wanted["runtime"] = _arguments.runtime_of(settings)
    if wanted.get("ssh_private_key_file"):
        wanted["ssh_private_key_file"] = _key_file(wanted["ssh_private_key_file"], fleet)
    host.variables.update(
        fleet_name=host.name,
        fleet_peer_name=f"{host.name}.{fleet.domain}",
        fleet_status="absent",
        fleet_file=os.path.abspath(fleet.path),  # also here: a deployment may be spread over several files
        fleet_providers=list(fleet.providers),
        fleet_wanted_instance=wanted,
    )


def _key_file(path: Any, fleet: Fleet) -> Any:
    return path if opened_later(path) else _fleet_file.resolve_path(path, fleet.path)


def _set_living(
    host: HostEntry, instance: Instance, age_seconds: float, pins: _pins.Records, warnings: list[str]
) -> None:
    def plausible(what: str, value: str | None, pattern: re.Pattern[str]) -> str | None:
        if value is None or pattern.fullmatch(value):
            return value
        warnings.append(
            f"{host.name}: {instance.provider} names {value!r} as its {what}; that is none, and is left out."
        )
        return None

    instance = _taken_back.told(instance)
    if instance.outbid:
        warnings.append(
            f"{host.name}: it was outbid by others at {instance.provider}. Its disk goes on costing, and it starts by "
            "itself when its bid is the highest again. gpuops.fleet.provision says what else can be done."
        )
    host.variables.update(
        fleet_status=instance.status.value,
        fleet_outbid=instance.outbid,
        fleet_provider=instance.provider,
        fleet_gpu=plausible("GPU", instance.gpu, _ID),
        fleet_gpu_count=instance.gpu_count,
        fleet_runtime=instance.runtime.value,
        fleet_price_per_hour_usd=instance.price_per_hour_usd,
        fleet_expires_at=_views.expires_at(instance.marker.expiry_epoch_hours),
        fleet_lifetime_enforcer=_lifetime.ends(
            instance.provider, instance.marker.expiry_epoch_hours, instance.ends_itself
        ).enforcer.value,
        fleet_instance_id=plausible("id", instance.id, _ID),
        fleet_host_key=plausible("host key", instance.host_key, _ssh_words.HOST_KEY),
        fleet_inventory_age_seconds=round(age_seconds, 1),
        fleet_address=plausible("address", instance.address, _ssh_words.ADDRESS),
    )
    if instance.runtime is Runtime.CONTAINER:
        url = instance.urls[0][1] if instance.urls else None
        host.variables["fleet_image"] = plausible("image", instance.image, _ID)
        host.variables["fleet_endpoint_url"] = plausible("endpoint", url, _URL)
        host.variables["fleet_tls_fingerprint"] = _pins.recorded(instance, pins) if instance.own_tls else None
        host.variables["fleet_own_tls"] = instance.own_tls


def _set_usable(
    host: HostEntry, instance: Instance, settings: Mapping[str, Any], fleet: Fleet, warnings: list[str]
) -> None:
    """The groups of what lives; role groups and connection variables only for what can be used now."""
    host.groups.append(group_name("provider", instance.provider))
    host.groups.append(group_name("runtime", instance.runtime.value))
    if instance.gpu:
        host.groups.append(group_name("gpu", instance.gpu))
    if instance.status is not Status.RUNNING:
        return
    if instance.runtime is Runtime.CONTAINER:
        host.groups.append(ENDPOINTS_GROUP)
    elif _set_connection(host, instance, settings, fleet, warnings):
        host.groups.append(SSH_GROUP)
    else:
        return
    host.groups.extend(settings.get("roles") or ())


def _set_connection(
    host: HostEntry, instance: Instance, settings: Mapping[str, Any], fleet: Fleet, warnings: list[str]
) -> bool:
    """How ssh reaches it; False while there is no way."""
    if not instance.ssh_endpoints:
        return False
    endpoint = instance.ssh_endpoints[0]  # _ways.py has put them in order
    if not _ssh_words.ADDRESS.fullmatch(endpoint.host) or not _ssh_words.USER.fullmatch(instance.ssh_user):
        warnings.append(
            f"{host.name}: {instance.provider} names {endpoint.host!r} and {instance.ssh_user!r} as the address and "
            "user for SSH; they can't be that, so the host is left out of fleet_ssh."
        )
        return False
    host.variables.update(ansible_host=endpoint.host, ansible_port=endpoint.port, ansible_user=instance.ssh_user)
    if settings.get("ssh_private_key_file"):
        host.variables["ansible_ssh_private_key_file"] = _key_file(settings["ssh_private_key_file"], fleet)
    host_key = host.variables["fleet_host_key"]
    if host_key:
        host.variables["ansible_ssh_common_args"] = ssh_pinning(host_key)
    else:
        where = "in the fleet file" if _provider.owned(instance.provider) else f"at {instance.provider}"
        warnings.append(
            f"{host.name}: no host key is recorded {where}, so ssh decides by its own known hosts "
            "whether this is the right machine. 'ansible-playbook gpuops.fleet.provision' records the key."
        )
    return True


def _orphan(
    name: str, found: tuple[Instance, float], fleet: Fleet, pins: _pins.Records, warnings: list[str]
) -> HostEntry:
    """Live, ours, and in no fleet file: visible, and in no group that a play would deploy to."""
    host = HostEntry(name, [ORPHANS_GROUP])
    host.variables.update(fleet_name=found[0].marker.name, fleet_peer_name=f"{found[0].marker.name}.{fleet.domain}")
    _set_living(host, *found, pins, warnings)
    host.variables["fleet_marker"] = _marker.encode(found[0].marker)
    return host
