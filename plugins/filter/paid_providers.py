# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Those providers whose rentals cost money."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, Capability

DOCUMENTATION = r"""
name: paid_providers
short_description: Those providers whose rentals cost money
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Returns the providers whose rentals cost money, sorted, each once. One that is not known is taken for one that does.
    Machines that you own (V(ssh)) are no rentals.
options:
  _input:
    description: Names of providers.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Ask before anything is ended that somebody pays for
  ansible.builtin.assert:
    that: fleet_confirm == fleet_deployment_id
  when: (['local', 'runpod'] | gpuops.fleet.paid_providers) is truthy
"""

RETURN = r"""
_value:
  description: Names of providers.
  type: list
  elements: str
"""


def paid_providers(names: Iterable[str]) -> list[str]:
    """Sorted, each once."""
    free = {name for name, can in CAPABILITIES.items() if can & {Capability.FREE, Capability.OWNED}}
    return sorted(set(names) - free)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"paid_providers": paid_providers}
