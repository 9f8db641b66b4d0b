# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How Google's Compute v1 is talked to: who asks, and orders that are operations, done only later.

An order carries an id of its own, so it may be sent again when its answer is lost: it takes effect once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _clock, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_errors as errors
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer, Transport

OPERATION_SECONDS = 300.0
_POLL_SECONDS = 2.0
_SENDS = 3  # of one order
_TURNS = 4  # for a call that comes too early
_SCOPES = ("https://www.googleapis.com/auth/compute",)

Token = Callable[[], str]


class ComputeApi:
    """Calls below projects/PROJECT/. Settings: project, api_url; the rest from the environment."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._transport: Transport | None = None

    def call(self, method: str, path: str, **options: Any) -> Answer:
        """Like Transport.call. Too many requests can come as a 403 here, which says that nothing was done."""
        if self._transport is None:
            self._transport = self._connect()
        for turn in range(_TURNS):
            try:
                return self._transport.call(method, path, **options)
            except RateLimited as error:
                if error.status != 403 or turn == _TURNS - 1:
                    raise
                _clock.sleep(2.0**turn)
        raise AssertionError("unreachable: the last turn returns or raises")

    def order(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        request_id: str | None = None,
        query: Mapping[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Send what changes something, again when the answer is lost; what comes back is an operation."""
        named = {**(query or {}), "requestId": request_id or str(uuid.uuid4())}
        for attempt in range(_SENDS):
            try:
                return self.call(method, path, query=named, body=body, accept=accept)
            except Ambiguous:
                if attempt == _SENDS - 1:
                    raise
                _clock.sleep(1.0 + attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def finished(self, operation: Any, seconds: float = OPERATION_SECONDS) -> dict[str, Any]:
        """The operation when it is done; Ambiguous when that takes too long, unavailable when it is no operation."""
        current, deadline = _operation(operation), _clock.monotonic() + seconds
        while current.get("status") != "DONE":
            if _clock.monotonic() > deadline:
                raise Ambiguous(
                    f"{errors.PROVIDER} has not finished {current.get('operationType')} after {seconds:.0f} s.",
                    provider=errors.PROVIDER,
                    fix="Run again: it looks for what was done first.",
                )
            _clock.sleep(_POLL_SECONDS)
            current = _operation(self.call("GET", operation_path(current)).body)
        return current

    def pages(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """All pages of a list; an error, when one is missing or is not complete."""
        token: str | None = None
        while True:
            page = {**(query or {}), "maxResults": 500, **({"pageToken": token} if token else {})}
            body = self.call("GET", path, query=page).body
            if not isinstance(body, dict):
                raise errors.strange("no list")
            yield body
            token = body.get("nextPageToken")
            if not token:
                return

    def _connect(self) -> Transport:
        account = _accounts.get(errors.PROVIDER, self._settings)
        token, own_project = _token_of()
        project = _accounts.google_project(self._settings) or own_project
        if not project:
            raise InvalidRequest("There is no project for gcp.", provider=errors.PROVIDER, fix=errors.PROJECT_FIX)
        limiter = _rate_limit.Limiter(account)
        return Transport(
            errors.PROVIDER,
            f"{account.url.rstrip('/')}/projects/{project}",
            {},
            errors.refusal,
            pace=limiter.wait,
            heed=limiter.heed,
            sign=lambda: {"Authorization": f"Bearer {token()}"},
        )


def _operation(body: Any) -> dict[str, Any]:
    """What an order was answered with, when it can be asked about."""
    if not isinstance(body, dict) or not body.get("name"):
        raise errors.strange("no operation")
    return body


def operation_path(operation: Mapping[str, Any]) -> str:
    zone = str(operation.get("zone") or "").rpartition("/")[2]
    return f"/zones/{zone}/operations/{operation['name']}" if zone else f"/global/operations/{operation['name']}"


def _token_of() -> tuple[Token, str | None]:
    """What gives a token that holds now, and the project that the credentials name, if they do."""
    given = os.environ.get("GCP_ACCESS_TOKEN", "").strip()
    if given:
        return (lambda: given), None
    try:
        import google.auth  # only when a call is made
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError as error:
        raise ProviderUnavailable(
            f"The Python library 'google-auth' is missing on the controller ({error}).",
            provider=errors.PROVIDER,
            fix="Install it for the Python that runs Ansible (pip install google-auth), or set GCP_ACCESS_TOKEN.",
        ) from error
    try:
        credentials, project = google.auth.default(scopes=_SCOPES)
    except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
        raise _no_credentials(error) from error

    def token() -> str:
        if not credentials.valid:
            try:
                credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[no-untyped-call]
            except google.auth.exceptions.TransportError as error:
                raise ProviderUnavailable(
                    f"{errors.PROVIDER}: a token can't be asked for ({type(error).__name__}).",
                    provider=errors.PROVIDER,
                    fix="Run again; if it stays so, look at the controller's way to Google.",
                ) from error
            except (google.auth.exceptions.GoogleAuthError, ValueError) as error:
                raise _no_credentials(error) from error
        return str(credentials.token)

    return token, project


def _no_credentials(error: Exception) -> AuthError:
    """Without the library's words: they may have parts of a key, or an answer with a secret in it."""
    return AuthError(
        f"There are no credentials for gcp that can be used ({type(error).__name__}).",
        provider=errors.PROVIDER,
        fix=errors.KEY_FIX,
    )
