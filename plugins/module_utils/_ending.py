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
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)

DEADLINE_SECONDS = 60.0
AGAIN_SECONDS = 15.0
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 5.0  # what takes minutes is asked about less often: calls of an account are limited


@dataclass(frozen=True)
class Left:
    """What is still there, and what it goes on costing; None when nobody knows."""

    price_per_hour_usd: float | None = None

    def __str__(self) -> str:
        price = self.price_per_hour_usd
        return "an unknown amount per hour" if price is None else f"{price:.3f} USD per hour"


_UNKNOWN = Left()


@dataclass(frozen=True)
class Ending:
    """How one provider ends one rental.

    order sends the delete and returns what was wrong with the answer ("" when nothing was), or None when the provider
    says that there is no such rental. look returns None only when the provider says that it is gone. thing is what a
    sentence calls the rental ("pod abc"), console is where a person finds it, known is what was seen before.
    """

    provider: str
    thing: str
    console: str
    order: Callable[[], str | None]
    look: Callable[[], Left | None]
    known: Left = _UNKNOWN
    deadline_seconds: float = DEADLINE_SECONDS

    def finish(self) -> bool:
        """Returns when it is gone; False when it was gone before our first order took effect."""
        deadline = _clock.monotonic() + self.deadline_seconds
        orders, problem, left, pause = 0, "it is still listed", self.known, POLL_SECONDS
        while True:
            try:
                answer = self.order()
                if answer is None:
                    return orders > 0  # without an earlier order of ours, somebody else did it
                problem = answer or problem
            except (Ambiguous, ProviderUnavailable, RateLimited) as error:
                problem = error.message
            except ProviderError as error:  # ordering again can't help
                error.tell_first(
                    f"The end of {self.thing} could not be ordered: it goes on costing {left} until it is ended, here "
                    f"or at {self.console}."
                )
                raise
            orders += 1
            again_at = min(deadline, _clock.monotonic() + AGAIN_SECONDS)
            while True:
                unseen = ""
                try:
                    now = self.look()
                    if now is None:
                        return True
                    left = now
                except ProviderError as error:  # says nothing about the rental
                    unseen = error.message
                remaining = again_at - _clock.monotonic()
                if remaining <= 0:
                    break
                _clock.sleep(min(pause, remaining))
                pause = min(pause * 1.25, LONGEST_POLL_SECONDS)
            if orders > 1 and _clock.monotonic() >= deadline:
                raise self._still_there(left, problem, unseen)

    def _still_there(self, left: Left, problem: str, unseen: str) -> ProviderUnavailable:
        why = unseen or problem
        has, end = ("may still have", " until it is gone") if unseen else ("still has", "")
        return ProviderUnavailable(
            f"{self.provider} {has} {self.thing} {self.deadline_seconds:.0f} s after its end was ordered ({why}). "
            f"It goes on costing {left}{end}.",
            provider=self.provider,
            fix=f"Run again; if it stays, end it yourself at {self.console}.",
        )
