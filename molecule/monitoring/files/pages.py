# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In place of others: vLLM's metrics (8000, with its key alone), the processor's (8080), and a webhook (8081)."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading
from typing import Any

KEY = pathlib.Path("/opt/vllm/secrets/api_key").read_text()
TOLD = pathlib.Path("/opt/pages/told")


class Pages(http.server.BaseHTTPRequestHandler):
    port = 0

    def do_GET(self) -> None:
        good = self.port == 8080 or self.headers.get("Authorization") == f"Bearer {KEY}"
        self.send_response(200 if good else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b'vllm:num_requests_running{model_name="tiny"} 3\n' if good else b"nothing\n")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        line = {"path": self.path, "key": self.headers.get("Authorization"), "body": body}
        with TOLD.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


for number in (8000, 8080, 8081):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", number), type("Page", (Pages,), {"port": number}))  # noqa: S104
    threading.Thread(target=server.serve_forever).start()
