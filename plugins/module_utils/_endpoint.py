# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking an OpenAI-compatible endpoint, with nothing but the standard library; the key goes into a header only."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock


@dataclass(frozen=True)
class Answer:
    """status is None when no HTTP answer came; text then says why."""

    status: int | None
    text: str
    other_certificate: bool = False

    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:200]
        return f"no answer ({words})" if self.status is None else f"status {self.status}: {words}"


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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Following one would send the key elsewhere."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


class Endpoint:
    """One endpoint and how to reach it. tls_fingerprint: the only certificate to speak to; nothing else counts then."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        validate_certs: bool,
        use_proxy: bool,
        tls_fingerprint: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url '{url}' is not an address; write http://… or https://….")
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        if tls_fingerprint and not _FINGERPRINT.fullmatch(tls_fingerprint):
            raise ValueError(f"tls_fingerprint '{tls_fingerprint}' is none; it is 'sha256:' and 64 digits of 0-9a-f.")
        if tls_fingerprint and not url.startswith("https://"):
            raise ValueError(f"tls_fingerprint is set, but url '{url}' is not https://….")
        handlers: list[urllib.request.BaseHandler] = [
            _PinnedHandler(tls_fingerprint)
            if tls_fingerprint
            else urllib.request.HTTPSHandler(
                context=ssl.create_default_context() if validate_certs else _trusting_nobody()
            )
        ]
        handlers.append(_NoRedirect())
        if not use_proxy:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, path: str, api_key: str | None = None, body: Mapping[str, Any] | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers)  # noqa: S310 (checked above)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                return Answer(response.status, response.read().decode(errors="replace"))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            return Answer(None, str(reason), isinstance(reason, OtherCertificate))


def check_endpoint(params: Mapping[str, Any]) -> dict[str, Any]:
    """All checks, with what was seen; the caller decides what a failed one means."""
    try:
        endpoint = Endpoint(
            params["url"],
            timeout_seconds=params["timeout_seconds"],
            validate_certs=params["validate_certs"],
            use_proxy=params["use_proxy"],
            tls_fingerprint=params.get("tls_fingerprint"),
        )
    except ValueError as error:
        return {"checks": [_check("url", False, str(error), "Correct it.")], "models": [], "completion": None}
    model, key = params["model"], params["api_key"]
    health = endpoint.ask(params["health_path"])
    checks = [_check("health", health.status == 200, str(health), "Check that the service runs and its port is open.")]
    for name, wrong_key in (("refused_without_key", None), ("refused_with_wrong_key", "not-the-key")):
        refused = endpoint.ask("/v1/models", wrong_key)
        ok = refused.status in (401, 403)
        detail = f"status {refused.status}" if ok else str(refused)
        checks.append(_check(name, ok, detail, "Start the server with an API key; close the port until then."))
    # Routes of vLLM that need no key: not even with one are they for anybody outside.
    found = {path: endpoint.ask(path, key) for path in params.get("forbidden_paths") or ()}
    open_paths = [f"{path}: {answer}" for path, answer in found.items() if answer.status != 404]
    if found:
        words = "; ".join(open_paths) or f"404 for {', '.join(found)}"
        checks.append(_check("forbidden_routes", not open_paths, words, "Start it with the list of allowed routes."))
    models = _model_names(endpoint.ask("/v1/models", key))
    checks.append(_check("model", model in models, f"serves {models}", f"Serve '{model}', or name a served one."))
    completion, words = _complete(endpoint, params)
    checks.append(_check("completion", completion is not None, words, "Look at the log of the server."))
    return {"checks": checks, "models": models, "completion": completion}


def _check(name: str, ok: bool, detail: str, fix: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail, "fix": "" if ok else fix}


def _model_names(answer: Answer) -> list[str]:
    document = answer.json()
    entries = document.get("data", []) if isinstance(document, dict) else []
    return [entry["id"] for entry in entries if isinstance(entry, dict) and "id" in entry]


def _complete(endpoint: Endpoint, params: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    body = {"model": params["model"], "prompt": params["prompt"], "max_tokens": params["max_tokens"]}
    started = _clock.monotonic()
    answer = endpoint.ask("/v1/completions", params["api_key"], body)
    seconds = round(_clock.monotonic() - started, 3)
    document = answer.json()
    try:
        text, usage = document["choices"][0]["text"], document["usage"]
        tokens = int(usage["completion_tokens"])
        result = {"text": text, "prompt_tokens": int(usage["prompt_tokens"]), "completion_tokens": tokens}
    except (KeyError, IndexError, TypeError, ValueError):
        return None, str(answer)
    if tokens < 1:
        return None, "the completion is empty"
    return result | {"latency_seconds": seconds}, f"{tokens} tokens in {seconds} s"
