# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small OpenAI-compatible server on loopback that is right, or has the faults that a test plants."""

from __future__ import annotations

import contextlib
import json
import pathlib
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "planted-right-key-8c30"
STREAM = ('{"choices": [{"text": "x"}]}',) * 3 + ("[DONE]",)


@dataclass
class Faults:
    """What a server does; without a word it does all as it should. stream: None answers at once instead."""

    key: str | None = KEY
    model: str = "tiny"
    answering_model: str | None = None
    tokens: int = 4
    completion_statuses: list[int] = field(default_factory=list)  # for one request each; then 200
    always_fails: int = 0
    text: str = "xxxx"
    # Given: it was started to embed, and completes nothing.
    embedding: Any = None
    health_status: int = 200
    stream: tuple[str, ...] | None = STREAM
    # Route to status, for whoever asks without a key.
    open: Mapping[tuple[str, str], int] = field(default_factory=dict)
    description: Any = None
    # Retry-After of the next answers, each of which is a 429; "" sends none.
    limited: list[str] = field(default_factory=list)
    # So many requests without the key are still served; then each is a 429. None: no limit.
    keyless_left: int | None = None
    redirect_to: str = ""
    drips: bool = False


@dataclass
class Server:
    """Where it is, and what it was asked: method, path, headers, body."""

    url: str
    asked: list[tuple[str, str, dict[str, str], bytes]]

    def count(self, path: str) -> int:
        return sum(asked[1] == path for asked in self.asked)


@contextlib.contextmanager
def serving(faults: Faults | None = None, certificate: tuple[str, str] | None = None) -> Iterator[Server]:
    """certificate: PEM text and its key, for a server that speaks TLS as localhost."""
    wrong = faults or Faults()
    answers = "/v1/completions" if wrong.embedding is None else "/v1/embeddings"
    asked: list[tuple[str, str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, dict(self.headers), body))
            may = not wrong.key or self.headers.get("Authorization") == f"Bearer {wrong.key}"
            too_many = not may and wrong.keyless_left == 0
            if not may and wrong.keyless_left:
                wrong.keyless_left -= 1
            if wrong.redirect_to:
                self._answer(308, {}, {"Location": wrong.redirect_to + self.path})
            elif wrong.limited:
                wait = wrong.limited.pop(0)
                self._answer(429, {"error": "too many"}, {"Retry-After": wait} if wait else {})
            elif too_many:
                self._answer(429, {"error": "too many"}, {"Retry-After": "60"})
            elif self.path == "/health":
                self._answer(wrong.health_status, {})
            elif not self.headers.get("Authorization") and (self.command, self.path) in wrong.open:
                self._answer(wrong.open[self.command, self.path], {})
            elif self.path == "/openapi.json" and wrong.description and may:
                self._answer(200, wrong.description)
            elif self.path.startswith("/v1/") and not may:
                self._answer(401, {"error": "Unauthorized"})
            elif (self.command, self.path) == ("GET", "/v1/models"):
                self._answer(200, {"data": [{"id": wrong.model}]})
            elif (self.command, self.path) == ("POST", answers):
                self._complete(json.loads(body))
            else:
                self._answer(404, {"detail": "Not Found"})

        def _complete(self, wanted: Any) -> None:
            if not isinstance(wanted, dict):
                self._answer(400, {"error": "no question"})
                return
            status = wrong.completion_statuses.pop(0) if wrong.completion_statuses else wrong.always_fails or 200
            if status != 200:
                self._answer(status, {"error": {"message": "EngineCore died", "code": status}})
            elif wrong.drips:
                self._drip()
            elif wrong.embedding is not None:
                self._embed(wanted)
            elif wanted.get("stream") and wrong.stream is not None:
                self._stream(wrong.stream)
            else:
                usage = {"prompt_tokens": 1, "completion_tokens": wrong.tokens}
                named = wrong.answering_model or wanted["model"]
                self._answer(200, {"model": named, "choices": [{"text": wrong.text}], "usage": usage})

        def _embed(self, wanted: Any) -> None:
            """As vLLM answers one text."""
            if "input" not in wanted:
                self._answer(400, {"error": {"message": "Field required", "code": 400}})
                return
            data = [{"index": 0, "object": "embedding", "embedding": wrong.embedding}]
            usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None}
            named = wrong.answering_model or wanted["model"]
            self._answer(200, {"object": "list", "model": named, "data": data, "usage": usage})

        def _stream(self, parts: tuple[str, ...]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write("".join(f"data: {part}\n\n" for part in parts).encode())
            self.close_connection = True

        def _drip(self) -> None:
            """A byte now and then, until nobody listens."""
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                time.sleep(0.1)

        def _answer(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            body = {"Content-Type": "application/json", "Content-Length": str(len(data))}
            for name, value in {**(headers or {}), **body}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Not among the output of the tests."""

    class Listening(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away, or that doesn't trust us, is none."""

    listening = Listening(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate:
        scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("certificate.pem", "key.pem")]
            for file, text in zip(files, certificate, strict=True):
                file.write_text(text)
            context.load_cert_chain(files[0], files[1])
        # The handshake comes with the first read, in the thread of its connection.
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield Server(f"{scheme}://localhost:{listening.server_address[1]}", asked)
    finally:
        listening.shutdown()
        listening.server_close()
