# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from gpuops_telemetry import ledger, load
from gpuops_telemetry.events import InvalidEventError, parse_event
from gpuops_telemetry.kafka_options import MESSAGE_MAX_BYTES


def make(**changes: Any) -> list[load.Load]:
    options: dict[str, Any] = {
        "count": 400,
        "run": "r",
        "bad_share": 0.0,
        "bad_kinds": ["not-json", "missing-field", "wrong-type"],
        "duplicate_share": 0.0,
        "seed": 1,
    }
    return list(load.make_load(**options | changes))


def test_good_events_are_good_and_all_different() -> None:
    loads = make()
    assert len({one.event_id for one in loads}) == 400
    for one in loads:
        assert parse_event(one.topic, one.value).event_id == one.event_id
        assert one.expected == load.STORED


@pytest.mark.parametrize("kind", load.BAD_KINDS)
def test_every_bad_kind_is_bad(kind: str) -> None:
    for one in make(count=6, bad_share=1.0, bad_kinds=[kind]):
        if kind == "oversized":
            assert len(one.value) > MESSAGE_MAX_BYTES
            assert one.expected == load.REFUSED
        else:
            assert one.expected == load.DEAD_LETTER
            with pytest.raises(InvalidEventError):
                parse_event(one.topic, one.value)
        assert kind != "rubbish" or len(one.value) == 900_000


def test_a_duplicate_is_a_second_event_under_an_id_that_is_in_use() -> None:
    loads = make(duplicate_share=0.3, bad_share=0.1)
    good = {one.event_id for one in loads if one.expected == load.STORED}
    bad = {one.event_id for one in loads if one.expected == load.DEAD_LETTER}
    assert bad
    assert not good & bad
    assert len(good) + len(bad) < len(loads)


def line(event_id: str, offset: int, expected: str = "stored") -> dict[str, Any]:
    return {"topic": "t", "event_id": event_id, "partition": 0, "offset": offset, "expected": expected}


LINES = [line("a", 0), line("b", 1), line("b", 2), line("c", 3, "dead_letter")]


def test_a_ledger_that_balances() -> None:
    verdict = ledger.balance(LINES, {"a", "b", "foreign"}, Counter({("t", 0, 3): 1, ("other", 0, 1): 1}))
    assert verdict["ok"]
    assert (verdict["messages"], verdict["acknowledged"], verdict["documents"], verdict["dead_letters"]) == (4, 3, 2, 1)


@pytest.mark.parametrize(
    ("documents", "letters", "wrong"),
    [
        ({"a"}, {("t", 0, 3): 1}, {"missing"}),
        ({"a", "b"}, {}, {"missing"}),
        ({"a", "b"}, {("t", 0, 3): 2}, {"dead_lettered_twice"}),
        ({"a", "b", "c"}, {("t", 0, 3): 1}, {"in_both", "unexpected"}),
        ({"a"}, {("t", 0, 1): 1, ("t", 0, 3): 1}, {"unexpected"}),
    ],
)
def test_a_ledger_that_does_not(documents: set[str], letters: dict[ledger.Origin, int], wrong: set[str]) -> None:
    verdict = ledger.balance(LINES, documents, Counter(letters))
    assert not verdict["ok"]
    assert set(verdict["examples"]) == wrong
