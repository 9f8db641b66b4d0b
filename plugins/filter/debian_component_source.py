# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which source apt needs for another component of the Debian that a host has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._apt_sources import add_component, read_targets

DOCUMENTATION = r"""
name: debian_component_source
short_description: Source of apt for another component of Debian
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes what C(apt-get indextargets) printed, and returns the source that adds a component of Debian to a host.
  - It is the source for C(main) as it stands there, with another component. Two sources for the same mirror and suite
    that differ in an option such as C(Signed-By) make apt refuse all sources.
  - Nothing is returned where the host has that component.
positional: files, codename
options:
  _input:
    description: >-
      What C(apt-get indextargets) printed with the format C($(COMPONENT)|$(CODENAME)|$(SOURCESENTRY)|$(ORIGIN)).
    type: str
    required: true
  files:
    description: The texts of the files that C($(SOURCESENTRY)) names, by their paths.
    type: dict
    required: true
  codename:
    description: The codename of the release, such as V(bookworm).
    type: str
    required: true
  component:
    description: The component to add.
    type: str
    default: contrib
"""

EXAMPLES = r"""
- name: Show what would be added
  ansible.builtin.debug:
    msg: "{{ (printed.stdout | gpuops.fleet.debian_component_source(files, 'bookworm')).text }}"
"""

RETURN = r"""
_value:
  description: What to add, or why that can't be done.
  type: dict
  contains:
    problem:
      description: One sentence that says what can't work; empty when nothing is wrong.
      type: str
      sample: ""
    name:
      description: Name of the file in C(/etc/apt/sources.list.d); empty where there is nothing to add.
      type: str
      sample: debian-contrib.list
    text:
      description: Text of that file.
      type: str
      sample: "deb https://deb.example.com/debian bookworm contrib\n"
"""


def debian_component_source(
    printed: str, files: Mapping[str, str], codename: str, component: str = "contrib"
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    try:
        entry = add_component(read_targets(printed), files, codename, component)
    except LookupError as problem:
        return {"problem": str(problem), "name": "", "text": ""}
    return {"problem": "", "name": entry.name if entry else "", "text": entry.text if entry else ""}


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"debian_component_source": debian_component_source}
