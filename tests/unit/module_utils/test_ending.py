# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a rental whose provider fails meanwhile: what still may cost money is always named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _ending
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from support.fake_clock import FakeClock

DOWN = ProviderUnavailable("fake can't be asked.", provider="fake")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


def fail(error: ProviderError | None) -> None:
    if error:
        raise error


class Rental:
    """Something that lives until an order arrives; scripts say by the seconds which call fails."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.began = clock, clock.now()
        self.orders: list[float] = []
        self.lives = True
        self.obeys = True
        self.order_fails: Callable[[float], ProviderError | None] = lambda seconds: None
        self.look_fails: Callable[[float], ProviderError | None] = lambda seconds: None

    def order(self) -> str | None:
        seconds = self.clock.now() - self.began
        self.orders.append(seconds)
        fail(self.order_fails(seconds))
        if not self.lives:
            return None
        self.lives = not self.obeys
        return ""

    def look(self) -> Left | None:
        fail(self.look_fails(self.clock.now() - self.began))
        return Left(1.5) if self.lives else None

    def end(self, price_per_hour_usd: float | None = None) -> bool:
        known = Left(price_per_hour_usd)
        return Ending("fake", "pod abc", "https://fake.example/pods", self.order, self.look, known).finish()


@pytest.fixture
def rental(clock: FakeClock) -> Rental:
    return Rental(clock)


@pytest.mark.parametrize(
    "error", [DOWN, RateLimited("Not so fast.", provider="fake"), Ambiguous("Who knows.", provider="fake")]
)
def test_a_provider_that_fails_for_a_moment_is_asked_again(rental: Rental, error: ProviderError) -> None:
    rental.order_fails = lambda seconds: error if seconds < 10 else None
    rental.look_fails = lambda seconds: error if seconds < 20 else None
    assert rental.end() is True
    assert len(rental.orders) == 2
    assert not rental.lives


def test_a_rental_that_can_be_neither_ended_nor_looked_at_is_named_with_its_last_price(rental: Rental) -> None:
    rental.order_fails = rental.look_fails = lambda seconds: DOWN
    with pytest.raises(ProviderUnavailable) as caught:
        rental.end(2.25)
    assert caught.value.message == (
        "fake may still have pod abc 60 s after its end was ordered (fake can't be asked.). "
        "It goes on costing 2.250 USD per hour until it is gone."
    )
    assert "end it yourself at https://fake.example/pods" in caught.value.fix
    assert 3 <= len(rental.orders) <= 6
    assert rental.clock.now() - rental.began >= _ending.DEADLINE_SECONDS


def test_the_price_that_was_seen_last_is_told_when_looking_fails_later(rental: Rental) -> None:
    rental.obeys = False
    rental.look_fails = lambda seconds: DOWN if seconds > 30 else None
    with pytest.raises(ProviderUnavailable, match=r"may still have pod abc .*costing 1\.500 USD per hour until"):
        rental.end()


def test_what_is_seen_at_the_deadline_is_no_guess(rental: Rental) -> None:
    rental.obeys = False
    rental.look_fails = lambda seconds: DOWN if seconds < 30 else None
    with pytest.raises(ProviderUnavailable, match=r"^fake still has pod abc .*costing 1\.500 USD per hour\.$"):
        rental.end()


@pytest.mark.parametrize("kind", [AuthError, InvalidRequest])
def test_a_refused_order_leaves_at_once_and_names_the_rental(rental: Rental, kind: type[ProviderError]) -> None:
    rental.order_fails = lambda seconds: kind("fake refuses.", provider="fake", fix="Look at the key.")
    with pytest.raises(kind) as caught:
        rental.end(2.25)
    assert caught.value.message == (
        "The end of pod abc could not be ordered: it goes on costing 2.250 USD per hour until it is ended, "
        "here or at https://fake.example/pods. fake refuses."
    )
    assert caught.value.fix == "Look at the key."
    assert rental.orders == [0.0]
