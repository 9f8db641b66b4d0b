# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking an OpenAI-compatible endpoint, with nothing but the standard library; the key goes into a header only."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import re
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock

TOO_MANY_REQUESTS = 429
# Of an answer; what comes after it is not read.
_MOST_BYTES = 8 * 1024 * 1024
# Where a server says "too many requests" and not when to come back.
_RETRY_SECONDS = 5.0
_END_OF_STREAM = "[DONE]"


@dataclass(frozen=True)
class Answer:
    """status is None when no HTTP answer came; text then says why. seconds: of the last try, without waiting before it.

    events are the data of a stream without its end; None where the answer was none. ended: whether the end was there.
    """

    status: int | None
    text: str
    other_certificate: bool = False
    bad_certificate: bool = False
    retry_after_seconds: float | None = None
    seconds: float = 0.0
    events: tuple[str, ...] | None = None
    ended: bool = False
    first_event_seconds: float | None = None

    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:200]
        if self.status is None:
            return f"no answer ({words})"
        if self.status == TOO_MANY_REQUESTS and self.retry_after_seconds is not None:
            later = f"it limits the rate and says to come back in {self.retry_after_seconds:.0f} s"
            return f"status {self.status}: {later}, which is longer than may be waited"
        return f"status {self.status}: {words}"


_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class OtherCertificate(OSError):
    """Somebody else answers, or the same server with another certificate. Nothing was sent."""


def fingerprint(certificate: bytes) -> str:
    """Of a certificate in DER, as the entry point of a rental prints it."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def presented_fingerprint(url: str, timeout_seconds: float) -> str:
    """Of the certificate with which a server answers, whoever it is; raises OSError when none does."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        str(parts.hostname), parts.port, timeout=timeout_seconds, context=_trusting_nobody()
    )
    try:
        connection.connect()
        return fingerprint(connection.sock.getpeercert(True) or b"")
    finally:
        connection.close()


def _trusting_nobody() -> ssl.SSLContext:
    """For a certificate that is compared by its fingerprint instead of its names and its signer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(ca_certificate: str) -> ssl.SSLContext:
    """Only what is in this PEM text: who signed the server's certificate, or that certificate itself.

    The server's names count as ever. Raises ValueError with a sentence.
    """
    if "PRIVATE KEY" in ca_certificate:
        raise ValueError("ca_certificate holds a private key, which belongs to the server alone; give the certificate.")
    try:
        context = ssl.create_default_context(cadata=ca_certificate)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"ca_certificate holds no certificate in PEM ({error}).") from error
    # Newer Pythons want extensions in a signer that a server's own certificate need not have.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class _PinnedHandler(urllib.request.HTTPSHandler):
    """Speaks to the one certificate only: the comparison comes before the first byte of a request."""

    def __init__(self, pinned: str) -> None:
        super().__init__(context=_trusting_nobody())
        self._pinned = pinned

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        pinned = self._pinned

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                found = fingerprint(self.sock.getpeercert(True) or b"")
                if found != pinned:
                    self.close()
                    raise OtherCertificate(f"it answers with certificate {found}, but {pinned} is pinned")

        context = _trusting_nobody()
        return self.do_open(lambda host, **more: Connection(host, context=context, **more), req)


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """An error is an answer as well, and so is a redirect: following one would send the key elsewhere."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


class Endpoint:
    """One endpoint and how to reach it. tls_fingerprint: the only certificate to speak to; nothing else counts then.

    ca_certificate: PEM text, instead of the signers that this machine knows. max_wait_seconds: in all, for a server
    that limits the rate of requests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        validate_certs: bool,
        use_proxy: bool,
        tls_fingerprint: str | None = None,
        ca_certificate: str | None = None,
        max_wait_seconds: float = 0.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url '{url}' is not an address; write http://… or https://….")
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._wait_seconds_left = max_wait_seconds
        if tls_fingerprint and not _FINGERPRINT.fullmatch(tls_fingerprint):
            raise ValueError(f"tls_fingerprint '{tls_fingerprint}' is none; it is 'sha256:' and 64 digits of 0-9a-f.")
        if tls_fingerprint and ca_certificate:
            raise ValueError("tls_fingerprint and ca_certificate are both set; one of them says whom to trust.")
        for name, value in (("tls_fingerprint", tls_fingerprint), ("ca_certificate", ca_certificate)):
            if value and not url.startswith("https://"):
                raise ValueError(f"{name} is set, but url '{url}' is not https://….")
        if tls_fingerprint:
            tls: urllib.request.BaseHandler = _PinnedHandler(tls_fingerprint)
        elif ca_certificate:
            tls = urllib.request.HTTPSHandler(context=trusting(ca_certificate))
        else:
            context = ssl.create_default_context() if validate_certs else _trusting_nobody()
            tls = urllib.request.HTTPSHandler(context=context)
        handlers = [tls, _EveryStatus()]
        if not use_proxy:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(
        self, path: str, api_key: str | None = None, body: Any = None, method: str | None = None, patient: bool = True
    ) -> Answer:
        """One request, again after a wait where the server limits the rate, if patient. With a body it is a POST."""
        while True:
            answer = self._once(path, api_key, body, method)
            if answer.status != TOO_MANY_REQUESTS or not patient:
                return answer
            said = answer.retry_after_seconds
            # At least a moment, so that nobody is asked again and again without a pause.
            wait = max(1.0, _RETRY_SECONDS if said is None else said)
            if wait > self._wait_seconds_left:
                return replace(answer, retry_after_seconds=wait)
            self._wait_seconds_left -= wait
            _clock.sleep(wait)

    def _once(self, path: str, api_key: str | None, body: Any, method: str | None) -> Answer:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)  # noqa: S310 (checked)
        started = _clock.monotonic()
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                found = _read(response, started, self._timeout_seconds)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            return Answer(
                None,
                str(reason) or type(reason).__name__,
                other_certificate=isinstance(reason, OtherCertificate),
                bad_certificate=isinstance(reason, ssl.SSLCertVerificationError),
            )
        return replace(found, seconds=_clock.monotonic() - started)


def _read(response: Any, started: float, timeout_seconds: float) -> Answer:
    """The whole of it within the time, also of a server that sends a byte now and then; raises TimeoutError."""
    streams = response.headers.get_content_type() == "text/event-stream"
    text, events, size = [], [], 0
    first, ended = None, False
    while size < _MOST_BYTES:
        part = response.readline(65536) if streams else response.read1(65536)
        seconds = _clock.monotonic() - started
        if not part:
            break
        if seconds > timeout_seconds:
            raise TimeoutError(f"the answer was not complete after {timeout_seconds:g} s")
        size += len(part)
        text.append(part)
        if streams and part.startswith(b"data:"):
            data = part[5:].decode(errors="replace").strip()
            if data == _END_OF_STREAM:
                ended = True
                break
            first = seconds if first is None else first
            events.append(data)
    return Answer(
        response.status,
        b"".join(text).decode(errors="replace"),
        retry_after_seconds=_retry_after(response.headers),
        events=tuple(events) if streams else None,
        ended=ended,
        first_event_seconds=first,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, or a date, as HTTP allows; None for neither."""
    said = (headers.get("Retry-After") or "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - _clock.now())
    except (TypeError, ValueError):
        return None
