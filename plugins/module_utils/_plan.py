# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What has to be done, and what will differ: pure, so that check mode, diff and real runs can't disagree."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _fingerprints, _provider, _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Status, Wish

# Offers and what is rented by them are not always counted to the same digit.
ROUNDING = 1.01


class Action(enum.StrEnum):
    DELETE = "delete"
    CREATE = "create"
    START = "start"
    STOP = "stop"
    RENEW = "renew"
    ADJUST = "adjust"
    FORGET = "forget"  # of a machine that its user owns: nothing ends but what is remembered of it


_UNSHOWN = ("as rented", "changed")


@dataclass(frozen=True)
class Difference:
    """Something that can't be changed in place. What may be secret is named, and not shown."""

    field: str
    current: Any
    wanted: Any

    def __str__(self) -> str:
        if (self.current, self.wanted) == _UNSHOWN:
            return f"{self.field} was changed after it was rented"
        return f"{self.field} is {self.current!r}, wanted {self.wanted!r}"


@dataclass(frozen=True)
class Plan:
    """actions in their order; differences that nobody asked to resolve; refused says why nothing can be done.

    What differs is neither started nor stopped, but it may be given more time.
    """

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


def make_plan(
    current: Instance | None,
    wish: Wish,
    offer: Offer | None = None,
    deviations: Mapping[str, tuple[Any, Any]] | None = None,
) -> Plan:
    """How to come from what is to what is wanted. The offer, if there is one, is what a create would take.

    deviations are what its provider can put right in place: (now, wanted) by field.
    """
    if wish.state == "absent":
        return _plan_of_absence(current) if current else Plan()
    if current is None:
        if wish.state == "stopped":
            return Plan(
                refused=f"Instance '{wish.name}' does not exist, so it can't be stopped; rent it with state: started."
            )
        return Plan((Action.CREATE,), after=_expected(wish, offer))
    # What shall stop costing so much is stopped, whatever else is wanted of it.
    differences = () if wish.state == "stopped" else find_differences(current, wish)
    before = _describe(current) | {one.field: one.current for one in differences}
    wanted = {one.field: one.wanted for one in differences}
    if differences and wish.on_drift == "replace":
        return Plan((Action.DELETE, Action.CREATE), before=before, after=wanted | _expected(wish, offer))
    power = () if differences else _power_actions(current, wish.state)
    after = before | wanted
    if power:
        after["status"] = (Status.STOPPED if power[-1] is Action.STOP else Status.RUNNING).value
    renewal: tuple[Action, ...] = ()
    if wish.extend_to_epoch_hours is not None and _expires_before(current, wish.extend_to_epoch_hours):
        renewal = (Action.RENEW,)  # first: what is given more time must not be ended while it starts
        after["expires_at"] = _views.expires_at(wish.extend_to_epoch_hours)
    adjustment: tuple[Action, ...] = ()
    if deviations and not differences:
        adjustment = (Action.ADJUST,)
        before |= {field: now for field, (now, _wanted) in deviations.items()}
        after |= {field: wanted for field, (_now, wanted) in deviations.items()}
    return Plan(renewal + adjustment + power, differences, before=before, after=after)


def ending(current: Instance) -> Action:
    """How it ends for its fleet."""
    return Action.FORGET if _provider.owned(current.provider) else Action.DELETE


def _plan_of_absence(current: Instance) -> Plan:
    action = ending(current)
    known = {"name": current.marker.name, "provider": current.provider, "remembered_host_key": current.host_key}
    return Plan((action,), before=known if action is Action.FORGET else _describe(current))


def _expires_before(current: Instance, epoch_hours: int) -> bool:
    """Extending never shortens: what lives longer, or for ever, is left as it is."""
    return 0 < current.marker.expiry_epoch_hours < epoch_hours


def _power_actions(current: Instance, state: str) -> tuple[Action, ...]:
    if state == "stopped":
        # What was outbid starts by itself some day, unless it was ordered to stop.
        return () if current.status is Status.STOPPED and current.outbid is False else (Action.STOP,)
    if current.needs_start or (state == "started" and current.status is Status.STOPPED):
        return (Action.START,)
    return ()


def is_too_dear(current: Instance, wish: Wish) -> bool:
    """Whether it costs more than the user allows, or would when it is started."""
    price, most = current.running_price_per_hour_usd, wish.max_price_per_hour_usd
    runs = wish.state == "started" or (wish.state == "present" and current.status is not Status.STOPPED)
    return runs and price is not None and most is not None and price > most * ROUNDING


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
            wish.regions and current.region is not None and not _is_in(current.region, wish.regions),
            list(wish.regions),
        ),
        "runtime": (current.runtime.value, current.runtime is not wish.runtime, wish.runtime.value),
        "image": (current.image, wish.image and current.image not in (None, wish.image), wish.image),
        "disk_gib": (current.disk_gib, current.disk_gib not in (None, wish.disk_gib), wish.disk_gib),
        "price_per_hour_usd": (
            current.running_price_per_hour_usd,
            is_too_dear(current, wish),
            f"at most {wish.max_price_per_hour_usd}",
        ),
        "ports": (
            _ports(current.ports or ()),
            current.ports is not None and wish.ports and sorted(current.ports) != sorted(wish.ports),
            _ports(wish.ports),
        ),
        "interruptible": (
            current.interruptible,
            current.interruptible not in (None, wish.interruptible),
            wish.interruptible,
        ),
    }
    shown = tuple(Difference(field, now, wanted) for field, (now, differs, wanted) in pairs.items() if differs)
    return shown + tuple(Difference(field, *_UNSHOWN) for field in _fingerprints.differing(current, wish))


def _is_in(region: str, wanted: tuple[str, ...]) -> bool:
    """Providers take a region in capital and in small letters."""
    return region.casefold() in [one.casefold() for one in wanted]


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
