# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""One rate limiter for all processes that ask a provider in the name of one account.

What is known stands in a small file that is locked for an instant: when the next call of a kind may leave, how many
calls the provider says are left, and until when it asked for silence. Without a home each process counts for itself.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _files
from ansible_collections.gpuops.fleet.plugins.module_utils._accounts import Account
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import RateLimited

LONGEST_WAIT_SECONDS = 60.0  # what asks for a longer pause is told to the user instead of slept through
FOLDER = "limits"
SCHEMA = 1
_ALL = "all"
_QUOTA = "quota"
_KEPT_SECONDS = 7 * 86400.0


class Interval(NamedTuple):
    """The least time between two calls of a kind; path is an expression for how it begins."""

    method: str
    path: str
    seconds: float


class Quota(NamedTuple):
    """Where a provider says nothing in its answers: so many calls of any kind at once, then one in so many seconds."""

    at_once: int
    seconds: float


class Told(Protocol):
    """The part of an answer that says something about limits."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def text(self) -> str: ...


class Limiter:
    """Made for each connection; those of one account share what they know.

    With intervals, each kind of call has its own limit (Vast.ai); without, one limit holds for all calls: what the
    answers say is left (RunPod), or the quota (TensorDock).
    """

    def __init__(self, account: Account, intervals: Sequence[Interval] = (), quota: Quota | None = None) -> None:
        self._account = account
        self._intervals = intervals
        self._quota = quota
        self._memory: dict[str, Any] = {}
        self._thread_lock = threading.Lock()

    def wait(self, method: str, path: str) -> None:
        """Return when this call may leave; raise RateLimited when that is too long to wait for."""
        kind, seconds = self._kind(method, path)
        pause = self._reserve(kind, seconds)
        while pause > 0:
            _clock.sleep(pause)
            pause = self._silence(kind)  # while we waited, another call may have been told to wait

    def heed(self, method: str, path: str, answer: Told) -> None:
        """Write down what the answer says about limits, for everybody."""
        kind, _seconds = self._kind(method, path)
        windows = _windows(answer.headers)
        silence = retry_after_seconds(answer) if answer.status == 429 else None
        if not windows and not silence:
            return
        with self._state() as state:
            now = _clock.now()
            for name, (left, seconds) in windows.items():
                known = state["windows"].get(name)
                # The answer was written before calls that others have sent since: of one window, the smaller counts.
                same = known and abs(known[1] - (now + seconds)) < 2.0
                state["windows"][name] = [min(left, known[0]) if same else left, now + seconds]
            if silence:
                state["silent_until"][kind] = max(now + silence, state["silent_until"].get(kind, 0.0))

    def _kind(self, method: str, path: str) -> tuple[str, float]:
        if not self._intervals:
            return _ALL, 0.0
        for interval in self._intervals:
            if method == interval.method and re.match(interval.path, path):
                return f"{method} {interval.path}", interval.seconds
        return f"{method} other", 0.0

    def _reserve(self, kind: str, seconds: float) -> float:
        """How long to wait for our turn, which is ours from now on."""
        with self._state() as state:
            now = _clock.now()
            turn = max(now, state["next_turn"].get(kind, now), state["silent_until"].get(kind, now))
            windows = {name: window for name, window in state["windows"].items() if window[1] > now}
            turn = max([turn, *(ends for left, ends in windows.values() if left <= 0)])
            if self._quota:
                used_until = max(now, state["next_turn"].get(_QUOTA, now))
                turn = max(turn, used_until - (self._quota.at_once - 1) * self._quota.seconds)
            self._refuse_long(turn - now)
            if self._quota:
                state["next_turn"][_QUOTA] = used_until + self._quota.seconds
            if seconds:
                state["next_turn"][kind] = turn + seconds
            state["windows"] = {name: [max(0, left - 1), ends] for name, (left, ends) in windows.items()}
            return float(turn - now)

    def _silence(self, kind: str) -> float:
        with self._state() as state:
            pause = float(state["silent_until"].get(kind, 0.0)) - _clock.now()
        self._refuse_long(pause)
        return pause

    def _refuse_long(self, pause: float) -> None:
        left = _clock.seconds_left()
        if pause > LONGEST_WAIT_SECONDS or (left is not None and pause > left):
            raise RateLimited(
                f"{self._account.provider} asks us to wait for {pause:.0f} s: too many requests.",
                provider=self._account.provider,
                retry_after_seconds=pause,
                fix="Run again later; several controllers of one account share its limits.",
            )

    @contextmanager
    def _state(self) -> Iterator[dict[str, Any]]:
        """What is known, to be read and changed."""
        directory = _files.folder(FOLDER)
        path = directory / f"{self._account.label}.json" if directory else None
        with self._thread_lock:
            lock = _files.lock(path.with_suffix(".lock") if path else None, wait=True)
            try:
                shared = lock != _files.NO_LOCKS
                before = _checked(_files.read(path) if shared else self._memory)
                state = {**before, **{name: dict(before[name]) for name in ("next_turn", "silent_until", "windows")}}
                yield state
                if state != before:
                    state["written_at"] = _clock.now()
                    self._memory = state
                    if shared and _files.write(path, state):
                        _files.remove_old(directory, path, _KEPT_SECONDS)
            finally:
                _files.unlock(lock)


def _checked(told: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a file; an empty one for what isn't one, or was written in the future (the clock was set back)."""
    empty: dict[str, Any] = {"schema": SCHEMA, "next_turn": {}, "silent_until": {}, "windows": {}, "written_at": 0.0}
    try:
        if told["schema"] != SCHEMA or float(told["written_at"]) > _clock.now() + 1.0:
            return empty
        return {
            **empty,
            "next_turn": {str(kind): float(turn) for kind, turn in told["next_turn"].items()},
            "silent_until": {str(kind): float(ends) for kind, ends in told["silent_until"].items()},
            "windows": {str(name): [int(left), float(ends)] for name, (left, ends) in told["windows"].items()},
            "written_at": float(told["written_at"]),
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        return empty


def _windows(headers: Mapping[str, str]) -> dict[str, tuple[int, float]]:
    """RateLimit: "minute";r=59;t=40, … as calls left and seconds until the window begins anew, by its name."""
    found = {}
    for window in headers.get("RateLimit", "").split(","):
        name = re.match(r'\s*"([^"]+)"', window)
        parts = dict(re.findall(r";\s*([rt])=([0-9]+)", window))
        if name and len(parts) == 2:
            found[name[1]] = (int(parts["r"]), float(parts["t"]))
    return found


def retry_after_seconds(answer: Told) -> float | None:
    """How long the provider wants us to wait: Retry-After, every empty window of RateLimit, a number in the text."""
    waits = []
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", answer.headers.get("Retry-After", "")):
        waits.append(float(answer.headers["Retry-After"]))
    waits += [seconds for left, seconds in _windows(answer.headers).values() if left == 0]
    if not waits:
        found = re.search(r"threshold=([0-9]+(?:\.[0-9]+)?)", answer.text)
        if found:
            waits.append(float(found[1]))
    return max(waits) if waits else None
