# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which host key is on record for a rental: with its provider, else in this controller's journal.

Where there is neither, the first login trusts what answers, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

PROVIDER, GIVEN, JOURNAL, FIRST_USE = "provider", "given", "journal", "first_use"

Records = dict[tuple[str, str, str], str]


def remember(instance: Instance) -> None:
    """Write down the key that was trusted just now."""
    _journal.record("host_key", instance)


def forget(instance: Instance) -> bool:
    """Trust the next key that answers there. False: nothing was remembered."""
    known = on_record(instance.marker.deployment_id)
    if (instance.provider, instance.id, instance.marker.nonce) not in known:
        return False
    _journal.record("host_key_forgotten", instance)
    return True


def learnt(deployment_id: str, provider: str) -> list[tuple[str, str, str]]:
    """(id, name, key) of what this controller remembers there; the name is the one that it had then."""
    return [
        (key[1], str(line.get("name")), line["host_key"])
        for key, line in _lines(deployment_id).items()
        if key[0] == provider
    ]


def on_record(deployment_id: str) -> Records:
    """The keys that this controller has seen, by provider, id and nonce: an id that is used again is another rental."""
    return {key: line["host_key"] for key, line in _lines(deployment_id).items()}


def _lines(deployment_id: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The last line of the journal about each key that was learnt and not forgotten since."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in _journal.read(deployment_id):
        key = (str(line.get("provider")), str(line.get("id")), str(line.get("nonce")))
        if line.get("event") == "host_key" and isinstance(line.get("host_key"), str):
            found[key] = line
        elif line.get("event") == "host_key_forgotten":
            found.pop(key, None)
    return found


def pinned(instance: Instance, records: Records | None = None) -> Instance:
    """The instance with the key on record. What its provider says comes first."""
    if instance.host_key:
        return instance
    known = on_record(instance.marker.deployment_id) if records is None else records
    return replace(instance, host_key=known.get((instance.provider, instance.id, instance.marker.nonce)))


def complete(deployment_id: str, listings: Iterable[Listing]) -> list[Listing]:
    """The same lists, each instance with the key on record."""
    records = on_record(deployment_id)
    return [replace(one, instances=tuple(pinned(found, records) for found in one.instances)) for one in listings]


def first_use_warning(instance: Instance) -> str:
    """For what somebody has used before: we can't know whether the same machine answers."""
    if _provider.owned(instance.provider):
        return (
            f"{instance.marker.name}: neither the fleet file nor the journal of this controller has a host key of "
            f"{instance.id}, so the one that answered is trusted from now on ({instance.host_key}). Compare it with "
            "/etc/ssh/ssh_host_ed25519_key.pub on the machine; written as host_key, it holds for every controller."
        )
    return (
        f"{instance.marker.name}: {instance.provider} keeps no host keys, and the journal of this controller has none "
        f"for {instance.id}, so the key that answered was trusted at first use again ({instance.host_key}). Compare it "
        "with the controller that rented this machine if you doubt the network between."
    )
