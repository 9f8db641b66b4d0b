# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoint check against small servers that are right, open, or wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import check_endpoint

KEY = "the-right-key"
DEFAULTS = {
    "api_key": KEY,
    "model": "tiny",
    "health_path": "/health",
    "prompt": "Hello",
    "max_tokens": 4,
    "timeout_seconds": 5,
    "validate_certs": True,
    "use_proxy": False,
}


@contextmanager
def server(
    *, key: str | None = KEY, model: str = "tiny", tokens: int = 4, completion_status: int = 200
) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.path == "/health":
                self.answer(200, {})
            elif key and self.headers.get("Authorization") != f"Bearer {key}":
                self.answer(401, {"error": "Unauthorized"})
            else:
                self.answer(200, {"data": [{"id": model}]})

        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert wanted["prompt"] == "Hello"
            usage = {"prompt_tokens": 1, "completion_tokens": tokens}
            self.answer(completion_status, {"choices": [{"text": "x" * tokens}], "usage": usage} if tokens >= 0 else {})

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()


def failed(url: str, **values: Any) -> list[str]:
    result = check_endpoint({**DEFAULTS, "url": url, **values})
    assert KEY not in json.dumps(result)
    assert all(check["fix"] for check in result["checks"] if not check["ok"])
    return [check["name"] for check in result["checks"] if not check["ok"]]


def test_a_right_endpoint_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # instances are reached directly
    with server() as url:
        result = check_endpoint({**DEFAULTS, "url": url + "/"})
    assert [check["ok"] for check in result["checks"]] == [True] * 5
    assert result["models"] == ["tiny"]
    assert result["completion"]["completion_tokens"] == 4


def test_what_is_wrong_is_named() -> None:
    with server(key=None) as url:
        assert failed(url) == ["refused_without_key", "refused_with_wrong_key"]
    with server(model="other") as url:
        assert failed(url) == ["model"]
    with server(key="another") as url:
        assert failed(url) == ["model"]
    for tokens, status in ((0, 200), (-1, 200), (-1, 500)):
        with server(tokens=tokens, completion_status=status) as url:
            assert failed(url) == ["completion"]


def test_nobody_there_fails_all_without_an_exception() -> None:
    assert len(failed("http://127.0.0.1:9", timeout_seconds=1)) == 5
    assert failed("ftp://host") == ["url"]
