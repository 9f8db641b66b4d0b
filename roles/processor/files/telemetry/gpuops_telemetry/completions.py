# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real completion from an OpenAI-compatible server, and what it took."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any


class CompletionError(Exception):
    """The server gave no completion; the text says why, without key or payload."""


@dataclass(frozen=True)
class Completion:
    """The usage that the server reports, and the latency that we measured."""

    prompt_tokens: int
    completion_tokens: int
    latency_ms: float


class _Pinned(urllib.request.HTTPSHandler):
    """For a server whose certificate nobody signed: its fingerprint is compared before the first byte is sent."""

    def __init__(self, fingerprint: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(context=context)
        self._fingerprint, self._pinned_context = fingerprint, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        fingerprint = self._fingerprint

        class Connection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                found = hashlib.sha256(self.sock.getpeercert(True) or b"").hexdigest()
                if f"sha256:{found}" != fingerprint:
                    self.close()
                    raise OSError(f"its certificate is sha256:{found}, not the pinned {fingerprint}")

        return self.do_open(lambda host, **more: Connection(host, context=self._pinned_context, **more), req)


class CompletionClient:
    """Asks for completions, one at a time. With a fingerprint, only of the server that has that certificate."""

    def __init__(
        self,
        url: str,
        api_key: str,
        model: str,
        max_tokens: int,
        timeout_seconds: float,
        tls_fingerprint: str = "",
    ) -> None:
        self._opener = urllib.request.build_opener(*([_Pinned(tls_fingerprint)] if tls_fingerprint else []))
        self._url = f"{url}/v1/completions"
        self._api_key = api_key
        self._model = model
        self._max_tokens = max_tokens
        self._timeout_seconds = timeout_seconds

    def complete(self, prompt: str) -> Completion:
        body = {"model": self._model, "prompt": prompt, "max_tokens": self._max_tokens, "temperature": 0.8}
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(  # noqa: S310 - settings.py takes http and https only
            self._url, json.dumps(body).encode(), headers, method="POST"
        )
        started = time.monotonic()
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                content = answer.read(16 * 1024 * 1024)
        except urllib.error.HTTPError as error:
            raise CompletionError(f"{self._url} answered {error.code}{_hint(error.code)}") from None
        except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
            raise CompletionError(f"{self._url} does not answer: {getattr(error, 'reason', error)}") from None
        latency_ms = (time.monotonic() - started) * 1000
        return read_usage(content, latency_ms)


def read_usage(content: bytes, latency_ms: float) -> Completion:
    """The usage block of an answer."""
    try:
        usage: dict[str, Any] = json.loads(content)["usage"]
        prompt_tokens, completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        return Completion(int(prompt_tokens), int(completion_tokens), round(latency_ms, 3))
    except (ValueError, KeyError, TypeError):
        raise CompletionError("the answer states no token usage; is this an OpenAI-compatible server?") from None


def _hint(status: int) -> str:
    return {
        401: ": the API key is missing or wrong",
        404: ": the model name is not the one that is served",
        429: ": too many requests",
    }.get(status, "")
