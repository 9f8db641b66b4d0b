# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which peers a host's firewall lets in, by the sets that hold their addresses."""

from __future__ import annotations

DOCUMENTATION = r"""
name: firewall_peers
short_description: Say whose addresses belong into the sets of a firewall
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Returns the names of the peers that may reach each service, by the beginning of the names of the sets that
    P(gpuops.fleet.firewall_rules#filter) made for them. The program of the role P(gpuops.fleet.firewall#role) looks
    these names up on the host.
positional: groups
options:
  _input:
    description: The services, each with C(name), and C(from_groups) where peers may reach it.
    type: list
    elements: dict
    required: true
  groups:
    description: The names of the peers, by group.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who may reach what
  ansible.builtin.debug:
    msg: "{{ firewall_services | gpuops.fleet.firewall_peers(firewall_groups) }}"
    # => {"kafka_peers": ["processor-1.acme-llm.internal", "producer-1.acme-llm.internal"]}
"""

RETURN = r"""
_value:
  description: Lists of names of peers, by the beginning of the names of their sets.
  type: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _firewall


def firewall_peers(services: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The names of the peers, by the beginning of the names of their sets."""
    return _firewall.peers(services, groups)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"firewall_peers": firewall_peers}
