# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.vllm_command."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vllm_command
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: Compute vLLM's command line and environment
description:
  - Turns settings into the command line and the environment of a vLLM server.
  - It is the only place that does, for hosts and for container rentals alike.
  - Validates every setting. What can't work is refused with one sentence that says what to do.
  - Secrets are no part of it. The entry point reads the API key from a file.
options:
  _input:
    description:
      - The settings, named as the variables of the role P(gpuops.fleet.vllm#role) without their prefix C(vllm_).
      - C(model) is required. The others are C(model_source), C(model_revision), C(prefetch), C(hub_url),
        C(served_model_name), C(port), C(gpu),
        C(dtype), C(quantization), C(max_model_len), C(max_num_seqs), C(gpu_memory_utilization),
        C(tensor_parallel_size), C(cpu_kv_cache_gib), C(enforce_eager),
        C(shutdown_timeout_seconds), C(memory_mib), C(shared_memory_mib),
        C(middleware), C(extra_arguments) and C(extra_environment), with the role's defaults.
      - C(middleware) is a list of dotted names of ASGI middleware classes. The last one sees a request first.
    type: dict
    required: true
  weights_mib:
    description: Size of the model's weights in MiB; V(0) while it is unknown.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Show how the server would be started
  ansible.builtin.debug:
    msg: "{{ (settings | gpuops.fleet.vllm_command).command | join(' ') }}"
  vars:
    settings:
      model: Qwen/Qwen3-0.6B
      gpu: true
      max_model_len: 8192
"""

RETURN = r"""
_value:
  description: How to start the server.
  type: dict
  contains:
    command:
      description: The whole command line.
      type: list
      elements: str
      sample: [vllm, serve, Qwen/Qwen3-0.6B, --port, "8000"]
    arguments:
      description: The command line without C(vllm serve), which is the entry point of the upstream image.
      type: list
      elements: str
      sample: [Qwen/Qwen3-0.6B, --port, "8000"]
    environment:
      description: Environment variables, none of them secret.
      type: dict
      sample: {VLLM_NO_USAGE_STATS: "1"}
    served_model_name:
      description: The name under which clients ask for the model.
      type: str
      sample: Qwen/Qwen3-0.6B
    memory_needed_mib:
      description: Host memory in MiB below which the server can't start; a lower bound while the weights are unknown.
      type: int
      sample: 4096
    settings:
      description: All settings with their defaults, in the types they have.
      type: dict
      sample: {port: 8000}
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import SettingsError, describe


def vllm_command(settings: Any, weights_mib: int = 0) -> dict[str, Any]:
    """See DOCUMENTATION."""
    if not isinstance(settings, dict):
        raise AnsibleFilterError(f"vllm_command needs a dictionary of settings, not {type(settings).__name__}.")
    try:
        return describe(settings, int(weights_mib))
    except SettingsError as problem:
        raise AnsibleFilterError(str(problem)) from problem


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vllm_command": vllm_command}
