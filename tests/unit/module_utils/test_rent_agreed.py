# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting where all controllers ask with the same nonces, and what holds for one region of a provider alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Request, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    Capability,
    NameTaken,
    NoCapacity,
    NonceSpent,
    Provider,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake",), wait="none")
OFFER = Offer("fake", "offer-1", price_per_hour_usd=1.0)
CHAIN = ("aaaaaa", "bbbbbb")


class Agreeing(FakeProvider):
    """Its rentals are told apart by their nonce alone: the same one is the same rental, or spent, or somebody's."""

    def __init__(self, cloud: FakeCloud, spent: tuple[str, ...] = (), taken: tuple[str, ...] = ()) -> None:
        super().__init__(cloud)
        self.capabilities |= {Capability.AGREES, Capability.DATES}
        self.spent, self.taken = spent, taken

    def nonces(self, deployment_id: str, name: str, offer: Offer) -> tuple[str, ...]:
        return tuple(one for one in CHAIN if one not in self.taken)

    def create(self, request: Request) -> Instance:
        for one in self.cloud.alive(request.marker.name):
            if one.marker.nonce == request.marker.nonce:
                return one
        if request.marker.nonce in self.spent:
            raise NonceSpent("gone", provider=self.name)
        return super().create(request)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
    return FakeClock().install(monkeypatch)


def journal(home: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (home / "journal.jsonl").read_text().splitlines()]
    return [(line["event"], line["nonce"] if line["event"] == "claim" else line["id"]) for line in lines]


def rent(provider: Provider, *offers: Offer) -> Instance:
    return _rent.rent({"fake": provider}, WISH, offers or (OFFER,))[0]


def foreign(cloud: FakeCloud, nonce: str, created_at: float = 1.0) -> Instance:
    """What another controller ordered with that nonce."""
    marker = Marker("acme-llm", "vllm-1", nonce)
    one = Instance("fake", f"fake-{nonce}", marker, Status.RUNNING, created_at=created_at)
    cloud.instances[one.id] = one
    return one


def test_each_nonce_is_in_the_journal_before_it_is_used(tmp_path: Path) -> None:
    cloud = FakeCloud()
    made = rent(Agreeing(cloud, spent=CHAIN[:1]))
    assert made.marker.nonce == CHAIN[1]
    assert journal(tmp_path) == [("claim", CHAIN[0]), ("claim", CHAIN[1]), ("created", made.id)]


def test_when_all_are_spent_chance_decides() -> None:
    made = rent(Agreeing(FakeCloud(), spent=CHAIN))
    assert made.marker.nonce not in CHAIN


def test_what_was_made_with_an_agreed_nonce_is_told_when_nobody_can_look(tmp_path: Path) -> None:
    cloud = FakeCloud()
    provider = Agreeing(cloud)
    provider.refuse["list"] = ProviderUnavailable("down", provider="fake")
    with pytest.raises(ProviderUnavailable) as caught:
        rent(provider)
    (living,) = cloud.alive()
    assert [one.id for one in caught.value.rented] == [living.id]
    assert ("created", living.id) in journal(tmp_path)


def test_what_somebody_else_made_with_that_nonce_is_not_ours(tmp_path: Path) -> None:
    cloud = FakeCloud()
    theirs = foreign(cloud, CHAIN[0])

    class Mismatching(Agreeing):
        def create(self, request: Request) -> Instance:
            raise NameTaken("with other parameters", provider=self.name)

    assert rent(Mismatching(cloud)).id == theirs.id
    assert journal(tmp_path) == [("claim", CHAIN[0])]
    assert cloud.deleted == []


def test_a_nonce_that_we_have_used_stays_ours_when_it_is_taken(tmp_path: Path, clock: FakeClock) -> None:
    """The answer was lost, and the order that is repeated is not the same any more: a newer image is out."""
    cloud = FakeCloud()

    class Losing(Agreeing):
        def create(self, request: Request) -> Instance:
            if "create" in self.cloud.calls:
                late = self.cloud.instances.setdefault("late", hidden.pop())
                raise NameTaken(f"{late.id} has it", provider=self.name)
            hidden.append(super().create(request))
            self.cloud.instances.clear()  # not listed yet
            raise Ambiguous("lost", provider=self.name)

    hidden: list[Instance] = []
    made = rent(Losing(cloud))
    assert ("created", made.id) in journal(tmp_path)


def test_where_it_comes_to_nothing_at_another_controller_what_that_has_now_is_taken(clock: FakeClock) -> None:
    cloud = FakeCloud()
    first = foreign(cloud, "cccccc")

    class Moving(Agreeing):
        def create(self, request: Request) -> Instance:
            raise NameTaken("taken", provider=self.name)

        def list(self) -> list[Instance]:
            if self.cloud.calls.count("list") == 1:
                del self.cloud.instances[first.id]
                foreign(self.cloud, "dddddd")
            return super().list()

    assert rent(Moving(cloud)).marker.nonce == "dddddd"


@pytest.mark.parametrize("error", [QuotaError, NoCapacity])
@pytest.mark.parametrize(("scope", "asked"), [("region", ["here-1", "there-1"]), ("provider", ["here-1"])])
def test_what_holds_for_a_region_leaves_the_others(error: type[ProviderError], scope: str, asked: list[str]) -> None:
    provider = FakeProvider(FakeCloud())
    offers = [Offer("fake", name, region=name[:-2]) for name in ("here-1", "here-2", "there-1")]
    tried: list[str] = []

    def create(request: Request) -> Instance:
        tried.append(request.offer.id)
        if request.offer.region == "here":
            raise error("no", provider="fake", scope=scope)  # type: ignore[call-arg]
        return FakeProvider.create(provider, request)

    provider.create = create  # type: ignore[method-assign]
    if scope == "provider":
        with pytest.raises(error):
            rent(provider, *offers)
    else:
        assert rent(provider, *offers)
    assert tried == asked
