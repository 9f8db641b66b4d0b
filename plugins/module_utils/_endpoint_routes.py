# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which routes of a server answer somebody who has no key, found out without doing anything to the server."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import TOO_MANY_REQUESTS, Answer, Endpoint

_NOT_THERE = 404
# A route with one of these is not open: the server asked for a key, or there is nothing.
_CLOSED = {401, 403, _NOT_THERE}
# As much as a server may name itself, so that it can't keep us here.
_MOST_NAMED = 300
_DESCRIPTION = "/openapi.json"

# From vLLM's docs/usage/security.md, its routers, and what a server of 0.32 says of itself at its start ("none" is for
# a name in a path); tests/e2e/test_services.py compares.
_LOOKS = (
    *("/metrics", "/version", "/load", "/ping", "/docs", "/redoc", _DESCRIPTION, "/docs/oauth2-redirect"),
    *("/v1/models", "/server_info", "/tokenizer_info", "/is_paused", "/is_sleeping", "/is_scaling_elastic_ep"),
    *("/get_world_size", "/fault_tolerance/status", "/kv_event_sources", "/v1/responses/none"),
)
# They read their body first, so what is no question is refused before anything is computed.
_COMPUTES = (
    *("/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/embeddings", "/v1/responses"),
    *("/v1/completions/render", "/v1/chat/completions/render", "/v1/responses/render", "/v1/messages/render"),
    *("/v1/completions/derender", "/v1/chat/completions/derender", "/v1/messages", "/v1/messages/count_tokens"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/score", "/v1/rerank", "/v2/embed", "/v2/rerank"),
    *("/inference/v1/generate", "/tokenize", "/detokenize", "/invocations", "/generative_scoring", "/pooling"),
    *("/classify", "/score", "/rerank", "/ping"),
)
# To call them would pause, change or end something, or nobody wrote down what it does.
_ACTS = (
    *("/pause", "/resume", "/sleep", "/wake_up", "/abort_requests", "/scale_elastic_ep", "/collective_rpc"),
    *("/init_weight_transfer_engine", "/update_weights", "/reset_prefix_cache", "/reset_mm_cache"),
    *("/reset_encoder_cache", "/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/fault_tolerance/apply", "/inference/v1/abort_requests", "/v1/responses/none/cancel"),
    *("/v1/systemone",),
)
_NO_QUESTION: list[Any] = []


@dataclass(frozen=True)
class Route:
    """method: the one it takes. acts: to call it would do something, so it is asked with GET, which it doesn't take."""

    method: str
    path: str
    acts: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


KNOWN = (
    *(Route("GET", path) for path in _LOOKS),
    *(Route("POST", path) for path in _COMPUTES),
    *(Route("POST", path, acts=True) for path in _ACTS),
)


@dataclass(frozen=True)
class Probed:
    """Routes with the status that they gave: open answered, failed broke (5xx). stopped: why not all were asked.

    absent: how many were only asked with the key, which doesn't find them either.
    """

    open: tuple[tuple[Route, int], ...]
    failed: tuple[tuple[Route, int], ...]
    asked: int
    absent: int
    stopped: str = ""


def probe(endpoint: Endpoint, api_key: str, public_paths: Collection[str]) -> Probed:
    """Each known route, and each that the server names itself, without a key. public_paths may answer anybody.

    A 429 says nothing of a route. Once the server limits who has no key, only what the key finds there is asked without
    it, with a wait: a small limit would take many minutes for all of them, and a key is often free of it.
    """
    routes = [*KNOWN, *_named_by(endpoint, api_key)]
    found: list[tuple[Route, int]] = []
    failed: list[tuple[Route, int]] = []
    asked = absent = 0
    limited = False
    for route in routes:
        if route.path in public_paths:
            continue
        if not limited:
            answer = _ask(endpoint, route, patient=False)
            limited = answer.status == TOO_MANY_REQUESTS
        if limited:
            answer = _ask(endpoint, route, api_key)
            if answer.status == _NOT_THERE:
                absent += 1
                continue
            answer = _ask(endpoint, route)
        if answer.status is None or answer.status == TOO_MANY_REQUESTS:
            return Probed(tuple(found), tuple(failed), asked, absent, f"{route}: {answer}")
        asked += 1
        if answer.status >= 500:
            failed.append((route, answer.status))
        elif answer.status not in _CLOSED and not 300 <= answer.status < 400:
            found.append((route, answer.status))
    return Probed(tuple(found), tuple(failed), asked, absent)


def _ask(endpoint: Endpoint, route: Route, api_key: str | None = None, patient: bool = True) -> Answer:
    # 405 to the other ones says that they are there, and asked for no key.
    body = _NO_QUESTION if route.method == "POST" and not route.acts else None
    return endpoint.ask(route.path, api_key, body, patient=patient)


def _named_by(endpoint: Endpoint, api_key: str) -> Iterable[Route]:
    """What the server's own description has besides the known ones; with the key, as it may be shown to that only."""
    document = endpoint.ask(_DESCRIPTION, api_key).json()
    paths = document.get("paths") if isinstance(document, dict) else None
    known = {(route.method, route.path) for route in KNOWN}
    named: dict[Route, None] = {}
    for path, methods in paths.items() if isinstance(paths, dict) else ():
        for method in methods if isinstance(methods, dict) else ():
            # A parameter in a path gets a value; nobody knows what another method than GET would do.
            concrete = "/".join("x" if part.startswith("{") else part for part in str(path).split("/"))
            route = Route(str(method).upper(), concrete, acts=str(method).lower() != "get")
            if path.startswith("/") and path.isascii() and " " not in path and (route.method, path) not in known:
                named[route] = None
    return list(named)[:_MOST_NAMED]
