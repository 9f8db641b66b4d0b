# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking several providers what can be rented, and putting the answers in the order in which to take them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Offer, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider, ProviderError


@dataclass
class Market:
    """offers in the order of preference; errors by provider; refused offers with the reason."""

    offers: list[Offer] = field(default_factory=list)
    errors: dict[str, ProviderError] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)


def query_from(wish: Wish) -> dict[str, Any]:
    """The part of a wish that offers are filtered by, as the provider contract names it."""
    return {
        "gpu": wish.gpu,
        "gpu_count": wish.gpu_count,
        "instance_type": wish.instance_type,
        "regions": list(wish.regions),
        "runtime": wish.runtime.value,
        "disk_gib": wish.disk_gib,
        "interruptible": wish.interruptible,
    }


def survey(
    providers: Mapping[str, Provider],
    query: Mapping[str, Any],
    *,
    prefer_order: bool = False,
    max_price_per_hour_usd: float | None = None,
    price_per_hour_usd: float | None = None,
) -> Market:
    """Ask all providers in parallel; one that fails takes nothing away from the others."""
    market = Market()
    found: list[Offer] = []
    with ThreadPoolExecutor(max_workers=max(1, len(providers))) as pool:
        calls = {name: pool.submit(provider.offers, query) for name, provider in providers.items()}
        for name, call in calls.items():
            try:
                found += call.result()
            except ProviderError as error:
                market.errors[name] = error
    for offer in found:
        priced = replace(offer, price_per_hour_usd=price_per_hour_usd) if offer.price_per_hour_usd is None else offer
        reason = _too_expensive(priced, max_price_per_hour_usd)
        if reason:
            market.refused.append({"provider": offer.provider, "id": offer.id, "reason": reason})
        else:
            market.offers.append(priced)
    order = list(providers)
    market.offers.sort(key=lambda offer: _rank(offer, order, prefer_order))
    return market


def _too_expensive(offer: Offer, maximum: float | None) -> str:
    if maximum is None:
        return ""
    if offer.price_per_hour_usd is None:
        return "its price is not known, and max_price_per_hour_usd is set"
    if offer.price_per_hour_usd > maximum:
        return f"it costs {offer.price_per_hour_usd} USD per hour, more than {maximum}"
    return ""


def _rank(offer: Offer, order: list[str], prefer_order: bool) -> tuple[Any, ...]:
    position = order.index(offer.provider)
    price = offer.price_per_hour_usd if offer.price_per_hour_usd is not None else float("inf")
    cheapest = (price, position) if not prefer_order else (position, price)
    return (*cheapest, offer.memory_mib or 0, offer.id)
