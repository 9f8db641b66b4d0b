# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground truth behind an emulated API: what was rented, what it cost, which calls came, and what is to go wrong."""

from __future__ import annotations

import itertools
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Rental:
    """One rented thing, for ever: what was deleted stays in the books.

    wire is the provider's own description of it; owner is the marker as that provider stores it.
    """

    id: str
    provider: str
    owner: str
    status: str
    created_at: float
    price_per_hour_usd: float
    wire: dict[str, Any] = field(default_factory=dict)
    deleted_at: float | None = None
    billed_since: float | None = None  # while it costs its price; None while it costs nothing
    billed_usd: float = 0.0

    @property
    def alive(self) -> bool:
        return self.deleted_at is None


@dataclass
class Fault:
    """What is to go wrong with the next `times` calls (None: all) whose method and path match.

    drop "before": the connection closes and nothing happened. drop "after": it takes effect, and the answer is lost.
    """

    method: str = ".*"
    path: str = ".*"
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    latency_seconds: float = 0.0
    drop: Literal["before", "after"] | None = None
    times: int | None = 1

    def matches(self, method: str, path: str) -> bool:
        return bool(self.times != 0 and re.fullmatch(self.method, method) and re.search(self.path, path))


class World:
    """Everything that one emulated provider knows. Guarded by one lock; times are the machine's, sped up by `scale`."""

    def __init__(self, provider: str, scale: float = 1.0) -> None:
        self.provider = provider
        self.lock = threading.RLock()
        self.rentals: dict[str, Rental] = {}
        self.faults: list[Fault] = []
        self.calls: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self._scale = scale
        self._began = time.time()

    def now(self) -> float:
        """Seconds since the epoch, in the world's own pace."""
        return self._began + (time.time() - self._began) * self._scale

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that this call meets; it is used up by that."""
        with self.lock:
            for fault in self.faults:
                if fault.matches(method, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def rent(self, rental: Rental) -> None:
        self.rentals[rental.id] = rental

    def bill(self, rental: Rental, costs: bool) -> None:
        """Write down what it cost until now, and whether it goes on costing."""
        if rental.billed_since is not None:
            rental.billed_usd += (self.now() - rental.billed_since) / 3600 * rental.price_per_hour_usd
        rental.billed_since = self.now() if costs else None

    def delete(self, rental: Rental) -> None:
        self.bill(rental, costs=False)
        rental.status = "deleted"
        rental.deleted_at = self.now()

    def alive(self) -> list[Rental]:
        return [rental for rental in self.rentals.values() if rental.alive]

    def state(self) -> dict[str, Any]:
        """What tests compare with: {instances: [...], calls: [...]}."""
        with self.lock:
            for rental in self.alive():
                self.bill(rental, costs=rental.billed_since is not None)
            names = ("id", "provider", "owner", "status", "created_at", "deleted_at", "billed_usd")
            return {
                "instances": [{name: getattr(one, name) for name in names} for one in self.rentals.values()],
                "calls": list(self.calls),
            }
