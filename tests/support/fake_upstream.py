# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for a vLLM server behind the gateway: remembers what it was asked, and streams when it is told to."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any


class Upstream:
    """Serves on a free port of loopback from its making until `close`."""

    def __init__(self, key: str, port: int = 0) -> None:
        self.key = key
        self.seen: list[dict[str, Any]] = []
        self.proceed = threading.Event()  # lets a stream send its second part
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/health":
                    self._answer(200, {})
                else:
                    self._serve(b"")

            def do_POST(self) -> None:
                self._serve(self.rfile.read(int(self.headers.get("content-length", 0))))

            def _serve(self, body: bytes) -> None:
                outer.seen.append(
                    {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
                )
                if self.headers.get("authorization") != f"Bearer {outer.key}":
                    self._answer(401, {"error": "Unauthorized"})
                elif b'"stream"' in body:
                    self._stream(json.loads(body))
                else:
                    completion = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
                    self._answer(200, {"data": [{"id": "tiny"}], "port": outer.port, **completion})

            def _answer(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                # As vLLM does, which allows every origin.
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(data)

            def _stream(self, question: dict[str, Any]) -> None:
                """Two parts or as many as were asked for, with a pause before each but the first."""
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number in range(question.get("parts", 2)):
                    if number:
                        outer.proceed.wait(question.get("pause_seconds", 60))
                    part = f"data: {number}\n\n".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: Any) -> None:
                """Not among the output of the tests."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is none."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
