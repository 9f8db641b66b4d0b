# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of a host's firewall, for nftables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: firewall_rules
short_description: Make the rules of a firewall for nftables
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Returns the text for C(nft --file) that closes a host for everything from outside but SSH, what the network itself
    needs, and the services of the list; for IPv4 and IPv6, for the host's own ports and for published ports of
    containers.
  - It makes one table, C(inet gpuops_fleet), in one step, and leaves those of others alone.
  - Give only what P(gpuops.fleet.firewall_mistakes#filter) finds nothing wrong with.
positional: ssh_ports, container_interfaces, ssh_cidrs
options:
  _input:
    description: The services, each with C(name), C(ports), and C(from_cidrs) or C(from_groups) or both.
    type: list
    elements: dict
    required: true
  ssh_ports:
    description: The ports of the SSH server.
    type: list
    elements: int
    required: true
  container_interfaces:
    description: The bridges of containers, as names or beginnings of names with an asterisk.
    type: list
    elements: str
    required: true
  ssh_cidrs:
    description: The networks that may reach the SSH server; an empty list for everybody.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the rules
  ansible.builtin.debug:
    msg: "{{ firewall_services | gpuops.fleet.firewall_rules([22], ['docker0', 'br-*']) }}"
"""

RETURN = r"""
_value:
  description: The text for C(nft --file).
  type: str
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _firewall


def firewall_rules(
    services: Sequence[Mapping[str, Any]],
    ssh_ports: Sequence[Any],
    container_interfaces: Sequence[str],
    ssh_cidrs: Sequence[str] = (),
) -> str:
    """The text for nft --file."""
    return _firewall.rules(services, ssh_ports, container_interfaces, ssh_cidrs)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"firewall_rules": firewall_rules}
