# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking an OpenAI-compatible endpoint, with nothing but the standard library; the key goes into a header only."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock


@dataclass(frozen=True)
class Answer:
    """status is None when no HTTP answer came; text then says why."""

    status: int | None
    text: str

    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def __str__(self) -> str:
        words = " ".join(self.text.split())[:200]
        return f"no answer ({words})" if self.status is None else f"status {self.status}: {words}"


class Endpoint:
    """One endpoint and how to reach it."""

    def __init__(self, url: str, *, timeout_seconds: float, validate_certs: bool, use_proxy: bool) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url '{url}' is not an address; write http://… or https://….")
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        context = ssl.create_default_context()
        if not validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
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
        except (OSError, ValueError) as error:
            return Answer(None, str(getattr(error, "reason", error)))


def check_endpoint(params: Mapping[str, Any]) -> dict[str, Any]:
    """All checks, with what was seen; the caller decides what a failed one means."""
    try:
        endpoint = Endpoint(
            params["url"],
            timeout_seconds=params["timeout_seconds"],
            validate_certs=params["validate_certs"],
            use_proxy=params["use_proxy"],
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
