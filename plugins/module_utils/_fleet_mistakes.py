# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Mistakes in a fleet file: where each stands, and how it is told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

# A path inside the file: ("instances", 2, "ports").
Where: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands and what to do about it."""

    where: Where
    message: str
    line: int | None = None

    def sentence(self, path: str) -> str:
        """The mistake as people read it: file, line, field, and what to do."""
        place = [shown_path(path)]
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.where:
            place.append(field_name(self.where))
        return f"{', '.join(place)}: {self.message}"


class FleetFileError(ValueError):
    """The file can't be used. str() is one sentence for each mistake, in the order of the file."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(problem.sentence(path) for problem in self.problems))


def field_name(where: Where) -> str:
    """instances[2].ports, as people write it."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def shown_path(path: str) -> str:
    """The path as the user most probably typed it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def nearest(word: str, known: Iterable[str]) -> str:
    """A half sentence that helps: the nearest known word, or all of them."""
    import difflib  # only when something is wrong

    candidates = sorted(known)
    found = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else f"known are: {', '.join(candidates)}."
