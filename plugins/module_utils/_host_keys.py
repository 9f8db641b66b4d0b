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

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

PROVIDER, JOURNAL, FIRST_USE = "provider", "journal", "first_use"

Records = dict[tuple[str, str, str], str]


def remember(instance: Instance) -> None:
    """Write down the key that was trusted just now."""
    _journal.record("host_key", instance)


def on_record(deployment_id: str) -> Records:
    """The keys that this controller has seen, by provider, id and nonce: an id that is used again is another rental."""
    return {
        (str(line.get("provider")), str(line.get("id")), str(line.get("nonce"))): line["host_key"]
        for line in _journal.read(deployment_id)
        if line.get("event") == "host_key" and isinstance(line.get("host_key"), str)
    }


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
    """For a rental that somebody has used before: we can't know whether the same machine answers."""
    return (
        f"{instance.marker.name}: {instance.provider} keeps no host keys, and the journal of this controller has none "
        f"for {instance.id}, so the key that answered was trusted at first use again ({instance.host_key}). Compare it "
        "with the controller that rented this machine if you doubt the network between."
    )
