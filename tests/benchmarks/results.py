# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of build/bench.json: a list of {name, value, unit, reference, ratio, goal, ok}."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One result, and what it is compared with."""

    name: str
    value: float
    unit: str
    reference: str | None = None  # what `ratio` is a ratio to
    ratio: float | None = None
    goal: str | None = None
    ok: bool | None = None


def write(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Adds the rows; a row of the same name is replaced, the others stay."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = []
    fresh = {row.name: asdict(row) for row in rows}
    merged = [fresh.pop(row["name"], row) for row in kept] + list(fresh.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def table(rows: Iterable[Row]) -> str:
    """The rows for a terminal."""
    lines = [("what", "value", "ratio to", "ratio", "goal", "")]
    for row in rows:
        verdict = "" if row.ok is None else "reached" if row.ok else "missed"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append((row.name, f"{row.value:,.1f} {row.unit}", row.reference or "", ratio, row.goal or "", verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
