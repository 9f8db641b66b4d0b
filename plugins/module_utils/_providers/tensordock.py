# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `tensordock`: virtual machines of many hosts, rented through TensorDock's API version 2.

Its list with our marker in the name is the state of record: nothing there has tags, and a name can't be changed. What
is rented is chosen by location, which is the documented way; a host in it is TensorDock's choice, and may not exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _clock, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Request, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
    missing,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock_offers as market
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import Quota
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer, Transport

CREATE_SECONDS = 180.0  # a create was often seen to take more than a minute
STOP_DEADLINE_SECONDS = 120.0
_POLL_SECONDS = 2.0
_QUOTA = Quota(20, 0.75)  # never more than the 100 calls in a minute that an organisation has
# What says no in words of its own; whether something was rented all the same is told by those words.
_REFUSALS = (400, 402, 404, 409, 422, 500, 503)


def make(settings: Mapping[str, Any]) -> TensordockProvider:
    """Called by _provider.load; talks to nobody yet."""
    return TensordockProvider(settings)


class TensordockProvider:
    """The provider contract over HTTP.

    Settings: api_key (else TENSORDOCK_API_TOKEN), api_url (else TENSORDOCK_API_URL).
    """

    name = wire.PROVIDER
    capabilities = CAPABILITIES[wire.PROVIDER]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._transport: Transport | None = None

    def _call(self, method: str, path: str, **options: Any) -> Answer:
        """Like Transport.call; raises AuthError when there is no token to call with.

        An error inside HTTP 200 is raised like any other, but for a status in accept.
        """
        if self._transport is None:
            account = _accounts.get(self.name, self._settings)
            if not account.key:
                raise AuthError("There is no API token for tensordock.", provider=self.name, fix=wire.KEY_FIX)
            headers = {"Authorization": f"Bearer {account.key}"}
            limiter = _rate_limit.Limiter(account, quota=_QUOTA)
            self._transport = Transport(
                self.name, account.url, headers, wire.refusal, pace=limiter.wait, heed=limiter.heed
            )
        answer = self._transport.call(method, path, **options)
        status = wire.real_status(answer)
        if status >= 400 and status not in options.get("accept", ()):
            refusal = wire.refusal(answer)
            raise self._strange(wire.said(answer)) if method == "GET" and isinstance(refusal, Ambiguous) else refusal
        return answer

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        wanted = query.get("runtime", Runtime.VM.value)
        if query.get("instance_type") or query.get("interruptible") or wanted != Runtime.VM.value:
            return []  # there are no types, bids and containers here
        places = market.places(self._call("GET", "/locations").body)
        if places is None:
            raise self._strange("no list of locations")
        return [offer for place in places for offer in market.offers_at(place, query)]

    def create(self, request: Request) -> Instance:
        market.check_request(request)
        body = market.create_body(request)
        answer = self._call("POST", "/instances", body=body, accept=_REFUSALS, read_seconds=CREATE_SECONDS)
        if wire.real_status(answer) >= 400:
            raise self._not_created(answer)
        made = wire.made_id(answer.body)
        if not made:
            raise Ambiguous(
                "tensordock answered a create with neither yes nor no, so it may have taken effect.",
                provider=self.name,
                status=answer.status,
                fix="Run again: it looks for what was done first.",
            )
        return wire.created(request, made)

    def _not_created(self, answer: Answer) -> ProviderError:
        """Why nothing was rented. Only what is wrong with the request itself keeps others from being tried."""
        refusal = wire.refusal(answer)
        if not isinstance(refusal, InvalidRequest) or (answer.status == 400 and wire.real_status(answer) == 400):
            return refusal
        details: dict[str, Any] = {"provider": self.name, "status": answer.status, "request_id": answer.request_id}
        if wire.real_status(answer) == 404:
            return OfferGone(refusal.message, fix="Its list was stale; another location is tried.", **details)
        return NoCapacity(refusal.message, fix="Another location is tried.", **details)

    def get(self, instance_id: str) -> Instance | None:
        row = self._row(instance_id)
        return self._ours(row) if row is not None else None

    def list(self) -> list[Instance]:
        found: dict[str, Instance] = {}
        for row in self._all_rows():
            if wire.marker_of(row) is None:
                continue
            # Rows of the list have little more than name and status.
            whole = row if wire.is_complete(row) else self._row(row["id"])
            if whole is None:  # it ended meanwhile
                continue
            instance = wire.instance_from(whole)
            if instance is None or instance.marker != wire.marker_of(row):
                raise self._strange(f"another name for instance {row['id']} than its list has")
            found[instance.id] = instance
        return list(found.values())

    def _all_rows(self) -> wire.Rows:
        rows = wire.rows_of(self._call("GET", "/instances").body)
        if rows is None:
            raise self._strange("no complete list of instances")
        return rows

    def start(self, instance_id: str) -> Instance:
        row = self._settled(instance_id)
        # The word of a refusal is not known; what it is after the call tells more.
        answer = self._call("POST", f"{self._path(instance_id)}/start", body={}, accept=(400, 409))
        current = self._must_get(instance_id)
        if wire.real_status(answer) < 400:
            # The order was taken; until it shows, this is no longer a stopped one.
            return replace(current, status=Status.PENDING) if current.status is Status.STOPPED else current
        if current.status is not Status.STOPPED:
            return current  # it runs already
        if wire.status_of(row) in (wire.DISASSOCIATED, wire.OUTBID):
            raise NoCapacity(
                f"tensordock can't start {instance_id}: its GPU was given away ({wire.said(answer)}).",
                provider=self.name,
                status=answer.status,
                fix="Destroy it (absent) and rent another one, or try again later; its disk goes on costing.",
            )
        raise wire.refusal(answer)

    def stop(self, instance_id: str) -> Instance:
        self._must_get(instance_id)  # what is not ours is not touched
        answer = self._call("POST", f"{self._path(instance_id)}/stop", body={}, accept=(400, 409))
        current = self._ours(self._settled(instance_id))
        if wire.real_status(answer) >= 400 and current.status is not Status.STOPPED:
            raise wire.refusal(answer)
        deadline = _clock.monotonic() + STOP_DEADLINE_SECONDS
        while current.status in (Status.RUNNING, Status.PENDING) and _clock.monotonic() < deadline:
            _clock.sleep(_POLL_SECONDS)
            current = self._ours(self._settled(instance_id))
        return current

    def _settled(self, instance_id: str) -> dict[str, Any]:
        """Our instance, when it is no longer on its way to a stop; after the deadline as it is."""
        deadline = _clock.monotonic() + STOP_DEADLINE_SECONDS
        while True:
            row = self._row(instance_id)
            if row is None:
                raise missing(self.name, f"instance {instance_id}")
            self._ours(row)
            if wire.status_of(row) != wire.STOPPING or _clock.monotonic() > deadline:
                return row
            _clock.sleep(_POLL_SECONDS)

    def delete(self, instance_id: str) -> bool:
        """Only this ends what it costs, and only a GET that answers 404 proves it, unless the list had it then."""
        row = self._row(instance_id)
        late = self._listed(instance_id) if row is None else None  # what was just made may not be found by its id yet
        for seen in filter(None, (row, late)):
            self._ours(seen)  # what is not ours is not touched

        def order() -> str | None:
            answer = self._call("DELETE", self._path(instance_id), accept=(400, 404, 409))
            status = wire.real_status(answer)
            if status == 404:
                gone = self._is_gone(answer, instance_id) and (late is None or self._listed(instance_id) is None)
                return None if gone else wire.said(answer)
            return wire.said(answer) if status >= 400 else ""

        def look() -> Left | None:
            now = self._row(instance_id)
            if now is None and late is not None:
                now = self._listed(instance_id)
            return None if now is None else Left(wire.price_of(now))

        return Ending(self.name, f"instance {instance_id}", wire.CONSOLE, order, look).finish()

    def log(self, instance_id: str, words: str) -> str:
        return ""  # it shows none

    def clean_up(self, deployment_id: str) -> bool:
        return False  # nothing is made beside the instances

    def _path(self, instance_id: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z-]{3,63}", instance_id):
            raise InvalidRequest(
                f"{instance_id!r} is no id of tensordock: those are letters, digits and hyphens.",
                provider=self.name,
                fix="Take one that instance_info shows.",
            )
        return f"/instances/{instance_id}"

    def _row(self, instance_id: str) -> dict[str, Any] | None:
        """The provider's description; None only when it says that there is no such instance."""
        answer = self._call("GET", self._path(instance_id), accept=(404,))
        if wire.real_status(answer) == 404:
            if self._is_gone(answer, instance_id):
                return None
            raise self._strange(f"404 for instance {instance_id}, which its list has")
        row = wire.row_of(answer.body)
        if row is None or row["id"] != instance_id:
            raise self._strange("something that is not the instance we asked for")
        # Without a name it would be somebody else's.
        return row if "name" in row else {**(self._listed(instance_id) or {}), **row}

    def _listed(self, instance_id: str) -> dict[str, Any] | None:
        """Its row in the list; None when the complete list has none."""
        return next((row for row in self._all_rows() if row["id"] == instance_id), None)

    def _is_gone(self, answer: Answer, instance_id: str) -> bool:
        """Whether a 404 is about the instance: what has no JSON may come from a wrong address, and the list decides."""
        if isinstance(answer.body, dict):
            return True
        return self._listed(instance_id) is None

    def _ours(self, row: Mapping[str, Any]) -> Instance:
        instance = wire.instance_from(row)
        if instance is None:
            raise not_ours(self.name, f"Instance {row.get('id')}", "name")
        return instance

    def _must_get(self, instance_id: str) -> Instance:
        instance = self.get(instance_id)
        if instance is None:
            raise missing(self.name, f"instance {instance_id}")
        return instance

    def _strange(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"tensordock answered with {what}.", provider=self.name, fix="Run again; if it stays so, look at api_url."
        )
