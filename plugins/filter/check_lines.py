# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show failed checks as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: check_lines
short_description: Show failed checks as lines for a terminal
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes checks as C(verify.json) holds them and returns lines that say of each failed one what was found, and what to
    do.
options:
  _input:
    description: Checks, each with C(name), C(ok), C(detail) and C(fix).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what failed
  ansible.builtin.debug:
    msg: "{{ (lookup('ansible.builtin.file', 'build/verify.json') | from_json).checks | gpuops.fleet.check_lines }}"
"""

RETURN = r"""
_value:
  description: The lines. None when every check is ok.
  type: list
  elements: str
"""


def check_lines(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The failed checks, one heading each with its finding and its fix below."""
    lines = []
    for check in checks:
        if check["ok"]:
            continue
        lines.append(f"FAILED {check['name']}")
        lines += [f"    found: {line}" for line in str(check["detail"]).splitlines()]
        if check["fix"]:
            lines.append(f"    fix:   {check['fix']}")
    return lines


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"check_lines": check_lines}
