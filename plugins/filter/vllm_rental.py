# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.vllm_rental."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vllm_rental
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: Compute the container rental that serves a model
description:
  - Turns the settings of the role P(gpuops.fleet.vllm#role) into the options of M(gpuops.fleet.instance) with which a
    provider of containers serves the same model with the same command line.
  - What can't work is returned as a sentence under C(problem), so that it can be told before anything is rented.
  - The result holds the API key, under C(request.secret_env).
options:
  _input:
    description: The settings, as P(gpuops.fleet.vllm_command#filter) takes them.
    type: dict
    required: true
  image:
    description: The image to run, with a full version tag or a digest.
    type: str
    required: true
  api_key:
    description: The API key.
    type: str
    required: true
  hub_token:
    description: The token for a model that asks for one.
    type: str
    default: ""
  image_has_routes:
    description: The image brings the module C(gpufleet_routes) itself and begins with C(vllm serve).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what would be rented
  ansible.builtin.debug:
    msg: "{{ rental.problem or rental.request.args | join(' ') }}"
  vars:
    rental: "{{ settings | gpuops.fleet.vllm_rental(image='vllm/vllm-openai:v0.32.0', api_key=vllm_api_key) }}"
    settings:
      model: Qwen/Qwen3-0.6B
      gpu: true
"""

RETURN = r"""
_value:
  description: What to rent, or why not.
  type: dict
  contains:
    problem:
      description: One sentence that says what can't work; empty when nothing is wrong.
      type: str
      sample: ""
    request:
      description: >-
        C(image), C(entrypoint), C(args), C(tls_args), C(public_env), C(secret_env), C(ports) and C(computed_from), as
        the options of M(gpuops.fleet.instance); empty when there is a problem.
      type: dict
      sample: {image: "vllm/vllm-openai:v0.32.0", args: [vllm, serve, Qwen/Qwen3-0.6B]}
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import SettingsError

_ROLE_FILES = pathlib.Path(__file__).resolve().parents[2] / "roles" / "vllm" / "files"


@functools.cache
def _files() -> dict[str, str]:
    return {name: (_ROLE_FILES / name).read_text(encoding="utf-8") for name in _vllm_rental.FILES}


def vllm_rental(
    settings: dict[str, Any], image: str, api_key: str, hub_token: str = "", image_has_routes: bool = False
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    try:
        request = _vllm_rental.compute(
            settings, _files(), image=image, api_key=api_key, hub_token=hub_token, image_has_routes=image_has_routes
        )
    except SettingsError as problem:
        return {"problem": str(problem), "request": {}}
    return {"problem": "", "request": request}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vllm_rental": vllm_rental}
