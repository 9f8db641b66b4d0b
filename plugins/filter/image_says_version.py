# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an image's reference says which version runs."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._images import says_version

DOCUMENTATION = r"""
name: image_says_version
short_description: Whether an image's reference says which version runs
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Says whether the reference of a container image has a digest, or a tag with a version or a commit in it.
  - C(latest), no tag at all, a word such as C(stable) and a bare major version can be another image tomorrow.
options:
  _input:
    description: The reference of an image.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse what can be another image tomorrow
  ansible.builtin.assert:
    that: "'apache/kafka:3.9.1' | gpuops.fleet.image_says_version"
"""

RETURN = r"""
_value:
  description: Whether it does.
  type: bool
"""


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"image_says_version": says_version}
