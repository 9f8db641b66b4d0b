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

from .machines import DEAD_END_HOST, DeadEnds, NoMachines, Order, WayIn

# What can be wrong with a rental or an offer for as long as it is set, beside what can happen to single calls.
Trouble = Literal[
    "boot_stuck",  # it never gets past its boot
    "port_refused",  # nobody listens at its SSH port
    "silent_server",  # somebody does, and says nothing
    "key_late",  # the SSH key arrives only `seconds` after the SSH server
    "host_key_changed",  # at its next start it has another host key
    "exits",  # its program ends `seconds` after each start, and the container is started again
    "list_late",  # a new rental is missing from lists for `seconds`
    "outbid",  # for as long as it is set, others bid more for the machine of what is interruptible
    "no_gpu",  # it can't be started again: its GPU went to somebody else
    "dearer",  # a new rental costs twice what its offer says
    "offer_gone",  # an offer that was just shown is taken when it is asked for
    "ports_ignored",  # the ports that were asked for are not forwarded
    "delete_late",  # it is still there for `seconds` after it was deleted
]


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
    With a trouble it is about rentals or offers instead, whose id or owner matches `of`, until it is taken away.
    """

    method: str = ".*"
    path: str = ".*"
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    latency_seconds: float = 0.0
    drop: Literal["before", "after"] | None = None
    times: int | None = 1
    trouble: Trouble | None = None
    of: str = ".*"
    seconds: float = 0.0  # of the world; for key_late real ones, because machines know no other

    def matches(self, method: str, path: str) -> bool:
        if self.trouble or self.times == 0:
            return False
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path))


class World:
    """Everything that one emulated provider knows. Guarded by one lock; times are the machine's, sped up by `scale`.

    With `limits` it counts calls as the provider does, and refuses too many. What it rents are `machines`.
    """

    def __init__(
        self, provider: str, scale: float = 1.0, *, limits: bool = False, machines: NoMachines | None = None
    ) -> None:
        self.provider = provider
        self.limits = limits
        self.scale = scale
        self.machines = machines or NoMachines()
        self.dead_ends = DeadEnds()
        self.lock = threading.RLock()
        self.rentals: dict[str, Rental] = {}
        self.faults: list[Fault] = []
        self.calls: list[dict[str, Any]] = []
        self.secrets: dict[str, dict[str, Any]] = {}  # of the account, by id, with their values
        self.numbers = itertools.count(1)
        self.began = time.time()
        self._skipped_seconds = 0.0

    def now(self) -> float:
        """Seconds since the epoch, in the world's own pace."""
        return self.began + (time.time() - self.began) * self.scale + self._skipped_seconds

    def skip(self, seconds: float) -> None:
        """Let so much time of the world pass at once."""
        with self.lock:
            self._skipped_seconds += seconds

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that this call meets; it is used up by that."""
        with self.lock:
            for fault in self.faults:
                if fault.matches(method, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def trouble(self, kind: Trouble, *names: str) -> Fault | None:
        """What is set to be wrong with the thing of these names (its id, its owner)."""
        wanted = (fault for fault in self.faults if fault.trouble == kind)
        return next((fault for fault in wanted if any(re.search(fault.of, name) for name in names)), None)

    def rent(self, rental: Rental, order: Order | None = None) -> None:
        """Write it down; with an order there is also a machine to be started."""
        self.rentals[rental.id] = rental
        if order:
            self.start_machine(rental, order)

    def start_machine(self, rental: Rental, order: Order | None = None) -> None:
        """Start the machine behind it, for the first time or again; each time it answers at other ports."""
        late = self.trouble("key_late", rental.id, rental.owner)
        self.machines.start(
            rental.id,
            order,
            key_after_seconds=late.seconds if late else 0.0,
            other_host_key=self.trouble("host_key_changed", rental.id, rental.owner) is not None,
        )

    def way_in(self, rental: Rental, port: int, fictional: WayIn) -> WayIn:
        """Where that port of the rental answers from outside; in the light mode nowhere, at a fictional address."""
        for kind in ("port_refused", "silent_server"):
            if self.trouble(kind, rental.id, rental.owner):
                return WayIn(DEAD_END_HOST, self.dead_ends.port(kind))
        return self.machines.way_in(rental.id, port) or fictional

    def bill(self, rental: Rental, costs: bool) -> None:
        """Write down what it cost until now, and whether it goes on costing."""
        if rental.billed_since is not None:
            rental.billed_usd += (self.now() - rental.billed_since) / 3600 * rental.price_per_hour_usd
        rental.billed_since = self.now() if costs else None

    def charge(self, rental: Rental, price_per_hour_usd: float, since: float | None = None) -> None:
        """From then on (now) it costs this; what was billed at the old price after that is put right."""
        self.bill(rental, costs=True)
        assert rental.billed_since is not None
        late = rental.billed_since - since if since is not None else 0.0
        rental.billed_usd += late / 3600 * (price_per_hour_usd - rental.price_per_hour_usd)
        rental.price_per_hour_usd = price_per_hour_usd

    def delete(self, rental: Rental) -> None:
        self.bill(rental, costs=False)
        rental.status = "deleted"
        rental.deleted_at = self.now()
        self.machines.delete(rental.id)

    def take_back(self, of: str) -> list[str]:
        """The provider ends what is rented under these ids or owners by itself; returns their ids."""
        with self.lock:
            taken = [one for one in self.alive() if re.search(of, one.id) or re.search(of, one.owner)]
            for rental in taken:
                self.delete(rental)
        return [one.id for one in taken]

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
