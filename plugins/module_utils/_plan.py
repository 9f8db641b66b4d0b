# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What has to be done, and what will differ: pure, so that check mode, diff and real runs can't disagree."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Status, Wish


class Action(enum.StrEnum):
    DELETE = "delete"
    CREATE = "create"
    START = "start"
    STOP = "stop"
    RENEW = "renew"


@dataclass(frozen=True)
class Difference:
    """Something that can't be changed in place."""

    field: str
    current: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field} is {self.current!r}, wanted {self.wanted!r}"


@dataclass(frozen=True)
class Plan:
    """actions in their order; differences that nobody asked to resolve; refused says why nothing can be done."""

    actions: tuple[Action, ...] = ()
    differences: tuple[Difference, ...] = ()
    refused: str = ""
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    @property
    def diff(self) -> dict[str, Any]:
        return {"before": self.before or {}, "after": self.after or {}}


def make_plan(current: Instance | None, wish: Wish, offer: Offer | None = None) -> Plan:
    """How to come from what is to what is wanted. The offer, if there is one, is what a create would take."""
    before = _describe(current) if current else None
    if wish.state == "absent":
        return Plan((Action.DELETE,), before=before) if current else Plan()
    if current is None:
        if wish.state == "stopped":
            return Plan(
                refused=f"Instance '{wish.name}' does not exist, so it can't be stopped; rent it with state: started."
            )
        return Plan((Action.CREATE,), after=_expected(wish, offer))
    differences = find_differences(current, wish)
    if differences and wish.on_drift == "replace":
        return Plan((Action.DELETE, Action.CREATE), before=before, after=_expected(wish, offer))
    if differences:
        return Plan(differences=differences, before=before, after=before)
    power = _power_actions(current, wish.state)
    after = dict(before or {})
    if power:
        after["status"] = (Status.STOPPED if power[-1] is Action.STOP else Status.RUNNING).value
    renewal: tuple[Action, ...] = ()
    if wish.extend_to_epoch_hours is not None and _expires_before(current, wish.extend_to_epoch_hours):
        renewal = (Action.RENEW,)  # first: what is given more time must not be ended while it starts
        after["expires_at"] = _views.expires_at(wish.extend_to_epoch_hours)
    return Plan(renewal + power, before=before, after=after)


def _expires_before(current: Instance, epoch_hours: int) -> bool:
    """Extending never shortens: what lives longer, or for ever, is left as it is."""
    return 0 < current.marker.expiry_epoch_hours < epoch_hours


def _power_actions(current: Instance, state: str) -> tuple[Action, ...]:
    if state == "stopped":
        return () if current.status is Status.STOPPED else (Action.STOP,)
    if current.needs_start or (state == "started" and current.status is Status.STOPPED):
        return (Action.START,)
    return ()


def find_differences(current: Instance, wish: Wish) -> tuple[Difference, ...]:
    """What the user said and the instance isn't. What the user did not say, and what nobody knows, is no difference."""
    pairs = {
        "provider": (current.provider, wish.providers and current.provider not in wish.providers, list(wish.providers)),
        # A card whose name can't be read is no other card.
        "gpu": (current.gpu, wish.gpu and current.gpu not in (None, wish.gpu), wish.gpu),
        "gpu_count": (current.gpu_count, wish.gpu and current.gpu_count != wish.gpu_count, wish.gpu_count),
        "instance_type": (
            current.instance_type,
            wish.instance_type and current.instance_type not in (None, wish.instance_type),
            wish.instance_type,
        ),
        "regions": (
            current.region,
            wish.regions and current.region is not None and current.region not in wish.regions,
            list(wish.regions),
        ),
        "runtime": (current.runtime.value, current.runtime is not wish.runtime, wish.runtime.value),
        "image": (current.image, wish.image and current.image not in (None, wish.image), wish.image),
        "disk_gib": (current.disk_gib, current.disk_gib not in (None, wish.disk_gib), wish.disk_gib),
        "ports": (
            _ports(current.ports or ()),
            current.ports is not None and wish.ports and sorted(current.ports) != sorted(wish.ports),
            _ports(wish.ports),
        ),
    }
    return tuple(Difference(field, now, wanted) for field, (now, differs, wanted) in pairs.items() if differs)


def _ports(ports: tuple[tuple[int, str], ...]) -> list[str]:
    return [f"{port}/{protocol}" for port, protocol in sorted(ports)]


def _describe(current: Instance) -> dict[str, Any]:
    return {
        "name": current.marker.name,
        "provider": current.provider,
        "id": current.id,
        "status": current.status.value,
        "gpu": current.gpu,
        "gpu_count": current.gpu_count,
        "instance_type": current.instance_type,
        "image": current.image,
        "price_per_hour_usd": current.price_per_hour_usd,
        "expires_at": _views.expires_at(current.marker.expiry_epoch_hours),
    }


def _expected(wish: Wish, offer: Offer | None) -> dict[str, Any]:
    return {
        "name": wish.name,
        "provider": offer.provider if offer else None,
        "offer": offer.id if offer else None,
        "status": Status.RUNNING.value,
        "gpu": offer.gpu if offer else wish.gpu,
        "gpu_count": offer.gpu_count if offer else wish.gpu_count,
        "instance_type": offer.instance_type if offer else wish.instance_type,
        "image": wish.image,
        "price_per_hour_usd": offer.price_per_hour_usd if offer else None,
    }
