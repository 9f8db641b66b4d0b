# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a provider took back: bids that others outbid, and machines that are no longer there.

Providers tell little of it. What this controller ordered itself stands in its journal; what that leaves open is said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

GONE = "gone"  # the event of what is no longer listed, although no line of the journal says who ended it
ENDS = ("deleted", "surplus_deleted", GONE)
# What a provider's detail begins with where it doesn't say which of the two it is.
STOPPED_OR_OUTBID = "stopped, or outbid by others"
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


def note_gone(deployment_id: str, name: str, asked: Collection[str], living: Iterable[Instance]) -> list[str]:
    """Write down what this controller rented under that name and what is listed no more, so that its cost has an end.

    asked are the providers that answered. Returns what to tell the user.
    """
    open_ones: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in _journal.read(deployment_id):
        key = (str(line.get("provider")), str(line.get("id")), str(line.get("nonce")))
        if line.get("event") == "created" and line.get("name") == name and key[0] in asked:
            open_ones[key] = line
        elif line.get("event") in ENDS:
            open_ones.pop(key, None)
    listed = {(one.provider, one.id, one.marker.nonce) for one in living}
    sentences = []
    for key, line in open_ones.items():
        if key in listed or _provider.owned(key[0]):
            continue
        kept = ("deployment_id", "name", "nonce", "provider", "id", "price_per_hour_usd", "created_at", "interruptible")
        _journal.record(GONE, **{field: line.get(field) for field in kept})
        if line.get("interruptible"):
            sentences.append(
                f"{name} at {key[0]} ({key[1][:20]}) is no longer there. It was interruptible, so its provider took it "
                "back, unless somebody else ended it. Another one is rented in its place."
            )
    return sentences
