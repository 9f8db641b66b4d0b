# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Pairs as one word in the environment of a rental: "v1.8000:http.22:tcp.end".

No provider promises to keep blanks there, nor all of a long value, so there are none, and what isn't whole shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BEGIN, _END = "v1", "end"  # another form of it gets another beginning, and older versions can't tell what it says
_WORD = re.compile(rf"{_BEGIN}((?:\.[a-z0-9_]+:[a-z0-9]+)*)\.{_END}", re.ASCII)


def join(pairs: Iterable[tuple[str, str]]) -> str:
    return ".".join([_BEGIN, *(f"{name}:{value}" for name, value in pairs), _END])


def split(text: object) -> list[tuple[str, str]] | None:
    """The pairs; None when this is no such word, or not all of it: then nobody can tell what it said."""
    match = _WORD.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    halves = (pair.partition(":") for pair in match[1].split(".")[1:])
    return [(name, value) for name, colon, value in halves]
