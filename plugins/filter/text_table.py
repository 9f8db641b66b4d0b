# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render rows as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: text_table
short_description: Render rows as a table for a terminal
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Returns the lines of a table with aligned columns. Numbers are aligned to the right.
  - What a row lacks, and V(null), is shown as C(-).
positional: columns
options:
  _input:
    description: The rows.
    type: list
    elements: dict
    required: true
  columns:
    description: Which keys of the rows are shown, in this order. By default all keys of the first row.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show what runs
  ansible.builtin.debug:
    msg: "{{ instances | gpuops.fleet.text_table(['name', 'provider', 'price_per_hour_usd']) }}"
"""

RETURN = r"""
_value:
  description: The lines, the first one with the names of the columns.
  type: list
  elements: str
"""


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(entry) for entry in value) or "-"
    return " ".join(str(value).split())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> list[str]:
    """The lines of the table."""
    keys = list(columns) if columns else list(rows[0]) if rows else []
    table = [[key.replace("_", " ").upper() for key in keys]]
    table += [[_cell(row.get(key)) for key in keys] for row in rows]
    numeric = [bool(rows) and all(_is_number(row.get(key)) for row in rows) for key in keys]
    widths = [max(len(line[index]) for line in table) for index in range(len(keys))]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in table
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"text_table": text_table}
