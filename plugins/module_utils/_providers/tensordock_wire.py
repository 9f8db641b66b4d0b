# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What TensorDock's API says, in our words. Pure: nothing here talks to anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CONSOLES,
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer

Rows = list[dict[str, Any]]

PROVIDER = "tensordock"
CONSOLE = CONSOLES[PROVIDER]
KEY_FIX = (
    "Set TENSORDOCK_API_TOKEN, or provider_settings.tensordock.api_key, to a token from "
    "https://dashboard.tensordock.com/developers."
)
DISASSOCIATED = "stoppeddisassociated"
STOPPING = "stopping"
OUTBID = "outbid"

# In lower case, as it writes them in several ways. A word that isn't here is none of a failure.
_STATUS = {
    "running": Status.RUNNING,
    # The order was taken; it costs as much as before, as a stopped one does.
    STOPPING: Status.STOPPED,
    "stopped": Status.STOPPED,
    DISASSOCIATED: Status.STOPPED,
    OUTBID: Status.STOPPED,
    "deleting": Status.TERMINATING,
    "deleted": Status.TERMINATING,
    # Whatever its word says, only a DELETE ends what it costs: so it is still there.
    "terminated": Status.FAILED,
    "error": Status.FAILED,
    "failed": Status.FAILED,
}
_DETAILS = {
    DISASSOCIATED: "stopped, and its GPU was given away: a start may find none; its disk goes on costing",
    STOPPING: "stopping",
    OUTBID: "outbid by others",
}

_SOLD_OUT = re.compile(r"no available (nodes?|public ips?)|out of stock|not enough|insufficient (capacity|stock)", re.I)
_NO_CREDIT = re.compile(r"need at least \$|(insufficient|not enough) (balance|funds|credit)", re.I)


def made_id(body: Any) -> str:
    """The id in the answer to a create; "" when there is none."""
    found = row_of(body)
    return str(found["id"]) if found else ""


def created(request: Request, instance_id: str) -> Instance:
    """The instance as far as it is known right after its create."""
    offer = request.offer
    return Instance(
        provider=PROVIDER,
        id=instance_id,
        marker=request.marker,
        status=Status.PENDING,
        gpu=offer.gpu,
        gpu_count=offer.gpu_count,
        price_per_hour_usd=offer.price_per_hour_usd,
        disk_gib=request.disk_gib,
        created_at=_marker.claimed_at(request.marker),
    )


def rows_of(body: Any) -> Rows | None:
    """The instances in any of the three lists that were seen; None when it is none of them, or has more pages."""
    if not isinstance(body, dict) or mapping(body.get("links")).get("next"):
        return None
    data = body.get("data")
    if isinstance(data, dict):
        data = data.get("instances", mapping(data.get("attributes")).get("instances"))
    if not isinstance(data, list):
        return None
    found = [row_of(one) for one in data]
    # What has no name can't be told from ours.
    return [row for row in found if row and "name" in row] if all(row and "name" in row for row in found) else None


def row_of(body: Any) -> dict[str, Any] | None:
    """One instance, with what stands under data or attributes beside the rest; None when it has no id."""
    row = body
    if isinstance(row, dict) and isinstance(row.get("data"), dict):
        row = row["data"]
    if isinstance(row, dict) and isinstance(row.get("attributes"), dict):
        row = {**{name: value for name, value in row.items() if name != "attributes"}, **row["attributes"]}
    return row if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"] else None


def marker_of(row: Mapping[str, Any]) -> Marker | None:
    """The marker in its name; None when that is not exactly one: then it is not ours."""
    name = row.get("name")
    return _marker.parse(name) if isinstance(name, str) else None


def is_complete(row: Mapping[str, Any]) -> bool:
    """Whether a row says all that we need; those of lists often don't."""
    return isinstance(row.get("resources"), dict) and "rateHourly" in row and "portForwards" in row


def instance_from(row: Mapping[str, Any]) -> Instance | None:
    """The instance in our words; None when its name isn't exactly one of our markers."""
    marker = marker_of(row)
    if marker is None:
        return None
    resources = mapping(row.get("resources"))
    gpus = [(name, _count(value)) for name, value in mapping(resources.get("gpus")).items()]
    word = status_of(row)
    address = str(row.get("ipAddress") or "").strip() or None
    disk_gib, price = number(resources.get("storage_gb")), number(row.get("rateHourly"))
    return Instance(
        provider=PROVIDER,
        id=str(row["id"]),
        marker=marker,
        status=_STATUS.get(word, Status.PENDING),
        outbid=word == OUTBID,
        gpu=_gpus.identify(gpus[0][0]) if len(gpus) == 1 else None,
        gpu_count=sum(count for _name, count in gpus),
        price_per_hour_usd=price or None,  # 0 is what it says while it doesn't know
        # Of a stopped one it may be the price of a disk alone.
        running_price_per_hour_usd=None if _STATUS.get(word) is Status.STOPPED else price or None,
        disk_gib=int(disk_gib) if disk_gib else None,
        address=address,
        ssh_endpoints=_endpoints(row, address),
        created_at=_marker.claimed_at(marker),
        detail=_detail(row, word, address),
    )


def status_of(row: Mapping[str, Any]) -> str:
    """Its own word, in lower case."""
    return str(row.get("status") or "").strip().casefold()


def _forwards(row: Mapping[str, Any]) -> dict[int, int]:
    """The port outside of each port inside, as they really are: what was asked for is changed, or forgotten."""
    listed = row.get("portForwards")
    pairs = [(one.get("internal_port"), one.get("external_port")) for one in listed or () if isinstance(one, dict)]
    numbers = [(_port(inside), _port(outside)) for inside, outside in pairs]
    return {inside: outside for inside, outside in numbers if inside and outside}


def _port(value: Any) -> int:
    """The number; 0 for what is no port."""
    return int(value) if str(value).isdecimal() and int(value) < 65536 else 0


def _endpoints(row: Mapping[str, Any], address: str | None) -> tuple[Endpoint, ...]:
    """Where SSH answers: at the forwarded port, else at its own, as with an address of its own."""
    return (Endpoint(address, _forwards(row).get(22, 22)),) if address else ()


def _detail(row: Mapping[str, Any], word: str, address: str | None) -> str:
    words = _DETAILS.get(word, word or "no status yet")
    forwards = _forwards(row)
    if forwards:
        return f"{words}; " + ", ".join(f"port {inside} is {outside} outside" for inside, outside in forwards.items())
    if word == "running":
        words += "; no port is forwarded, so it is reached only at an address of its own" if address else "; no address"
    return words


def price_of(row: Mapping[str, Any]) -> float | None:
    """What it costs now, USD per hour."""
    return number(row.get("rateHourly")) or None


def _count(value: Any) -> int:
    return int(number(value.get("count") if isinstance(value, dict) else value) or 0)


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def real_status(answer: Answer) -> int:
    """What the answer means: a 200 can have an error in it, with a status of its own."""
    body = answer.body if isinstance(answer.body, dict) else {}
    status = body.get("status")
    if body.get("error") and not body.get("data") and answer.status < 400:
        return status if isinstance(status, int) and status >= 400 else 400
    return answer.status


def said(answer: Answer) -> str:
    """The provider's own words: an error, a message, or the list of what is wrong with a request."""
    body = answer.body
    words: Any = answer.text
    if isinstance(body, list):
        issues = [one for one in body if isinstance(one, dict)]
        words = "; ".join(f"{'.'.join(map(str, one.get('path') or []))}: {one.get('message')}" for one in issues)
    elif isinstance(body, dict):
        words = body.get("error") or body.get("message") or answer.text
        words = words.get("message") or words if isinstance(words, dict) else words
    return " ".join(str(words).split())[:300]


def refusal(answer: Answer) -> ProviderError:
    """An answer that says no, also one with HTTP 200, as an error of the contract."""
    status, words = real_status(answer), said(answer)
    details: dict[str, Any] = {"provider": PROVIDER, "status": answer.status, "request_id": answer.request_id}
    message = f"{PROVIDER} refuses: {(words or f'it answered {status}').rstrip('.')}."
    if status in (401, 403):
        return AuthError(message, fix=KEY_FIX, **details)
    if status == 402 or _NO_CREDIT.search(words):
        return QuotaError(message, fix=f"Add credit at {CONSOLE}.", **details)
    if _SOLD_OUT.search(words):
        return NoCapacity(message, fix="Its list was stale; another location is tried, or try again later.", **details)
    if status == 429:
        return RateLimited(
            message, fix="Run again later; several controllers of one account share its limits.", **details
        )
    if status >= 500:
        return Ambiguous(message, fix="Run again: it looks for what was done first.", **details)
    return InvalidRequest(message, fix="Change what it names, then run again.", **details)
