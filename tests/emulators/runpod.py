# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's REST API, version 2: the part that concerns pods, what can be rented, and what it cost.

Times of a pod's life are seconds of the world: provisioning, then starting, then running; SSH comes some time later.
A pod goes on costing when its program ends, because its container is started again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from .limits import Windows
from .machines import Order, WayIn
from .runpod_secrets import add_routes, opened
from .runpod_wire import GPUS, Action, Cloud, CreatePod, Problem, catalog_entry, request_id, time_of
from .server import make_app
from .world import Rental, World

URL_PATH = "/v2"
PROVISIONING_SECONDS, STARTING_SECONDS, SSH_AFTER_SECONDS = 10.0, 60.0, 15.0
LISTENS_AFTER_SECONDS = 300.0  # from the order on: the image was pulled, the weights were loaded
DISK_PRICE_PER_GB_HOUR = 0.20 / 730  # a persistent mount of a stopped pod; nothing else costs then


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
        gone = self.world.trouble("offer_gone", wish.gpu.id)
        suits = row is not None and row.has_cuda(wish.gpu.minCudaVersion)
        if price is None or wish.gpu.count is None or place is None or gone or not suits:
            raise Problem(400, "Bad Request", "There are no longer any instances available with enough disk space.")
        now, identity = self.world.now(), f"pod{next(self.world.numbers):011x}"
        wire: dict[str, Any] = {
            "id": identity,
            "name": wish.name,
            "image": wish.image,
            "args": wish.args or "",
            "disk": wish.disk,
            "env": wish.env,
            "ports": wish.ports,
            "registry": wish.registry,
            "mounts": wish.mounts.model_dump(exclude_none=True),
            "gpu": {"id": wish.gpu.id, "count": wish.gpu.count, "vcpuCount": 16.0, "memory": 117},
            "cloud": wish.cloud,
            "dataCenterId": place if wish.cloud == "SECURE" else None,
            "cudaVersion": row.cuda if row else None,
            "globalNetworking": {"enabled": wish.globalNetworking},
            "locked": False,
            "template": None,
            "createdAt": time_of(now),
            "_created": now,
            "_started": now,
            "_price": price * wish.gpu.count * (2 if self.world.trouble("dearer", wish.name) else 1),
        }
        for name in ("entrypoint", "cmd"):
            if getattr(wish, name) is not None:
                wire[name] = getattr(wish, name)
        rental = Rental(identity, "runpod", wish.name, "PROVISIONING", now, wire["_price"], wire)
        self.world.rent(rental, _order(wish, self.world))
        self.world.bill(rental, costs=True)
        return self.show(rental)

    def find(self, identity: str) -> Rental:
        rental = self.world.rentals.get(identity)
        if rental is None or not rental.alive:
            raise Problem(404, "Not Found", f"pod {identity} not found")
        return rental

    def refresh(self, rental: Rental) -> None:
        """Bring its status up to date."""
        age = self.world.now() - rental.wire["_started"]
        if rental.status not in ("PROVISIONING", "STARTING", "RUNNING"):
            return
        rental.status = (
            "PROVISIONING"
            if age < PROVISIONING_SECONDS
            else "STARTING"
            if age < PROVISIONING_SECONDS + STARTING_SECONDS
            or self.world.trouble("boot_stuck", rental.id, rental.owner)
            else "RUNNING"
        )
        if self.world.machines.problem(rental.id):  # its image can't be had; the API never says so
            self._stop(rental)

    def uptime(self, rental: Rental) -> float | None:
        """Seconds since its container was started the last time; None while it doesn't run."""
        self.refresh(rental)
        if rental.status != "RUNNING":
            return None
        age = self.world.now() - float(rental.wire["_started"]) - PROVISIONING_SECONDS - STARTING_SECONDS
        exits = self.world.trouble("exits", rental.id, rental.owner)
        return age % exits.seconds if exits and exits.seconds else age

    def show(self, rental: Rental) -> dict[str, Any]:
        uptime = self.uptime(rental)
        direct = None
        if uptime is not None and uptime > SSH_AFTER_SECONDS and "22/tcp" in rental.wire["ports"]:
            # The port outside is another one after each start.
            digest = hashlib.sha256(f"{rental.id} {rental.wire['_started']}".encode()).digest()
            fictional = WayIn("203.0.113.7", 10000 + int.from_bytes(digest[:2], "big") % 50000)
            host, port = self.world.way_in(rental, 22, fictional)
            direct = {"host": host, "port": port, "username": "root", "command": f"ssh root@{host} -p {port}"}
        running = rental.status == "RUNNING"
        return {name: value for name, value in rental.wire.items() if not name.startswith("_")} | {
            "status": rental.status,
            "actions": {"RUNNING": ["stop", "restart", "terminate"], "EXITED": ["start", "terminate"]}.get(
                rental.status, ["stop", "terminate"]
            ),
            "cost": self._price(rental) if running or rental.status in ("PROVISIONING", "STARTING") else 0.0,
            "ssh": {"proxy": None, "direct": direct},
            "runtime": {"uptime": int(uptime), "gpus": [], "ports": []} if uptime is not None else None,
            "startedAt": time_of(rental.wire["_started"]) if running else None,
        }

    def _price(self, rental: Rental) -> float:
        """Of an hour in which it runs."""
        return float(rental.wire.get("_price", rental.price_per_hour_usd))

    def _stop(self, rental: Rental) -> None:
        """Nothing costs then but a persistent mount."""
        rental.status = "EXITED"
        rental.wire["_price"] = self._price(rental)  # for its next start
        kept_gb = (rental.wire.get("mounts") or {}).get("persistent", {}).get("size", 0)
        self.world.charge(rental, kept_gb * DISK_PRICE_PER_GB_HOUR)
        self.world.machines.stop(rental.id)

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
        if action == "start" and self.world.trouble("no_gpu", rental.id, rental.owner):
            raise Problem(400, "Bad Request", "There are not enough free GPUs on the host machine to start this pod.")
        if action == "stop":
            self._stop(rental)
        else:
            rental.status, rental.wire["_started"] = "PROVISIONING", self.world.now()
            self.world.charge(rental, self._price(rental))
            self.world.machines.stop(rental.id)  # a restart begins with an empty disk, too
            self.world.start_machine(rental)
        return self.show(rental)

    def page(self, limit: int, cursor: str | None) -> dict[str, Any]:
        """One page of the list; the cursor is the last id of the page before."""
        late = {rental.id: self.world.trouble("list_late", rental.id, rental.owner) for rental in self.world.alive()}
        alive = [
            rental
            for rental in sorted(self.world.alive(), key=lambda rental: rental.id)
            if (fault := late[rental.id]) is None or self.world.now() - rental.created_at >= fault.seconds
        ]
        if cursor is not None and cursor not in self.world.rentals:
            raise Problem(422, "Unprocessable Entity", "malformed cursor")
        rest = [rental for rental in alive if cursor is None or rental.id > cursor]
        page, more = rest[:limit], len(rest) > limit
        return {
            "pods": [self.show(rental) for rental in page],
            "pagination": {"nextCursor": page[-1].id if more else None, "hasNextPage": more},
        }

    def bills(self, identity: str | None) -> dict[str, Any]:
        """What pods cost until now, dead ones too, as one bucket each."""
        chosen = [one for one in self.world.rentals.values() if identity in (None, one.id)]
        records = [self._bill(rental) for rental in chosen]
        times = {"startTime": time_of(self.world.began), "endTime": time_of(self.world.now())}
        amounts = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")
        return {
            "records": records,
            "metadata": {
                "query": {**times, "bucketSize": "day", "podId": identity},
                "recordCount": len(records),
                "uniquePodCount": len(records),
                "totals": {name: sum(record[name] for record in records) for name in amounts},
            },
        }

    def _bill(self, rental: Rental) -> dict[str, Any]:
        if rental.alive:
            self.world.bill(rental, costs=True)
        return {
            "podId": rental.id,
            "startTime": time_of(rental.created_at),
            "endTime": time_of(rental.deleted_at or self.world.now()),
            "totalAmount": rental.billed_usd,
            "gpuAmount": rental.billed_usd,
            "cpuAmount": 0.0,
            "diskAmount": 0.0,
        }


def _order(wish: CreatePod, world: World) -> Order:
    """How the pod's container is started."""
    arguments = wish.cmd if wish.args is None else shlex.split(wish.args)
    return Order(
        image=wish.image,
        entrypoint=None if wish.entrypoint is None else tuple(wish.entrypoint),
        args=None if arguments is None else tuple(arguments),
        env=opened(world, wish.env),
        ports=tuple(int(port.partition("/")[0]) for port in wish.ports),
        restarts=True,
        keeps_disk=False,
    )


def make(world: World) -> FastAPI:
    """The routes."""
    app, pods, windows = make_app(world), Pods(world), Windows(world.scale)

    @app.exception_handler(Problem)
    async def refuse(_request: Request, problem: Problem) -> JSONResponse:
        return problem.answer()

    @app.exception_handler(RequestValidationError)
    async def refuse_schema(_request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return Problem(422, "Unprocessable Entity", "the body does not fit the schema", errors).answer()

    @app.middleware("http")
    async def identify(request: Request, proceed: Any) -> Response:
        path = request.url.path
        if path.startswith("/v1"):
            return Problem(410, "Gone", "REST v1 was switched off").answer()
        if not path.startswith(URL_PATH):
            return await proceed(request)  # type: ignore[no-any-return]
        if request.headers.get("user-agent", "").startswith("Python-urllib"):
            return Response("error code: 1010", 403, media_type="text/plain")
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return Problem(401, "Unauthorized", "missing or invalid API key").answer()
        headers = request_id()
        if world.limits:
            with world.lock:
                empty = windows.count(world.now())
                headers |= windows.headers(world.now(), empty)
            if empty:
                refused = Problem(429, "Too Many Requests", f"rate limit exceeded for the {empty} window").answer()
                refused.headers.update(headers)
                return refused
        answer: Response = await proceed(request)
        answer.headers.update(headers)
        return answer

    @app.get("/v2/catalog/gpus")
    def catalog(
        include: str | None = None,
        product: str | None = None,
        cloud: Cloud = "SECURE",
        count: int = 1,
        minCudaVersion: Annotated[str | None, Query(pattern=r"^\d+\.\d+$")] = None,
    ) -> dict[str, Any]:
        if (include == "AVAILABILITY") != (product is not None):
            raise Problem(400, "Bad Request", "include=AVAILABILITY needs product, and product needs it")
        rows = [row if row.has_cuda(minCudaVersion) else row._replace(stock={}) for row in GPUS]
        return {"gpus": [catalog_entry(row, cloud if include else None) for row in rows]}

    @app.get("/v2/catalog/gpus/{identity:path}")
    def gpu_type(
        identity: str, include: str | None = None, product: str | None = None, cloud: Cloud = "SECURE"
    ) -> dict[str, Any]:
        for entry in catalog(include, product, cloud)["gpus"]:
            if entry["id"] == identity:
                return dict(entry)
        raise Problem(404, "Not Found", f"GPU type {identity} not found")

    add_routes(app, world, Problem)

    @app.get("/v2/pods")
    def list_pods(limit: Annotated[int, Query(ge=1, le=1000)] = 1000, cursor: str | None = None) -> dict[str, Any]:
        with world.lock:
            return pods.page(limit, cursor)

    @app.post("/v2/pods", status_code=201)
    def create_pod(wish: CreatePod) -> dict[str, Any]:
        with world.lock:
            return pods.create(wish)

    @app.get("/v2/pods/{identity}")
    def get_pod(identity: str) -> dict[str, Any]:
        with world.lock:
            return pods.show(pods.find(identity))

    @app.get("/v2/pods/{identity}/logs")
    def stream_logs(identity: str, tail: Annotated[int, Query(ge=0, le=5000)] = 100) -> StreamingResponse:
        """What was printed so far, and then a stream that stays open and says nothing."""
        with world.lock:
            pods.find(identity)
        problem = world.machines.problem(identity)
        told = [("system", problem)] if problem else []
        told += [("container", line) for line in world.machines.log(identity).splitlines()]

        async def events() -> AsyncIterator[str]:
            for source, line in told[-tail:] if tail else ():
                event = {"source": source, "line": line, "ts": time_of(world.now())}
                yield f"id: {event['ts']}\ndata: {json.dumps(event)}\n\n"
            while True:
                await asyncio.sleep(3600)

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.post("/v2/pods/{identity}/action")
    def act(identity: str, wish: Action) -> Response:
        with world.lock:
            pod = pods.act(pods.find(identity), wish.action)
        return Response(status_code=204) if wish.action == "terminate" else JSONResponse(pod)

    @app.delete("/v2/pods/{identity}", status_code=204)
    def terminate(identity: str) -> Response:
        with world.lock:
            pods.act(pods.find(identity), "terminate")
        return Response(status_code=204)

    @app.get("/v2/billing/pods")
    def bills(podId: str | None = None) -> dict[str, Any]:
        with world.lock:
            return pods.bills(podId)

    @app.api_route("/proxy/{identity}/{port}/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "HEAD"])
    async def proxy(identity: str, port: int, path: str, request: Request) -> Response:
        """RunPod's own way to a pod's HTTP ports: 502 until the program inside listens, some time after it runs."""
        with world.lock:
            rental = world.rentals.get(identity)
            if rental is None or not rental.alive or f"{port}/http" not in rental.wire["ports"]:
                return Response(status_code=404)
            uptime, behind = pods.uptime(rental), world.machines.way_in(identity, port)
        if uptime is None:
            return Response(status_code=502)
        if behind is None:
            up = path == "health" and uptime + PROVISIONING_SECONDS + STARTING_SECONDS > LISTENS_AFTER_SECONDS
            return Response(status_code=200 if up else 502)
        return await _forward(request, f"http://{behind.host}:{behind.port}/{path}")

    return app


async def _forward(request: Request, url: str) -> Response:
    """The answer of what runs in the pod, or 502 where nothing answers."""
    passed = ("accept", "authorization", "content-type")
    headers = {name: value for name, value in request.headers.items() if name in passed}
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=100) as client:  # 100 s: the proxy's own limit
            answer = await client.request(
                request.method, url, params=request.query_params, content=await request.body(), headers=headers
            )
    except httpx.HTTPError:
        return Response(status_code=502)
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
