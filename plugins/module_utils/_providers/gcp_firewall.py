# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Firewall rules of Google Cloud: what lets somebody in, said in full, and nothing more than that.

A rule has no labels: it is ours by its name and by a description that says the same.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker, _source_ranges
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, NameTaken
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_errors as errors
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_api import ComputeApi

# In an order that reads well in a diff.
_FIELDS = (
    "network",
    "direction",
    "priority",
    "allowed",
    "denied",
    "sourceRanges",
    "sourceTags",
    "targetTags",
    "disabled",
)
_TAG = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_WITH_PORTS = ("tcp", "udp", "sctp")

Rule = dict[str, Any]


def run_firewall(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Bring one rule to the wanted state; asks nobody before all of the wish is right."""
    deployment_id = _marker.check_deployment_id(params["deployment_id"])
    name = f"gf--{deployment_id}--{_marker.check_name(params['name'])}"
    wanted = None if params["state"] == "absent" else _wanted(params)
    rules = Rules(ComputeApi((params["provider_settings"] or {}).get(errors.PROVIDER) or {}), name)
    before = rules.find()
    if before is not None and wanted is not None and before["network"] != wanted["network"]:
        raise InvalidRequest(
            f"{errors.PROVIDER}: the rule {name} is of the network {before['network']}, not of {wanted['network']}.",
            provider=errors.PROVIDER,
            fix="A rule can't move: remove it first (state: absent), then make it anew.",
        )
    changed = before != wanted
    after = wanted
    if changed and not check_mode:
        rules.apply(before, wanted)
        after = rules.find()
        if after != wanted:
            raise errors.strange(f"a rule {name} that is not as it was ordered")
    return {"changed": changed, "diff": {"before": before or {}, "after": after or {}}, "rule": _shown(name, after)}


@dataclass
class Rules:
    """One rule of a project."""

    api: ComputeApi
    name: str

    @property
    def path(self) -> str:
        return f"/global/firewalls/{self.name}"

    def find(self) -> Rule | None:
        """The rule as far as we say what it is; None only when Google says that there is none."""
        answer = self.api.call("GET", self.path, accept=(404,))
        if answer.status == 404:
            if errors.is_gone(answer, self.path):
                return None
            raise errors.strange(f"404 about something else than the rule ({errors.said(answer)[:100]})")
        if not isinstance(answer.body, dict):
            raise errors.strange("no firewall rule")
        if answer.body.get("description") != _description(self.name):
            raise InvalidRequest(
                f"{errors.PROVIDER}: there is a rule {self.name}, but its description does not say that it is ours.",
                provider=errors.PROVIDER,
                fix="Leave it alone: it is somebody else's. Choose another name.",
            )
        return _normal(answer.body)

    def apply(self, before: Rule | None, wanted: Rule | None) -> None:
        if wanted is None:
            answer = self.api.order("DELETE", self.path, accept=(404,))
            if answer.status != 404:
                self._finish(answer.body, "remove")
            return
        body = {**wanted, "network": f"global/networks/{wanted['network']}"}
        if before is None:
            body |= {"name": self.name, "description": _description(self.name)}
            try:
                answer = self.api.order("POST", "/global/firewalls", _without_empty(body))
            except NameTaken:
                current = self.find()  # another controller was faster; what it made may differ
                if current is not None and current != wanted:
                    self.apply(current, wanted)
                return
            self._finish(answer.body, "make")
            return
        changes = {field: wanted[field] for field in _FIELDS if wanted[field] != before[field]}
        answer = self.api.order("PATCH", self.path, {"name": self.name, **changes})
        self._finish(answer.body, "change")

    def _finish(self, operation: Any, doing: str) -> None:
        done = self.api.finished(operation)
        if errors.operation_errors(done):
            raise errors.failed(done, f"{doing} the rule {self.name}")


def _description(name: str) -> str:
    return f"gpuops.fleet {name}"


def _wanted(params: Mapping[str, Any]) -> Rule:
    if not params["target_tags"]:
        raise ValueError(
            "target_tags is empty, and a rule without would open every machine of the network; write for example "
            f"'target_tags: [gpuops-fleet-{params['deployment_id']}]'."
        )
    for tag in params["target_tags"]:
        if not _TAG.fullmatch(tag):
            raise ValueError(f"target_tags: '{tag}' is no network tag; write lower-case letters, digits and hyphens.")
    if not params["source_ranges"]:
        raise ValueError(
            "source_ranges is empty, which Google takes for the whole internet; write who may come in, for example "
            "'source_ranges: [203.0.113.0/24]'."
        )
    ranges = [_range(text) for text in params["source_ranges"]]
    everybody = next((text for text in _together(ranges) if text.endswith("/0")), None)
    if everybody and not params["allow_everybody"]:
        raise ValueError(
            f"source_ranges: '{everybody}' is the whole internet; write who may come in, or insist with "
            "'allow_everybody: true'."
        )
    if not params["allow"]:
        raise ValueError("allow is empty, so nothing would be let in; write '- {protocol: tcp, ports: [\"22\"]}'.")
    if not 0 <= params["priority"] <= 65534:
        raise ValueError(f"priority {params['priority']} is out of range; write a number from 0 to 65534.")
    return _normal(
        {
            "network": params["network"] or "default",
            "direction": "INGRESS",
            "priority": params["priority"],
            "allowed": [_allowed(entry) for entry in params["allow"]],
            "sourceRanges": ranges,
            "targetTags": params["target_tags"],
        }
    )


def _range(text: str) -> str:
    try:
        return _source_ranges.check(text)
    except ValueError as error:
        raise ValueError(f"source_ranges: {error}") from error


def _together(ranges: Iterable[str]) -> list[str]:
    """What they are in all: two halves of the internet are the whole."""
    networks = [ipaddress.ip_network(text) for text in ranges]
    old = ipaddress.collapse_addresses([one for one in networks if isinstance(one, ipaddress.IPv4Network)])
    new = ipaddress.collapse_addresses([one for one in networks if isinstance(one, ipaddress.IPv6Network)])
    return [str(one) for one in (*old, *new)]


def _allowed(entry: Mapping[str, Any]) -> dict[str, Any]:
    protocol, ports = entry["protocol"].lower(), entry["ports"] or []  # as Google writes it
    if ports and protocol not in _WITH_PORTS:
        raise ValueError(f"allow: protocol '{protocol}' has no ports; leave ports out.")
    for text in ports:
        first, hyphen, end = text.partition("-")
        numbers = [int(one) if one.isdecimal() else -1 for one in ((first, end) if hyphen else (first,))]
        if not all(1 <= one <= 65535 for one in numbers) or numbers != sorted(numbers):
            raise ValueError(f"allow: '{text}' is neither a port nor a range of ports; write '22' or '8000-8010'.")
    return {"IPProtocol": protocol, **({"ports": list(ports)} if ports else {})}


def _normal(rule: Mapping[str, Any]) -> Rule:
    """The same words and order, whoever wrote it: Google answers with URLs, and in an order of its own."""
    return {
        "network": str(rule.get("network") or "default").rpartition("/")[2],
        "direction": rule.get("direction") or "INGRESS",
        "priority": int(rule.get("priority", 1000)),
        "allowed": _protocols(rule.get("allowed")),
        "denied": _protocols(rule.get("denied")),
        "sourceRanges": sorted(_range(text) for text in rule.get("sourceRanges") or ()),
        "sourceTags": sorted(rule.get("sourceTags") or ()),
        "targetTags": sorted(set(rule.get("targetTags") or ())),
        "disabled": bool(rule.get("disabled")),
    }


def _protocols(entries: Iterable[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    plain = [
        {"IPProtocol": str(one["IPProtocol"]), **({"ports": sorted(one["ports"])} if one.get("ports") else {})}
        for one in entries or ()
    ]
    return sorted(plain, key=lambda one: (one["IPProtocol"], one.get("ports", [])))


def _without_empty(body: Rule) -> Rule:
    return {name: value for name, value in body.items() if value is not False and value != []}  # 0 is a priority


def _shown(name: str, rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    return {
        "name": name,
        "network": rule["network"],
        "priority": rule["priority"],
        "allow": [{"protocol": one["IPProtocol"], "ports": one.get("ports", [])} for one in rule["allowed"]],
        "source_ranges": rule["sourceRanges"],
        "target_tags": rule["targetTags"],
    }
