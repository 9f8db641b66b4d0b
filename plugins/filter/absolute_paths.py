# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where relative paths lead, when it depends on who started Ansible."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

DOCUMENTATION = r"""
name: absolute_paths
short_description: Look for relative paths in several folders
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Returns the paths as absolute ones. A relative one leads into the first of the folders where it exists; one that
    exists in none leads into the first folder, so that who reads it says what is missing.
positional: folders
options:
  _input:
    description: The paths.
    type: list
    elements: str
    required: true
  folders:
    description: Where a relative path may begin, in this order.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Find a file in the current folder, else in the project of the job
  ansible.builtin.debug:
    msg: "{{ ['fleet.yml'] | gpuops.fleet.absolute_paths([lookup('env', 'PWD'), '/runner/project']) }}"
"""

RETURN = r"""
_value:
  description: The paths, in the same order.
  type: list
  elements: str
"""


def absolute_paths(paths: Iterable[str], folders: Sequence[str]) -> list[str]:
    """One absolute path for each."""
    found = []
    for path in paths:
        written = os.path.expanduser(str(path).strip())
        candidates = [os.path.abspath(os.path.join(str(folder), written)) for folder in folders]
        found.append(next((one for one in candidates if os.path.exists(one)), candidates[0]))
    return found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"absolute_paths": absolute_paths}
