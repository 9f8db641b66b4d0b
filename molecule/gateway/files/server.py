"""Answers as vLLM does, on the port that is its argument: with its key alone, and with what it was asked."""

from __future__ import annotations

import http.server
import json
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer planted-internal-key-5e11"
        self.send_response(200 if known or self.path == "/health" else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"port": sys.argv[1], "path": self.path}).encode())


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()  # noqa: S104 (a test's own)
