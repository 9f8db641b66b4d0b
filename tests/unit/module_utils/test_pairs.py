# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the environment of a rental is read as it was written, or not at all."""

from __future__ import annotations

import re

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _pairs
from hypothesis import given
from hypothesis import strategies as st

NAMES, VALUES = st.from_regex(r"[a-z0-9_]+", fullmatch=True), st.from_regex(r"[a-z0-9]+", fullmatch=True)
LISTS = st.lists(st.tuples(NAMES, VALUES))


@given(LISTS)
def test_it_is_one_word_and_comes_back(pairs: list[tuple[str, str]]) -> None:
    word = _pairs.join(pairs)
    assert re.fullmatch(r"[A-Za-z0-9:._-]+", word)
    assert _pairs.split(word) == pairs


@given(LISTS, st.integers(0))
def test_what_was_cut_off_can_not_be_told(pairs: list[tuple[str, str]], at: int) -> None:
    word = _pairs.join(pairs)
    assert _pairs.split(word[: at % len(word)]) is None


@pytest.mark.parametrize(
    "text",
    [None, "", "v1", "end", "v2.end", "v1.args:1 .end", " v1.end", "v1.end\n", "v1..end", "v1.args.end", "8000/http"],
)
def test_what_is_no_such_word_can_not_be_told(text: str | None) -> None:
    assert _pairs.split(text) is None
