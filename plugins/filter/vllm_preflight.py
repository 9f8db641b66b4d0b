# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.vllm_preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vllm_preflight
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: Read what the preflight of a model needs from an instance of a fleet file
description:
  - Returns the options of M(gpuops.fleet.model_preflight) that no variable of the role P(gpuops.fleet.vllm#role) says.
  - They follow from the instance, its defaults included, or stand among the server's further arguments.
options:
  _input:
    description: The instance, as it stands in the fleet file.
    type: dict
    required: true
  extra_arguments:
    description: More arguments of vLLM, as in C(vllm_extra_arguments) of the role.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look at the disk that would be rented
  ansible.builtin.debug:
    msg: "{{ (fleet_wanted_instance | gpuops.fleet.vllm_preflight(vllm_extra_arguments | default([]))).disk_gib }}"
"""

RETURN = r"""
_value:
  description: Options of M(gpuops.fleet.model_preflight).
  type: dict
  contains:
    disk_gib:
      description: Size of the disk that is rented; V(0) for a machine that you own.
      type: int
      sample: 50
    expert_parallel:
      description: Whether C(--enable-expert-parallel) is among the arguments.
      type: bool
      sample: false
    kv_cache_dtype:
      description: What C(--kv-cache-dtype) says; V(auto) where it is missing or names a type that isn't known here.
      type: str
      sample: auto
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _model_rental


def vllm_preflight(instance: Mapping[str, Any], extra_arguments: list[str] | None = None) -> dict[str, Any]:
    """See DOCUMENTATION."""
    return {"disk_gib": _model_rental.disk_gib(instance), **_model_rental.of_arguments(extra_arguments or [])}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vllm_preflight": vllm_preflight}
