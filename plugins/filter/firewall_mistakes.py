# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the wishes for a host's firewall, in sentences."""

from __future__ import annotations

DOCUMENTATION = r"""
name: firewall_mistakes
short_description: Say what is wrong with the services that a firewall should let in
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Returns one sentence for each mistake in the list of services of the role P(gpuops.fleet.firewall#role), and none
    where rules can be made from it.
  - Nothing is looked up or changed.
positional: groups
options:
  _input:
    description: The services, each with C(name), C(ports), and C(from_cidrs) or C(from_groups) or both.
    type: list
    elements: dict
    required: true
  groups:
    description: The names of the peers, by group.
    type: dict
    default: {}
  ssh_ports:
    description: The ports of the SSH server.
    type: list
    elements: int
    default: [22]
  container_interfaces:
    description: The bridges of containers, as names or beginnings of names with an asterisk.
    type: list
    elements: str
    default: []
  outside_interfaces:
    description: The interfaces of the host's default routes, which must not be among O(container_interfaces).
    type: list
    elements: str
    default: []
  ssh_cidrs:
    description: The networks that may reach the SSH server; an empty list for everybody.
    type: list
    elements: str
    default: []
  ssh_client:
    description: The address from which Ansible came, which must be in O(ssh_cidrs).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Stop on what would not work
  ansible.builtin.assert:
    that: firewall_mistakes | length == 0
    fail_msg: "{{ firewall_mistakes | join(' ') }}"
  vars:
    firewall_mistakes: "{{ firewall_services | gpuops.fleet.firewall_mistakes(firewall_groups) }}"
"""

RETURN = r"""
_value:
  description: One sentence for each mistake.
  type: list
  elements: str
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _firewall


def firewall_mistakes(
    services: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[Any]] | None = None,
    ssh_ports: Sequence[Any] = (22,),
    container_interfaces: Sequence[Any] = (),
    outside_interfaces: Sequence[Any] = (),
    ssh_cidrs: Sequence[Any] = (),
    ssh_client: str = "",
) -> list[str]:
    """One sentence for each thing that is wrong."""
    return _firewall.mistakes(
        services,
        groups or {},
        ssh_ports,
        container_interfaces,
        outside_interfaces,
        ssh_cidrs=ssh_cidrs,
        ssh_client=ssh_client,
    )


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"firewall_mistakes": firewall_mistakes}
