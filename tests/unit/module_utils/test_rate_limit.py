# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of one account share its limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _files, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._accounts import Account
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import RateLimited
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import Interval, Limiter, Quota
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer
from support.fake_clock import FakeClock

ROOT = Path(__file__).parents[3]
ACCOUNT = Account("vastai", "https://x", "planted-key")
INTERVALS = (Interval("PUT", "/asks/", 4.5), Interval("GET", "/list/", 1.0))
PATIENT = 86_400.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


def limiter(account: Account = ACCOUNT, intervals: tuple[Interval, ...] = INTERVALS) -> Limiter:
    """Each stands for a process: they have nothing in common but the file."""
    return Limiter(account, intervals)


def waited(clock: FakeClock) -> list[float]:
    slept = [round(seconds, 3) for seconds in clock.slept if seconds > 0]
    clock.slept.clear()
    return slept


def state() -> Path:
    directory = _files.folder(_rate_limit.FOLDER)
    assert directory is not None
    return directory / f"{ACCOUNT.label}.json"


def told(status: int = 200, text: str = "", **headers: str) -> Answer:
    return Answer(status, None, text, {name.replace("_", "-"): value for name, value in headers.items()})


def test_calls_of_one_kind_keep_their_distance_across_processes(clock: FakeClock) -> None:
    for _process in range(3):
        limiter().wait("PUT", "/asks/1/")
    limiter().wait("GET", "/list/")
    limiter().wait("GET", "/elsewhere/")
    limiter(Account("vastai", "https://x", "another-key")).wait("PUT", "/asks/1/")
    assert waited(clock) == [4.5, 4.5]
    assert "key" not in state().read_text() + state().name


def test_who_is_told_to_wait_tells_the_others(clock: FakeClock) -> None:
    limiter().heed("PUT", "/asks/1/", told(429, Retry_After="12"))
    limiter().wait("GET", "/list/")
    assert waited(clock) == [], "that limit is another one"
    limiter().wait("PUT", "/asks/2/")
    assert waited(clock) == [12.0]
    limiter().heed("PUT", "/asks/1/", told(429, "API requests too frequent: endpoint threshold=7 seconds"))
    limiter().wait("PUT", "/asks/3/")
    assert waited(clock) == [7.0]


def test_one_limit_for_all_calls_where_there_are_no_kinds(clock: FakeClock) -> None:
    limiter(intervals=()).heed("GET", "/pods", told(429, Retry_After="3"))
    limiter(intervals=()).wait("POST", "/pods")
    assert waited(clock) == [3.0]


def test_what_others_are_told_while_we_wait_holds_for_us(clock: FakeClock) -> None:
    limiter().wait("PUT", "/asks/1/")
    clock.on_sleep = lambda: (
        limiter().heed("PUT", "/asks/2/", told(429, Retry_After="9")) if len(clock.slept) == 1 else None
    )
    limiter().wait("PUT", "/asks/3/")
    assert waited(clock) == [4.5, 9.0]


def test_the_calls_that_are_left_are_counted_for_all(clock: FakeClock) -> None:
    limiter(intervals=()).heed("GET", "/pods", told(RateLimit='"minute";r=2;t=40, "hour";r=900;t=3000'))
    for _process in range(3):
        limiter(intervals=()).wait("GET", "/pods")
    assert waited(clock) == [40.0]
    limiter(intervals=()).heed("GET", "/pods", told(RateLimit='"minute";r=59;t=60'))
    limiter(intervals=()).wait("GET", "/pods")
    assert waited(clock) == []


def test_an_older_answer_does_not_give_calls_back(clock: FakeClock) -> None:
    limiter(intervals=()).heed("GET", "/pods", told(RateLimit='"minute";r=2;t=40'))
    limiter(intervals=()).wait("GET", "/pods")
    limiter(intervals=()).heed("GET", "/pods", told(RateLimit='"minute";r=2;t=40'))
    limiter(intervals=()).wait("GET", "/pods")
    limiter(intervals=()).wait("GET", "/pods")
    assert waited(clock) == [40.0]


def test_what_takes_too_long_is_told_and_not_slept_through(clock: FakeClock) -> None:
    limiter().heed("PUT", "/asks/1/", told(429, Retry_After="7200"))
    with pytest.raises(RateLimited, match="7200 s") as caught:
        limiter().wait("PUT", "/asks/1/")
    assert caught.value.retry_after_seconds == 7200
    assert waited(clock) == []
    clock.time += 7201
    limiter().wait("PUT", "/asks/1/")


def test_a_turn_that_was_refused_is_nobodys(clock: FakeClock) -> None:
    limiter().wait("PUT", "/asks/1/")
    for _call in range(3):
        with _clock.limit(1), pytest.raises(RateLimited):
            limiter().wait("PUT", "/asks/1/")
    limiter().wait("PUT", "/asks/1/")
    assert waited(clock) == [4.5]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": 1}',
        '{"schema": 1, "next_turn": 5, "silent_until": {}, "windows": {}, "written_at": 1}',
        '{"schema": 1, "next_turn": {}, "silent_until": {"PUT /asks/": 9e10}, "windows": {}, "written_at": 9e10}',
    ],
)
def test_a_file_that_makes_no_sense_limits_nothing(clock: FakeClock, content: str) -> None:
    state().write_text(content)
    limiter().wait("PUT", "/asks/1/")
    assert waited(clock) == []
    limiter().wait("PUT", "/asks/1/")
    assert waited(clock) == [4.5]


def test_without_a_home_each_process_counts_for_itself(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", "/proc/gpufleet")
    own = limiter()
    own.wait("PUT", "/asks/1/")
    limiter().wait("PUT", "/asks/1/")
    assert waited(clock) == []
    own.wait("PUT", "/asks/1/")
    assert waited(clock) == [4.5]


def test_real_processes_share_it() -> None:
    """Each takes a turn; turns are given out one interval apart, however late a process begins."""
    program = (
        "from ansible_collections.gpuops.fleet.plugins.module_utils._accounts import Account\n"
        "from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import Interval, Limiter\n"
        "limiter = Limiter(Account('vastai', 'https://x', 'planted-key'), [Interval('GET', '/list/', 0.5)])\n"
        "for _call in range(3): limiter.wait('GET', '/list/')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "build" / "collections")}
    began = _clock.now()
    processes = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _number in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    after: dict[str, Any] = json.loads(state().read_text())
    assert after["next_turn"]["GET /list/"] - began >= 12 * 0.5


def test_a_quota_is_shared_by_all_processes_and_kinds_of_calls(clock: FakeClock) -> None:
    processes = [Limiter(ACCOUNT, quota=Quota(3, 2.0)) for _process in range(2)]
    for number in range(5):
        processes[number % 2].wait("GET" if number else "POST", f"/{number}")
    assert waited(clock) == [2.0, 2.0]
    clock.sleep(4)
    waited(clock)
    for _number in range(3):
        processes[1].wait("GET", "/5")
    assert waited(clock) == [2.0]
    Limiter(Account("vastai", "https://x", "another-key"), quota=Quota(3, 2.0)).wait("GET", "/1")
    assert waited(clock) == []
