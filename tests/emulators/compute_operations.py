# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations of Compute v1: what was ordered is done later, and only then it is known whether it could be done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .compute_rules import check_request_id, invalid, not_found
from .world import World


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+00:00"


@dataclass
class Operation:
    wire: dict[str, Any]
    done_at: float
    finish: Callable[[], None]
    errors: list[dict[str, Any]]

    @property
    def done(self) -> bool:
        return bool(self.wire["status"] == "DONE")


@dataclass
class Operations:
    """All that were ever ordered, by their name."""

    world: World
    base: str  # how its URLs begin
    all: dict[str, Operation] = field(default_factory=dict)
    _by_request: dict[tuple[str, str], Operation] = field(default_factory=dict)

    def repeated(self, request_id: str | None, what: str) -> Operation | None:
        """The operation that this very request has led to before."""
        check_request_id(request_id)
        return self._by_request.get((request_id, what)) if request_id else None

    def order(
        self,
        kind: str,
        scope: str,
        target: tuple[str, str],
        seconds: float,
        finish: Callable[[], None] = lambda: None,
        *,
        errors: list[dict[str, Any]] | None = None,
        request: tuple[str | None, str] = (None, ""),
    ) -> Operation:
        """scope: zones/Z or global; target: its path and its number."""
        now, number = self.world.now(), next(self.world.numbers)
        name = f"operation-{number:013d}"
        wire = {
            "kind": "compute#operation",
            "id": str(7_000_000_000_000_000_000 + number),
            "name": name,
            "operationType": kind,
            "targetLink": f"{self.base}/{target[0]}",
            "targetId": target[1],
            "status": "RUNNING",
            "user": "somebody@example.com",
            "progress": 0,
            "insertTime": moment(now),
            "startTime": moment(now),
            "selfLink": f"{self.base}/{scope}/operations/{name}",
            **({"zone": f"{self.base}/{scope}"} if scope != "global" else {}),
        }
        operation = Operation(wire, now + seconds, finish, errors or [])
        self.all[name] = operation
        if request[0]:
            self._by_request[(request[0], request[1])] = operation
        return operation

    def settle(self) -> None:
        """Finish what is due, in its order."""
        now = self.world.now()
        due = [one for one in self.all.values() if not one.done and one.done_at <= now]
        for one in sorted(due, key=lambda operation: operation.done_at):
            one.wire |= {"status": "DONE", "progress": 100, "endTime": moment(one.done_at)}
            if one.errors:
                status = 403 if one.errors[0]["code"] == "QUOTA_EXCEEDED" else 503
                message = "FORBIDDEN" if status == 403 else "SERVICE UNAVAILABLE"
                one.wire |= {
                    "error": {"errors": one.errors},
                    "httpErrorStatusCode": status,
                    "httpErrorMessage": message,
                }
            one.finish()

    def must_find(self, name: str, scope: str) -> Operation:
        found = self.all.get(name)
        if found is None or f"/{scope}/operations/" not in found.wire["selfLink"]:
            raise not_found(f"projects/p/{scope}/operations/{name}")
        return found

    def list(self, scope: str, filter_text: str | None) -> list[dict[str, Any]]:
        wires = [one.wire for one in self.all.values() if f"/{scope}/operations/" in one.wire["selfLink"]]
        return [wire for wire in wires if chosen(wire, filter_text)]


def chosen(row: Mapping[str, Any], filter_text: str | None) -> bool:
    """The part of the filter language that is used here: (a = b) (c = d), or (a = b) OR (a = c)."""
    if not filter_text:
        return True
    terms = re.findall(r'\(?\s*([\w.]+)\s*=\s*"?([\w.-]+)"?\s*\)?', filter_text)
    rest = re.sub(r'\(?\s*[\w.]+\s*=\s*"?[\w.-]+"?\s*\)?|\bOR\b|\bAND\b|\s', "", filter_text)
    if not terms or rest:
        raise invalid(f"Invalid value for field 'filter': '{filter_text}'. Invalid list filter expression.")
    matches = [str(row.get(name)) == value for name, value in terms]
    return any(matches) if " OR " in filter_text else all(matches)
