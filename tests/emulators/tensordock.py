# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TensorDock's API version 2: the part that concerns locations and virtual machines.

It answers as it was seen to: lists come in three shapes in turn, statuses in any case, an error may stand in a 200, a
location is listed whatever is left there, an address comes late, and forwarded ports may be others than were asked for.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from .limits import Windows
from .machines import Order, WayIn
from .server import make_app
from .tensordock_market import PLACES, SSH_PORT, Place, Refused, Stock, check, inside_200, price, shown, storage_price
from .world import Rental, World

URL_PATH = "/api/v2"
QUOTA = (("minute", 100, 60.0),)
CREATING_SECONDS, STARTING_SECONDS, ADDRESS_SECONDS = 5.0, 20.0, 35.0  # of the first start, since the create
START_SECONDS, STOP_SECONDS = 10.0, 5.0
PUBLIC_ADDRESS = "203.0.113.40"
SHAPES = 3
_ID = "{:08x}-0000-4000-8000-7d0c00000000"  # the machine behind it is named by how this begins


class Account:
    """What the routes do. The wire of a rental holds what was wished for; what begins with "_" is nobody's business."""

    def __init__(self, world: World, places: tuple[Place, ...], *, strict: bool) -> None:
        self.world, self.strict = world, strict
        self.places = {place.id: place for place in places}
        # Each answer looks a bit different from the last.
        self.turns, self.lists = itertools.count(), itertools.count()

    def create(self, wish: Any) -> dict[str, Any]:
        wanted = check(wish, self.strict)
        resources = wanted["resources"]
        ((v0_name, gpus),) = resources["gpus"].items()
        place = self.places.get(wanted.get("location_id", ""))
        stock = next((one for one in place.stock if one.v0_name == v0_name), None) if place else None
        if place is None or stock is None or not self._has(place, stock, gpus["count"]):
            raise inside_200("No available nodes found for the requested configuration")
        if wanted.get("useDedicatedIp") and not stock.own_address:
            raise inside_200("No available public IPs on hostnode")
        if resources["vcpu_count"] > stock.max_vcpus or resources["ram_gb"] > stock.max_ram_gb:
            raise inside_200("Not enough resources on hostnode")
        now, identity = self.world.now(), _ID.format(next(self.world.numbers))
        wire = {
            **wanted,
            "id": identity,
            "_place": place.id,
            "_gpu": v0_name,
            "_since": now,  # when the last order came
            "_wanted": "running",
            "_began": False,  # whether it has run before
            "_price": price(stock, resources, gpus["count"])
            * (2 if self.world.trouble("dearer", wanted["name"]) else 1),
            "_ends_at": None,
        }
        rental = Rental(identity, "tensordock", wanted["name"], "creating", now, wire["_price"], wire)
        self.world.rent(rental, _order(wanted))
        self.world.bill(rental, costs=True)
        # No address, and a status that is not true yet.
        return {"data": {"type": "virtualmachine", "id": identity, "name": wanted["name"], "status": "running"}}

    def _has(self, place: Place, stock: Stock, count: int) -> bool:
        if self.world.trouble("offer_gone", f"{place.id}/{stock.v0_name}"):
            return False
        taken = [
            one.wire["resources"]["gpus"][stock.v0_name]["count"]
            for one in self.world.alive()
            if (one.wire["_place"], one.wire["_gpu"]) == (place.id, stock.v0_name)
            and one.status != "stoppeddisassociated"
        ]
        return bool(sum(taken) + count <= stock.really)

    def must_find(self, identity: str) -> Rental:
        rental = self.world.rentals.get(identity)
        if rental is not None and rental.alive:
            self.refresh(rental)
        if rental is None or not rental.alive:
            raise Refused(404, {"status": 404, "error": "Instance not found"})
        return rental

    def refresh(self, rental: Rental) -> None:
        """Bring its status, and what it costs, up to date."""
        wire, now = rental.wire, self.world.now()
        if wire["_ends_at"] is not None and now >= wire["_ends_at"]:
            self.world.delete(rental)
            return
        age = now - wire["_since"]
        if wire["_wanted"] == "stopped":
            if age >= STOP_SECONDS and rental.status in ("running", "stopping"):
                gone = self.world.trouble("no_gpu", rental.id, rental.owner)
                rental.status = "stoppeddisassociated" if gone else "stopped"
                if gone:  # only a stop that gives the GPU away makes it cheaper
                    self.world.charge(rental, storage_price(wire["resources"]["storage_gb"]))
            return
        if self.world.trouble("boot_stuck", rental.id, rental.owner):
            return
        takes = START_SECONDS if wire["_began"] else STARTING_SECONDS
        if age < takes:
            rental.status = "creating" if not wire["_began"] and age < CREATING_SECONDS else "starting"
            return
        rental.status, wire["_began"] = "running", True
        ends = self.world.trouble("exits", rental.id, rental.owner)
        if ends and age >= takes + ends.seconds:
            self._stop(rental)

    def start(self, rental: Rental) -> None:
        if rental.status not in ("stopped", "stoppeddisassociated"):
            raise Refused(409, {"status": 409, "error": "Instance must be stopped; it is already running"})
        if rental.status == "stoppeddisassociated":
            raise Refused(400, {"status": 400, "error": "Failed to start instance"})
        rental.wire["_wanted"], rental.wire["_since"], rental.status = "running", self.world.now(), "starting"
        self.world.start_machine(rental)

    def stop(self, rental: Rental) -> None:
        if rental.wire["_wanted"] == "stopped":
            raise Refused(409, {"status": 409, "error": "Instance is not running"})
        self._stop(rental)

    def _stop(self, rental: Rental) -> None:
        rental.wire["_wanted"], rental.wire["_since"], rental.status = "stopped", self.world.now(), "stopping"
        self.world.machines.stop(rental.id)

    def delete(self, rental: Rental) -> None:
        late = self.world.trouble("delete_late", rental.id, rental.owner)
        if late and rental.wire["_ends_at"] is None:
            rental.wire["_ends_at"] = self.world.now() + late.seconds
        elif not late:
            self.world.delete(rental)

    def show(self, rental: Rental) -> dict[str, Any]:
        """As a GET of one shows it: as it is, or wrapped as the documentation has it."""
        wire = rental.wire
        has_address = self.world.now() - rental.created_at >= ADDRESS_SECONDS
        ways = self._ways(rental)
        address = next((way.host for way in ways.values()), PUBLIC_ADDRESS)
        row = {
            "type": "virtualmachine",
            "id": rental.id,
            "name": wire["name"],
            "status": self._word(rental.status),
            "ipAddress": address if has_address else "",
            "portForwards": [
                {"internal_port": port, "external_port": way.port} for port, way in ways.items() if has_address
            ],
            "resources": wire["resources"],
            "rateHourly": rental.price_per_hour_usd,
        }
        if next(self.turns) % 4:
            return row
        attributes = {name: value for name, value in row.items() if name not in ("type", "id")}
        return {"data": {"type": row["type"], "id": row["id"], "attributes": attributes}}

    def _ways(self, rental: Rental) -> dict[int, WayIn]:
        """The ports that lead to it. With real machines all of them do so, because all share this one's address."""
        wire = rental.wire
        asked = {one["internal_port"]: one["external_port"] for one in wire.get("port_forwards") or ()}
        if wire.get("useDedicatedIp"):
            way = self.world.way_in(rental, SSH_PORT, WayIn(PUBLIC_ADDRESS, SSH_PORT))
            return {} if way.host == PUBLIC_ADDRESS else {SSH_PORT: way}
        if self.world.trouble("ports_ignored", rental.id, rental.owner):
            return {}
        return {
            inside: self.world.way_in(rental, inside, WayIn(PUBLIC_ADDRESS, _replaced(rental.id, outside)))
            for inside, outside in asked.items()
        }

    def _word(self, status: str) -> str:
        words = {"stoppeddisassociated": "StoppedDisassociated", "creating": "Creating"}
        turn = next(self.turns)
        return words.get(status, status) if turn % 3 else words.get(status, status).upper()

    def _is_listed(self, rental: Rental) -> bool:
        self.refresh(rental)
        late = self.world.trouble("list_late", rental.id, rental.owner)
        return rental.alive and (late is None or self.world.now() - rental.created_at >= late.seconds)

    def list(self) -> dict[str, Any]:
        """In one of the three shapes, with flat rows or such that have attributes."""
        plain = [
            {"name": rental.wire["name"], "status": self._word(rental.status), "id": rental.id}
            for rental in self.world.alive()
            if self._is_listed(rental)
        ]
        nested = [
            {"type": "virtualmachine", "id": row["id"], "attributes": {"name": row["name"], "status": row["status"]}}
            for row in plain
        ]
        shape = next(self.lists) % SHAPES
        if shape == 0:
            return {"data": plain}
        return {"data": {"instances": nested}} if shape == 1 else {"data": {"attributes": {"instances": plain}}}


def _replaced(identity: str, outside: int) -> int:
    """Another port than a low one that was asked for."""
    digest = hashlib.sha256(identity.encode()).digest()
    return outside if outside >= 1024 else 20000 + int.from_bytes(digest[:2], "big") % 40000


def _order(wanted: dict[str, Any]) -> Order:
    """A machine that runs the commands of its cloud-init at its first boot."""
    commands = wanted.get("cloud_init", {}).get("runcmd", [])
    ports = dict.fromkeys([SSH_PORT, *(one["internal_port"] for one in wanted.get("port_forwards") or ())])
    return Order(image=wanted["image"], machine=True, start_script="\n".join(commands), ports=tuple(ports))


def make(world: World, places: tuple[Place, ...] = PLACES, *, strict: bool = True) -> FastAPI:
    """The routes. What the real one does with attributes that it doesn't know is not known: strict refuses them."""
    app = make_app(world)
    account = Account(world, places, strict=strict)
    quota = Windows(world.scale, QUOTA)

    async def identify(request: Request) -> None:
        if not request.headers.get("authorization", "").startswith("Bearer "):
            raise Refused(401, {"status": 401, "error": "Unauthorized"})

    routes = APIRouter(prefix=URL_PATH, dependencies=[Depends(identify)])

    @app.middleware("http")
    async def pace(request: Request, proceed: Any) -> Response:
        if world.limits and not request.url.path.startswith("/_control/"):
            with world.lock:
                empty = quota.count(world.now())
            if empty:
                return JSONResponse({"status": 429, "error": "Too many requests"}, 429)
        answer: Response = await proceed(request)
        return answer

    @app.exception_handler(Refused)
    async def refuse(_request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.content, refused.status)

    @routes.get("/locations")
    async def locations() -> dict[str, Any]:
        return {"data": {"locations": [shown(place) for place in account.places.values()]}}

    @routes.post("/instances")
    async def create(request: Request) -> JSONResponse:
        try:
            wish = json.loads(await request.body())
        except ValueError as error:
            raise Refused(400, {"status": 400, "error": "Invalid JSON"}) from error
        with world.lock:
            return JSONResponse(account.create(wish), 201 if next(account.turns) % 2 else 200)

    @routes.get("/instances")
    async def list_all() -> dict[str, Any]:
        with world.lock:
            return account.list()

    @routes.get("/instances/{identity}")
    async def show(identity: str) -> dict[str, Any]:
        with world.lock:
            return account.show(account.must_find(identity))

    @routes.post("/instances/{identity}/start")
    async def start(identity: str) -> dict[str, Any]:
        with world.lock:
            account.start(account.must_find(identity))
        return {"data": {"type": "virtualmachine", "id": identity, "attributes": {"status": "starting"}}}

    @routes.post("/instances/{identity}/stop")
    async def stop(identity: str) -> dict[str, Any]:
        with world.lock:
            account.stop(account.must_find(identity))
        return {"data": {"type": "virtualmachine", "id": identity, "attributes": {"status": "stopping"}}}

    @routes.delete("/instances/{identity}")
    async def delete(identity: str) -> dict[str, Any]:
        with world.lock:
            account.delete(account.must_find(identity))
        return {"data": {"type": "success", "attributes": {"message": "Instance deleted"}}}

    app.include_router(routes)
    return app
