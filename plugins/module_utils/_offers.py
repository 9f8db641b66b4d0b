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

from ansible_collections.gpuops.fleet.plugins.module_utils import _cached
from ansible_collections.gpuops.fleet.plugins.module_utils._cache import Policy
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Offer, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider, ProviderError


@dataclass
class Market:
    """offers in the order of preference; refused offers with the reason; errors of providers without an answer.

    answers has, of each provider, the age of its answer and what went wrong when a newer one was asked for.
    """

    offers: list[Offer] = field(default_factory=list)
    errors: dict[str, ProviderError] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each provider that did not say what it offers now."""
        found = []
        for answer in self.answers:
            if answer["error"]:
                age = answer["age_seconds"]
                used = "Nothing of it is here." if age is None else f"Its offers of {age:.0f} s ago are used."
                found.append(
                    f"Provider {answer['provider']} did not say what it offers now: {answer['error']['message']} {used}"
                )
        return found


def query_from(wish: Wish) -> dict[str, Any]:
    """The part of a wish that offers are filtered by, as the provider contract names it."""
    query = {
        "gpu": wish.gpu,
        "gpu_count": wish.gpu_count,
        "instance_type": wish.instance_type,
        "regions": list(wish.regions),
        "runtime": wish.runtime.value,
        "disk_gib": wish.disk_gib,
        "interruptible": wish.interruptible,
    }
    # Left out where nothing is known, so that the cache has one answer for this and for offer_info.
    return query | ({"minimum_cuda_version": wish.minimum_cuda_version} if wish.minimum_cuda_version else {})


def survey(
    providers: Mapping[str, Provider],
    query: Mapping[str, Any],
    policy: Policy = _cached.RENTING,
    *,
    prefer_order: bool = False,
    max_price_per_hour_usd: float | None = None,
    price_per_hour_usd: float | None = None,
) -> Market:
    """Ask all providers in parallel; one that fails takes nothing away from the others. policy: how old it may be."""
    market = Market()
    found: list[Offer] = []
    with ThreadPoolExecutor(max_workers=max(1, len(providers))) as pool:
        calls = {name: pool.submit(_cached.offers, one, query, policy) for name, one in providers.items()}
        for name, call in calls.items():
            answer = call.result()
            if answer.data is not None:
                found += answer.data
            elif answer.error:
                market.errors[name] = answer.error
            market.answers.append(
                {
                    "provider": name,
                    "age_seconds": None if answer.data is None else round(answer.age_seconds, 1),
                    "error": answer.error.as_failure() if answer.error else None,
                }
            )
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
