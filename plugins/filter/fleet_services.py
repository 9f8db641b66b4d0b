# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach what on a host of a fleet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

DOCUMENTATION = r"""
name: fleet_services
short_description: Who may reach what on a host of a fleet
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Returns what the role P(gpuops.fleet.firewall#role) lets in on a host, from the roles that the host has in the
    fleet and from those that its peers have. What C(firewall_services) of the host says comes on top.
  - Kafka answers processors and producers, MongoDB processors, vLLM the gateways (a producer, where the fleet has no
    gateway), a gateway its clients, and every host and the processor show their metrics to monitoring. Nobody else is
    let in.
positional: groups
options:
  _input:
    description: The variables of the host, such as C(hostvars['kafka-1']).
    type: dict
    required: true
  groups:
    description: The names of the groups of the fleet that have hosts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is let in
  ansible.builtin.debug:
    msg: "{{ hostvars[inventory_hostname] | gpuops.fleet.fleet_services(groups.keys()) }}"
"""

RETURN = r"""
_value:
  description: Services as in C(firewall_services).
  type: list
  elements: dict
"""

_EVERYBODY = ("0.0.0.0/0", "::/0")


def fleet_services(variables: Mapping[str, Any], groups: Collection[str]) -> list[dict[str, Any]]:
    """What is open on the host, by the names of its roles' variables and their defaults."""
    own = set(variables.get("group_names") or ())
    askers = ["gateway"] if "gateway" in groups else ["producer"]
    allowed = variables.get("gateway_allowed_cidrs") or _EVERYBODY
    clients = {"from_cidrs": [allowed] if isinstance(allowed, str) else list(allowed), "from_groups": ["producer"]}
    # (the host's role, name, port, who may)
    open_to: list[tuple[str, str, Any, dict[str, list[str]]]] = [
        ("kafka", "kafka", variables.get("kafka_port", 9092), {"from_groups": ["processor", "producer"]}),
        ("mongodb", "mongodb", variables.get("mongodb_port", 27017), {"from_groups": ["processor"]}),
        ("vllm", "vllm", variables.get("vllm_port", 8000), {"from_groups": askers}),
        ("processor", "processor", variables.get("processor_port", 8080), {"from_groups": ["monitoring"]}),
        ("gateway", "gateway", variables.get("gateway_https_port", 443), clients),
        ("gateway", "gateway-redirect", variables.get("gateway_http_port", 80), clients),
        ("fleet_ssh", "exporter", variables.get("monitoring_exporter_port", 9100), {"from_groups": ["monitoring"]}),
    ]
    services = [
        {"name": name, "ports": [int(port)], **_present(who, groups)}
        for role, name, port, who in open_to
        if role in own and int(port) > 0 and any(_present(who, groups).values())
    ]
    return services + [dict(service) for service in variables.get("firewall_services") or ()]


def _present(who: Mapping[str, list[str]], groups: Collection[str]) -> dict[str, list[str]]:
    """Groups that this fleet doesn't have can't be let in."""
    return {kind: [one for one in names if kind == "from_cidrs" or one in groups] for kind, names in who.items()}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_services": fleet_services}
