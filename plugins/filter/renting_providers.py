# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Those providers that rent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, Capability

DOCUMENTATION = r"""
name: renting_providers
short_description: Those providers that rent
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Returns the providers that rent, sorted, each once. One that is not known is taken for one that does. A provider of
    machines that you own (V(ssh)) does not, so there is no account in which something could live.
options:
  _input:
    description: Names of providers.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Say who was asked
  ansible.builtin.debug:
    msg: "Asked: {{ fleet_providers | gpuops.fleet.renting_providers | join(', ') }}"
"""

RETURN = r"""
_value:
  description: Names of providers.
  type: list
  elements: str
"""


def renting_providers(names: Iterable[str]) -> list[str]:
    """Sorted, each once."""
    return sorted({name for name in names if Capability.OWNED not in CAPABILITIES.get(name, ())})


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"renting_providers": renting_providers}
