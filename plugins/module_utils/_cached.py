# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What is kept of providers that are asked over the network: their lists of instances, and what they offer.

For showing, and for waiting. What decides about renting and ending never comes from here: it asks the provider.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _cache, _clock, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._cache import CacheFile, Policy, Reading
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import NoCapacity, OfferGone, Provider

HOSTS = Policy(fresh_seconds=60, stale_seconds=600, on_error_seconds=3600, limit_seconds=30)
# For somebody who looks: a vanished offer costs him nothing.
OFFERS = Policy(fresh_seconds=60, stale_seconds=300, on_error_seconds=900, limit_seconds=15)
# For somebody who rents: prices are a promise, so only what many instances ask for at the same time is shared.
RENTING = Policy(fresh_seconds=10, stale_seconds=10, on_error_seconds=10, limit_seconds=60, must_have=True)
# For those who wait until something runs.
WAITING = Policy(fresh_seconds=2, stale_seconds=2, on_error_seconds=2, limit_seconds=60)

Load = Callable[[str, Mapping[str, Any]], Provider]
T = TypeVar("T")


def hosts(
    name: str, settings: Mapping[str, Any], load: Load, *, fresh: bool = False, stale_seconds: float | None = None
) -> Reading[list[Instance]]:
    """What lives at a provider, for the inventory. stale_seconds replaces the policy's."""
    policy = HOSTS
    if stale_seconds is not None:
        policy = HOSTS._replace(
            fresh_seconds=min(HOSTS.fresh_seconds, stale_seconds),
            stale_seconds=stale_seconds,
            on_error_seconds=max(HOSTS.on_error_seconds, stale_seconds),
        )

    def fetch() -> list[Instance]:
        return load(name, settings).list()

    account = _accounts.find(name, settings)
    if account is None or not account.key:
        return _cache.ask(fetch)
    refresh = _refresh_later(name, settings, "instances", None)
    return _cache.get(_instances(account), policy, _limited(policy, fetch), refresh, fresh=fresh)


def offers(provider: Provider, query: Mapping[str, Any], policy: Policy) -> Reading[list[Offer]]:
    """What a provider offers. One that is not watched is asked."""

    def fetch() -> list[Offer]:
        return provider.offers(query)

    # A bid is made from what the same search said beside its offers, so it needs that search.
    if not isinstance(provider, WatchedProvider) or (policy.must_have and query.get("interruptible")):
        return _cache.ask(fetch)
    refresh = _refresh_later(provider.name, provider.settings, "offers", query)
    # Who rents has all the patience of the transport; who looks can do without an answer.
    return _cache.get(
        _offers(provider.account, query), policy, fetch if policy.must_have else _limited(policy, fetch), refresh
    )


def look(provider: Provider, instance_id: str) -> Instance | None:
    """For somebody who waits: like get, but all who wait at one account share one list."""
    if isinstance(provider, WatchedProvider):
        reading = _cache.get(_instances(provider.account), WAITING, _limited(WAITING, provider.list))
        for one in reading.data or []:
            if one.id == instance_id:
                return one
    return provider.get(instance_id)  # only this proves that it is gone


class WatchedProvider:
    """A provider over the network, of which some things are kept: what changes them is noticed here."""

    def __init__(self, provider: Provider, account: _accounts.Account, settings: Mapping[str, Any]) -> None:
        self._provider = provider
        self.account = account
        self.settings = settings
        self.name = provider.name
        self.capabilities = provider.capabilities

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        return self._provider.offers(query)

    def create(self, request: Request) -> Instance:
        try:
            return self._changing(lambda: self._provider.create(request))
        except (OfferGone, NoCapacity) as error:
            _evict(self.account, request.offer, error)
            raise

    def get(self, instance_id: str) -> Instance | None:
        return self._provider.get(instance_id)

    def list(self) -> list[Instance]:
        return self._provider.list()

    def start(self, instance_id: str) -> Instance:
        return self._changing(lambda: self._provider.start(instance_id))

    def stop(self, instance_id: str) -> Instance:
        return self._changing(lambda: self._provider.stop(instance_id))

    def delete(self, instance_id: str) -> bool:
        return self._changing(lambda: self._provider.delete(instance_id))

    def renew(self, instance_id: str, expiry_epoch_hours: int) -> Instance:
        renewing = _provider.renewing(self._provider)
        return self._changing(lambda: renewing.renew(instance_id, expiry_epoch_hours))

    def deviations(self, instance_id: str) -> dict[str, tuple[Any, Any]]:
        adjusting = _provider.adjusting(self._provider)
        return adjusting.deviations(instance_id) if adjusting else {}

    def adjust(self, instance_id: str) -> Instance:
        adjusting = cast(_provider.Adjusting, self._provider)  # the engine asks none that can't
        return self._changing(lambda: adjusting.adjust(instance_id))

    def untouchable(self, instance_id: str) -> Sequence[str]:
        adjusting = _provider.adjusting(self._provider)
        return adjusting.untouchable(instance_id) if adjusting else ()

    def regions_looked_into(self) -> Collection[str]:
        return cast(_provider.Regional, self._provider).regions_looked_into()

    def nonces(self, deployment_id: str, name: str, offer: Offer) -> tuple[str, ...]:
        agreeing = _provider.agreeing(self._provider)
        return agreeing.nonces(deployment_id, name, offer) if agreeing else ()

    def billed_usd(self, instance_ids: Collection[str], since_seconds: float) -> dict[str, float]:
        bills = _provider.billing(self._provider)
        return bills.billed_usd(instance_ids, since_seconds) if bills else {}

    def log(self, instance_id: str, words: str) -> str:
        return self._provider.log(instance_id, words)

    def clean_up(self, deployment_id: str) -> bool:
        return self._provider.clean_up(deployment_id)

    def _changing(self, work: Callable[[], T]) -> T:
        """A list from before or from in between may lack what is done now, also when we are killed in the middle."""
        file = _instances(self.account)
        file.invalidate()
        try:
            return work()
        finally:
            file.invalidate()


def watched(provider: Provider, settings: Mapping[str, Any]) -> Provider:
    """The same provider; one with an account is watched."""
    account = _accounts.find(provider.name, settings)
    return WatchedProvider(provider, account, settings) if account and account.key else provider


def refresh(job: Mapping[str, Any]) -> None:
    """In the background, with the lock: fetch what the job says."""
    name, settings, query = job["provider"], job["settings"], job["query"]
    provider, account = _provider.load(name, settings), _accounts.get(name, settings)
    if job["kind"] == "instances":
        _cache.refresh_now(_instances(account), HOSTS, _limited(HOSTS, provider.list))
    else:
        _cache.refresh_now(_offers(account, query), OFFERS, _limited(OFFERS, lambda: provider.offers(query)))


def _refresh_later(
    provider: str, settings: Mapping[str, Any], kind: str, query: Mapping[str, Any] | None
) -> Callable[[int], None]:
    """What starts a background refresh, given the lock. The settings may hold a key: they go through a pipe."""

    def start(lock: int) -> None:
        # Only now: most runs find what they need and start nothing.
        from ansible_collections.gpuops.fleet.plugins.module_utils import _refresher

        job = {"provider": provider, "settings": settings, "kind": kind, "query": query}
        _refresher.start(job, lock, (HOSTS if kind == "instances" else OFFERS).limit_seconds)

    return start


def _limited(policy: Policy, fetch: Callable[[], T]) -> Callable[[], T]:
    def within() -> T:
        with _clock.limit(policy.limit_seconds):
            return fetch()

    return within


def _instances(account: _accounts.Account) -> CacheFile[list[Instance]]:
    return CacheFile(f"{account.label}-instances", account.provider, _plain, _to_instances)


def _offers(account: _accounts.Account, query: Mapping[str, Any]) -> CacheFile[list[Offer]]:
    # A query without regions means that one.
    text = json.dumps({**query, "default_region": account.region}, sort_keys=True)
    name = f"{account.label}-offers-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return CacheFile(name, account.provider, _plain, _to_offers)


def _evict(account: _accounts.Account, gone: Offer, error: _provider.ProviderError) -> None:
    """Who asks next must not be sent to the same offer again."""
    scope = error.scope if isinstance(error, NoCapacity) else "offer"

    def stays(offer: Offer) -> bool:
        if scope == "provider":
            return False
        return offer.region != gone.region if scope == "region" else offer.id != gone.id

    directory = _cache.folder()
    for path in directory.glob(f"{account.label}-offers-*.json") if directory else ():
        file: CacheFile[list[Offer]] = CacheFile(path.stem, account.provider, _plain, _to_offers)
        file.change(lambda offers: [offer for offer in offers if stays(offer)])


def _plain(values: list[Any]) -> list[dict[str, Any]]:
    # Fingerprints of what may be secret stay where they are: at the provider.
    return [{key: told for key, told in dataclasses.asdict(value).items() if key != "started_with"} for value in values]


def _to_offers(told: Any) -> list[Offer]:
    return [Offer(**{**one, "runtime": Runtime(one["runtime"])}) for one in told]


def _to_instances(told: Any) -> list[Instance]:
    return [
        Instance(
            **{
                **one,
                "marker": Marker(**one["marker"]),
                "status": Status(one["status"]),
                "runtime": Runtime(one["runtime"]),
                "ports": None if one["ports"] is None else _pairs(one["ports"]),
                "ssh_endpoints": tuple(Endpoint(**endpoint) for endpoint in one["ssh_endpoints"]),
                "urls": _pairs(one["urls"]),
            }
        )
        for one in told
    ]


def _pairs(told: Any) -> tuple[tuple[int, str], ...]:
    return tuple((int(number), str(text)) for number, text in told)
