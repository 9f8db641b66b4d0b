# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""HTTP to providers: one way to send, to wait, to try again, and to say that nobody knows what happened.

What may be repeated is decided here, once: a question (GET) after 429, 5xx and a lost connection; everything else only
after 429, which says that nothing was done. A lost answer to anything else is Ambiguous: look before trying again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import (
    LONGEST_WAIT_SECONDS,
    retry_after_seconds,
)

if TYPE_CHECKING:
    import requests

USER_AGENT = "gpuops-fleet/0.1 (+https://github.com/gpuops/fleet)"  # Cloudflare refuses Python's own with 403
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
IDLE_SECONDS = 2.0  # a stream that says nothing for so long has told what it had
ATTEMPTS = 5
HURRIED_ATTEMPTS = 3  # for a caller with a limit: he can do without an answer
_QUESTIONS = ("GET", "HEAD")


@dataclass(frozen=True)
class Answer:
    """What a provider answered. body is its JSON, or None where there was none; text is what was really sent."""

    status: int
    body: Any = None
    text: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def request_id(self) -> str | None:
        return self.headers.get("x-request-id")


Refusal = Callable[[Answer], ProviderError]


@dataclass
class Transport:
    """Calls one provider's API.

    headers carry the credentials; they are never part of an error. refuse turns an answer of 4xx into an error of the
    contract; pace, when given, is called before each attempt and waits until this account may send it, and heed after
    each answer, for what it says about that; sign, when given, is asked before each attempt for headers that change in
    time. Inside _clock.limit there is less patience, and no attempt after it.
    """

    provider: str
    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    refuse: Refusal
    pace: Callable[[str, str], None] | None = None
    heed: Callable[[str, str, Answer], None] | None = None
    sign: Callable[[], Mapping[str, str]] | None = field(default=None, repr=False)
    _session: requests.Session | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        accept: tuple[int, ...] = (),
        read_seconds: float = READ_SECONDS,
    ) -> Answer:
        """Send it and return the answer when it is 2xx, or one of the statuses in accept; else raise.

        read_seconds is how long an answer may take, for a call that is known to take longer.
        """
        attempts = ATTEMPTS if _clock.seconds_left() is None else HURRIED_ATTEMPTS
        for attempt in range(attempts):
            last = attempt == attempts - 1
            if self.pace:
                self.pace(method, path)
            try:
                answer = self._send(method, path, query, body, read_seconds)
            except ProviderUnavailable:
                if method not in _QUESTIONS or last or not pause(pause_seconds(attempt)):
                    raise
                continue
            if self.heed:
                self.heed(method, path, answer)
            if 200 <= answer.status < 300 or answer.status in accept:
                return answer
            if answer.status == 429:
                self._wait_for_turn(answer, attempt, last)
            elif answer.status >= 500:
                if method not in _QUESTIONS:
                    raise self._unknown(method, path, f"answered {answer.status}", answer)
                if last or not pause(pause_seconds(attempt)):
                    raise self._unavailable(f"{method} {path} answers {answer.status}", answer)
            else:
                raise self.refuse(answer)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stream(self, path: str, query: Mapping[str, Any], seconds: float) -> list[str]:
        """The lines of an answer that never ends: what comes in that time, or until nothing comes for a moment."""
        import requests

        if self.pace:
            self.pace("GET", path)
        lines: list[str] = []
        deadline = _clock.monotonic() + seconds
        try:
            with self._opened().get(
                self.base_url.rstrip("/") + path,
                params=query,
                headers={"Accept": "text/event-stream"},
                timeout=(CONNECT_SECONDS, IDLE_SECONDS),
                stream=True,
                allow_redirects=False,
            ) as received:
                if received.status_code >= 300:
                    raise self.refuse(Answer(received.status_code, _json(received), received.text, received.headers))
                for line in received.iter_lines(chunk_size=1, decode_unicode=True):
                    lines.append(str(line))
                    if _clock.monotonic() >= deadline:
                        break
        except requests.exceptions.RequestException:
            pass  # it says no more
        return lines

    def _opened(self) -> requests.Session:
        import requests  # only when a call is made: an inventory from its cache needs no HTTP

        if self._session is None:
            self._session = requests.Session()
            self._session.headers.update({"User-Agent": USER_AGENT, "Accept": "application/json", **self.headers})
        return self._session

    def _send(self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, read_seconds: float) -> Answer:
        import requests

        session = self._opened()
        left = _clock.seconds_left()
        connect, read = (limit if left is None else min(limit, left) for limit in (CONNECT_SECONDS, read_seconds))
        if read <= 0:
            raise self._unavailable("there was no time left to wait for it")
        signed = self.sign() if self.sign else None
        try:
            received = session.request(
                method,
                self.base_url.rstrip("/") + path,
                params=query,
                json=body,
                headers=signed,
                timeout=(connect, read),
                # Following one would send the credentials elsewhere, and a POST as a GET.
                allow_redirects=False,
            )
        except requests.exceptions.ConnectTimeout as error:
            raise self._unavailable(f"{self.base_url} did not accept a connection") from error
        except requests.exceptions.RequestException as error:
            if method in _QUESTIONS or _was_never_sent(error):
                raise self._unavailable(f"{method} {path}: {_reason(error, read)}") from error
            raise self._unknown(method, path, _reason(error, read)) from error
        if 300 <= received.status_code < 400:
            raise self._unavailable(f"{method} {path} was sent elsewhere ({received.status_code}): the API has moved")
        return Answer(received.status_code, _json(received), received.text, received.headers)

    def _wait_for_turn(self, answer: Answer, attempt: int, last: bool) -> None:
        wanted = retry_after_seconds(answer)
        too_long = last or (wanted or 0) > LONGEST_WAIT_SECONDS
        if too_long or not pause(max(wanted or 0.0, pause_seconds(attempt))):
            how_long = f" for {wanted:.0f} s" if wanted else ""
            raise RateLimited(
                f"{self.provider} asks us to wait{how_long}: too many requests.",
                provider=self.provider,
                status=429,
                request_id=answer.request_id,
                retry_after_seconds=wanted,
                fix="Run again later; several controllers of one account share its limits.",
            )

    def _unavailable(self, what: str, answer: Answer | None = None) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{self.provider} can't be asked: {what}.",
            provider=self.provider,
            status=answer.status if answer else None,
            request_id=answer.request_id if answer else None,
            fix="Run again; if it stays so, look at the provider's status page and at api_url.",
        )

    def _unknown(self, method: str, path: str, what: str, answer: Answer | None = None) -> Ambiguous:
        return Ambiguous(
            f"{self.provider}: {method} {path} {what}, so it may have taken effect.",
            provider=self.provider,
            status=answer.status if answer else None,
            request_id=answer.request_id if answer else None,
            fix="Run again: it looks for what was done first.",
        )


def pause_seconds(attempt: int) -> float:
    return min(0.5 * 2.0**attempt, 8.0) * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)


def pause(seconds: float) -> bool:
    """Sleep; False when no time would be left after it, and none was slept."""
    left = _clock.seconds_left()
    if left is not None and seconds >= left:
        return False
    _clock.sleep(seconds)
    return True


def _json(received: requests.Response) -> Any:
    try:
        return received.json()
    except ValueError:
        return None


def _was_never_sent(error: Exception) -> bool:
    """Whether no connection came about, so that nobody can have acted on it."""
    names = {type(one).__name__ for one in _causes(error)}
    return bool(names & {"NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ConnectionRefusedError"})


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that is wrapped in it: requests hides urllib3's error in args, urllib3 its own in reason."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 20:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
    return found


def _reason(error: Exception, read_seconds: float) -> str:
    """What went wrong in few words; the URL with its query is left out."""
    names = [type(one).__name__ for one in _causes(error)]
    if "ReadTimeout" in names or "ReadTimeoutError" in names:
        return f"did not answer within {read_seconds:.0f} s"
    if "NameResolutionError" in names:
        return "its name can't be resolved"
    if "ConnectionRefusedError" in names:
        return "the connection was refused"
    return f"the connection broke ({names[-1]})"
