# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's REST API, version 2: the part that concerns pods and what can be rented.

Times of a pod's life are seconds of the world: provisioning, then starting, then running; SSH comes some time later.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .server import make_app
from .world import Rental, World

URL_PATH = "/v2"
PROVISIONING_SECONDS, STARTING_SECONDS, SSH_AFTER_SECONDS = 10.0, 60.0, 15.0
LISTENS_AFTER_SECONDS = 300.0  # from the order on: the image was pulled, the weights were loaded
DISK_PRICE_PER_GB_HOUR = 0.20 / 730  # a persistent mount of a stopped pod; nothing else costs then

Cloud = Literal["SECURE", "COMMUNITY"]


class GpuType(NamedTuple):
    """A line of the catalog: memory in GB, prices in USD per hour and GPU, stock by data centre."""

    id: str
    name: str
    memory: int
    secure: float | None
    community: float | None
    stock: dict[str, str]


GPUS = (
    GpuType("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 1.64, 1.19, {"US-KS-2": "LOW", "EU-RO-1": "MEDIUM"}),
    GpuType("NVIDIA A100-SXM4-80GB", "A100 SXM", 80, 1.89, None, {"US-MO-1": "HIGH"}),
    GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.99, 2.69, {"US-CA-2": "LOW"}),
    GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.69, 0.34, {"EU-RO-1": "HIGH", "US-IL-1": "HIGH"}),
    GpuType("NVIDIA GeForce RTX 3090", "RTX 3090", 24, 0.46, 0.22, {"EU-CZ-1": "NONE"}),
    GpuType("NVIDIA L40S", "L40S", 48, 0.86, None, {"US-KS-2": "MEDIUM"}),
    GpuType("NVIDIA A40", "A40", 48, 0.40, None, {"EU-SE-1": "LOW"}),
    GpuType("unknown", "unknown", 0, None, None, {}),
)


class Strict(BaseModel):
    """Every body of this API refuses fields that it doesn't know."""

    model_config = ConfigDict(extra="forbid")


class Gpu(Strict):
    id: str
    count: int | None = Field(default=None, ge=1)
    minCudaVersion: str | None = None
    minRamPerGpu: int | None = None
    minVcpuCountPerGpu: int | None = None


class CreatePod(Strict):
    name: str = Field(min_length=1, max_length=191)
    image: str
    gpu: Gpu
    cloud: Cloud = "SECURE"
    dataCenterIds: list[str] | None = None
    disk: int = Field(default=20, ge=1)
    mounts: dict[str, Any] | None = None
    ports: list[str] = []
    env: dict[str, str] = {}
    args: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    startSsh: bool = False
    startJupyter: bool = False

    @model_validator(mode="after")
    def _one_way_to_start(self) -> CreatePod:
        if self.args is not None and (self.entrypoint is not None or self.cmd is not None):
            raise ValueError("args excludes entrypoint and cmd")
        return self


class Action(Strict):
    action: Literal["start", "stop", "restart", "terminate"]


class Problem(Exception):
    """An answer that says no."""

    def __init__(self, status: int, title: str, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.errors = status, title, detail, errors

    def answer(self) -> JSONResponse:
        body: dict[str, Any] = {"title": self.title, "status": self.status, "detail": self.detail}
        if self.errors:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, _request_id(), media_type="application/problem+json")


def _request_id() -> dict[str, str]:
    return {"x-request-id": secrets.token_hex(8)}


def _availability(stock: dict[str, str]) -> str:
    return max(stock.values(), key=["NONE", "LOW", "MEDIUM", "HIGH"].index, default="NONE")


def _catalog_entry(row: GpuType, cloud: str | None) -> dict[str, Any]:
    identity, name, memory, secure, community, stock = row
    entry: dict[str, Any] = {
        "id": identity,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA" if identity != "unknown" else "UNKNOWN",
        "memory": memory,
        "secure": secure is not None,
        "community": community is not None,
        "price": {"secure": secure, "community": community},
        "maxCount": {"secure": 8 if secure else 0, "community": 4 if community else 0},
    }
    if cloud:
        entry["availability"] = _availability(stock)
        entry["dataCenters"] = (
            [{"id": place, "name": place, "availability": level} for place, level in stock.items()]
            if cloud == "SECURE"
            else []
        )
    return entry


class Pods:
    """What the routes do; every pod is the wire of a rental."""

    def __init__(self, world: World) -> None:
        self.world = world

    def create(self, wish: CreatePod) -> dict[str, Any]:
        row = next((row for row in GPUS if row.id == wish.gpu.id), None)
        price = (row.secure if wish.cloud == "SECURE" else row.community) if row else None
        places = [place for place, level in (row.stock if row else {}).items() if level != "NONE"]
        wanted = wish.dataCenterIds or places
        place = next((place for place in places if place in wanted), None)
        if price is None or wish.gpu.count is None or place is None:
            raise Problem(400, "Bad Request", "There are no longer any instances available with enough disk space.")
        now, identity = self.world.now(), f"pod{next(self.world.numbers):011x}"
        wire = {
            "id": identity,
            "name": wish.name,
            "image": wish.image,
            "args": wish.args,
            "entrypoint": wish.entrypoint,
            "cmd": wish.cmd,
            "disk": wish.disk,
            "env": wish.env,
            "ports": wish.ports,
            "registry": None,
            "mounts": wish.mounts,
            "gpu": {"id": wish.gpu.id, "count": wish.gpu.count, "vcpuCount": 16.0, "memory": 117},
            "cloud": wish.cloud,
            "dataCenterId": place if wish.cloud == "SECURE" else None,
            "locked": False,
            "template": None,
            "createdAt": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
        }
        rental = Rental(identity, "runpod", wish.name, "PROVISIONING", now, price * wish.gpu.count, wire)
        rental.wire["_started"] = now
        self.world.rent(rental)
        self.world.bill(rental, costs=True)
        return self.show(rental)

    def find(self, identity: str) -> Rental:
        rental = self.world.rentals.get(identity)
        if rental is None or not rental.alive:
            raise Problem(404, "Not Found", f"pod {identity} not found")
        return rental

    def show(self, rental: Rental) -> dict[str, Any]:
        age = self.world.now() - rental.wire["_started"]
        if rental.status in ("PROVISIONING", "STARTING", "RUNNING"):
            rental.status = (
                "PROVISIONING"
                if age < PROVISIONING_SECONDS
                else "STARTING"
                if age < PROVISIONING_SECONDS + STARTING_SECONDS
                else "RUNNING"
            )
        reachable = rental.status == "RUNNING" and age > PROVISIONING_SECONDS + STARTING_SECONDS + SSH_AFTER_SECONDS
        # The port outside is another one after each start.
        port = 10000 + (hash((rental.id, rental.wire["_started"])) % 50000)
        has_ssh = reachable and "22/tcp" in rental.wire["ports"]
        direct = {"host": "203.0.113.7", "port": port, "username": "root", "command": f"ssh root@203.0.113.7 -p {port}"}
        running = rental.status == "RUNNING"
        return {name: value for name, value in rental.wire.items() if not name.startswith("_")} | {
            "status": rental.status,
            "actions": {"RUNNING": ["stop", "restart", "terminate"], "EXITED": ["start", "terminate"]}.get(
                rental.status, ["stop", "terminate"]
            ),
            "cost": rental.price_per_hour_usd if rental.billed_since is not None else 0.0,
            "ssh": {"proxy": None, "direct": direct if has_ssh else None},
            "runtime": {"uptime": int(age), "gpus": [], "ports": []} if running else None,
            "startedAt": rental.wire["createdAt"] if running else None,
        }

    def act(self, rental: Rental, action: str) -> dict[str, Any]:
        self.show(rental)  # brings the status up to date
        allowed = {
            "start": ("EXITED", "ERROR"),
            "stop": ("PROVISIONING", "STARTING", "RUNNING"),
            "restart": ("RUNNING",),
            "terminate": ("PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR"),
        }
        if rental.status not in allowed[action]:
            raise Problem(409, "Conflict", f"action {action} is not valid for a pod that is {rental.status}")
        if action == "terminate":
            self.world.delete(rental)
            return self.show(rental) | {"status": "TERMINATED"}
        rental.status = "EXITED" if action == "stop" else "PROVISIONING"
        rental.wire["_started"] = self.world.now()
        self.world.bill(rental, costs=action != "stop")
        return self.show(rental)


def make(world: World) -> FastAPI:
    """The routes."""
    app, pods = make_app(world), Pods(world)

    @app.exception_handler(Problem)
    async def refuse(_request: Request, problem: Problem) -> JSONResponse:
        return problem.answer()

    @app.exception_handler(RequestValidationError)
    async def refuse_schema(_request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return Problem(422, "Unprocessable Entity", "the body does not fit the schema", errors).answer()

    @app.middleware("http")
    async def identify(request: Request, proceed: Any) -> Response:
        if request.url.path.startswith(URL_PATH):
            agent = request.headers.get("user-agent", "")
            if agent.startswith("Python-urllib"):
                return Response("error code: 1010", 403, media_type="text/plain")
            if not request.headers.get("authorization", "").startswith("Bearer "):
                return Problem(401, "Unauthorized", "missing or invalid API key").answer()
            if request.url.path.startswith("/v1"):
                return Problem(410, "Gone", "REST v1 was switched off").answer()
        answer: Response = await proceed(request)
        answer.headers.update(_request_id())
        return answer

    @app.get("/v2/catalog/gpus")
    def catalog(
        include: str | None = None, product: str | None = None, cloud: Cloud = "SECURE", count: int = 1
    ) -> dict[str, Any]:
        if (include == "AVAILABILITY") != (product is not None):
            raise Problem(400, "Bad Request", "include=AVAILABILITY needs product, and product needs it")
        return {"gpus": [_catalog_entry(row, cloud if include else None) for row in GPUS]}

    @app.get("/v2/pods")
    def list_pods(limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: str | None = None) -> dict[str, Any]:
        with world.lock:
            alive = sorted(world.alive(), key=lambda rental: rental.id)
            if cursor is not None and cursor not in world.rentals:
                raise Problem(422, "Unprocessable Entity", "malformed cursor")
            rest = [rental for rental in alive if cursor is None or rental.id > cursor]
            page, more = rest[:limit], len(rest) > limit
            return {
                "pods": [pods.show(rental) for rental in page],
                "pagination": {"nextCursor": page[-1].id if more else None, "hasNextPage": more},
            }

    @app.post("/v2/pods", status_code=201)
    def create_pod(wish: CreatePod, authorization: Annotated[str | None, Header()] = None) -> dict[str, Any]:
        with world.lock:
            return pods.create(wish)

    @app.get("/v2/pods/{identity}")
    def get_pod(identity: str) -> dict[str, Any]:
        with world.lock:
            return pods.show(pods.find(identity))

    @app.post("/v2/pods/{identity}/action")
    def act(identity: str, wish: Action) -> dict[str, Any]:
        with world.lock:
            return pods.act(pods.find(identity), wish.action)

    @app.delete("/v2/pods/{identity}", status_code=204)
    def terminate(identity: str) -> Response:
        with world.lock:
            pods.act(pods.find(identity), "terminate")
        return Response(status_code=204)

    @app.get("/proxy/{identity}/{port}/health")
    def health(identity: str, port: int) -> Response:
        """What the pod's proxy answers: 502 until the program inside listens, some time after the pod runs."""
        with world.lock:
            rental = world.rentals.get(identity)
            pod = pods.show(rental) if rental and rental.alive else None
            if pod is None or f"{port}/http" not in pod["ports"]:
                return Response(status_code=404)
            up = pod["status"] == "RUNNING" and pod["runtime"]["uptime"] > LISTENS_AFTER_SECONDS
        return Response(status_code=200 if up else 502)

    return app
