# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from hypothesis import given
from hypothesis import strategies as st


def words(least: int, most: int) -> st.SearchStrategy[str]:
    """Valid words, made valid rather than filtered, which would be slow."""

    def valid(text: str) -> str:
        return re.sub("-+", "-", f"a{text}".ljust(least, "z"))[:most].rstrip("-").ljust(least, "z")

    return st.text("abyz0189-", max_size=most).map(valid)


MARKERS = st.builds(
    Marker,
    deployment_id=words(3, 24),
    name=words(1, 16),
    nonce=st.text("0189abyz", min_size=6, max_size=6),
    expiry_epoch_hours=st.integers(0, 36**4 - 1),
    owner=st.sampled_from(["fleet", "job:17"]),
)


@given(MARKERS)
def test_what_is_encoded_is_parsed_again_and_short_enough(marker: Marker) -> None:
    text = _marker.encode(marker)
    assert _marker.parse(text, marker.owner) == marker
    assert len(text) <= 60
    assert len(_marker.identity(marker)) <= 54


@pytest.mark.parametrize("more", [0, 1, 36**4])
def test_an_expiry_that_nobody_could_read_again_is_never_written(more: int) -> None:
    """What carried it would be nobody's, so it would be rented a second time, and go on costing."""
    with pytest.raises(ValueError, match=r"The expiry of 'vllm-1' lies too far ahead .*max_lifetime"):
        _marker.encode(Marker("acme-llm", "vllm-1", "abc123", 36**4 + more))


@given(MARKERS, MARKERS)
def test_two_identities_are_equal_only_for_the_same_rental(one: Marker, other: Marker) -> None:
    same = (one.deployment_id, one.name, one.nonce) == (other.deployment_id, other.name, other.nonce)
    assert (_marker.identity(one) == _marker.identity(other)) is same


@given(MARKERS, st.text(min_size=1, max_size=5))
def test_a_marker_inside_other_text_is_nobodys(marker: Marker, junk: str) -> None:
    text = _marker.encode(marker)
    assert _marker.parse(junk + text) is None
    parsed = _marker.parse(text + junk)
    assert parsed is None


@pytest.mark.parametrize("text", ["", None, "gf--a--b--123456", "gf--acme--b--12345", "gf--acme--b--123456\n", "vm-1"])
def test_what_is_not_exactly_a_marker_is_nobodys(text: str | None) -> None:
    assert _marker.parse(text) is None


@pytest.mark.parametrize(
    "value", [None, "", "test", "Production", "ab", "a" * 25, "a--b", "-ab", "acme_llm", 7, "äcme"]
)
def test_bad_deployment_ids_are_refused_with_a_sentence(value: object) -> None:
    with pytest.raises(ValueError, match=r"deployment_id .*acme"):
        _marker.check_deployment_id(value)


# Nonces that say when they were made

YEAR = 365 * 86_400


@given(st.integers(1_700_000_000, 4_000_000_000), st.integers(0, YEAR))
def test_a_dated_nonce_says_when_it_was_made_whenever_it_is_read(made: int, later: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_clock, "now", lambda: float(made))
        nonce = _marker.dated_nonce()
        patch.setattr(_clock, "now", lambda: float(made + later))
        marker = Marker("acme-llm", "vllm-1", nonce)
        assert _marker.parse(_marker.encode(marker)) == marker
        assert _marker.claimed_at(marker) == made // 10 * 10


@given(st.integers(1_700_000_000, 4_000_000_000), st.integers(0, 14 * 3600))
def test_a_clock_that_is_ahead_is_believed(made: int, ahead: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_clock, "now", lambda: float(made + ahead))
        nonce = _marker.dated_nonce()
        patch.setattr(_clock, "now", lambda: float(made))
        assert _marker.claimed_at(Marker("acme-llm", "vllm-1", nonce)) == (made + ahead) // 10 * 10


def test_dated_nonces_of_one_moment_differ() -> None:
    assert len({_marker.dated_nonce() for _number in range(100)}) > 50
    assert all(re.fullmatch(r"[0-9a-z]{6}", _marker.dated_nonce()) for _number in range(100))


@given(MARKERS)
def test_any_nonce_was_made_in_the_last_years(marker: Marker) -> None:
    assert 0 < _marker.claimed_at(marker) <= _clock.now() + 86400
