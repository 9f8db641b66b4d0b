# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's Compute v1: the part that concerns machines, their types, operations and firewalls, in one project.

Each call, its request and its answer is checked with Google's own description (compute_schema.py); compute_rules.py
has what that doesn't say. Whether there is room is only known when an operation is done, as with the real one; until
then an instance is shown that may never be. Left out: who may do what (every token may), and images, disks and networks
of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from . import compute_schema
from .compute_firewalls import Firewalls
from .compute_instances import Instances
from .compute_market import ACCELERATORS, QUOTAS, SIZES, ZONES, Quotas, Size, Zone, sold_in
from .compute_operations import Operations, chosen
from .compute_rules import Refused, not_found
from .limits import Windows
from .server import make_app
from .world import World

URL_PATH = "/compute/v1"
PROJECT = "acme-gpus"
QUOTA = (("minute", 1500, 60.0),)
TOKEN_SECONDS = 3600
_PAGE = 500
_WAIT_SECONDS = 2.0  # of the client; the real one answers after two minutes at the latest

Answer = dict[str, Any]
Values = dict[str, str]


class Project:
    """What the calls do. Each method takes the values of the path, the query and the body."""

    def __init__(self, world: World, zones: tuple[Zone, ...], quotas: Quotas) -> None:
        self.world = world
        self.zones = {zone.name: zone for zone in zones}
        self.base = f"https://www.googleapis.com{URL_PATH}/projects/{PROJECT}"
        self.operations = Operations(world, self.base)
        self.instances = Instances(world, self.operations, self.zones, quotas, self.base)
        self.firewalls = Firewalls(world, self.operations, self.base)
        self.quotas = quotas
        one, walls = self.instances, self.firewalls
        self.calls: dict[str, Callable[[Values, Values, Any], Answer]] = {
            "compute.instances.insert": one.insert,
            "compute.instances.get": lambda at, query, body: one.show(one.must_find(at)),
            "compute.instances.list": self.list_instances,
            "compute.instances.aggregatedList": self.all_instances,
            "compute.instances.delete": one.delete,
            "compute.instances.start": one.start,
            "compute.instances.stop": one.stop,
            "compute.instances.setLabels": one.set_labels,
            "compute.instances.setTags": one.set_tags,
            "compute.instances.setMetadata": one.set_metadata,
            "compute.instances.setScheduling": one.set_scheduling,
            "compute.instances.getGuestAttributes": one.guest_attributes,
            "compute.machineTypes.get": self.machine_type,
            "compute.machineTypes.list": lambda at, query, body: self._page(
                "machineType", f"zones/{at['zone']}/machineTypes", self._sizes(self._zone(at)), query
            ),
            "compute.machineTypes.aggregatedList": lambda at, query, body: self._aggregated(
                "machineType", "machineTypes", self._sizes, query
            ),
            "compute.acceleratorTypes.list": lambda at, query, body: self._page(
                "acceleratorType", f"zones/{at['zone']}/acceleratorTypes", self._accelerators(self._zone(at)), query
            ),
            "compute.acceleratorTypes.aggregatedList": lambda at, query, body: self._aggregated(
                "acceleratorType", "acceleratorTypes", self._accelerators, query
            ),
            "compute.regions.get": self.region,
            "compute.zoneOperations.get": self.operation,
            "compute.zoneOperations.wait": self.operation,
            "compute.zoneOperations.list": lambda at, query, body: self._page(
                "operation", f"zones/{at['zone']}/operations", self._operations(at, query), query
            ),
            "compute.globalOperations.get": self.operation,
            "compute.globalOperations.wait": self.operation,
            "compute.firewalls.insert": walls.insert,
            "compute.firewalls.get": lambda at, query, body: walls.must_find(at),
            "compute.firewalls.list": lambda at, query, body: self._page(
                "firewall", "global/firewalls", list(walls.all.values()), query
            ),
            "compute.firewalls.patch": walls.patch,
            "compute.firewalls.delete": walls.delete,
        }

    def answer(self, call: compute_schema.Call, query: Values, body: Any) -> Answer:
        """One call; what comes out was checked."""
        if call.values["project"] != PROJECT:
            raise not_found(f"projects/{call.values['project']}")
        try:
            call.check_query(query)
            call.check_request(body)
        except compute_schema.Wrong as wrong:
            raise Refused(400, "invalid", str(wrong)) from wrong
        self.settle()
        found = self.calls[call.method_id](call.values, query, body)
        call.check_answer(found)
        return found

    def settle(self) -> None:
        self.operations.settle()
        self.instances.refresh_all()

    def operation(self, at: Values, query: Values, body: Any) -> Answer:
        scope = f"zones/{at['zone']}" if "zone" in at else "global"
        return self.operations.must_find(at["operation"], scope).wire

    def _operations(self, at: Values, query: Values) -> list[Answer]:
        self._zone(at)
        return self.operations.list(f"zones/{at['zone']}", query.get("filter"))

    def _zone(self, at: Values) -> Zone:
        if at["zone"] not in self.zones:
            raise not_found(f"projects/{PROJECT}/zones/{at['zone']}")
        return self.zones[at["zone"]]

    def list_instances(self, at: Values, query: Values, body: Any) -> Answer:
        rows = self.instances.listed(self._zone(at))
        return self._page("instance", f"zones/{at['zone']}/instances", rows, query)

    def all_instances(self, at: Values, query: Values, body: Any) -> Answer:
        return self._aggregated("instance", "instances", self.instances.listed, query)

    def machine_type(self, at: Values, query: Values, body: Any) -> Answer:
        found = [row for row in self._sizes(self._zone(at)) if row["name"] == at["machineType"]]
        if not found:
            raise not_found(f"projects/{PROJECT}/zones/{at['zone']}/machineTypes/{at['machineType']}")
        return found[0]

    def _sizes(self, zone: Zone) -> list[Answer]:
        return [self._size(zone, size) for size in SIZES.values() if sold_in(zone, size)]

    def _size(self, zone: Zone, size: Size) -> Answer:
        own = {"guestAcceleratorType": size.accelerator, "guestAcceleratorCount": size.accelerators}
        return {
            "kind": "compute#machineType",
            "id": "801016",
            "name": size.name,
            "zone": zone.name,
            "guestCpus": size.cpus,
            "memoryMb": size.memory_mib,
            "architecture": "X86_64",
            "isSharedCpu": False,
            **({"accelerators": [own]} if size.accelerator else {}),
            "selfLink": f"{self.base}/zones/{zone.name}/machineTypes/{size.name}",
        }

    def _accelerators(self, zone: Zone) -> list[Answer]:
        return [
            {
                "kind": "compute#acceleratorType",
                "id": str(10000 + number),
                "name": name,
                "zone": f"{self.base}/zones/{zone.name}",
                "maximumCardsPerInstance": 8,
                "selfLink": f"{self.base}/zones/{zone.name}/acceleratorTypes/{name}",
            }
            for number, name in enumerate(zone.left)
        ]

    def region(self, at: Values, query: Values, body: Any) -> Answer:
        zones = [zone.name for zone in self.zones.values() if zone.region == at["region"]]
        if not zones:
            raise not_found(f"projects/{PROJECT}/regions/{at['region']}")
        used = self.instances.used_gpus()
        quotas = []
        for accelerator, metric in ACCELERATORS.items():
            taken = sum(gpus.get(accelerator, 0) for region, gpus in used if region == at["region"])
            limit = self.quotas.regional.get((at["region"], accelerator), 100)
            quotas.append({"metric": metric, "limit": float(limit), "usage": float(taken)})
        return {
            "kind": "compute#region",
            "id": "1000",
            "name": at["region"],
            "status": "UP",
            "zones": [f"{self.base}/zones/{zone}" for zone in zones],
            "quotas": quotas,
            "selfLink": f"{self.base}/regions/{at['region']}",
        }

    def _page(self, kind: str, path: str, rows: list[Answer], query: Values) -> Answer:
        rows = [row for row in rows if chosen(row, query.get("filter"))]
        shown, token = _cut(rows, query)
        return {
            "kind": f"compute#{kind}List",
            "id": f"projects/{PROJECT}/{path}",
            "items": shown,
            "selfLink": f"{self.base}/{path}",
            **({"nextPageToken": token} if token else {}),
        }

    def _aggregated(self, kind: str, name: str, rows_in: Callable[[Zone], list[Answer]], query: Values) -> Answer:
        """By zone; those that have nothing on this page say so."""
        rows = [
            (zone.name, row)
            for zone in self.zones.values()
            for row in rows_in(zone)
            if chosen(row, query.get("filter"))
        ]
        shown, token = _cut(rows, query)
        items: dict[str, Any] = {}
        for zone in self.zones:
            here = [row for place, row in shown if place == zone]
            scope = f"zones/{zone}"
            nothing = {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope '{scope}' on this page.",
                "data": [{"key": "scope", "value": scope}],
            }
            items[scope] = {name: here} if here else {"warning": nothing}
        return {
            "kind": f"compute#{kind}AggregatedList",
            "id": f"projects/{PROJECT}/aggregated/{name}",
            "items": items,
            "selfLink": f"{self.base}/aggregated/{name}",
            **({"nextPageToken": token} if token else {}),
        }


def _cut(rows: list[Any], query: Values) -> tuple[list[Any], str | None]:
    """One page, and where the next begins."""
    size = min(int(query.get("maxResults", _PAGE)), _PAGE) or _PAGE
    first = int(query.get("pageToken") or 0)
    more = first + size < len(rows)
    return rows[first : first + size], str(first + size) if more else None


def make(world: World, zones: tuple[Zone, ...] = ZONES, quotas: Quotas = QUOTAS) -> FastAPI:
    """The routes: all that the document names and the project does."""
    app = make_app(world)
    project = Project(world, zones, quotas)
    quota = Windows(world.scale, QUOTA)
    app.state.project = project

    @app.exception_handler(Refused)
    async def refuse(_request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.content, refused.status)

    @app.post("/token")
    async def token() -> dict[str, Any]:
        """What a service account's signed word is worth."""
        return {
            "access_token": f"of-a-service-account-{next(world.numbers)}",
            "expires_in": TOKEN_SECONDS,
            "token_type": "Bearer",
        }

    @app.api_route(f"{URL_PATH}/{{path:path}}", methods=["GET", "POST", "PATCH", "DELETE"])
    async def serve(request: Request, path: str) -> Response:
        if not request.headers.get("authorization", "").startswith("Bearer "):
            raise Refused(401, "required", "Request is missing required authentication credential.")
        call = compute_schema.find(request.method, path)
        if call is None:
            raise not_found(f"/{path}")
        raw = await request.body()
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            raise Refused(400, "parseError", "Invalid JSON payload received.") from error
        if call.method_id.endswith(".wait"):
            await _until_done(project, call)
        with world.lock:
            if world.limits and quota.count(world.now()):
                raise Refused(403, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries' of this project.")
            try:
                return JSONResponse(project.answer(call, dict(request.query_params), body))
            except compute_schema.Wrong as wrong:  # ours, not the client's
                sys.stderr.write(f"{call.method_id} answers wrongly: {wrong}\n")
                raise

    return app


async def _until_done(project: Project, call: compute_schema.Call) -> None:
    """As long as a client is made to wait; it may still not be done then."""
    ends = asyncio.get_running_loop().time() + _WAIT_SECONDS
    while asyncio.get_running_loop().time() < ends:
        with project.world.lock, contextlib.suppress(Refused):
            project.settle()
            if project.operation(call.values, {}, None)["status"] == "DONE":
                return
        await asyncio.sleep(0.02)
