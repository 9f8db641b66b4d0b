# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are used while they are young: who asks, who waits, what a failure leaves alone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _cache, _clock, _files
from ansible_collections.gpuops.fleet.plugins.module_utils._cache import CacheFile, Content, Policy, Reading
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from support.fake_clock import FakeClock

POLICY = Policy(fresh_seconds=60, stale_seconds=600, on_error_seconds=3600, limit_seconds=15)
DOWN = ProviderUnavailable("it is down.", provider="runpod", status=503, request_id="r-1", fix="Wait.")


class Source:
    """Counts who asks; answers with the number of the question, or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.failing = False
        self.refreshed: list[int] = []

    def fetch(self) -> list[int]:
        self.asked += 1
        if self.failing:
            raise DOWN
        return [self.asked]

    def refresh(self, lock: int) -> None:
        self.refreshed.append(lock)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


@pytest.fixture
def source() -> Source:
    return Source()


def file(name: str = "runpod-x-instances") -> CacheFile[list[int]]:
    return CacheFile(name, "runpod", list, lambda told: [int(one) for one in told])


def path() -> Path:
    found = file().path()
    assert found is not None
    return found


def get(source: Source, **more: Any) -> Reading[list[int]]:
    return _cache.get(file(), POLICY, source.fetch, source.refresh, **more)


def test_young_data_is_used_older_data_too_and_old_data_is_asked_for(clock: FakeClock, source: Source) -> None:
    assert get(source).data == [1]
    clock.time += 59
    assert get(source) == Reading([1], 59.0)
    assert source.refreshed == []
    clock.time += 2
    assert get(source) == Reading([1], 61.0)
    assert len(source.refreshed) == 1
    clock.time += 540
    assert get(source) == Reading([2])
    assert source.asked == 2


def test_only_who_has_the_lock_refreshes(clock: FakeClock, source: Source) -> None:
    get(source)
    clock.time += 100
    lock = _files.lock(file().path("lock"))
    assert get(source).data == [1]
    assert source.refreshed == []
    _files.unlock(lock)
    seen = []
    _cache.get(file(), POLICY, source.fetch, lambda lock: seen.append(_files.lock(file().path("lock"))))
    assert seen == [None], "it is handed over while it is locked"
    assert _files.lock(file().path("lock")) is not None, "and it is nobody's when the child has ended"


def test_a_failure_never_replaces_data(clock: FakeClock, source: Source) -> None:
    get(source)
    source.failing = True
    clock.time += 700
    reading = get(source)
    assert (reading.data, reading.age_seconds) == ([1], 700.0)
    assert reading.error is not None
    assert reading.error.as_failure() == DOWN.as_failure()
    told = json.loads(path().read_text())
    assert told["data"] == [1]
    assert told["error"]["message"] == "it is down."
    assert (told["fetched_at"], told["failed_at"]) == (clock.time - 700, clock.time)


def test_nobody_waits_for_a_provider_that_is_known_to_fail(clock: FakeClock, source: Source) -> None:
    get(source)
    source.failing = True
    clock.time += 700
    get(source)
    clock.time += 10
    reading = get(source)
    assert (source.asked, source.refreshed) == (2, []), "a moment ago it failed"
    assert (reading.data, str(reading.error)) == ([1], "it is down.")
    clock.time += 30
    assert get(source).error is not None
    assert source.asked == 2
    assert len(source.refreshed) == 1, "somebody looks whether it is back, and nobody waits for that"
    clock.time += 3600
    assert get(source).data is None, "older than this it is no longer true"


def test_recovery_ends_the_error(clock: FakeClock, source: Source) -> None:
    get(source)
    source.failing = True
    clock.time += 700
    get(source)
    source.failing = False
    _cache.refresh_now(file(), POLICY, source.fetch)
    assert get(source) == Reading([3])


def test_a_refresh_looks_again_under_the_lock(clock: FakeClock, source: Source) -> None:
    get(source)
    _cache.refresh_now(file(), POLICY, source.fetch)
    assert source.asked == 1
    clock.time += 61
    _cache.refresh_now(file(), POLICY, source.fetch)
    assert source.asked == 2


def test_what_was_asked_before_a_change_is_not_used_after_it(clock: FakeClock, source: Source) -> None:
    get(source)
    clock.time += 1
    file().invalidate()
    clock.time += 1
    assert get(source).data == [2]

    def slow() -> list[int]:
        """The provider looks, then something is changed, then its answer arrives."""
        answer = source.fetch()
        clock.time += 1
        file().invalidate()
        clock.time += 1
        return answer

    clock.time += 700
    assert _cache.get(file(), POLICY, slow).data == [3]
    assert get(source).data == [4], "the answer is younger than the change, but the question is not"
    source.failing = True
    file().invalidate()
    assert get(source).data is None, "not even when nobody answers"


def test_a_change_that_can_not_be_written_down_removes_what_it_makes_untrue(
    clock: FakeClock, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(source)
    monkeypatch.setattr(tempfile, "mkstemp", _full)
    file().invalidate()
    assert not path().exists()


def test_who_wants_it_fresh_asks_and_leaves_it_to_others(clock: FakeClock, source: Source) -> None:
    get(source)
    assert get(source, fresh=True).data == [2]
    assert get(source).data == [2]
    source.failing = True
    assert get(source, fresh=True) == Reading(None, 0.0, DOWN), "old data is not what was wanted"
    assert get(source).data == [2]


def test_who_waits_takes_what_comes_after_he_began(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when fetching takes longer than the data is fresh: else all would ask, one after the other."""
    policy, waiting = Policy(0.0, 0.0, 0.0, 60.0), set()
    sleep = _clock.sleep

    def sleeps(seconds: float) -> None:
        waiting.add(threading.get_ident())
        sleep(seconds)

    monkeypatch.setattr(_clock, "sleep", sleeps)

    def fetch() -> list[int]:
        while len(waiting) < 4:
            sleep(0.01)
        return source.fetch()

    with ThreadPoolExecutor(5) as pool:
        readings = list(pool.map(lambda _number: _cache.get(file(), policy, fetch), range(5)))
    assert [reading.data for reading in readings] == [[1]] * 5
    waiting.clear()
    source.failing = True
    with ThreadPoolExecutor(5) as pool:
        readings = list(pool.map(lambda _number: _cache.get(file(), policy, fetch), range(5)))
    assert source.asked == 2
    assert [str(reading.error) for reading in readings] == ["it is down."] * 5


def test_an_answer_to_an_earlier_question_is_not_fresh(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants it fresh while somebody is asking already waits for that, and then asks himself."""
    lock, sleep = _files.lock(file().path("lock")), _clock.sleep
    asked_at = _clock.now()

    def sleeps(_seconds: float) -> None:
        file().write(Content([99], asked_at, _clock.now()))
        _files.unlock(lock)
        monkeypatch.setattr(_clock, "sleep", sleep)

    monkeypatch.setattr(_clock, "sleep", sleeps)
    assert get(source, fresh=True).data == [1]


@pytest.mark.parametrize("known", [True, False])
def test_who_waits_in_vain_goes_on_without(clock: FakeClock, source: Source, known: bool) -> None:
    if known:
        get(source)
        clock.time += 700
    lock = _files.lock(file().path("lock"))
    reading = get(source)
    _files.unlock(lock)
    assert reading.data == ([1] if known else None)
    assert "got no answer in 15 s" in str(reading.error)
    assert sum(clock.slept) == pytest.approx(17, abs=1)


def test_who_must_have_it_asks_himself_then(clock: FakeClock, source: Source) -> None:
    lock = _files.lock(file().path("lock"))
    reading = _cache.get(file(), POLICY._replace(must_have=True), source.fetch)
    _files.unlock(lock)
    assert reading == Reading([1])
    assert sum(clock.slept) == pytest.approx(17, abs=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"schema": 99, "asked_at": 1, "fetched_at": 1, "failed_at": null, "error": null, "data": [7]}',
        b'{"schema": 1, "asked_at": 1, "fetched_at": 1, "failed_at": null, "error": null, "data": {"x": 7}}',
        b'{"schema": 1, "asked_at": null, "fetched_at": [], "failed_at": 0, "error": 5, "data": [7]}',
        b'{"schema": 1, "asked_at": 9e9, "fetched_at": 9e9, "failed_at": null, "error": null, "data": [7]}',
        b"[" * 100_000,
        "directory",
        "link",
        "pipe",
        "somebody else's",
    ],
)
def test_what_is_no_cache_file_is_no_cache(
    clock: FakeClock, source: Source, content: bytes | str, tmp_path: Path
) -> None:
    good = {"schema": 1, "asked_at": 1, "fetched_at": clock.time, "failed_at": None, "error": None, "data": [7]}
    if isinstance(content, bytes):
        path().write_bytes(content)
    elif content == "directory":
        path().mkdir()
    elif content == "link":
        (tmp_path / "elsewhere").write_text(json.dumps(good))
        path().symlink_to(tmp_path / "elsewhere")
    elif content == "pipe":
        os.mkfifo(path())
    else:
        if os.getuid() != 0:
            pytest.skip("only root can make a file of somebody else")
        path().write_text(json.dumps(good))
        os.chown(path(), 12345, 12345)
    assert get(source).data == [1]
    assert get(source).data == ([2] if content == "directory" else [1]), "and it is replaced where it can be"


def _full(*_arguments: Any, **_named: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def _read_only(*_arguments: Any, **_named: Any) -> Any:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("trouble", ["no home", "read-only", "full", "no locks", "foreign folder", "switched off"])
def test_without_a_usable_home_everybody_asks(
    source: Source, trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if trouble == "no home":
        monkeypatch.setenv("GPUFLEET_HOME", "/proc/gpufleet")
    elif trouble == "read-only":
        monkeypatch.setattr(Path, "mkdir", _read_only)
    elif trouble == "full":
        monkeypatch.setattr(tempfile, "mkstemp", _full)
    elif trouble == "no locks":
        monkeypatch.setattr(fcntl, "flock", _read_only)
        monkeypatch.setattr(tempfile, "mkstemp", _full)
    elif trouble == "foreign folder":
        monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    else:
        monkeypatch.setenv("GPUFLEET_CACHE", "False")
    assert [get(source).data, get(source).data] == [[1], [2]]
    file().invalidate()
    file().change(lambda data: [])
    source.failing = True
    assert str(get(source).error) == "it is down."


def test_only_we_can_read_it(source: Source) -> None:
    get(source)
    file().invalidate()
    assert stat.S_IMODE(path().parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in path().parent.iterdir()} == {0o600}
    path().parent.chmod(0o755)
    get(source)
    assert stat.S_IMODE(path().parent.stat().st_mode) == 0o700


def test_a_correction_keeps_the_age(clock: FakeClock, source: Source) -> None:
    get(source)
    clock.time += 10
    file().change(lambda data: [*data, 5])
    assert get(source) == Reading([1, 5], 10.0)
    lock = _files.lock(file().path("lock"))
    file().change(lambda data: [])
    _files.unlock(lock)
    assert get(source).data == [1, 5], "not worth waiting for"


def test_files_that_nobody_wrote_for_long_are_removed(source: Source) -> None:
    old, other = path().with_name("old.json"), path().with_name("young.json")
    old.write_text("{}")
    other.write_text("{}")
    os.utime(old, (1, 1))
    get(source)
    assert not old.exists()
    assert other.exists()
