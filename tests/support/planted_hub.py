# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model hub on this machine that gives parts of files, cuts connections, lies and refuses, as a test tells it."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "acme/assistant-1b"
_random = random.Random(6)  # noqa: S311 (the same bytes in each run)
WEIGHTS = _random.randbytes(3_000_000)
FILES: dict[str, bytes] = {
    "config.json": b'{"model_type": "llama"}\n',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": _random.randbytes(20_000),
    "empty.txt": b"",
    # What other programs read.
    "pytorch_model.bin": b"pickled",
    "onnx/model.onnx": b"onnx",
    "original/consolidated.00.pth": b"original",
    "assistant-1b.Q4_K_M.gguf": b"gguf",
}
WANTED = ("config.json", "model.safetensors", "tokenizer.json", "empty.txt")


class PlantedHub:
    """What it gives: files (by path). What it does wrong is in the other attributes; asked: (path, Range, token)."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(FILES if files is None else files)
        self.commit = COMMIT
        self.cuts_after: int | None = None  # bytes of each answer
        self.ignores_ranges = False
        self.lies: list[str] = []  # files of which the next answer is wrong, once for each entry
        self.refuses: list[int] = []  # statuses of the next answers
        self.token = ""  # empty: everybody may read
        self.store: PlantedHub | None = None  # where files are redirected to
        self.about: Any = None  # instead of the list of files
        self.asked: list[tuple[str, str | None, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.close_connection = True
                hub.answer(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted, handler.headers.get("Authorization")))
        path = unquote(handler.path)
        if self.refuses:
            self._send(handler, self.refuses.pop(0), b"", {"Retry-After": "7"})
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(handler, 401, b"")
        elif path.startswith(f"/api/models/{MODEL}/revision/"):
            self._send(handler, 200, json.dumps(self.about or self.listing()).encode())
        elif (name := path.removeprefix(f"/{MODEL}/resolve/{self.commit}/")) not in self.files:
            self._send(handler, 404, b"")
        elif self.store:
            self._send(handler, 302, b"", {"Location": self.store.url + path})
        else:
            self._give(handler, name, wanted)

    def _give(self, handler: BaseHTTPRequestHandler, name: str, wanted: str | None) -> None:
        body, status, headers = self.files[name], 200, {}
        if name in self.lies:
            self.lies.remove(name)
            body = bytes(len(body))
        found = re.fullmatch(r"bytes=([0-9]+)-", wanted or "")
        if found and not self.ignores_ranges:
            start = int(found[1])
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body, status = body[start:], 206
        self._send(handler, status, body, headers)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body if self.cuts_after is None else body[: self.cuts_after])

    def listing(self) -> dict[str, Any]:
        siblings = []
        for path, body in self.files.items():
            # As Git names a small file; large ones have a SHA-256.
            name = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": name}
            if path.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 135}
            siblings.append(entry)
        return {"sha": self.commit, "siblings": siblings}

    def ranges(self, name: str) -> list[str | None]:
        """With which ranges this file was asked for."""
        return [wanted for path, wanted, _token in self.asked if path.endswith(f"/{name}")]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
