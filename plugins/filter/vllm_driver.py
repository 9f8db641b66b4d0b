# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVIDIA driver an image of vLLM needs."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._model_host import driver_of
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import Wish

DOCUMENTATION = r"""
name: vllm_driver
short_description: Which NVIDIA driver an image of vLLM needs
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Says by the name and tag of an image C(vllm/vllm-openai) for which CUDA it is built, and so which driver it takes at
    least.
  - Of an image whose tag says no version nothing is known, and nothing is asked for.
options:
  _input:
    description: >-
      The image, as C(vllm_image) of P(gpuops.fleet.vllm#role). Empty is the default of that role; null is none at all.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what it needs
  ansible.builtin.debug:
    msg: "{{ ('vllm/vllm-openai:v0.32.0' | gpuops.fleet.vllm_driver).version }}"
"""

RETURN = r"""
_value:
  description: What is needed.
  type: dict
  contains:
    version:
      description: The oldest version, for C(nvidia_driver_minimum_version); empty where it is not known.
      type: str
      sample: "580"
    reason:
      description: Why, for C(nvidia_driver_minimum_reason).
      type: str
      sample: vllm_image vllm/vllm-openai:v0.32.0 is built for CUDA 13.0; v0.32.0-cu129 runs with 525
"""


def vllm_driver(image: str | None) -> dict[str, Any]:
    """See DOCUMENTATION."""
    version, reason = ("", "") if image is None else driver_of(image or Wish.image)
    return {"version": version, "reason": reason}


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"vllm_driver": vllm_driver}
