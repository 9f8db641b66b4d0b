# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which way in to a machine comes first: the one that answered last, by this controller's journal, else the direct one.

What was ready through its provider's proxy alone would else be unreachable for Ansible.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

_EVENT = "ssh_way"
_USUAL = "direct"

Records = dict[tuple[str, str, str], str]


def remember(instance: Instance, kind: str) -> None:
    """Write down by which kind of way it answered just now, where there are several and that is news."""
    several = len({endpoint.kind for endpoint in instance.ssh_endpoints}) > 1
    if several and _known(instance, on_record(instance.marker.deployment_id)) != kind:
        _journal.record(_EVENT, instance, way=kind)


def on_record(deployment_id: str) -> Records:
    """The kinds of ways that answered last, by provider, id and nonce."""
    return {
        (str(line.get("provider")), str(line.get("id")), str(line.get("nonce"))): str(line.get("way"))
        for line in _journal.read(deployment_id)
        if line.get("event") == _EVENT
    }


def ordered(instance: Instance, records: Records | None = None) -> Instance:
    """The instance with the way first that its user should take."""
    kind = _known(instance, on_record(instance.marker.deployment_id) if records is None else records)
    return replace(instance, ssh_endpoints=tuple(sorted(instance.ssh_endpoints, key=lambda one: one.kind != kind)))


def complete(deployment_id: str, listings: Iterable[Listing]) -> list[Listing]:
    """The same lists, each instance with its ways in order."""
    records = on_record(deployment_id)
    return [replace(one, instances=tuple(ordered(found, records) for found in one.instances)) for one in listings]


def _known(instance: Instance, records: Records) -> str:
    return records.get((instance.provider, instance.id, instance.marker.nonce), _USUAL)
