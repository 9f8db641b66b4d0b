# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The answers of the modules that only look: instances, offers and costs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _cached,
    _engine,
    _gpus,
    _journal,
    _marker,
    _offers,
    _views,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderError


def _look(params: Mapping[str, Any]) -> tuple[list[Instance], list[ProviderError]]:
    """The deployment's instances at all providers that answer, and the errors of the others."""
    deployment_id = _marker.check_deployment_id(params["deployment_id"])
    providers = _engine.load_providers(params["providers"], params.get("provider_settings"))
    instances: list[Instance] = []
    errors: list[ProviderError] = []
    with ThreadPoolExecutor(max_workers=max(1, len(providers))) as pool:
        for call in [pool.submit(provider.list) for provider in providers.values()]:
            try:
                instances += call.result()
            except ProviderError as error:
                errors.append(error)
    if errors and len(errors) == len(providers):
        raise errors[0]
    ours = [one for one in instances if one.marker.deployment_id == deployment_id]
    return sorted(ours, key=lambda one: (one.marker.name, one.created_at or 0.0, one.id)), errors


def list_instances(params: Mapping[str, Any]) -> dict[str, Any]:
    instances, errors = _look(params)
    names = params["names"]
    return {
        "changed": False,
        "instances": [_views.instance(one) for one in instances if not names or one.marker.name in names],
        "complete": not errors,
        "errors": [error.as_failure() for error in errors],
    }


def list_offers(params: Mapping[str, Any]) -> dict[str, Any]:
    providers = _engine.load_providers(params["providers"], params.get("provider_settings"))
    query = {
        "gpu": _gpus.resolve(params["gpu"]).name if params["gpu"] else None,
        "gpu_count": params["gpu_count"] if params["gpu"] else 0,
        **{key: params[key] for key in ("instance_type", "regions", "runtime", "disk_gib", "interruptible")},
    }
    market = _offers.survey(
        providers,
        query,
        _cached.OFFERS,
        prefer_order=params["prefer_order"],
        max_price_per_hour_usd=params["max_price_per_hour_usd"],
    )
    if market.errors and len(market.errors) == len(providers):
        raise next(iter(market.errors.values()))
    return {
        "changed": False,
        "offers": [_views.offer(one) for one in market.offers],
        "refused_offers": market.refused,
        "errors": [error.as_failure() for error in market.errors.values()],
        "answers": market.answers,
        "warnings": market.warnings,
    }


def sum_up_cost(params: Mapping[str, Any]) -> dict[str, Any]:
    instances, errors = _look(params)
    live: list[dict[str, Any]] = [
        {
            "name": one.marker.name,
            "provider": one.provider,
            "id": one.id,
            "price_per_hour_usd": one.price_per_hour_usd,
            "cost_so_far_usd": _views.cost_so_far_usd(one),
        }
        for one in instances
    ]
    past = _past(_journal.read(params["deployment_id"]), {(one.provider, one.id) for one in instances})
    prices = [one["price_per_hour_usd"] for one in live]
    costs = [one["cost_so_far_usd"] for one in live] + [one["cost_usd"] for one in past]
    return {
        "changed": False,
        "price_per_hour_usd": None if None in prices else round(sum(prices), 4),
        "cost_so_far_usd": round(sum(cost for cost in costs if cost is not None), 4),
        "complete": not errors and None not in costs,
        "live": live,
        "past": past,
        "errors": [error.as_failure() for error in errors],
    }


def _past(lines: list[dict[str, Any]], live: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rentals that the journal saw and that live no more. Without an end in the journal, their cost is unknown."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    ended: dict[tuple[str, str], float] = {}
    for line in lines:
        key = (str(line.get("provider")), str(line.get("id")))
        if "id" in line and key not in live:
            seen.setdefault(key, line)
            if line["event"] in ("deleted", "surplus_deleted"):
                ended[key] = line["time"]
    result = []
    for key, line in seen.items():
        price, began = line.get("price_per_hour_usd"), line.get("created_at")
        hours = (ended[key] - began) / 3600 if key in ended and began else None
        cost = round(hours * price, 4) if hours is not None and price is not None else None
        past = {"name": line.get("name"), "provider": key[0], "id": key[1]}
        result.append(past | {"hours": None if hours is None else round(hours, 3), "cost_usd": cost})
    return result
