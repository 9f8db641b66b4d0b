# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `vastai`: other people's machines, rented through Vast.ai's REST API.

The v1 list with our marker in the label is the state of record. Neither labels nor anything else is unique there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _clock, _marker, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Instance,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    missing,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai_errors
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import Interval
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer, Transport

PAGE_SIZE = 25  # the most that the list gives at once
STOP_DEADLINE_SECONDS = 60.0
LOG_ATTEMPTS = 10
_POLL_SECONDS = 1.0

# Vast.ai's limits: the least time between two calls of one kind, in seconds.
_INTERVALS = (
    Interval("PUT", r"/api/v0/asks/", 4.5),
    Interval("POST", r"/api/v0/bundles/", 6.0),  # about ten a minute
    Interval("POST", r"/api/v0/instances/[0-9]+/ssh/", 1.0),
    Interval("GET", r"/api/v0/instances/[0-9]+/", 2.0),
    Interval("PUT", r"/api/v0/instances/[0-9]+/", 2.0),  # 1 s, but 2 s for a start
    Interval("DELETE", r"/api/v0/instances/[0-9]+/", 3.0),
    Interval("GET", r"/api/v1/instances/", 1.0),
)


def make(settings: Mapping[str, Any]) -> VastaiProvider:
    """Called by _provider.load; talks to nobody yet."""
    return VastaiProvider(settings)


class VastaiProvider:
    """The provider contract over HTTP. Settings: api_key (else VAST_API_KEY), api_url (else VAST_URL)."""

    name = wire.PROVIDER
    capabilities = CAPABILITIES[wire.PROVIDER]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._transport: Transport | None = None
        self._bids: dict[str, float] = {}  # by id of the offer: its lowest bid without storage

    def _call(self, method: str, path: str, **options: Any) -> Answer:
        """Like Transport.call; raises AuthError when there is no key to call with."""
        if self._transport is None:
            account = _accounts.get(self.name, self._settings)
            if not account.key:
                raise AuthError("There is no API key for vastai.", provider=self.name, fix=vastai_errors.KEY_FIX)
            headers = {"Authorization": f"Bearer {account.key}"}
            limiter = _rate_limit.Limiter(account, _INTERVALS)
            self._transport = Transport(
                self.name, account.url, headers, vastai_errors.refusal, pace=limiter.wait, heed=limiter.heed
            )
        return self._transport.call(method, path, **options)

    def _rows(self, answer: Answer, field: str) -> list[dict[str, Any]]:
        """The objects of that field, all of them or an error."""
        self._check(answer, needs_success=False)
        rows = answer.body.get(field) if isinstance(answer.body, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._strange(f"no list of {field}")
        return rows

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        if query.get("instance_type"):
            return []  # there are no types here, only machines
        try:
            answer = self._call("POST", "/api/v0/bundles/", body=wire.search_body(query), accept=(404,))
        except Ambiguous as error:  # a search has no effect, so nothing is in doubt
            raise ProviderUnavailable(
                "vastai did not answer a search for offers.", provider=self.name, status=error.status, fix="Run again."
            ) from error
        if answer.status == 404:  # what the search says to a wrong key
            raise AuthError(
                vastai_errors.refusal(answer).message, provider=self.name, status=404, fix=vastai_errors.KEY_FIX
            )
        rows = self._rows(answer, "offers")
        for row in rows:
            bid = wire.bid_of(row)
            if bid is not None:
                self._bids[str(row.get("id"))] = bid
        return [offer for row in rows if (offer := wire.offer_from(row, query))]

    def create(self, request: Request) -> Instance:
        wire.check_request(request)
        offer = request.offer
        if not offer.id.isdecimal():
            raise InvalidRequest(
                f"{offer.id!r} is no offer of vastai.", provider=self.name, fix="Take one that offer_info shows."
            )
        bid = self._bids.get(offer.id, offer.price_per_hour_usd)
        if offer.interruptible and bid is None:  # without an amount it would be rented on demand, at its full price
            raise NoCapacity(
                f"vastai names no lowest bid for offer {offer.id}.", provider=self.name, fix="Take another offer."
            )
        body = wire.create_body(request, bid, _accounts.get(self.name, self._settings).url)
        answer = self._call("PUT", f"/api/v0/asks/{offer.id}/", body=body, accept=(400, 404, 410))
        said = answer.body if isinstance(answer.body, dict) else {}
        contract = said.get("new_contract")
        if answer.status == 200 and contract and said.get("success", "error" not in said):
            return wire.created(request, str(contract), self._add_key(str(contract), request))
        if contract:
            self._undo(str(contract))
        elif answer.status == 200 and said.get("success") is not False:
            raise Ambiguous(
                f"vastai answered the create of offer {offer.id} with neither yes nor no, so it may have taken effect.",
                provider=self.name,
                status=answer.status,
                fix="Run again: it looks for what was done first.",
            )
        refusal = vastai_errors.refusal(answer)
        if answer.status == 200 and isinstance(refusal, InvalidRequest):
            # Nothing was wrong with the request: this machine just can't be had at this price.
            raise NoCapacity(
                refusal.message, provider=self.name, status=200, request_id=answer.request_id, fix="Take another offer."
            )
        raise refusal

    def _add_key(self, contract: str, request: Request) -> str:
        """Give the key to Vast.ai too; returns what went wrong, because nothing here may lose the rental."""
        if request.offer.runtime is not Runtime.VM or not request.ssh_public_key:
            return ""
        try:
            key = request.ssh_public_key.strip()
            self._check(self._call("POST", f"/api/v0/instances/{contract}/ssh/", body={"ssh_key": key}))
        except ProviderError as error:
            return f"only its start script brings the SSH key: {error.message}"
        return ""

    def _undo(self, contract: str) -> None:
        """Destroy what a create left behind although it failed: it would cost storage for ever."""
        try:
            self._end(contract, Left())
        except ProviderError as error:
            raise Ambiguous(
                f"vastai failed to rent, but left instance {contract}, which could not be destroyed: {error.message}",
                provider=self.name,
                status=error.status,
                fix=f"Run again; look for it at {wire.CONSOLE}.",
            ) from error

    def get(self, instance_id: str) -> Instance | None:
        row = self._row(instance_id)
        return self._ours(row) if row is not None else None

    def list(self) -> list[Instance]:
        found: dict[str, Instance] = {}
        for row in self._all_rows():
            if not isinstance(row.get("id"), int):
                raise self._strange("a list with an instance that has no id")
            instance = wire.instance_from(row)
            if instance:
                found[instance.id] = instance
        return list(found.values())

    def _all_rows(self) -> Iterator[dict[str, Any]]:
        """Every instance of the account; in the order of their ids, so that none slips from page to page."""
        query = {"limit": PAGE_SIZE, "order_by": json.dumps([{"col": "id", "dir": "asc"}])}
        tokens = set()
        while True:
            answer = self._call("GET", "/api/v1/instances/", query=query)
            yield from self._rows(answer, "instances")
            token = answer.body.get("next_token")
            if not token:
                return
            if not isinstance(token, str) or token in tokens:
                raise self._strange("a list that never ends")
            tokens.add(token)
            query["after_token"] = token

    def start(self, instance_id: str) -> Instance:
        self._power(instance_id, "running")
        current = self._must_get(instance_id)
        # The order was taken; until it shows, this is no longer a stopped one.
        return replace(current, status=Status.PENDING) if current.status is Status.STOPPED else current

    def stop(self, instance_id: str) -> Instance:
        self._power(instance_id, "stopped")
        deadline = _clock.monotonic() + STOP_DEADLINE_SECONDS
        while True:
            current = self._must_get(instance_id)
            if current.status not in (Status.RUNNING, Status.PENDING) or _clock.monotonic() > deadline:
                return current
            _clock.sleep(_POLL_SECONDS)

    def _power(self, instance_id: str, state: str) -> None:
        self._must_get(instance_id)  # what is not ours is not touched
        self._check(self._call("PUT", self._path(instance_id), body={"state": state}))

    def delete(self, instance_id: str) -> bool:
        row = self._row(instance_id)
        if row is not None:
            self._ours(row)  # what is not ours is not touched
        return self._end(instance_id, Left(wire.price_of(row)) if row is not None else Left())

    def _end(self, instance_id: str, known: Left) -> bool:
        """Destroy it, again if need be, until Vast.ai says that it doesn't exist."""

        def order() -> str | None:
            answer = self._call("DELETE", self._path(instance_id), body={}, accept=(404,))
            if vastai_errors.is_gone(answer):
                return None
            if answer.status == 404:
                raise vastai_errors.refusal(answer)
            return "" if self._succeeded(answer) else vastai_errors.refusal(answer).message

        def look() -> Left | None:
            now = self._row(instance_id)
            return None if now is None else Left(wire.price_of(now))

        return Ending(self.name, f"instance {instance_id}", wire.CONSOLE, order, look, known).finish()

    def renew(self, instance_id: str, expiry_epoch_hours: int) -> Instance:
        """Only the label is sent: what runs doesn't notice."""
        marker = replace(self._must_get(instance_id).marker, expiry_epoch_hours=expiry_epoch_hours)
        try:
            self._check(self._call("PUT", self._path(instance_id), body={"label": _marker.encode(marker)}))
        except Ambiguous:
            now = self._must_get(instance_id)
            if now.marker.expiry_epoch_hours != expiry_epoch_hours:
                raise
            return now
        return self._must_get(instance_id)

    def log(self, instance_id: str, words: str) -> str:
        """Vast.ai collects the log on request and lays it down at an address that needs no key, some seconds later."""
        body = {"tail": "1000"} | ({"filter": words} if words else {})
        answer = self._call("PUT", f"/api/v0/instances/request_logs/{instance_id}/", body=body)
        self._check(answer, needs_success=False)
        url = str(answer.body.get("result_url") or "") if isinstance(answer.body, dict) else ""
        # From loopback too, because an emulator has no TLS.
        if not url.startswith(("https://", "http://127.0.0.1:")):
            return ""
        store = Transport(self.name, url, {}, vastai_errors.refusal)
        for _attempt in range(LOG_ATTEMPTS):
            answer = store.call("GET", "", accept=(403, 404))
            if answer.status == 200:
                return "\n".join(line for line in answer.text.splitlines() if words in line)
            _clock.sleep(_POLL_SECONDS)
        return ""

    def clean_up(self, deployment_id: str) -> bool:
        return False  # nothing is made beside the instances

    def _path(self, instance_id: str) -> str:
        if not re.fullmatch(r"[0-9]{1,19}", instance_id):
            raise InvalidRequest(
                f"{instance_id!r} is no id of vastai: those are numbers.",
                provider=self.name,
                fix="Take one that instance_info shows.",
            )
        return f"/api/v0/instances/{instance_id}/"

    def _row(self, instance_id: str) -> dict[str, Any] | None:
        """The provider's description; None only when it says that there is no such instance."""
        answer = self._call("GET", self._path(instance_id), query={"owner": "me"}, accept=(404,))
        if answer.status == 404:
            if vastai_errors.is_gone(answer):
                return None
            raise vastai_errors.refusal(answer)
        self._check(answer, needs_success=False)
        if not isinstance(answer.body, dict) or "instances" not in answer.body:
            raise self._strange("no instance and no word that there is none")
        row = answer.body["instances"]
        if row is not None and (not isinstance(row, dict) or str(row.get("id")) != instance_id):
            raise self._strange("something that is not the instance we asked for")
        return row

    def _ours(self, row: Mapping[str, Any]) -> Instance:
        instance = wire.instance_from(row)
        if instance is None:
            raise not_ours(self.name, f"Instance {row.get('id')}", "label")
        return instance

    def _must_get(self, instance_id: str) -> Instance:
        instance = self.get(instance_id)
        if instance is None:
            raise missing(self.name, f"instance {instance_id}")
        return instance

    def _check(self, answer: Answer, *, needs_success: bool = True) -> None:
        """HTTP 200 does not mean success: raise what the body says. Questions may leave the word success out."""
        if not self._succeeded(answer, needs_success):
            raise vastai_errors.refusal(answer)

    def _succeeded(self, answer: Answer, needs_success: bool = True) -> bool:
        said = answer.body.get("success") if isinstance(answer.body, dict) else None
        return said is True or (said is None and not needs_success)

    def _strange(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"vastai answered with {what}.", provider=self.name, fix="Run again; if it stays so, look at api_url."
        )
