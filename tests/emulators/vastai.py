# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vast.ai's REST API: the part that concerns offers and instances, as the official command line needs it too.

Times of an instance's life are seconds of the world, and its status is worked out whenever somebody looks. An answer
with status 200 may say no, and a create that failed may have left something that costs.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .limits import Intervals
from .machines import Order, WayIn
from .server import make_app
from .vastai_market import FIRST_OFFER, HOSTS, Host, Refused, fits, offer_row
from .world import Rental, World

URL_PATH = ""
CREATED_SECONDS, LOADING_SECONDS = 3.0, 20.0  # of the first start; the image is pulled while it is loading
START_SECONDS, STOP_SECONDS = 5.0, 3.0
STORAGE_SHARE = 0.1  # of the price, for what doesn't run
FIRST_INSTANCE, MACHINES_APART = 9_000_000, 1000
LARGEST_PAGE = 25
PUBLIC_ADDRESS = "203.0.113.20"
LONGEST_LABEL, LEAST_DISK_GB, LONGEST_START_SCRIPT = 256, 8, 4096
_RUNTYPES = {"args", "ssh", "ssh_direct", "ssh_direc", "ssh_proxy", "jupyter", "jupyter_direct"}
_RUNTYPES |= {"jupyter_direc", "jupyter_proxy"}  # the official client does write them without the t


class Account:
    """What the routes do. The wire of a rental holds its row; what begins with "_" is nobody's business."""

    def __init__(self, world: World, hosts: tuple[Host, ...]) -> None:
        self.world = world
        self.hosts = {FIRST_OFFER + host.machine_id: host for host in hosts}
        self.lost: set[int] = set()  # offers that somebody else took

    def search(self, wish: dict[str, Any]) -> dict[str, Any]:
        # rented is one of the fields that the real search takes and ignores.
        plain = {"type", "order", "limit", "allocated_storage", "rented", "disable_bundling", "target_reliability"}
        conditions = {"verified": {"eq": True}, "rentable": {"eq": True}, "external": {"eq": False}}
        conditions |= {field: wanted for field, wanted in wish.items() if field not in plain}
        kind = wish.get("type", "on-demand")
        if kind not in ("on-demand", "ondemand", "bid", "reserved"):
            raise Refused(400, "invalid_args", f"unknown type {kind}")
        taken = {rental.wire["_offer"] for rental in self.world.alive() if rental.wire["_offer"]}
        rows = [
            offer_row(host, float(wish.get("allocated_storage", 8)), kind == "bid")
            for number, host in self.hosts.items()
            if number not in taken and number not in self.lost
        ]
        found = [row for row in rows if fits(row, conditions)]
        for field, direction in reversed(wish.get("order") or [["score", "desc"]]):
            found.sort(key=lambda row: row.get(field) or 0, reverse=direction == "desc")
        limit = int(wish.get("limit", 64))
        return {"success": True, "offers": found[:limit], "truncated": len(found) > limit}

    def create(self, number: int, wish: dict[str, Any]) -> dict[str, Any]:
        host = self.hosts.get(number)
        if host is None:
            raise Refused(404, "invalid_args", f"error 404/3603: no_such_ask  Instance type by id {number} is gone.")
        self._check_create(wish)
        taken = any(rental.wire["_offer"] == number for rental in self.world.alive())
        if self.world.trouble("offer_gone", str(number)):
            self.lost.add(number)  # so nobody is shown it any more
        if taken or host.rented or number in self.lost:
            raise Refused(410, "no_such_ask", f"error 410/3907: no_such_ask  ask {number} is not available.")
        disk, price = float(wish.get("disk", 8)), wish.get("price")
        offer = offer_row(host, disk, price is not None)
        storage = offer["storage_total_cost"]
        too_low = price is not None and price < offer["min_bid"]
        dearer = 2 if self.world.trouble("dearer", str(number), wish.get("label") or "") else 1
        now, identity = self.world.now(), FIRST_INSTANCE + next(self.world.numbers)
        wire = {
            **offer,
            "id": identity,
            "label": wish.get("label"),
            "disk_space": disk,
            "dph_total": (round(price + storage, 6) if price is not None else offer["dph_total"]) * dearer,
            "is_bid": price is not None,
            "image_uuid": wish["image"],
            "image_runtype": wish.get("runtype", "ssh"),
            "extra_env": [list(pair) for pair in (wish.get("env") or {}).items()],
            "onstart": wish.get("onstart"),
            "image_args": wish.get("args") or [],
            "start_date": now,
            "end_date": now + 30 * 86400.0,
            "jupyter_token": secrets.token_hex(32),
            "status_msg": None,
            "gpu_util": 0.0,
            "_offer": 0 if too_low else number,  # a bid that lost takes no GPU away
            "_intended": "stopped" if too_low or wish.get("target_state") == "stopped" else "running",
            "_since": now,  # when the last order came
            "_began": False,  # whether it has run before
            "_outbid": False,  # stopped because others bid more
            "_keys": [],
            "_own_key": secrets.token_hex(32),
        }
        rental = Rental(str(identity), "vastai", wish.get("label") or "", "created", now, wire["dph_total"], wire)
        rental.price_per_hour_usd *= STORAGE_SHARE
        own = {"CONTAINER_ID": rental.id, "CONTAINER_API_KEY": wire["_own_key"]}
        self.world.rent(rental, None if wire["_intended"] == "stopped" else _order(wish, own))
        self.world.bill(rental, costs=True)
        if too_low:
            raise Refused(200, "bid_too_low", "your bid is too low, the instance was stopped", new_contract=identity)
        return {"success": True, "new_contract": identity, "instance_api_key": wire["_own_key"]}

    def may(self, authorization: str, path: str) -> bool:
        """Every key may do everything, but that which an instance got for itself: what concerns that instance."""
        owns = (one for one in self.world.rentals.values() if authorization == f"Bearer {one.wire['_own_key']}")
        rental = next(owns, None)
        return rental is None or (rental.alive and path == f"/api/v0/instances/{rental.id}/")

    def _check_create(self, wish: dict[str, Any]) -> None:
        price, env = wish.get("price"), wish.get("env")
        script = json.dumps([wish.get("onstart") or "", wish.get("args") or ""])
        if not wish.get("image") or not isinstance(wish["image"], str):
            raise Refused(400, "invalid_args", "image is missing")
        if env is not None and not isinstance(env, dict):
            raise Refused(400, "invalid_args", "env is not an object")
        if float(wish.get("disk", LEAST_DISK_GB)) < LEAST_DISK_GB:
            raise Refused(400, "invalid_args", f"disk is less than {LEAST_DISK_GB}")
        if len(wish.get("label") or "") > LONGEST_LABEL:
            raise Refused(400, "label_too_long", f"label is longer than {LONGEST_LABEL}")
        if not set(str(wish.get("runtype", "ssh")).split()) <= _RUNTYPES:
            raise Refused(400, "invalid_args", f"unknown runtype {wish['runtype']}")
        if len(script) > LONGEST_START_SCRIPT:
            raise Refused(400, "invalid_args", "onstart and args are too long")
        if price is not None and not (isinstance(price, (int, float)) and 0.001 <= price <= 128):
            raise Refused(400, "invalid_price", "price is not between 0.001 and 128")

    def find(self, identity: int) -> Rental | None:
        rental = self.world.rentals.get(str(identity))
        return rental if rental is not None and rental.alive else None

    def must_find(self, identity: int) -> Rental:
        rental = self.find(identity)
        if rental is None:
            raise Refused(404, "no_such_instance", f"Instance {identity} not found.")
        return rental

    def refresh(self, rental: Rental) -> None:
        """Bring its status, and what it has cost, up to date."""
        self._compare_bids(rental)
        wire, age = rental.wire, self.world.now() - rental.wire["_since"]
        if wire["_intended"] == "running" and rental.status != "running":
            wire["status_msg"] = self.world.machines.problem(rental.id)
            if wire["_began"]:
                takes, rental.status = START_SECONDS, "exited"
            else:
                takes = CREATED_SECONDS + LOADING_SECONDS
                rental.status = "created" if age < CREATED_SECONDS or wire["status_msg"] else "loading"
            if self.world.trouble("boot_stuck", rental.id, rental.owner) or wire["status_msg"]:
                return
            if age >= takes:
                rental.status, wire["_began"] = "running", True
                self.world.charge(rental, wire["dph_total"], wire["_since"] + takes)
        elif wire["_intended"] == "stopped" and rental.status not in ("exited", "created") and age >= STOP_SECONDS:
            rental.status = "exited"
            self.world.charge(rental, wire["dph_total"] * STORAGE_SHARE, wire["_since"] + STOP_SECONDS)

    def _compare_bids(self, rental: Rental) -> None:
        """Who is outbid looks as if he had stopped it; nobody has to start it once his bid is the highest again."""
        wire = rental.wire
        outbid = wire["is_bid"] and self.world.trouble("outbid", rental.id, rental.owner) is not None
        if outbid and wire["_intended"] == "running":
            wire.update(_intended="stopped", _since=self.world.now(), _outbid=True)
            self.world.machines.stop(rental.id)
        elif wire["_outbid"] and not outbid:
            wire.update(_intended="running", _since=self.world.now(), _outbid=False)
            self.world.start_machine(rental)

    def order(self, rental: Rental, wish: dict[str, Any]) -> None:
        """Start, stop, or give it a label."""
        if "label" in wish:
            if len(wish["label"] or "") > 1024:
                raise Refused(400, "label_too_long", "label is longer than 1024")
            rental.wire["label"], rental.owner = wish["label"], wish["label"] or ""
        if "state" not in wish:
            return
        if wish["state"] not in ("running", "stopped"):
            raise Refused(400, "invalid_args", f"unknown state {wish['state']}")
        self.refresh(rental)
        if wish["state"] == "stopped":
            rental.wire["_outbid"] = False  # now its user wants that, too
        if rental.wire["_intended"] == wish["state"]:
            return
        if rental.wire["_outbid"]:
            raise Refused(200, "resources_unavailable", "Required resources are currently unavailable, queued.")
        if wish["state"] == "running" and self.world.trouble("no_gpu", rental.id, rental.owner):
            raise Refused(200, "resources_unavailable", "Required resources are currently unavailable, queued.")
        rental.wire["_intended"], rental.wire["_since"] = wish["state"], self.world.now()
        if wish["state"] == "running":
            self.world.start_machine(rental)
        else:
            self.world.machines.stop(rental.id)

    def delete(self, rental: Rental) -> None:
        self.refresh(rental)
        self.world.delete(rental)

    def show(self, rental: Rental) -> dict[str, Any]:
        self.refresh(rental)
        wire, running = rental.wire, rental.status == "running"
        state = "running" if rental.status in ("running", "created", "loading") else "stopped"
        state = wire["_intended"] if not wire["_began"] else state
        # The ports outside are others after each start.
        digest = hashlib.sha256(f"{rental.id} {wire['_since']}".encode()).digest()
        first = 20000 + int.from_bytes(digest[:2], "big") % 40000
        inside = (["22"] if "ssh" in wire["image_runtype"] else []) + _asked_ports(dict(wire["extra_env"]))
        ways = {
            port: self.world.way_in(rental, int(port), WayIn(PUBLIC_ADDRESS, first + index))
            for index, port in enumerate(dict.fromkeys(inside))
        }
        ports = {
            f"{port}/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(way.port)}]  # noqa: S104 (as Docker writes it)
            for port, way in ways.items()
        }
        address = next((way.host for way in ways.values()), PUBLIC_ADDRESS)
        proxy = WayIn(f"ssh{wire['machine_id'] % 9 + 1}.vast.ai", 10000 + int(rental.id) % 20000)
        if address != PUBLIC_ADDRESS:  # its proxy leads to the same machine, and what is wrong there is so here
            proxy = ways.get("22", proxy)
        return {name: value for name, value in wire.items() if not name.startswith("_")} | {
            "actual_status": rental.status,
            "intended_status": wire["_intended"],
            "cur_state": state,
            "next_state": wire["_intended"],
            "public_ipaddr": f"{address} \n",
            "ssh_host": proxy.host,
            "ssh_port": proxy.port,
            "ports": ports if running else None,
            "direct_port_start": first,
            "direct_port_end": first + len(inside),
            "uptime_mins": self._uptime_seconds(rental) / 60 if running else 0.0,
            "instance": {"totalHour": rental.price_per_hour_usd},
        }

    def _uptime_seconds(self, rental: Rental) -> float:
        """Since its container was started the last time, which its host does again whenever it ends."""
        age = self.world.now() - float(rental.wire["_since"])
        exits = self.world.trouble("exits", rental.id, rental.owner)
        return age % exits.seconds if exits and exits.seconds else age

    def _is_listed(self, rental: Rental) -> bool:
        late = self.world.trouble("list_late", rental.id, rental.owner)
        return late is None or self.world.now() - rental.created_at >= late.seconds

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        """One page of the v1 list; a token says after which id the next one begins."""
        try:
            limit = int(query.get("limit", LARGEST_PAGE))
            conditions = json.loads(query.get("select_filters") or "{}")
            order = json.loads(query.get("order_by") or "[]")
        except ValueError as error:
            raise Refused(400, "invalid_request", str(error)) from error
        if not 1 <= limit <= LARGEST_PAGE:
            raise Refused(400, "invalid_request", f"limit must be between 1 and {LARGEST_PAGE}")
        token = query.get("after_token")
        if token is not None and not (token.startswith("after-") and token[6:].isdecimal()):
            raise Refused(400, "invalid_token", "after_token is not one of ours")
        rows = [row for row in map(self.show, filter(self._is_listed, self.world.alive())) if fits(row, conditions)]
        rows.sort(key=lambda row: row["id"], reverse=any(one == {"col": "id", "dir": "desc"} for one in order))
        start = next((index + 1 for index, row in enumerate(rows) if token == f"after-{row['id']}"), 0)
        if token and not start:  # what it points to is gone: go on where it would be
            start = sum(row["id"] <= int(token[6:]) for row in rows)
        page = rows[start : start + limit]
        labels = [row["label"] for row in rows]
        return {
            "success": True,
            "instances_found": len(page),
            "total_instances": len(rows),
            "label_counts": {str(label): labels.count(label) for label in set(labels)},
            "next_token": f"after-{page[-1]['id']}" if start + limit < len(rows) else None,
            "instances": page,
        }


def _asked_ports(env: dict[str, Any]) -> list[str]:
    """The ports inside, of keys such as "-p 8000:8000"."""
    return [key.removeprefix("-p ").partition(":")[2] for key in env if key.startswith("-p ")]


def _order(wish: dict[str, Any], own: dict[str, str]) -> Order:
    """How it is started: as a machine with SSH, or as the container that was described, with what is its own."""
    env = wish.get("env") or {}
    machine = "args" not in str(wish.get("runtype", "ssh"))
    entrypoint = wish.get("onstart") if not machine else None  # in that mode it is the entry point
    return Order(
        image=wish["image"],
        machine=machine,
        start_script=wish.get("onstart") or "" if machine else "",
        entrypoint=(entrypoint,) if entrypoint else None,
        args=tuple(wish["args"]) if wish.get("args") else None,
        env={key: value for key, value in env.items() if not key.startswith("-")} | own,
        ports=tuple(map(int, (["22"] if machine else []) + _asked_ports(env))),
    )


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise Refused(400, "invalid_args", "the body is no JSON") from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid_args", "the body is no object")
    return body


def make(world: World, hosts: tuple[Host, ...] = HOSTS, copies: int = 1) -> FastAPI:
    """The routes; with copies there is more than one machine of each kind."""
    app = make_app(world)
    intervals = Intervals()
    several = tuple(
        Host(**{**vars(host), "machine_id": host.machine_id + MACHINES_APART * index})
        for index in range(copies)
        for host in hosts
    )
    logs: dict[str, str] = {}
    account = Account(world, several)

    async def identify(request: Request) -> None:
        key = request.headers.get("authorization")
        with world.lock:
            if not (key or request.query_params.get("api_key")) or not account.may(key or "", request.url.path):
                raise Refused(401, "auth_error", "Invalid user key")

    routes = APIRouter(dependencies=[Depends(identify)])

    @app.middleware("http")
    async def pace(request: Request, proceed: Any) -> Response:
        if world.limits:
            with world.lock:
                kept = intervals.count(request.method, request.url.path, world.now())
            if kept is not None:  # in plain text, unlike all other refusals
                words = f"API requests too frequent: endpoint threshold={kept / world.scale:.3f}"
                return PlainTextResponse(words, 429)
        answer: Response = await proceed(request)
        return answer

    @app.exception_handler(Refused)
    async def refuse(_request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(refused.content, refused.status)

    @routes.post("/api/v0/bundles/")
    async def search(request: Request) -> JSONResponse:
        wish = await _body(request)
        with world.lock:
            return JSONResponse(account.search(wish))  # its Content-Type has no charset: the client insists

    @routes.put("/api/v0/search/asks/")
    async def search_new(request: Request) -> JSONResponse:
        wish = await _body(request)
        with world.lock:
            return JSONResponse(account.search(wish.get("q") or {}))

    @routes.put("/api/v0/asks/{number:int}/")
    async def create(number: int, request: Request) -> JSONResponse:
        wish = await _body(request)
        with world.lock:
            return JSONResponse(account.create(number, wish))

    @routes.put("/api/v0/instances/request_logs/{identity:int}/")
    async def request_logs(identity: int, request: Request) -> JSONResponse:
        """The log lies at an address of its own some time later, for whoever knows it."""
        wish = await _body(request)
        with world.lock:
            account.must_find(identity)
        lines = world.machines.log(str(identity)).splitlines()
        found = [line for line in lines if str(wish.get("filter", "")) in line][-int(wish.get("tail", 1000)) :]
        name = secrets.token_hex(16)
        logs[name] = "\n".join(found)
        return JSONResponse({"success": True, "result_url": f"{request.base_url}logs/{name}.log"})

    @app.get("/logs/{name}.log")
    def stored_log(name: str) -> PlainTextResponse:
        return PlainTextResponse(logs[name]) if name in logs else PlainTextResponse("AccessDenied", 403)

    @routes.get("/api/v0/users/current")
    @routes.get("/api/v0/users/current/")
    async def user() -> dict[str, Any]:
        return {"id": 4711, "username": "emulated", "email": "emulated@example.org", "credit": 100.0, "balance": 0.0}

    @routes.get("/api/v0/instances/filters/")
    async def filters() -> dict[str, Any]:
        with world.lock:
            rows = [account.show(rental) for rental in world.alive()]
        names = ("actual_status", "label", "gpu_name", "verification")
        return {"success": True, "filters": [{name: row[name] for name in names} for row in rows]}

    @routes.get("/api/v0/instances/")
    async def old_list() -> None:
        raise Refused(410, "gone", "This route was switched off; use /api/v1/instances/.")

    @routes.get("/api/v1/instances/")
    async def list_page(request: Request) -> dict[str, Any]:
        with world.lock:
            return account.page(dict(request.query_params))

    @routes.get("/api/v0/instances/{identity:int}/")
    async def show(identity: int) -> dict[str, Any]:
        with world.lock:
            rental = account.find(identity)
            return {"instances": account.show(rental) if rental else None}

    @routes.put("/api/v0/instances/{identity:int}/")
    async def order(identity: int, request: Request) -> dict[str, Any]:
        wish = await _body(request)
        with world.lock:
            account.order(account.must_find(identity), wish)
            return {"success": True}

    @routes.delete("/api/v0/instances/{identity:int}/")
    async def destroy(identity: int) -> dict[str, Any]:
        with world.lock:
            account.delete(account.must_find(identity))
            return {"success": True}

    @routes.post("/api/v0/instances/{identity:int}/ssh/")
    async def add_key(identity: int, request: Request) -> dict[str, Any]:
        wish = await _body(request)
        with world.lock:
            rental = account.must_find(identity)
            if not str(wish.get("ssh_key", "")).startswith(("ssh-", "ecdsa-", "sk-")):
                raise Refused(400, "invalid_args", "ssh_key is no public key")
            rental.wire["_keys"].append(wish["ssh_key"])
            world.machines.add_key(rental.id, wish["ssh_key"])
            return {"success": True, "msg": "SSH key added to instance."}

    @routes.get("/api/v0/instances/{identity:int}/ssh/")
    async def keys(identity: int) -> dict[str, Any]:
        with world.lock:
            found = account.must_find(identity).wire["_keys"]
            # Text with JSON in it, as the real one answers.
            return {"success": True, "ssh_keys": json.dumps([{"id": 1, "public_key": key} for key in found])}

    app.include_router(routes)
    return app
