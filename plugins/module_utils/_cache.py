# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Stale-while-revalidate files: what was asked is kept, used while it is young, and refreshed behind the caller's back.

Nothing may depend on them. No home, a read-only or full disk, a broken file: then everybody asks for himself. A
failure never overwrites data; it stands beside it, so that whoever uses the old data can say so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _files
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderError, ProviderUnavailable

SWITCH = "GPUFLEET_CACHE"  # an environment variable; false: nothing is read from files, and nothing written
SCHEMA = 1
RETRY_SECONDS = 30.0  # after a failure nobody asks again in the background for so long
FAILING_SECONDS = 300.0  # and for so long nobody is made to wait for a provider that is known to fail
KEPT_SECONDS = 7 * 86400.0  # what nobody wrote for so long is removed
_LOOK_AGAIN_SECONDS = 0.05
_CHANGE_SECONDS = 2.0
_GRACE_SECONDS = 2.0  # who waits for another one's answer should also hear that none came

T = TypeVar("T")


class Policy(NamedTuple):
    """How old data may be, in seconds, and how long a caller waits for newer data."""

    fresh_seconds: float  # used as it is
    stale_seconds: float  # used at once, and refreshed in the background; what is older is asked for
    on_error_seconds: float  # used when the provider can't be asked
    limit_seconds: float
    must_have: bool = False  # who waited in vain for another one's answer asks himself


class Content(NamedTuple, Generic[T]):
    """What stands in a file. asked_at is before the question, fetched_at after the answer; seconds since the epoch."""

    data: T | None = None
    asked_at: float = 0.0
    fetched_at: float = 0.0
    error: dict[str, Any] | None = None  # what went wrong since then
    failed_at: float = 0.0


class Reading(NamedTuple, Generic[T]):
    """What a caller gets: data and its age, an error, or old data together with the error that kept it from newer."""

    data: T | None
    age_seconds: float = 0.0
    error: ProviderError | None = None


class CacheFile(Generic[T]):
    """One file, its lock, and the time of the last known change of what it describes. Harmless when not usable.

    owner is who is asked, for messages. decode may raise anything for what it does not understand.
    """

    def __init__(self, name: str, owner: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        self.owner = owner
        self._name = name
        self._encode = encode
        self._decode = decode

    def path(self, ending: str = "json") -> Path | None:
        directory = folder()
        return directory / f"{self._name}.{ending}" if directory else None

    def read(self) -> Content[T]:
        """What is in it; empty when it can't be used."""
        told = _files.read(self.path())
        try:
            if told["schema"] != SCHEMA:
                return Content()
            content = Content(
                None if told["data"] is None else self._decode(told["data"]),
                float(told["asked_at"]),
                float(told["fetched_at"]),
                dict(told["error"]) if told["error"] else None,
                float(told["failed_at"] or 0.0),
            )
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            return Content()
        # A clock that was set back: what comes from the future has no known age.
        return Content() if max(content.fetched_at, content.failed_at) > _clock.now() + 1.0 else content

    def write(self, content: Content[T]) -> None:
        """Replace it as a whole; to be called with the lock."""
        told = {
            "schema": SCHEMA,
            "fetched_at": content.fetched_at,
            "asked_at": content.asked_at,
            "failed_at": content.failed_at or None,
            "error": content.error,
            "data": None if content.data is None else self._encode(content.data),
        }
        _files.write(self.path(), told)

    def changed_at(self) -> float:
        """When something was changed that the data describes: an answer to a question from before doesn't count."""
        told = _files.read(self.path("changed"))
        try:
            # One from the future would refuse everything until then; so it counts as now.
            return min(float(told["changed_at"]), _clock.now())
        except (LookupError, TypeError, ValueError):
            return 0.0

    def invalidate(self) -> None:
        """Data that was asked for until now is not used again."""
        if not _files.write(self.path("changed"), {"changed_at": _clock.now()}):
            path = self.path()
            if path:
                with contextlib.suppress(OSError):
                    path.unlink()

    def change(self, change: Callable[[T], T]) -> None:
        """Correct what is known, with its age as it is; not worth a long wait, nor a failure."""
        deadline = _clock.monotonic() + _CHANGE_SECONDS
        while True:
            with self.locked() as mine:
                content = self.read()
                if content.data is None:
                    return
                if mine:
                    self.write(content._replace(data=change(content.data)))
                    return
            if _clock.monotonic() >= deadline:
                return
            _clock.sleep(_LOOK_AGAIN_SECONDS)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether the lock is ours. Where there can be no lock there is nobody to share with, so it is."""
        lock = _files.lock(self.path("lock"))
        try:
            yield lock is not None
        finally:
            _files.unlock(lock)


def get(
    file: CacheFile[T],
    policy: Policy,
    fetch: Callable[[], T],
    refresh: Callable[[int], None] | None = None,
    *,
    fresh: bool = False,
) -> Reading[T]:
    """The data, by the policy: from the file at once, or as somebody is getting it now, or by fetch.

    refresh starts something that fetches in the background; it is handed the locked file. fresh: nothing that was
    asked for before this call, whatever its age. fetch raises ProviderError, and keeps to the policy's limit itself.
    """
    began = _clock.now()
    if not fresh:
        content, changed_at = file.read(), file.changed_at()
        if _counts(content, changed_at):
            age, failing = began - content.fetched_at, content.failed_at > content.fetched_at
            known_to_fail = failing and began - content.failed_at <= FAILING_SECONDS
            if age <= policy.fresh_seconds:
                return _reading(content, began)
            if age <= policy.stale_seconds or (known_to_fail and age <= policy.on_error_seconds):
                if not failing or began - content.failed_at > RETRY_SECONDS:
                    _hand_over(file, refresh)
                return _reading(content, began)
    return _wait_or_fetch(file, policy, fetch, began, fresh)


def refresh_now(file: CacheFile[T], policy: Policy, fetch: Callable[[], T]) -> None:
    """Fetch into the file, unless somebody just did; the caller has the lock."""
    content = file.read()
    if _counts(content, file.changed_at()) and _clock.now() - content.fetched_at <= policy.fresh_seconds:
        return
    _fetch(file, fetch)


def _hand_over(file: CacheFile[T], refresh: Callable[[int], None] | None) -> None:
    """Let it be refreshed in the background by exactly one: who has the lock."""
    lock = _files.lock(file.path("lock")) if refresh else None
    if refresh is None or lock is None or lock == _files.NO_LOCKS:
        return
    try:
        refresh(lock)
    except OSError:
        return  # no more processes, no memory: the data at hand is good enough
    finally:
        _files.unlock(lock)


def _wait_or_fetch(file: CacheFile[T], policy: Policy, fetch: Callable[[], T], began: float, fresh: bool) -> Reading[T]:
    """Whoever gets the lock asks; the others take whatever comes after they began to wait, however long that took."""
    deadline = _clock.monotonic() + policy.limit_seconds + _GRACE_SECONDS
    while True:
        with file.locked() as mine:
            content = file.read()
            # A wish for fresh data needs an answer to a question from after it; else it may miss what was just done.
            since = content.asked_at if fresh else content.fetched_at
            if since > began and _counts(content, file.changed_at()):
                return _reading(content, _clock.now())
            if content.failed_at > began and content.error:
                return _fall_back(file, policy, fresh, error_from(content.error))
            if mine:
                reading = ask(lambda: _fetch(file, fetch))
                return _fall_back(file, policy, fresh, reading.error) if reading.error else reading
        if _clock.monotonic() >= deadline:
            if policy.must_have:
                return ask(fetch)
            late = ProviderUnavailable(
                f"Another run asks {file.owner} for the same, and got no answer in {policy.limit_seconds:.0f} s.",
                provider=file.owner,
                fix="Run again.",
            )
            return _fall_back(file, policy, fresh, late)
        _clock.sleep(_LOOK_AGAIN_SECONDS)


def ask(fetch: Callable[[], T]) -> Reading[T]:
    """What fetch says, and nothing from a file."""
    try:
        return Reading(fetch())
    except ProviderError as error:
        return Reading(None, error=error)


def _fetch(file: CacheFile[T], fetch: Callable[[], T]) -> T:
    """Ask, and write down what came of it. A failure is written beside the data that was there."""
    asked_at = _clock.now()
    try:
        data = fetch()
    except ProviderError as error:
        old = file.read()
        file.write(old._replace(error=error.as_failure(), failed_at=_clock.now()))
        raise
    file.write(Content(data, asked_at, _clock.now()))
    _files.remove_old(folder(), file.path(), KEPT_SECONDS)
    return data


def _fall_back(file: CacheFile[T], policy: Policy, fresh: bool, error: ProviderError) -> Reading[T]:
    content, now = file.read(), _clock.now()
    if fresh or not _counts(content, file.changed_at()) or now - content.fetched_at > policy.on_error_seconds:
        return Reading(None, error=error)
    return Reading(content.data, now - content.fetched_at, error)


def _counts(content: Content[T], changed_at: float) -> bool:
    return content.data is not None and content.asked_at > changed_at


def _reading(content: Content[T], now: float) -> Reading[T]:
    failing = content.error and content.failed_at > content.fetched_at
    return Reading(content.data, max(0.0, now - content.fetched_at), error_from(content.error) if failing else None)


def error_from(failure: Mapping[str, Any] | None) -> ProviderError:
    """The error that as_failure described; only its class is gone."""
    told = failure or {}
    error = ProviderError(
        str(told.get("message")),
        provider=str(told.get("provider")),
        status=told.get("status"),
        request_id=told.get("request_id"),
        fix=str(told.get("fix") or ""),
    )
    error.code = str(told.get("code"))
    return error


def folder() -> Path | None:
    """Where the files are; None where there can be none, or nobody wants any."""
    if os.environ.get(SWITCH, "").strip().lower() in ("0", "false", "no", "off"):
        return None
    return _files.folder("cache")
