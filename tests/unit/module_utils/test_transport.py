# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent again and what is not, over real HTTP on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import retry_after_seconds
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer, Transport
from support.fake_clock import FakeClock
from support.free_port import free_port

Script = list[tuple[int, Any, dict[str, str]]]
HANG_UP = 0  # a status that stands for a connection that is closed without an answer


class Server(ThreadingHTTPServer):
    """Answers each request with the next line of its script, the last one for ever, and remembers what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: Script = []
        self.received: list[tuple[str, str, dict[str, str], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.received.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
        script = self.server.script
        status, content, headers = script.pop(0) if len(script) > 1 else script[0]
        if status == HANG_UP:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_arguments: Any) -> None:
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def transport(server: Server, clock: FakeClock) -> Transport:
    return Transport("runpod", server.url, {"Authorization": "Bearer planted-key"}, refuse)


def refuse(answer: Answer) -> AuthError:
    return AuthError(f"refused: {answer.body}", provider="runpod", status=answer.status, request_id=answer.request_id)


def test_what_is_sent(server: Server, transport: Transport) -> None:
    server.script = [(201, {"id": "x"}, {"x-request-id": "r-1"})]
    answer = transport.call("POST", "/pods", query={"limit": 5}, body={"name": "a"})
    assert (answer.status, answer.body, answer.request_id) == (201, {"id": "x"}, "r-1")
    ((method, path, headers, body),) = server.received
    assert (method, path, body) == ("POST", "/pods?limit=5", {"name": "a"})
    assert headers["Authorization"] == "Bearer planted-key"
    assert headers["User-Agent"].startswith("gpuops-fleet/")


@pytest.mark.parametrize("trouble", [500, 502, 429, HANG_UP])
def test_a_question_is_asked_again(server: Server, transport: Transport, trouble: int) -> None:
    server.script = [(trouble, "", {}), (trouble, "", {}), (200, {"ok": True}, {})]
    assert transport.call("GET", "/pods").body == {"ok": True}
    assert len(server.received) == 3


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("trouble", [500, 503, HANG_UP])
def test_an_order_is_never_given_twice(server: Server, transport: Transport, method: str, trouble: int) -> None:
    server.script = [(trouble, "", {}), (200, {}, {})]
    with pytest.raises(Ambiguous, match="may have taken effect"):
        transport.call(method, "/pods", body={})
    assert len(server.received) == 1


def test_an_order_is_repeated_when_it_was_not_taken(server: Server, transport: Transport, clock: FakeClock) -> None:
    server.script = [(429, "", {"Retry-After": "7"}), (201, {"id": "x"}, {})]
    assert transport.call("POST", "/pods", body={}).status == 201
    assert clock.slept == [7.0]


def test_an_order_that_nobody_received_is_no_mystery(clock: FakeClock) -> None:
    lonely = Transport("runpod", f"http://127.0.0.1:{free_port()}", {}, refuse)
    with pytest.raises(ProviderUnavailable, match="refused"):
        lonely.call("POST", "/pods", body={})


def test_a_long_pause_is_told_and_not_slept_through(server: Server, transport: Transport, clock: FakeClock) -> None:
    server.script = [(429, {"error": "search_quota_exceeded"}, {"Retry-After": "7200"})]
    with pytest.raises(RateLimited, match="7200 s") as caught:
        transport.call("GET", "/bundles")
    assert caught.value.retry_after_seconds == 7200
    assert clock.slept == []


def test_patience_ends(server: Server, transport: Transport) -> None:
    server.script = [(503, "", {})]
    with pytest.raises(ProviderUnavailable, match="503"):
        transport.call("GET", "/pods")
    assert 3 <= len(server.received) <= 6


def test_a_refusal_is_the_providers_to_translate(server: Server, transport: Transport) -> None:
    server.script = [(401, {"title": "no"}, {"x-request-id": "r-2"})]
    with pytest.raises(AuthError) as caught:
        transport.call("GET", "/pods")
    assert caught.value.as_failure()["request_id"] == "r-2"


def test_an_expected_status_is_an_answer(server: Server, transport: Transport) -> None:
    server.script = [(404, {}, {})]
    assert transport.call("GET", "/pods/x", accept=(404,)).status == 404


def test_a_redirect_is_not_followed(server: Server, transport: Transport) -> None:
    """It would carry the key to another server."""
    server.script = [(307, "", {"Location": "http://127.0.0.1:9/elsewhere"})]
    with pytest.raises(ProviderUnavailable, match="moved"):
        transport.call("POST", "/pods", body={})


def test_each_attempt_waits_for_its_turn(server: Server, clock: FakeClock) -> None:
    turns: list[tuple[str, str]] = []
    server.script = [(429, "", {}), (200, {}, {})]
    paced = Transport("vastai", server.url, {}, refuse, pace=lambda method, path: turns.append((method, path)))
    paced.call("PUT", "/asks/1/", body={})
    assert turns == [("PUT", "/asks/1/")] * 2


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({}, "", None),
        ({"Retry-After": "3"}, "", 3.0),
        ({"RateLimit": '"minute";r=0;t=40, "hour";r=100;t=2000, "day";r=0;t=50'}, "", 50.0),
        ({"Retry-After": "60", "RateLimit": '"minute";r=0;t=12'}, "", 60.0),
        ({}, "API requests too frequent: endpoint threshold=4.5 seconds", 4.5),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "", None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], text: str, seconds: float | None) -> None:
    assert retry_after_seconds(Answer(429, None, text, headers)) == seconds


def test_no_error_shows_the_key(server: Server, transport: Transport) -> None:
    server.script = [(HANG_UP, "", {})]
    with pytest.raises(ProviderUnavailable) as caught:
        transport.call("GET", "/pods", query={"api_key": "planted-key"})
    assert "planted-key" not in json.dumps(caught.value.as_failure())
    assert "planted-key" not in repr(transport)
