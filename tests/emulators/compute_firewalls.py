# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Firewall rules of the emulated Compute v1."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

from .compute_operations import Operations, moment
from .compute_rules import Refused, check_tags, invalid, last, not_found
from .world import World

SECONDS = 4.0  # of the world, until a change is done

Values = dict[str, str]
Answer = dict[str, Any]


@dataclass
class Firewalls:
    """By name. A change is seen when its operation is done."""

    world: World
    operations: Operations
    base: str
    all: dict[str, Answer] = field(default_factory=dict)
    _ordered: set[str] = field(default_factory=set)

    def must_find(self, at: Values) -> Answer:
        if at["firewall"] not in self.all:
            raise not_found(f"projects/p/global/firewalls/{at['firewall']}")
        return self.all[at["firewall"]]

    def insert(self, at: Values, query: Values, wish: Answer) -> Answer:
        name = wish["name"]
        repeated = self.operations.repeated(query.get("requestId"), f"firewall {name}")
        if repeated:
            return repeated.wire
        if name in self.all or name in self._ordered:
            raise Refused(409, "alreadyExists", f"The resource 'projects/p/global/firewalls/{name}' already exists")
        whole = {"network": "global/networks/default", "priority": 1000, "direction": "INGRESS", **wish}
        _check(whole)
        network = f"{self.base}/global/networks/{last(whole['network'])}"
        number = str(9_000_000 + next(self.world.numbers))
        shown = {
            "kind": "compute#firewall",
            "id": number,
            "creationTimestamp": moment(self.world.now()),
            "disabled": False,
            "selfLink": f"{self.base}/global/firewalls/{name}",
            **_defaults(whole),
            "network": network,
        }
        self._ordered.add(name)

        def finish() -> None:
            self.all[name] = shown
            self._ordered.discard(name)

        request = (query.get("requestId"), f"firewall {name}")
        return self._order("insert", name, number, finish, request)

    def patch(self, at: Values, query: Values, body: Answer) -> Answer:
        """What isn't named stays."""
        current = self.must_find(at)
        wanted = {**current, **body}
        _check(wanted)
        if last(wanted["network"]) != last(current["network"]):
            raise invalid("Invalid value for field 'resource.network': the network of a firewall cannot be changed.")

        def finish() -> None:
            self.all[at["firewall"]] = {**_defaults(wanted), "network": current["network"]}

        return self._order("patch", at["firewall"], current["id"], finish)

    def delete(self, at: Values, query: Values, body: Any) -> Answer:
        current = self.must_find(at)
        return self._order("delete", at["firewall"], current["id"], lambda: self.all.pop(at["firewall"], None) and None)

    def _order(
        self, kind: str, name: str, number: str, finish: Any, request: tuple[str | None, str] = (None, "")
    ) -> Answer:
        target = (f"global/firewalls/{name}", number)
        return self.operations.order(kind, "global", target, SECONDS, finish, request=request).wire


def _defaults(wish: Answer) -> Answer:
    if wish["direction"] == "INGRESS" and not any(wish.get(one) for one in ("sourceRanges", "sourceTags")):
        return {**wish, "sourceRanges": ["0.0.0.0/0"]}  # the whole internet, when nobody says anything
    return wish


def _check(wish: Answer) -> None:
    if bool(wish.get("allowed")) == bool(wish.get("denied")):
        raise invalid("Exactly one of allowed and denied is required.")
    for rule in [*(wish.get("allowed") or []), *(wish.get("denied") or [])]:
        if not rule.get("IPProtocol"):
            raise invalid("Invalid value for field 'resource.allowed[0].IPProtocol': ''.")
        if rule.get("ports") and rule["IPProtocol"] not in ("tcp", "udp", "sctp", "6", "17", "132"):
            raise invalid("Ports may only be specified on rules whose protocol is one of [TCP, UDP, SCTP].")
        for ports in rule.get("ports") or []:
            first, _hyphen, end = ports.partition("-")
            if not first.isdecimal() or not (end or first).isdecimal() or not int(first) <= int(end or first) <= 65535:
                raise invalid(f"Invalid value for field 'resource.allowed[0].ports[0]': '{ports}'.")
    for text in wish.get("sourceRanges") or []:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise invalid(f"Invalid value for field 'resource.sourceRanges[0]': '{text}'. {error}") from error
    if not 0 <= int(wish.get("priority", 1000)) <= 65535:
        raise invalid("Invalid value for field 'resource.priority'.")
    check_tags(wish.get("targetTags") or [])
    check_tags(wish.get("sourceTags") or [])
