# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What rentals have cost: by the provider's bill where it writes one, else by what is known here, marked incomplete.

Price times age is no bill: a price changes when a rental is stopped, and nobody here can know when that was. The
journal is this controller's alone: what others rented and ended is in none of its lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _taken_back, _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Capability,
    Provider,
    ProviderError,
    billing,
    owned,
)

BILL, PRICE_AND_AGE, JOURNAL = "bill", "price_and_age", "journal"
_BILL_DAYS = 366  # when nobody knows how long ago something began

Key = tuple[str, str]  # provider, id


@dataclass(frozen=True)
class Cost:
    """US dollars, None when unknown; complete: what is known is all there is."""

    usd: float | None
    source: str
    complete: bool

    def as_result(self) -> dict[str, Any]:
        return {"cost_so_far_usd": self.usd, "cost_source": self.source, "cost_complete": self.complete}


@dataclass(frozen=True)
class Past:
    """A rental that the journal saw, and that lives no more."""

    key: Key
    name: str
    began: float | None
    ended: float | None
    price_per_hour_usd: float | None

    @property
    def hours(self) -> float | None:
        return (self.ended - self.began) / 3600 if self.ended is not None and self.began is not None else None

    def as_result(self, cost: Cost) -> dict[str, Any]:
        return {
            "name": self.name,
            "provider": self.key[0],
            "id": self.key[1],
            "hours": None if self.hours is None else round(self.hours, 3),
            "cost_usd": cost.usd,
            "cost_source": cost.source,
            "cost_complete": cost.complete,
        }


def key_of(one: Instance) -> Key:
    return one.provider, one.id


def add_up(
    providers: Mapping[str, Provider], live: Collection[Instance], past: Collection[Past] = ()
) -> tuple[dict[Key, Cost], list[ProviderError]]:
    """What each has cost, and the bills that could not be read."""
    free = {name for name, provider in providers.items() if Capability.FREE in provider.capabilities}
    costs: dict[Key, Cost] = {}
    for one in live:
        # What is stopped costs less than it did, so its price says nothing about its past.
        known = one.provider in free or one.status in (Status.RUNNING, Status.PENDING)
        usd = _views.cost_so_far_usd(one) if known else None
        costs[key_of(one)] = Cost(usd, PRICE_AND_AGE, one.provider in free and usd is not None)
    for gone in past:
        hours, price = gone.hours, gone.price_per_hour_usd
        usd = round(hours * price, 4) if hours is not None and price is not None else None
        costs[gone.key] = Cost(usd, JOURNAL, gone.key[0] in free and usd is not None)
    began = {key_of(one): one.created_at for one in live} | {gone.key: gone.began for gone in past}
    errors = []
    for name, provider in providers.items():
        bills = billing(provider)
        times = {key[1]: time for key, time in began.items() if key[0] == name}
        if bills is None or not times:
            continue
        since = min(time if time is not None else _clock.now() - _BILL_DAYS * 86400 for time in times.values())
        try:
            billed = bills.billed_usd(times, since)
        except ProviderError as error:
            errors.append(error)
        else:
            costs |= {(name, identity): Cost(usd, BILL, True) for identity, usd in billed.items()}
    return costs, errors


def past_of(lines: Iterable[Mapping[str, Any]], live: Collection[Key]) -> list[Past]:
    """What the journal saw and what lives no more; without an end in the journal, nobody knows how long it lived."""
    seen: dict[Key, Mapping[str, Any]] = {}
    ended: dict[Key, float] = {}
    for line in lines:
        key = (str(line.get("provider")), str(line.get("id")))
        if "id" in line and key not in live and not owned(key[0]):  # what is owned was never a rental
            seen.setdefault(key, line)
            if line["event"] in _taken_back.ENDS:
                ended[key] = line.get("ended_at") or line["time"]
    return [
        Past(key, str(line.get("name")), line.get("created_at"), ended.get(key), line.get("price_per_hour_usd"))
        for key, line in seen.items()
    ]
