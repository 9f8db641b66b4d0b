# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Emulated providers as a test of renting sees them: how to wish, what goes wrong, and what the books say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod, runpod_secrets, vastai
from emulators import runpod as runpod_emulator
from emulators import vastai as vastai_emulator
from emulators.server import Server
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Fault, Rental, World

SOLD_OUT = {"detail": "There are no longer any instances available with the requested specifications."}
VANISHED = {"success": False, "error": "no_such_ask", "msg": "error 410/3907: no_such_ask"}
TOO_OFTEN = "API requests too frequent: endpoint threshold=1.0"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"


@dataclass
class Cloud:
    """One emulated provider, on a port of its own while it is started."""

    name: str
    code: tuple[ModuleType, ...]  # what of ours talks to it when it rents and ends
    calling: str  # a regular expression for a call in that code
    calls: tuple[str, ...]  # what it calls, with {id} for ids
    environment: dict[str, str]
    wish: dict[str, Any]
    faults: dict[str, dict[str, Any]]
    beside: tuple[str, ...] = ()  # what that code calls for something else than renting and ending
    world: World = field(init=False)
    server: Server = field(init=False)

    def start(self, scale: float) -> None:
        self.world = World(self.name, scale=scale)
        self.server = Server(self.make_app(), self.world)
        self.server.start()

    def make_app(self) -> Any:
        raise NotImplementedError

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which a controller finds it."""
        return {name: value.format(url=self.server.url) for name, value in self.environment.items()}

    def reset(self) -> None:
        for all_of_them in (self.world.rentals, self.world.calls, self.world.faults, self.world.secrets):
            all_of_them.clear()

    def forget_ids(self, path: str) -> str:
        return re.sub(r"/(pod[0-9a-f]{11}|secret[0-9a-f]{6}|[0-9]+)(?=/|$)", "/{id}", path)

    def alive(self, deployment_id: str, name: str) -> list[Rental]:
        """What the provider's books say lives of that instance."""
        found = [(rental, _marker.parse(self.stored_marker(rental))) for rental in self.world.alive()]
        return [one for one, marker in found if marker and (marker.deployment_id, marker.name) == (deployment_id, name)]

    def stored_marker(self, rental: Rental) -> str:
        raise NotImplementedError

    def is_stopped(self, rental: Rental) -> bool:
        """Whether the last order that came was to stop."""
        raise NotImplementedError

    def rent_for_somebody_else(self, name: str) -> Rental:
        raise NotImplementedError

    def order_directly(self, method: str, path: str, body: dict[str, Any]) -> requests.Response:
        """By another client of the account, whom no fault meets."""
        faults, self.world.faults = self.world.faults, []
        try:
            headers = {"Authorization": "Bearer any"}
            return requests.request(method, self.server.url + path, json=body, headers=headers, timeout=30)
        finally:
            self.world.faults = faults

    def calls_in_code(self) -> int:
        return sum(len(re.findall(self.calling, Path(str(one.__file__)).read_text())) for one in self.code)


class Runpod(Cloud):
    def make_app(self) -> Any:
        return runpod_emulator.make(self.world)

    def stored_marker(self, rental: Rental) -> str:
        return str(rental.wire["env"].get(runpod.MARKER_VARIABLE))

    def is_stopped(self, rental: Rental) -> bool:
        return rental.status == "EXITED"

    def rent_for_somebody_else(self, name: str) -> Rental:
        body = {"name": name, "image": "x", "gpu": {"id": "NVIDIA A40", "count": 1}}
        return self.world.rentals[self.order_directly("POST", "/v2/pods", body).json()["id"]]


class Vastai(Cloud):
    def make_app(self) -> Any:
        return vastai_emulator.make(self.world, copies=5)

    def stored_marker(self, rental: Rental) -> str:
        return str(rental.wire["label"])

    def is_stopped(self, rental: Rental) -> bool:
        return bool(rental.wire["_intended"] == "stopped")

    def rent_for_somebody_else(self, name: str) -> Rental:
        body = {"image": "x", "disk": 8, "label": name}
        for host in (109, 110, 111):  # of a kind that we don't want here
            for copy in range(5):
                offer = FIRST_OFFER + host + copy * vastai_emulator.MACHINES_APART
                answer = self.order_directly("PUT", f"/api/v0/asks/{offer}/", body)
                if answer.status_code == 200:
                    return self.world.rentals[str(answer.json()["new_contract"])]
        raise AssertionError("somebody else has rented everything")


def _pods(what: str, **fault: Any) -> dict[str, Any]:
    return {"method": what, "path": "/pods$", **fault}


def _asks(**fault: Any) -> dict[str, Any]:
    return {"method": "PUT", "path": "/asks/", **fault}


def _page(**fault: Any) -> dict[str, Any]:
    return {"method": "GET", "path": "/api/v1/instances/$", **fault}


ANYWHERE: dict[str, dict[str, Any]] = {
    "delete answer lost": {"method": "DELETE", "drop": "after"},
    "delete never arrived": {"method": "DELETE", "drop": "before"},
}


def make_clouds() -> dict[str, Cloud]:
    """Not started yet."""
    clouds = [
        Runpod(
            "runpod",
            (runpod, runpod_secrets),
            r"api\.call\(",
            (
                "GET /catalog/gpus",
                "POST /pods",
                "GET /pods/{id}",
                "GET /pods",
                "POST /pods/{id}/action",
                "DELETE /pods/{id}",
                "GET /account/secrets",
                "POST /account/secrets",
                "PATCH /account/secrets/{id}",
                "DELETE /account/secrets/{id}",
            ),
            {"RUNPOD_API_KEY": "any", "RUNPOD_REST_V2_URL": "{url}" + runpod_emulator.URL_PATH},
            {
                "runtime": "container",
                "gpu": "A40",
                "image": "vllm/vllm-openai:v0.32.0",
                "secret_env": {"VLLM_API_KEY": "planted-key-3b7e"},
            },
            {
                **ANYWHERE,
                "create answer lost": _pods("POST", drop="after"),
                "create never arrived": _pods("POST", drop="before"),
                "create sold out": _pods("POST", status=400, body=SOLD_OUT),
                "create fails": _pods("POST", status=500),
                "list fails for good": _pods("GET", status=503, times=5),
                "list fails once": _pods("GET", status=502),
                "too many requests": {"status": 429, "times": 2},
                "no credit": _pods("POST", status=402),
            },
        ),
        Vastai(
            "vastai",
            (vastai,),
            r"self\._call\(",
            (
                "POST /api/v0/bundles/",
                "PUT /api/v0/asks/{id}/",
                "POST /api/v0/instances/{id}/ssh/",
                "GET /api/v1/instances/",
                "GET /api/v0/instances/{id}/",
                "PUT /api/v0/instances/{id}/",
                "DELETE /api/v0/instances/{id}/",
            ),
            {"VAST_API_KEY": "any", "VAST_URL": "{url}" + vastai_emulator.URL_PATH},
            {"runtime": "vm", "gpu": "A40", "ssh_public_key": KEY},
            {
                **ANYWHERE,
                "create answer lost": _asks(drop="after"),
                "create never arrived": _asks(drop="before"),
                "offer vanished": _asks(status=410, body=VANISHED),
                "create fails": _asks(status=500),
                "no credit": _asks(status=400, body={"success": False, "error": "missing_billing", "msg": "no credit"}),
                "key not taken": {"method": "POST", "path": "/ssh/$", "status": 500},
                "list fails for good": _page(status=503, times=5),
                "list fails once": _page(status=502),
                "too many requests": {"status": 429, "body": TOO_OFTEN, "times": 2},
                "delete does nothing": {"method": "DELETE", "status": 200, "body": {"success": True}},
            },
            ("the label, for another expiry", "the log, for the fingerprint of a certificate"),
        ),
    ]
    return {cloud.name: cloud for cloud in clouds}


def bad_luck(cloud: Cloud, what: str) -> None:
    """The next calls meet this fault, and no other."""
    cloud.world.faults = [Fault(**cloud.faults[what])]
