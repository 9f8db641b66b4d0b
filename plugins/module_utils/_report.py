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
    _arguments,
    _cached,
    _costs,
    _engine,
    _gpus,
    _journal,
    _marker,
    _offers,
    _owned,
    _pins,
    _preflight,
    _taken_back,
    _views,
    _watch,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider, ProviderError


def _providers(params: Mapping[str, Any]) -> dict[str, Provider]:
    """Those to ask; nobody is, unless it is clear whose instances are asked for."""
    _marker.check_deployment_id(params["deployment_id"])
    settings = _owned.with_machines(params.get("provider_settings"), params["deployment_id"], _machines(params))
    return _engine.load_providers(params["providers"], settings)


def _machines(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the user owns, checked as in a fleet file."""
    machines = params.get("machines") or []
    found = [problem for one in machines for problem in _preflight.check_instance(one)]
    # Without its key a machine can't be reached, but it is there and costs, as all the others do.
    problems = [str(problem) for problem in found if problem.field != "ssh_private_key_file"]
    if problems:
        raise ValueError(f"machines: {' '.join(problems)}")
    return [_arguments.complete_instance(one)[0] for one in machines]


def _look(
    params: Mapping[str, Any], providers: Mapping[str, Provider]
) -> tuple[list[Instance], dict[str, ProviderError]]:
    """The deployment's instances at all providers that answer, and the errors of the others by their names."""
    instances: list[Instance] = []
    errors: dict[str, ProviderError] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(providers))) as pool:
        calls = {name: pool.submit(provider.list) for name, provider in providers.items()}
        for name, call in calls.items():
            try:
                instances += call.result()
            except ProviderError as error:
                errors[name] = error
    if errors and len(errors) == len(providers):
        raise next(iter(errors.values()))
    ours = [one for one in instances if one.marker.deployment_id == params["deployment_id"]]
    return sorted(ours, key=lambda one: (one.marker.name, one.created_at or 0.0, one.id)), errors


def list_instances(params: Mapping[str, Any]) -> dict[str, Any]:
    providers = _providers(params)
    instances, errors = _look(params, providers)
    names = params["names"]
    asked = [_taken_back.told(one) for one in instances if not names or one.marker.name in names]
    # A bill that can't be read makes a cost incomplete, but no list: the absence of an instance is still proven.
    costs, _unread = _costs.add_up(providers, asked)
    if params.get("watches"):
        with ThreadPoolExecutor(max_workers=8) as pool:  # each log takes seconds to come
            asked = list(pool.map(lambda one: _watch.ask(providers[one.provider], one), asked))
    certificates: list[dict[str, Any]] = []
    if params.get("certificates"):
        for one in asked:
            pin = _pins.find(providers[one.provider], one) if one.own_tls else None
            if pin:
                certificates.append({"name": one.marker.name, "fingerprint": pin.fingerprint, "origin": pin.said})
    answered = {name: provider for name, provider in providers.items() if name not in errors}
    unseen = list(_taken_back.unseen(params["deployment_id"], answered, names))
    return {
        "changed": False,
        "warnings": _taken_back.unseen_told(unseen),
        "unseen": [{"name": one.name, "provider": one.provider, "id": one.id, "region": one.region} for one in unseen],
        "instances": [_views.instance(one) | costs[_costs.key_of(one)].as_result() for one in asked],
        "certificates": certificates,
        "complete": not errors,
        "errors": [error.as_failure() for error in errors.values()],
    }


def list_offers(params: Mapping[str, Any]) -> dict[str, Any]:
    providers = _engine.load_providers(params["providers"], params.get("provider_settings"))
    query = {
        "gpu": _gpus.resolve(params["gpu"]).name if params["gpu"] else None,
        "gpu_count": params["gpu_count"] if params["gpu"] else 0,
        "runtime": _arguments.runtime_of(params),
        **{key: params[key] for key in ("instance_type", "regions", "disk_gib", "interruptible")},
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


_SHOWN_WITH_COSTS = (
    *("name", "provider", "id", "status", "endpoint_url", "created_at", "expires_at", "lifetime_enforcer"),
    *("price_per_hour_usd", "cost_so_far_usd", "cost_source", "cost_complete"),
)


def sum_up_cost(params: Mapping[str, Any]) -> dict[str, Any]:
    providers = _providers(params)
    instances, errors = _look(params, providers)
    past = _costs.past_of(_journal.read(params["deployment_id"]), {_costs.key_of(one) for one in instances})
    costs, unread = _costs.add_up(providers, instances, past)
    shown = [_views.instance(one) | costs[_costs.key_of(one)].as_result() for one in instances]
    live = [{name: one[name] for name in _SHOWN_WITH_COSTS} for one in shown]
    prices = [one.price_per_hour_usd for one in instances]
    known = [cost.usd for cost in costs.values() if cost.usd is not None]
    return {
        "changed": False,
        "price_per_hour_usd": None if None in prices else round(sum(price or 0.0 for price in prices), 4),
        "cost_so_far_usd": round(sum(known), 4),
        "complete": not errors and all(cost.complete for cost in costs.values()),
        "live": live,
        "past": [gone.as_result(costs[gone.key]) for gone in past],
        "errors": [error.as_failure() for error in [*errors.values(), *unread]],
    }
