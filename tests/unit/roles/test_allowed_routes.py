# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of routes before a vLLM server, as ASGI and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.load_program import load_program

KEY = "the-right-key-of-the-server"
FILE = Path(__file__).parents[3] / "roles" / "vllm" / "files" / "gpufleet_routes.py"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


def ask(method: str, path: str, *, kind: str = "http", key: str | None = None, **more: Any) -> tuple[str, list[Any]]:
    """Who answered ("app" or "list"), and what was sent."""
    reached: list[str] = []
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        reached.append("app")

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope = {"type": kind, "path": path, "raw_path": path.encode(), "headers": headers, **more}
    if kind == "http":
        scope["method"] = method
    asyncio.run(load_program(FILE).AllowedRoutes(app)(scope, receive, send))
    return ("app" if reached else "list"), sent


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
    ],
)
def test_serving_routes_reach_the_server_which_asks_for_the_key_itself(method: str, path: str) -> None:
    assert ask(method, path) == ("app", [])
    assert ask(method, path, query_string=b"a=b", raw_path=f"{path}?a=b".encode()) == ("app", [])


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/", "/version", "/load", "/ping", "/docs", "/openapi.json", "/server_info")),
        *(("POST", path) for path in ("/invocations", "/tokenize", "/detokenize", "/pooling", "/pause", "/ping")),
        *(("POST", path) for path in ("/v1/load_lora_adapter", "/v1/audio/transcriptions", "/v2/embed", "/rerank")),
        # Other methods and other spellings of what is allowed.
        *((method, "/health") for method in ("POST", "HEAD", "OPTIONS", "get")),
        *((method, "/v1/models") for method in ("POST", "DELETE", "OPTIONS")),
        *(("GET", path) for path in ("/health/", "//health", "/./health", "/HEALTH", "health", "/v1/../health")),
        *(("GET", path) for path in ("//v1/models", "/v1//models", "/v1/models/", "/v1/../metrics", "/v1/models;a")),
        ("POST", "/v1/completions/../../invocations"),
    ],
)
def test_everything_else_is_not_found_with_the_key_too(method: str, path: str, key: str | None) -> None:
    who, sent = ask(method, path, key=key)
    assert who == "list"
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 404
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()


@pytest.mark.parametrize("raw", [b"/v1/%2e%2e/health", b"/%68ealth", b"/health%00", b"/x?/health"])
def test_a_path_that_was_decoded_into_an_allowed_one_is_refused(raw: bytes) -> None:
    assert ask("GET", "/health", raw_path=raw)[0] == "list"


def test_metrics_are_for_who_has_the_key() -> None:
    assert ask("GET", "/metrics", key=KEY) == ("app", [])
    for wrong in (None, "x", KEY + "x", KEY[:-1]):
        who, sent = ask("GET", "/metrics", key=wrong)
        assert (who, sent[0]["status"]) == ("list", 404), "as if there were none"
    both = [(b"authorization", b"Bearer x"), (b"Authorization", f"Bearer {KEY}".encode())]
    assert ask("GET", "/metrics", headers=both)[0] == "list"


def test_a_websocket_is_closed_before_it_opens() -> None:
    who, sent = ask("", "/v1/realtime", kind="websocket", key=KEY)
    assert (who, sent) == ("list", [{"type": "websocket.close", "code": 1008}])


def test_start_and_stop_of_the_server_pass_and_unknown_kinds_do_not() -> None:
    assert ask("", "", kind="lifespan") == ("app", [])
    assert ask("", "/health", kind="webtransport") == ("list", [])


def test_without_a_key_it_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "")
    with pytest.raises(RuntimeError, match="without a key anybody could use this server"):
        ask("GET", "/health")
