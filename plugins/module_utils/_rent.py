# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Renting once, across crashes and controllers that share nothing: claim, then confirm.

What a provider lists is the truth. A claim carries a fresh nonce, so that claims of the same (deployment, name) can be
told apart; if several are alive, the oldest stays and the younger ones are surplus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _fingerprints, _journal, _marker, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Request, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    Capability,
    EngineError,
    NameTaken,
    NoCapacity,
    NonceSpent,
    OfferGone,
    Provider,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)

LOOKS_APART_SECONDS = 10.0  # two complete lists at least this far apart make a fact
SURPLUS_AGE_SECONDS = 600.0  # younger surplus may still have a creator that is about to settle it
CONFIRM_DEADLINE_SECONDS = 180.0
CREATE_SECONDS = 180.0  # the longest that an order was seen to take until what it made is listed
_CLAIM_ATTEMPTS = 3
# Said by what stands before a provider, when it got no answer from it; above 511, by Cloudflare.
_GATEWAY_GAVE_UP = (502, 504, *range(520, 528))

Providers = Mapping[str, Provider]


@dataclass
class Found:
    """The rental that counts, and others with the same deployment and name."""

    current: Instance | None = None
    surplus: list[Instance] = field(default_factory=list)
    terminating: list[Instance] = field(default_factory=list)  # its end was ordered, but it is still listed

    @property
    def all(self) -> list[Instance]:
        return [self.current, *self.surplus] if self.current else []


@dataclass
class Claims:
    """What we asked for, at whatever provider: what carries one of these nonces, we created."""

    offers: dict[str, Offer] = field(default_factory=dict)  # by nonce
    made: dict[tuple[str, str], Instance] = field(default_factory=dict)  # by place: what came of it, and still lives
    unknown: list[str] = field(default_factory=list)  # sentences about what nobody could look for

    def tell(self, instances: Iterable[Instance]) -> None:
        """Remember what of these is ours, and write it down: what it costs has to be explained."""
        for one in instances:
            if self.is_ours(one) and place(one) not in self.made:
                self.made[place(one)] = one
                offer = self.offers.get(one.marker.nonce)
                _journal.record("created", one, interruptible=offer.interruptible if offer else None)

    def is_ours(self, one: Instance) -> bool:
        """Another's claim may have the same nonce by chance: what that made is left to who made it."""
        if place(one) in self.made:
            return True
        taken = {known.marker.nonce for known in self.made.values()}
        return one.marker.nonce in self.offers and one.marker.nonce not in taken

    def give_back(self, provider: Provider, one: Instance, kept: Instance | None) -> None:
        """Delete what we made and doesn't count."""
        provider.delete(one.id)
        del self.made[place(one)]
        _journal.record("surplus_deleted", one, kept=kept.id if kept else None)


def place(one: Instance) -> tuple[str, str]:
    """Which rental that is: ids of two providers may be the same."""
    return one.provider, one.id


def list_all(providers: Providers) -> list[Instance]:
    """The complete lists of all providers, asked in parallel; one that fails fails all: absence must be proven."""
    listed, failures = _list_reachable(providers)
    for error in failures.values():
        raise error
    return listed


def _list_reachable(providers: Providers) -> tuple[list[Instance], dict[str, ProviderError]]:
    """The complete lists of those that answer, and by provider why there is no other."""
    listed: list[Instance] = []
    failures: dict[str, ProviderError] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(providers))) as pool:
        calls = {name: pool.submit(provider.list) for name, provider in providers.items()}
        for name, call in calls.items():
            try:
                listed += call.result()
            except ProviderError as error:
                failures[name] = error
    return listed, failures


def find(providers: Providers, deployment_id: str, name: str) -> Found:
    """Which live rental is the instance of that name; what a job rented under it is the job's."""
    return _named(list_all(providers), deployment_id, name)


def find_reachable(providers: Providers, deployment_id: str, name: str) -> tuple[Found, dict[str, ProviderError]]:
    """For ending, which must not wait for a provider that is down; and by provider why one did not answer."""
    listed, failures = _list_reachable(providers)
    return _named(listed, deployment_id, name), failures


def _named(instances: Iterable[Instance], deployment_id: str, name: str) -> Found:
    mine = [
        instance
        for instance in instances
        if (instance.marker.deployment_id, instance.marker.name) == (deployment_id, name)
        and instance.marker.owner == "fleet"
    ]
    found = settle(one for one in mine if one.status is not Status.TERMINATING)
    found.terminating = [one for one in mine if one.status is Status.TERMINATING]
    return found


def settle(instances: Iterable[Instance]) -> Found:
    """The oldest stays; every controller comes to the same answer from the same list."""
    ordered = sorted(instances, key=lambda one: (one.created_at or float("inf"), one.marker.nonce, one.id))
    return Found(ordered[0], ordered[1:]) if ordered else Found()


def rent(providers: Providers, wish: Wish, offers: Iterable[Offer]) -> tuple[Instance, Offer]:
    """Take the first offer that can be had; returns when it is certain that this rental counts."""
    claims = Claims()
    try:
        return _take_first(providers, wish, offers, claims)
    except ProviderError as error:
        for doubt in claims.unknown:
            if doubt not in error.message:
                error.tell_first(doubt)
        raise


def _take_first(providers: Providers, wish: Wish, offers: Iterable[Offer], claims: Claims) -> tuple[Instance, Offer]:
    failures: list[ProviderError] = []
    sold_out: set[tuple[str, str | None]] = set()
    waiting = list(offers)
    while waiting:
        offer = waiting.pop(0)
        if (offer.provider, None) in sold_out or (offer.provider, offer.region or "") in sold_out:
            continue
        try:
            claimed = _claim(providers, wish, offer, claims)
        except OfferGone as error:
            failures.append(error)
        except NoCapacity as error:
            failures.append(error)
            if error.scope != "offer":
                sold_out.add(_scope(offer, error.scope))
            waiting = _first_in_stock(waiting, offer.provider, error.in_stock)
        except QuotaError as error:
            failures.append(error)
            sold_out.add(_scope(offer, error.scope))
        except (AuthError, ProviderUnavailable) as error:
            failures.append(error)
            sold_out.add((offer.provider, None))
        else:
            current = _confirm(providers, wish, claimed, claims)
            return current, claims.offers.get(current.marker.nonce, offer)
    if len(failures) == 1:
        raise failures[0]
    raise EngineError(
        f"Nothing could be rented for '{wish.name}': "
        + ("; ".join(str(error) for error in failures) or "no offer fits."),
        code=NoCapacity.code,
        provider=", ".join(wish.providers),
        fix="Allow more providers or regions, or a higher max_price_per_hour_usd.",
        result={"failures": [error.as_failure() for error in failures]},
    )


def _first_in_stock(waiting: list[Offer], provider: str, in_stock: frozenset[str]) -> list[Offer]:
    """First what that provider has just named as what can be had; the rest in its order."""
    return sorted(waiting, key=lambda one: one.provider != provider or one.id not in in_stock)


def _scope(offer: Offer, scope: str) -> tuple[str, str | None]:
    """What need not be tried any more: a region of that provider, or all of it."""
    return offer.provider, None if scope == "provider" else offer.region or ""


def _claim(providers: Providers, wish: Wish, offer: Offer, claims: Claims) -> Instance:
    """What counts at that provider after it was asked for a rental; usually the one that it made."""
    provider = providers[offer.provider]
    for attempt in range(_CLAIM_ATTEMPTS):
        began = _clock.monotonic()
        try:
            created = _order(provider, wish, offer, claims)
        except NameTaken:
            # Another controller was faster: look for what it made, instead of failing.
            found = _look_until_found(provider, wish, seconds=15.0)
            claims.tell(found.all)  # that controller may be this one, some claims ago
            if found.current:
                return found.current
        except Ambiguous as lost:
            try:
                found = _look_until_found(provider, wish, _look_seconds(provider, lost, began))
            except ProviderError as error:
                doubt = f"{provider.name} may have rented '{wish.name}': {lost.message}"
                claims.unknown.append(doubt)
                error.tell_first(f"{doubt} Nobody could look:")
                raise
            claims.tell(found.all)
            if found.current:
                return found.current
            if attempt == _CLAIM_ATTEMPTS - 1:
                raise
        else:
            claims.tell([created])
            return created
    raise Ambiguous(
        f"The name '{wish.name}' is taken at {offer.provider}, but what has it is not listed.",
        provider=offer.provider,
        fix="Run again in a minute; if it stays so, look for it at the provider.",
    )


def _order(provider: Provider, wish: Wish, offer: Offer, claims: Claims) -> Instance:
    """Ask for it with the first nonce that is not spent. Each is written down before anything is made with it."""
    for nonce in _nonces(provider, wish, offer):
        marker = Marker(wish.deployment_id, wish.name, nonce, _marker.expiry_epoch_hours(wish.lifetime_seconds))
        known = nonce in claims.offers
        claims.offers[nonce] = offer
        _journal.record("claim", deployment_id=wish.deployment_id, name=wish.name, provider=offer.provider, nonce=nonce)
        try:
            return provider.create(_request(marker, wish, offer, Capability.TLS in provider.capabilities))
        except NonceSpent:
            continue
        except NameTaken:
            if not known and _provider.agreeing(provider):
                del claims.offers[nonce]  # what carries it was made by who took it
            raise
    raise AssertionError("unreachable: the last nonce is a new one")


def _nonces(provider: Provider, wish: Wish, offer: Offer) -> Iterator[str]:
    """Where all controllers agree on them, first those; then one that nobody else has."""
    agreeing = _provider.agreeing(provider)
    if agreeing:
        yield from agreeing.nonces(wish.deployment_id, wish.name, offer)
    yield _marker.new_nonce() if Capability.DATES in provider.capabilities else _marker.dated_nonce()


def _look_seconds(provider: Provider, lost: Ambiguous, began: float) -> float:
    """How long what an order without an answer made may take to be listed.

    Where the nonce says how old it is, what comes late counts as older than what was rented instead of it, and is in
    use. So there a broken connection is given the time that an order takes; an answer, also a bad one, needs no more.
    What a gateway answers is none: behind it, the provider may still be at work.
    """
    if Capability.DATES in provider.capabilities or lost.status not in (None, *_GATEWAY_GAVE_UP):
        return LOOKS_APART_SECONDS
    return max(LOOKS_APART_SECONDS, CREATE_SECONDS - (_clock.monotonic() - began))


def _look_until_found(provider: Provider, wish: Wish, seconds: float) -> Found:
    """What carries our deployment and name; looks at least twice, the last time after so many seconds."""
    deadline = _clock.monotonic() + seconds
    while True:
        last = _clock.monotonic() >= deadline
        found = find({provider.name: provider}, wish.deployment_id, wish.name)
        if found.current or last:
            return found
        _clock.sleep(min(1.0, max(0.05, deadline - _clock.monotonic())))


def _request(marker: Marker, wish: Wish, offer: Offer, provider_ends_tls: bool) -> Request:
    own_tls = bool(wish.tls_args) and not provider_ends_tls
    return Request(
        marker=marker,
        offer=offer,
        image=wish.image,
        entrypoint=wish.entrypoint,
        args=(*(wish.args or ()), *(wish.tls_args or ())) if own_tls else wish.args,
        env=wish.env,
        secret_env=wish.secret_env,
        own_tls=own_tls,
        ports=wish.ports,
        disk_gib=wish.disk_gib,
        minimum_cuda_version=wish.minimum_cuda_version,
        ssh_public_key=wish.ssh_public_key,
        started_with=_fingerprints.encode(wish, marker, own_tls),
    )


def _confirm(providers: Providers, wish: Wish, mine: Instance, claims: Claims) -> Instance:
    """Look until it is settled. An error takes along what is paid for by then: no other line of the result has it."""
    try:
        return _look_twice(providers, wish, mine, claims)
    except ProviderError as error:
        error.rented = tuple(claims.made.values())
        raise


def _look_twice(providers: Providers, wish: Wish, mine: Instance, claims: Claims) -> Instance:
    """Look twice. Whoever sees an older rental than its own gives its own back."""
    if len(providers) == 1 and Capability.UNIQUE_NAMES in providers[mine.provider].capabilities:
        return mine  # the provider itself lets nobody rent the same name again
    deadline = _clock.monotonic() + CONFIRM_DEADLINE_SECONDS
    first_look: float | None = None
    while True:
        found = _look(providers, wish, deadline)
        claims.tell(found.all)
        if found.current and mine.id in [one.id for one in found.all]:
            _give_back(providers, claims, found)
            if found.current.id != mine.id:
                return found.current  # an older one exists: its creator, or the next run, looks after it
            if first_look is not None and _clock.monotonic() - first_look >= LOOKS_APART_SECONDS:
                return found.current
            first_look = _clock.monotonic() if first_look is None else first_look
        elif found.current and not claims.is_ours(mine):
            mine = found.current  # what another controller had ordered came to nothing, and this is what it has now
        elif _clock.monotonic() > deadline:
            raise Ambiguous(
                f"{mine.provider} rented {mine.id} but has not listed it for {CONFIRM_DEADLINE_SECONDS:.0f} s.",
                provider=mine.provider,
                fix="Run again; look for it at the provider if it does not appear.",
            )
        _clock.sleep(LOOKS_APART_SECONDS if first_look is not None else 1.0)


def _look(providers: Providers, wish: Wish, deadline: float) -> Found:
    """One look that tolerates a failing list until the deadline; the next run settles then."""
    try:
        return find(providers, wish.deployment_id, wish.name)
    except ProviderError:
        if _clock.monotonic() > deadline:
            raise
        return Found()


def _give_back(providers: Providers, claims: Claims, found: Found) -> None:
    """Delete what we created ourselves and doesn't count; others' surplus is not ours to delete here."""
    for one in found.surplus:
        if claims.is_ours(one):
            claims.give_back(providers[one.provider], one, found.current)


def delete_old_surplus(providers: Providers, wish: Wish, found: Found) -> list[Instance]:
    """Delete what is surplus by two complete lists and older than its creator could need to settle it."""
    if not _old(found.surplus):
        return []
    seen = {place(one) for one in _old(found.surplus)}
    _clock.sleep(LOOKS_APART_SECONDS)
    again = find(providers, wish.deployment_id, wish.name)
    doomed = [one for one in _old(again.surplus) if place(one) in seen]
    for one in doomed:
        providers[one.provider].delete(one.id)
        _journal.record("surplus_deleted", one, kept=again.current.id if again.current else None)
    return doomed


def _old(instances: Iterable[Instance]) -> list[Instance]:
    """Those whose age is known and above the limit; what has no time counts as young."""
    return [one for one in instances if one.created_at and _clock.now() - one.created_at > SURPLUS_AGE_SECONDS]
