# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What rentals cost and have cost, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import OUTBID
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CONSOLES

_DOCKER_ID = 64  # digits


def in_vain(failed_rentals: list[dict[str, Any]]) -> str:
    """Which rentals those were, what became of them, and what they cost."""
    return ", ".join(
        f"{one['provider']} {short(one['id'])} ({one['ended']}, {amount(one['cost_usd'])})" for one in failed_rentals
    )


def short(identity: str) -> str:
    """The beginning of a Docker id says which one it is; of another id all is needed."""
    return identity[:20] if len(identity) == _DOCKER_ID else identity


def amount(cost_usd: float | None) -> str:
    return "an unknown amount" if cost_usd is None else f"{cost_usd:.4f} USD"


def price(price_per_hour_usd: float | None) -> str:
    return "an unknown price" if price_per_hour_usd is None else f"{price_per_hour_usd:g} USD"


def goes_on(one: Instance) -> str:
    """What lives somewhere, what it costs, and where whoever pays for it can see it."""
    running = one.running_price_per_hour_usd if one.status is not Status.STOPPED else None
    console = CONSOLES.get(one.provider)
    return (
        f"Instance '{one.marker.name}' lives at {one.provider} ({one.id}{f', see {console}' if console else ''}) and "
        f"goes on costing {price(running or one.price_per_hour_usd)} per hour."
    )


def was_surplus(ended: Instance, kept: Instance | None) -> str:
    """Whoever used the younger one must read that it is gone, and which one there is instead."""
    stays = f"{kept.provider} {kept.id}" if kept else "another one"
    return (
        f"{ended.marker.name} was rented twice, so the younger rental ({ended.provider} {ended.id}) was ended, with "
        f"what was deployed to it; {stays} is older and stays. Deploy again what ran there."
    )


def after_unready(wanted: str, evidence: Mapping[str, Any]) -> str:
    """What became of it, and what that costs."""
    if wanted == "keep" and evidence["readiness"].get("last_class") == OUTBID:
        return (
            f"It is kept: its disk goes on costing, now {price(evidence['price_per_hour_usd'])} per hour, and its "
            "provider may start it again when its bid is the highest. To have another one now, run with on_unready: "
            "replace, which ends it and takes the next offer (that may need a higher max_price_per_hour_usd); or rent "
            "on demand, with interruptible: false and on_drift: replace."
        )
    so_far, per_hour = amount(evidence["cost_usd"]), price(evidence["price_per_hour_usd"])
    return {
        "keep": f"It is kept: it has cost {so_far} so far and goes on costing {per_hour} per hour. Run again to go on "
        "waiting.",
        "stop": f"It was stopped; it has cost {so_far}, and its provider may still ask for its disk.",
    }.get(wanted, f"It was destroyed; it has cost {so_far}.")
