# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from gpuops_telemetry.window import UsageWindow
from hypothesis import given
from hypothesis import strategies as st

SECONDS = 10

# (seconds that pass before the event, age of the event, model, prompt tokens, completion tokens, latency)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 25),
        st.integers(-3, 20),
        st.sampled_from("ab"),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(EVENTS)
def test_running_totals_are_the_sums_of_what_is_in_the_window(
    events: list[tuple[int, int, str, int, int, int]],
) -> None:
    now = 1_000
    window = UsageWindow(SECONDS, float(now))
    seen: list[tuple[int, str, int, int, int]] = []
    for passed, age, model, prompt, completion, latency in events:
        now += passed
        ts = now - age
        window.add(float(ts), model, prompt, completion, float(latency), float(now))
        seen.append((min(ts, now), model, prompt, completion, latency))
        inside = [event for event in seen if event[0] > now - SECONDS]
        assert window.total.requests == len(inside)
        assert window.total.prompt_tokens == sum(event[2] for event in inside)
        assert window.total.completion_tokens == sum(event[3] for event in inside)
        assert window.total.latency_ms == sum(event[4] for event in inside)
        assert {model: totals.requests for model, totals in window.per_model.items()} == {
            model: sum(event[1] == model for event in inside) for model in {event[1] for event in inside}
        }
        assert len(window._buckets) <= SECONDS


def test_right_after_a_start_only_the_time_watched_counts() -> None:
    window = UsageWindow(60, 1_000.0)
    assert window.covered_seconds(1_000.0) == 1.0
    assert window.covered_seconds(1_020.0) == 20.0
    assert window.covered_seconds(2_000.0) == 60.0
    window = UsageWindow(60, 1_000.0)
    window.add(970.0, "a", 1, 1, 1.0, 1_010.0)  # a backlog reaches further back than the start
    assert window.covered_seconds(1_010.0) == 40.0


def test_a_long_silence_empties_the_window() -> None:
    window = UsageWindow(60, 0.0)
    window.add(1.0, "a", 5, 5, 1.0, 1.0)
    window.advance(10_000_000.0)
    assert window.total.requests == 0
    assert window.per_model == {}
