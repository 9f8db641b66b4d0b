# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hide the values of an environment that may be secret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._secret_words import masked

DOCUMENTATION = r"""
name: mask_environment
short_description: Hide the values of an environment that may be secret
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes an environment as a list of C(NAME=value), as C(docker inspect) and C(env) print it, and hides each value
    whose name or form says that it may be secret, such as a password, a token, a key, or an address that contains
    a password.
  - The name of a file that holds a secret is no secret. Names that end in C(_FILE) or C(_PATH) keep their value.
options:
  _input:
    description: The environment, one C(NAME=value) per entry.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show a container's environment
  ansible.builtin.debug:
    msg: "{{ inspected[0].Config.Env | gpuops.fleet.mask_environment }}"
"""

RETURN = r"""
_value:
  description: The same entries, sorted, with C(********) in place of each value that may be secret.
  type: list
  elements: str
"""


def mask_environment(environment: Sequence[str]) -> list[str]:
    """The environment with everything hidden that may be secret."""
    entries = [entry.partition("=") for entry in sorted(environment)]
    return [f"{name}{separator}{masked(name, value)}" for name, separator, value in entries]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"mask_environment": mask_environment}
