# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the command `vllm`: writes down how it was started, and serves the way vLLM does.

With routes that need no key, with its own check of the key under /v1, and with each --middleware class added last, so
that it is the outermost. With --runner pooling it has the route for embeddings, and none for completions. While the
file FAKE_VLLM_BROKEN is there, it answers for its health and fails what it is for, as the real one does with a model
whose layers its kernels don't know.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response


def after(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def make_app(arguments: list[str]) -> FastAPI:
    app, key = FastAPI(), os.environ["VLLM_API_KEY"]

    @app.middleware("http")
    async def authenticate(request: Request, proceed: Any) -> Any:
        if request.url.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return await proceed(request)

    def nothing() -> dict[str, Any]:
        return {}

    for path in ("/health", "/metrics", "/version", "/load", "/ping"):
        app.get(path)(nothing)
    for path in ("/invocations", "/tokenize", "/ping"):
        app.post(path)(nothing)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": after(arguments, "--served-model-name")}]}

    def answered(answer: Any) -> Any:
        if os.path.exists(os.environ["FAKE_VLLM_BROKEN"]):
            return JSONResponse({"error": {"message": "EngineCore encountered an issue."}}, 500)
        return answer

    def complete(question: dict[str, Any]) -> Any:
        stream = 'data: {"choices": [{"text": "blue"}]}\n\ndata: [DONE]\n\n'
        if question.get("stream"):
            return answered(Response(stream, media_type="text/event-stream"))
        return answered({"choices": [{"text": "blue"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    def embed(question: dict[str, Any]) -> Any:
        if "input" not in question:
            return JSONResponse({"error": {"message": "Field required", "code": 400}}, 400)
        data = [{"index": 0, "object": "embedding", "embedding": [0.6, -0.8, 0.0]}]
        usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None}
        return answered({"object": "list", "model": question["model"], "data": data, "usage": usage})

    if after(arguments, "--runner") == "pooling":
        app.post("/v1/embeddings")(embed)
    else:
        app.post("/v1/completions")(complete)

    for name in [value for word, value in itertools.pairwise(arguments) if word == "--middleware"]:
        module, _dot, found = name.rpartition(".")
        app.add_middleware(getattr(importlib.import_module(module), found))
    return app


def main(arguments: list[str]) -> None:
    with open(os.environ["FAKE_VLLM_RECORD"], "w", encoding="utf-8") as record:
        json.dump({"argv": arguments, "environment": dict(os.environ)}, record)
    if os.environ.get("FAKE_VLLM_SERVES"):
        uvicorn.run(
            make_app(arguments),
            host="127.0.0.1",
            port=int(str(after(arguments, "--port"))),
            ssl_keyfile=after(arguments, "--ssl-keyfile"),
            ssl_certfile=after(arguments, "--ssl-certfile"),
            log_level="warning",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
