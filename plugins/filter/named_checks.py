# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say of each check where it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: named_checks
short_description: Say of each check where it was made
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Returns the checks with something put before each one's name, usually the host and the service.
  - Takes terminal control characters out of what was found, because that often comes from a log.
positional: prefix
options:
  _input:
    description: Checks, each with C(name), C(ok), C(detail) and C(fix).
    type: list
    elements: dict
    required: true
  prefix:
    description: What is put before each name.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Keep what was found on this host
  ansible.builtin.set_fact:
    checks: "{{ found | gpuops.fleet.named_checks(inventory_hostname ~ ': ') }}"
"""

RETURN = r"""
_value:
  description: The checks, and nothing but their four keys.
  type: list
  elements: dict
"""


# Terminal control, as Compose and servers write it into their logs; line ends and tabs stay.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def named_checks(checks: Sequence[Mapping[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """The checks with longer names."""
    return [
        {
            "name": f"{prefix}{check['name']}",
            "ok": bool(check["ok"]),
            "detail": _CONTROL.sub("", str(check["detail"])),
            "fix": "" if check["ok"] else str(check["fix"]),
        }
        for check in checks
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"named_checks": named_checks}
