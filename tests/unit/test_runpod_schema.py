# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Emulator and provider alike, judged by what RunPod's published specification says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Request, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, NoCapacity
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as provider
from emulators import runpod
from emulators.runpod_schema import CREATE, ROUTES, mistakes_of_answer, mistakes_of_request
from emulators.server import serving
from emulators.world import Fault, World
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request as Asked
from starlette.responses import Response

KEY = {"Authorization": "Bearer any"}
POD: dict[str, Any] = {"name": "a", "image": "b", "gpu": {"id": "NVIDIA A40", "count": 1}}
PERSISTENT = {"persistent": {"size": 20, "path": "/data"}}


@dataclass
class Judge:
    """Reads along: every request and every answer of the API."""

    seen: list[tuple[str, str, int]] = field(default_factory=list)
    bad_requests: list[str] = field(default_factory=list)
    bad_answers: list[str] = field(default_factory=list)

    async def __call__(self, request: Asked, proceed: Any) -> Response:
        sent = await request.body()
        answer = await proceed(request)
        content = b"".join([chunk async for chunk in answer.body_iterator])
        method, path, status = request.method, request.url.path, answer.status_code
        if path.startswith("/v2"):
            self.seen.append((method, path, status))
            self.bad_requests += mistakes_of_request(method, path, json.loads(sent) if sent else None)
            self.bad_answers += mistakes_of_answer(method, path, status, json.loads(content) if content else None)
            kind = "application/json" if status < 400 else "application/problem+json"
            if content and answer.headers["content-type"] != kind:
                self.bad_answers.append(f"{method} {path}: {answer.headers['content-type']}")
        return Response(content, status, dict(answer.headers))


@pytest.fixture
def world() -> World:
    return World("runpod", scale=3600)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def base(world: World, judge: Judge) -> Iterator[str]:
    app: FastAPI = runpod.make(world)
    app.add_middleware(BaseHTTPMiddleware, dispatch=judge)
    with serving(app, world) as url:
        yield url


def call(base: str, method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(method, f"{base}/v2{path}", json=body, headers=KEY, timeout=10)


def test_every_answer_of_the_emulator_is_one_of_the_specification(base: str, judge: Judge, world: World) -> None:
    wishes: tuple[dict[str, Any], ...] = (POD, POD | {"mounts": PERSISTENT}, POD | {"cmd": []})
    pods = [call(base, "POST", "/pods", wish).json()["id"] for wish in wishes]
    for path in ("/pods", f"/pods/{pods[0]}", "/catalog/gpus", "/catalog/gpus/NVIDIA%20A40", "/billing/pods"):
        assert call(base, "GET", path).status_code == 200
    asked = "include=AVAILABILITY&product=POD&cloud="
    for cloud in ("SECURE", "COMMUNITY"):
        assert call(base, "GET", f"/catalog/gpus?{asked}{cloud}").status_code == 200
    world.skip(600)  # all of them have run for a while now
    for action, status in (("restart", 200), ("stop", 200), ("stop", 409), ("start", 200), ("terminate", 204)):
        assert call(base, "POST", f"/pods/{pods[0]}/action", {"action": action}).status_code == status
        call(base, "GET", "/pods?limit=1")
        world.skip(600)
    assert call(base, "DELETE", f"/pods/{pods[1]}").status_code == 204
    made = call(base, "POST", "/account/secrets", {"name": "gf--a-1", "value": "b"}).json()
    assert call(base, "GET", "/account/secrets?name=GF--a-1").json() == {"secrets": [made]}, "and no value"
    assert call(base, "PATCH", f"/account/secrets/{made['id']}", {"value": "c"}).status_code == 200
    assert call(base, "POST", "/account/secrets", {"name": "gf--a-1", "value": "b"}).status_code == 409
    assert call(base, "DELETE", f"/account/secrets/{made['id']}").status_code == 204
    for method, path, body, status in (
        ("DELETE", f"/pods/{pods[1]}", None, 404),
        ("DELETE", f"/account/secrets/{made['id']}", None, 404),
        ("POST", "/account/secrets", {"name": "RUNPOD_X", "value": "b"}, 422),
        ("GET", "/pods?cursor=strange", None, 422),
        ("GET", "/catalog/gpus?product=POD", None, 400),
        ("GET", "/catalog/gpus/none", None, 404),
        ("POST", "/pods", {"name": "a"}, 422),
        ("POST", "/pods", POD | {"gpu": {"id": "none", "count": 1}}, 400),
    ):
        assert call(base, method, path, body).status_code == status
    assert judge.bad_answers == []
    answered = {(wanted, pattern) for wanted, pattern, _sent, _answers in ROUTES}
    crossed = {
        (wanted, pattern)
        for wanted, pattern in answered
        if any(wanted == method and re.fullmatch(pattern, path) for method, path, status in judge.seen if status < 400)
    }
    assert crossed == answered, "a route that nobody judged"


def test_everything_that_the_provider_sends_is_what_runpod_takes(base: str, judge: Judge, world: World) -> None:
    rents = provider.make({"api_key": "any", "api_url": base + runpod.URL_PATH})
    query = {"gpu": "RTX_4090", "gpu_count": 2, "runtime": "container", "regions": ["EU-RO-1"]}
    marker = Marker("acme-llm", "vllm-1", "abc123", 500_000)
    (offer,) = rents.offers(query)
    made = [
        rents.create(
            Request(
                marker,
                offer,
                image="vllm/vllm-openai:v0.32.0",
                args=("--model", "a b"),
                entrypoint=entrypoint,
                env={"A": "b"},
                secret_env={"TOKEN": "planted"},
                ports=((8000, "http"), (22, "tcp")),
                ssh_public_key="ssh-ed25519 AAAA",
            )
        )
        for entrypoint in (None, ("/bin/sh",))
    ]
    world.skip(600)
    one = rents.get(made[0].id)
    assert one is not None
    assert one.status is Status.RUNNING
    assert rents.stop(one.id).status is Status.STOPPED
    rents.start(one.id)
    assert len(rents.list()) == 2
    assert all(rents.delete(instance.id) for instance in made)
    assert judge.bad_requests == []
    assert {method for method, path, _status in judge.seen} == {"GET", "POST", "PATCH", "DELETE"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpuCount": 1},
        {"gpuTypeIds": ["NVIDIA A40"]},
        {"gpu": {"id": "NVIDIA A40", "count": 1, "spot": True}},
        {"mounts": {"persistent": {"size": 5, "path": "/data"}}},
        {"mounts": {"volume": 1}},
        {"env": [{"key": "A", "value": "b"}]},
        {"ports": "22/tcp"},
        {"disk": "50"},
        {"disk": 0},
        {"cloud": "ALL"},
        {"name": ""},
        {"interruptible": True},
        {"supportPublicIp": True},
    ],
)
def test_what_the_specification_refuses_the_emulator_refuses_too(base: str, wrong: dict[str, Any]) -> None:
    assert mistakes_of_request("POST", "/v2/pods", POD | wrong)
    answer = call(base, "POST", "/pods", POD | wrong)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"]


def test_the_schema_knows_a_wrong_answer() -> None:
    assert mistakes_of_answer("GET", "/v2/pods", 200, {"pods": [{"id": "a"}]})
    assert mistakes_of_answer("GET", "/v2/pods", 201, {"pods": []})
    assert mistakes_of_answer("DELETE", "/v2/pods/a", 204, {})
    assert mistakes_of_answer("GET", "/v2/pods/a", 404, {"message": "v1 said it so"})
    assert mistakes_of_request("GET", "/v1/pods", None)
    assert not mistakes_of_answer("GET", "/v2/pods", 200, {"pods": []}), "the older document has no pagination"
    assert CREATE["additionalProperties"] is False


def test_a_refusal_of_the_schema_names_the_field(base: str, world: World) -> None:
    rents = provider.make({"api_key": "any", "api_url": base + runpod.URL_PATH})
    marker = Marker("acme-llm", "vllm-1", "abc123", 500_000)
    (offer,) = rents.offers({"gpu": "A40", "gpu_count": 1, "runtime": "container"})
    with pytest.raises(InvalidRequest, match="disk"):
        rents.create(Request(marker, offer, image="b", disk_gib=0))
    world.faults = [Fault(trouble="offer_gone", of="NVIDIA A40")]
    with pytest.raises(NoCapacity):
        rents.create(Request(marker, offer, image="b"))
