# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Corrected moto behind a small proxy that has the control routes, faults and books of every emulator.

EC2's calls are told apart by their action, which stands in the body: to faults and books a call is "POST
/RunInstances", and the look at one machine "POST /DescribeInstances/i-…". There are no machines behind it.
"""

from __future__ import annotations

import urllib.parse
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire
from emulators.server import Server, make_app
from emulators.world import Rental, World
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import Instance as MotoInstance
from moto.ec2.models.instances import InstanceState
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from starlette.types import ASGIApp, Receive, Scope, Send
from support import moto_ec2
from werkzeug.test import Client

REGION = "us-east-1"


class Ec2Rental(Rental):
    """An instance as moto has it now: its status and its end are read there."""

    @property
    def machine(self) -> Any:
        return self.wire["machine"]

    @property
    def alive(self) -> bool:
        return self.machine.state not in aws_wire.ENDED


class MotoWorld(World):
    """The books are moto's own."""

    def backend(self, region: str) -> Any:
        """What moto has there."""
        return ec2_backends[DEFAULT_ACCOUNT_ID][region]

    @property
    def rentals(self) -> dict[str, Rental]:
        found: dict[str, Rental] = {}
        for backend in [*ec2_backends[DEFAULT_ACCOUNT_ID].values()]:
            for reservation in [*backend.reservations.values()]:
                for machine in reservation.instances:
                    found[machine.id] = self._rental(machine)
        return found

    @rentals.setter
    def rentals(self, _value: dict[str, Rental]) -> None:
        """Made empty by the base class, before there is moto."""

    def owner(self, machine: Any) -> str:
        """The marker in its tags."""
        return str({tag["key"]: tag["value"] for tag in machine.get_tags()}.get(aws_wire.MARKER_TAG))

    def _rental(self, machine: Any) -> Rental:
        rental = Ec2Rental(
            machine.id,
            self.provider,
            self.owner(machine),
            machine.state,
            machine.launch_time.replace(tzinfo=UTC, microsecond=0).timestamp(),
            0.0,
            {"machine": machine},
        )
        if not rental.alive:
            rental.deleted_at = self.now()
        return rental


def make(world: World) -> FastAPI:
    """The proxy: what is no control route goes to moto."""
    app = make_app(world)
    moto = Client(DomainDispatcherApplication(create_backend_app))

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
    async def hand_on(path: str, request: Request) -> Response:
        answer = await run_in_threadpool(
            moto.open,
            path=str(request.scope["gpufleet_path"]),  # as it was sent to AWS
            method=request.method,
            query_string=request.scope["query_string"].decode(),
            headers=list(request.headers.items()),
            data=await request.body(),
        )
        return Response(answer.get_data(), answer.status_code, dict(answer.headers))

    return app


class NamedActions:
    """Puts the action of a call into its path, where faults and books look for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_control/"):
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = dict(scope["headers"]).get(b"x-amz-target", b"").decode()
        asked = urllib.parse.parse_qs(body.decode("latin-1"))
        action = target.split(".")[-1] or asked.get("Action", [""])[0]
        one = f"/{asked['InstanceId.1'][0]}" if action == "DescribeInstances" and "InstanceId.1" in asked else ""
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return messages.pop(0) if messages else await receive()

        path = scope["path"]
        named = {**scope, "gpufleet_path": path, "path": f"/{action}{one}" if action else path}
        await self.app(named, again, send)


class MotoServer(Server):
    """The proxy with moto behind it, in a thread."""

    def __init__(self, world: MotoWorld) -> None:
        self._patch = pytest.MonkeyPatch()
        moto_ec2.correct(self._patch)
        # What it makes is as old as its world says.
        for module in ("instances", "elastic_block_store"):
            self._patch.setattr(
                f"moto.ec2.models.{module}.utcnow",
                lambda: datetime.fromtimestamp(world.now(), UTC).replace(tzinfo=None),
            )

        def told_state(machine: Any) -> InstanceState:
            stuck = machine.state == "running" and world.trouble("boot_stuck", machine.id, world.owner(machine))
            return InstanceState("pending", 0) if stuck else machine._state

        self._patch.setattr(MotoInstance, "instance_state", property(told_state))
        super().__init__(make(world), world)
        config = self._server.config
        config.app = NamedActions(config.app)  # type: ignore[arg-type]

    def stop(self) -> None:
        super().stop()
        self._patch.undo()
        moto_api_backend.reset()


def forget() -> None:
    """An account in which nothing ever was. Its networks and images stay: making them takes longer than a test."""
    for backend in [*ec2_backends[DEFAULT_ACCOUNT_ID].values()]:
        for everything in (backend.reservations, backend.key_pairs, backend.tags, backend.volumes, backend.enis):
            everything.clear()
        for groups in backend.groups.values():
            for group_id in [one for one, group in groups.items() if group.name != "default"]:
                del groups[group_id]
        backend.__dict__.pop(moto_ec2.TOKENS, None)


def client(url: str) -> Any:
    """Somebody else's client of EC2."""
    return boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="any",
        aws_secret_access_key="any",  # noqa: S106 (moto takes any)
    )
