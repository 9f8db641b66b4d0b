# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every emulated API has beside its own routes: faults, the books, and a port of its own on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .world import Fault, World


def make_app(world: World) -> FastAPI:
    """An app with the control routes of this world; the provider adds its own."""
    app = FastAPI(title=f"{world.provider} emulator", docs_url=None, openapi_url=None, redirect_slashes=False)

    @app.get("/_control/state")
    def state() -> dict[str, Any]:
        return world.state()

    @app.get("/_control/faults")
    def faults() -> list[dict[str, Any]]:
        return [asdict(fault) for fault in world.faults]

    @app.put("/_control/faults")
    def set_faults(faults: list[dict[str, Any]]) -> dict[str, int]:
        """Replaces all faults; an empty list heals everything."""
        with world.lock:
            world.faults = [Fault(**fault) for fault in faults]
        return {"faults": len(world.faults)}

    @app.post("/_control/time")
    def skip(wish: dict[str, float]) -> dict[str, float]:
        """{"skip_seconds": 3600} lets an hour of the world pass at once."""
        world.skip(wish["skip_seconds"])
        return {"now": world.now()}

    @app.post("/_control/take_back")
    def take_back(wish: dict[str, str]) -> dict[str, list[str]]:
        """{"of": "vllm-1"} ends what has that in its id or owner, as a provider does that takes a spot machine back."""
        return {"taken": world.take_back(wish["of"])}

    return app


@dataclass
class Misbehaving:
    """Writes down each call and lets it meet the fault that the world has for it."""

    app: ASGIApp
    world: World

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_control/"):
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        with self.world.lock:
            self.world.calls.append({"time": self.world.now(), "method": method, "path": path})
        fault = self.world.fault(method, path)
        if fault is None:
            await self.app(scope, receive, send)
            return
        if fault.latency_seconds:
            receive = await _received(receive)  # so that it takes effect also when the client has gone meanwhile
            await asyncio.sleep(fault.latency_seconds)
        if fault.drop == "after":
            await self.app(scope, receive, _into_nothing)
        if fault.drop:
            await _break_off(send)
        elif fault.status is not None:
            await _answer(fault)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _received(receive: Receive) -> Receive:
    """The whole request, to be read again."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again


async def _into_nothing(_message: Message) -> None:
    return None


async def _break_off(send: Send) -> None:
    """An answer that promises more than it has: the server closes the connection in its middle."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4096")]})


def _answer(fault: Fault) -> Response:
    assert fault.status is not None
    if isinstance(fault.body, str):
        return PlainTextResponse(fault.body, fault.status, fault.headers)
    return JSONResponse({} if fault.body is None else fault.body, fault.status, fault.headers)


class Server:
    """An app of a world on a free port of loopback, or of another address of this machine, in a thread."""

    def __init__(self, app: FastAPI, world: World, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, 0))
        self.world = world
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            Misbehaving(app, world),
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def start(self) -> None:
        """Returns when it answers."""
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


@contextlib.contextmanager
def serving(app: FastAPI, world: World, host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a running app."""
    server = Server(app, world, host)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
