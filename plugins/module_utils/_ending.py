# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Ending a rental with proof: ordered, looked at, ordered again if need be, and loud when it goes on costing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Ambiguous, ProviderUnavailable

DEADLINE_SECONDS = 60.0
AGAIN_SECONDS = 15.0
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Left:
    """What is still there, and what it goes on costing; None when nobody knows."""

    price_per_hour_usd: float | None = None


@dataclass(frozen=True)
class Ending:
    """How one provider ends one rental.

    order sends the delete and returns what was wrong with the answer ("" when nothing was), or None when the provider
    says that there is no such rental. look returns None only when the provider says that it is gone. thing is what a
    sentence calls the rental ("pod abc"), console is where a person finds it.
    """

    provider: str
    thing: str
    console: str
    order: Callable[[], str | None]
    look: Callable[[], Left | None]

    def finish(self) -> bool:
        """Returns when it is gone; False when it was gone before our first order took effect."""
        deadline = _clock.monotonic() + DEADLINE_SECONDS
        orders, problem = 0, "it is still listed"
        while True:
            try:
                answer = self.order()
                if answer is None:
                    return orders > 0  # without an earlier order of ours, somebody else did it
                problem = answer or problem
            except Ambiguous as error:
                problem = error.message
            orders += 1
            again_at = min(deadline, _clock.monotonic() + AGAIN_SECONDS)
            while True:
                left = self.look()
                if left is None:
                    return True
                if _clock.monotonic() >= again_at:
                    break
                _clock.sleep(POLL_SECONDS)
            if orders > 1 and _clock.monotonic() >= deadline:
                raise self._still_there(left, problem)

    def _still_there(self, left: Left, problem: str) -> ProviderUnavailable:
        price = left.price_per_hour_usd
        costs = "an unknown amount" if price is None else f"{price:.3f} USD"
        return ProviderUnavailable(
            f"{self.provider} still has {self.thing} {DEADLINE_SECONDS:.0f} s after its end was ordered ({problem}). "
            f"It goes on costing {costs} per hour.",
            provider=self.provider,
            fix=f"Run again; if it stays, end it yourself at {self.console}.",
        )
