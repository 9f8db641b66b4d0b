# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a provider took back: bids that others outbid, and machines that are no longer there.

Providers tell little of it. What this controller ordered itself stands in its journal; what that leaves open is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _accounts,
    _amounts,
    _clock,
    _journal,
    _lifetime,
    _provider,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._lifetime import Enforcer
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability, Provider

GONE = "gone"  # the event of what is no longer listed, although no line of the journal says who ended it
ENDS = ("deleted", "surplus_deleted", GONE)
# What a provider's detail begins with where it doesn't say which of the two it is.
STOPPED_OR_OUTBID = "stopped, or outbid by others"
_ELSEWHERE = (
    " If you changed the key or the project, the first may live on, and cost money, in the other account: look there."
)
_ORDERS = ("created", "started", "stopped")


def told(instance: Instance) -> Instance:
    """The instance with what this controller's last order says about why it is stopped."""
    if instance.outbid is not None:
        return instance
    mine = (instance.provider, instance.id, instance.marker.nonce)
    orders = [
        line["event"]
        for line in _journal.read(instance.marker.deployment_id)
        if line.get("event") in _ORDERS and (line.get("provider"), line.get("id"), line.get("nonce")) == mine
    ]
    if not orders:  # rented from elsewhere, or the journal is gone
        return instance
    if orders[-1] == "stopped":
        return replace(instance, outbid=False, detail=instance.detail.replace(STOPPED_OR_OUTBID, "stopped"))
    return outbid(instance)


def outbid(instance: Instance) -> Instance:
    """The same, when it was ordered to run and does not."""
    return replace(instance, outbid=True, detail=instance.detail.replace(STOPPED_OR_OUTBID, "outbid by others"))


@dataclass
class Open:
    """What this controller rented, and whose end no line of its journal tells."""

    created: Mapping[str, Any]  # its line
    expiry_epoch_hours: int = 0  # as it was last known; 0: unlimited, or nobody wrote it down
    stopped: bool = False  # by this controller's last order

    @property
    def provider(self) -> str:
        return str(self.created.get("provider"))

    @property
    def id(self) -> str:
        return str(self.created.get("id"))

    @property
    def name(self) -> str:
        return str(self.created.get("name"))

    @property
    def region(self) -> str | None:
        return self.created.get("region")

    def ended_at(self, now_seconds: float) -> float | None:
        """When it ended as it was ordered to when it was rented; None when its time is not over.

        What the next sweep alone ends, as all that is stopped, another controller has ended: nobody here knows when.
        """
        if not _lifetime.is_over(self.expiry_epoch_hours, now_seconds):
            return None
        ends = _lifetime.ends(self.provider, self.expiry_epoch_hours, bool(self.created.get("ends_itself")))
        known = ends.enforcer in (Enforcer.PROVIDER, Enforcer.MACHINE) and not self.stopped
        return self.expiry_epoch_hours * 3600.0 if known else now_seconds


def _open(deployment_id: str) -> dict[tuple[str, str, str], Open]:
    """By provider, id and nonce; machines of one's own were never rented."""
    found: dict[tuple[str, str, str], Open] = {}
    for line in _journal.read(deployment_id):
        key = (str(line.get("provider")), str(line.get("id")), str(line.get("nonce")))
        if line.get("event") == "created" and not _provider.owned(key[0]):
            found[key] = Open(line)
        elif line.get("event") in ENDS:
            found.pop(key, None)
        if key not in found:
            continue
        if line.get("event") in _ORDERS:
            found[key].stopped = line["event"] == "stopped"
        if line.get("expiry_epoch_hours") is not None:
            found[key].expiry_epoch_hours = line["expiry_epoch_hours"]
    return found


def names_left_open(deployment_id: str) -> set[str]:
    """Of what was rented, as far as this controller knows no end of it."""
    return {one.name for one in _open(deployment_id).values()}


def note_gone(
    deployment_id: str,
    name: str,
    asked: Mapping[str, Provider],
    living: Iterable[Instance],
    *,
    terminating: Iterable[Instance] = (),
    anew: bool = True,
) -> list[str]:
    """Write down what this controller rented under that name and what is listed no more, so that its cost has an end.

    asked are the providers that answered; what was rented where they don't look may live. terminating is what is still
    listed, and somebody ended. anew: another one is rented in its place. Returns what to tell the user then.
    """
    listed = {(one.provider, one.id, one.marker.nonce) for one in living}
    ending = {(one.provider, one.id, one.marker.nonce) for one in terminating}
    sentences: list[str] = []
    for key, one in _open(deployment_id).items():
        if one.name != name or key in listed or key[0] not in asked:
            continue
        if not _provider.looks_into(asked[key[0]], one.region):
            continue
        kept = ("deployment_id", "name", "nonce", "provider", "id", "price_per_hour_usd", "created_at", "interruptible")
        ended_at = one.ended_at(_clock.now())
        details: dict[str, Any] = {field: one.created.get(field) for field in kept}
        if ended_at is not None:
            details |= {"reason": "expired", "ended_at": ended_at}
        _journal.record(GONE, **details)
        if anew and ended_at is None:
            sentences += _gone_told(one, key in ending)
    return sentences


def _gone_told(one: Open, is_ending: bool) -> Iterator[str]:
    """Why it may be gone, as far as anybody can know, and where it may live instead."""
    bid = one.created.get("interruptible")
    # Of one that was interruptible the other reason is by far the likelier one.
    elsewhere = not bid and one.provider in _accounts.APIS and not is_ending
    if not bid and not elsewhere:
        return  # somebody ended it
    why = (
        "It was interruptible, so its provider took it back, unless somebody else ended it."
        if bid
        else "Nobody here ended it."
    )
    yield (
        f"{one.name} at {one.provider} ({_amounts.short(one.id)}) is no longer there. {why} Another one is rented in "
        "its place." + (_ELSEWHERE if elsewhere else "")
    )


def unseen(deployment_id: str, answered: Mapping[str, Provider], names: Iterable[str] = ()) -> Iterator[Open]:
    """What was rented in a region that its provider looks into no more: no list says whether it lives.

    names: of these alone; without any, of all.
    """
    if not any(Capability.SOME_REGIONS in one.capabilities for one in answered.values()):
        return  # nobody has to read the journal
    wanted = frozenset(names)
    for one in _open(deployment_id).values():
        if one.region is None or one.provider not in answered or (wanted and one.name not in wanted):
            continue
        if not _provider.looks_into(answered[one.provider], one.region):
            yield one


def unseen_told(found: Iterable[Open]) -> list[str]:
    """One sentence for each."""
    return [
        f"{one.name} ({_amounts.short(one.id)}) was rented at {one.provider} in {one.region}, where nobody looks any "
        f"more, so it may still live and cost money: add {one.region} to provider_settings.{one.provider}.regions (or "
        "enable it for the account) and run this again, or look into the provider's console."
        for one in found
    ]
