# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes that a vLLM server answers; every other one is 404, with a key or without.

vLLM's key guards /v1 alone: /invocations, /tokenize, /metrics, /load and more answer everybody. As the last
--middleware this class is the outermost, so it sees each request first. It needs nothing but Python, and refuses to
serve without a key, because then everything would be open.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Exact methods and paths: nothing is normalised, so there is no second spelling of anything.
OPEN = {("GET", "/health")}
WITH_KEY = {("GET", "/metrics")}  # vLLM itself asks nobody for a key there, so it is asked for here
KEPT_BY_VLLM = {
    ("GET", "/v1/models"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
}
ROUTES = OPEN | WITH_KEY | KEPT_BY_VLLM
NOT_FOUND = b'{"detail":"Not Found"}'


class AllowedRoutes:
    """Pure ASGI."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._key = os.environ.get("VLLM_API_KEY", "").encode()
        if not self._key:
            raise RuntimeError("VLLM_API_KEY is missing or empty: without a key anybody could use this server.")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._passes(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(NOT_FOUND))]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": NOT_FOUND})
        elif scope["type"] == "websocket":
            await receive()  # the handshake, which is refused before it is accepted
            await send({"type": "websocket.close", "code": 1008})

    def _passes(self, scope: Message) -> bool:
        route = (scope["method"], scope["path"])
        # "%2e" and the like reach path decoded: what was sent must be the route itself, letter for letter.
        sent = scope.get("raw_path") or route[1].encode()
        if route not in ROUTES or sent.partition(b"?")[0] != route[1].encode():
            return False
        return route not in WITH_KEY or self._has_key(scope)

    def _has_key(self, scope: Message) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], b"Bearer " + self._key)
