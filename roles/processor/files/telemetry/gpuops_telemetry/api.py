# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processor's HTTP answers."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gpuops_telemetry import __version__
from gpuops_telemetry.events import COLLECTIONS, GPU_METRICS_TOPIC
from gpuops_telemetry.state import ProcessorState
from gpuops_telemetry.store import Store, StoreUnavailableError


def make_app(
    state: ProcessorState, store: Store, start: Callable[[], None] | None = None, stop: Callable[[], None] | None = None
) -> FastAPI:
    """The application; start and stop run with its lifespan."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if start is not None:
            start()
        yield
        if stop is not None:
            stop()

    # No interactive documentation: it loads scripts from elsewhere.
    app = FastAPI(title="gpuops processor", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> Response:
        """Alive? A restart would help if not."""
        problems = state.fatal_problems()
        return JSONResponse(
            {"status": "failed" if problems else "ok", "version": __version__, "problems": problems},
            status_code=503 if problems else 200,
        )

    @app.get("/ready")
    def ready() -> Response:
        """Partitions assigned, and the database accepts writes?"""
        problems = state.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    @app.get("/gpu/info")
    def gpu_info() -> Response:
        """The latest GPU sample that this processor stored; after its start, the latest in the database."""
        document = state.latest_gpu()
        if document is None:
            try:
                found = store.latest(COLLECTIONS[GPU_METRICS_TOPIC])
            except StoreUnavailableError as error:
                return JSONResponse({"detail": f"The database does not answer: {error}"}, status_code=503)
            if found is None:
                return JSONResponse(
                    {"detail": "No GPU sample is stored yet. Is a producer running that reaches the broker?"},
                    status_code=404,
                )
            document = to_json(found)
        return JSONResponse(document)

    @app.get("/usage")
    def usage() -> Response:
        """Throughput and cost over the sliding window."""
        return JSONResponse(state.usage())

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus metrics."""
        return PlainTextResponse(generate_latest(state.exposition()), media_type=CONTENT_TYPE_LATEST)

    return app


def to_json(document: dict[str, Any]) -> dict[str, Any]:
    """A stored document as the event that it was; what JSON has no word for becomes text."""
    return {"event_id" if name == "_id" else name: _plain(value) for name, value in document.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
