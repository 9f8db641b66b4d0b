# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The books of emulated providers, as a test of renting reads them, and what else happens in their accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Offer, Request
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import (
    gcp_wire,
    runpod_wire,
    tensordock_offers,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai_wire as wire
from emulators import gcp as gcp_emulator
from emulators import runpod as runpod_emulator
from emulators import tensordock as tensordock_emulator
from emulators import vastai as vastai_emulator
from emulators.server import Server
from emulators.tensordock_market import PLACES, Place
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Rental, World

# What every provider's rentals bring into the journal. Some can also be logged in to, or be given another expiry.
EVENTS = ("claim", "created", "surplus_deleted", "deleted", "gone", "started", "stopped", "unready")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"


@dataclass
class Cloud:
    """One emulated provider, on a port of its own while it is started."""

    name: str
    code: tuple[ModuleType, ...]  # what of ours talks to it when it rents and ends
    calling: str  # a regular expression for a call in that code
    calls: tuple[str, ...]  # what it calls when it rents and ends, with {id} for ids
    events: tuple[str, ...]  # what the journal is told of that
    environment: dict[str, str]
    wish: dict[str, Any]
    faults: dict[str, dict[str, Any]]
    beside: tuple[str, ...] = ()  # what that code calls for something else
    settings: dict[str, Any] = field(default_factory=dict)  # what stands under provider_settings
    slowness: int = 1  # how many times longer its answers take: so there are fewer lives, and a slower clock
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

    def settle(self) -> None:
        """Let it do what is due by now, as it does before each call."""

    def ended_itself(self, rental: Rental) -> bool:
        """Whether the provider ended it unasked, because its time was over."""
        return False

    def reset(self) -> None:
        for all_of_them in (self.world.rentals, self.world.calls, self.world.faults, self.world.secrets):
            all_of_them.clear()

    def rentals(self, deployment_id: str) -> dict[str, tuple[Rental, Marker]]:
        """What the provider's books say of that deployment, by the id in our code; what was deleted, too."""
        self.settle()
        books = list(self.world.rentals.values())
        found = {self.our_id(one): (one, _marker.parse(self.stored_marker(one))) for one in books}
        return {
            identity: (rental, marker)
            for identity, (rental, marker) in found.items()
            if marker and marker.deployment_id == deployment_id
        }

    def alive(self, deployment_id: str, name: str) -> list[Rental]:
        """What lives of that instance by the provider's books, the one that counts first."""
        found = [one for one in self.rentals(deployment_id).values() if one[0].alive and one[1].name == name]
        return [one for one, marker in sorted(found, key=lambda pair: (self.began(pair[0]), pair[1].nonce))]

    def began(self, rental: Rental) -> float:
        """Since when it counts."""
        return rental.created_at

    def new_nonce(self) -> str:
        """As a claim there has it."""
        return _marker.new_nonce()

    def expiry(self, rental: Rental) -> int:
        """In epoch hours."""
        marker = _marker.parse(self.stored_marker(rental))
        assert marker
        return marker.expiry_epoch_hours

    def our_id(self, rental: Rental) -> str:
        """What our code calls it."""
        return rental.id

    def stored_marker(self, rental: Rental) -> str:
        raise NotImplementedError

    def lists(self) -> list[float]:
        """When complete lists were asked for."""
        raise NotImplementedError

    def is_question(self, call: dict[str, Any]) -> bool:
        """Whether that call changes nothing."""
        return bool(call["method"] == "GET")

    def is_end(self, call: dict[str, Any]) -> bool:
        """Whether that call ends a rental."""
        return bool(call["method"] == "DELETE")

    def is_stopped(self, rental: Rental) -> bool:
        """Whether the last order that came was to stop."""
        raise NotImplementedError

    def rent_for_somebody_else(self, name: str) -> Rental:
        raise NotImplementedError

    def rent_as_we_do(self, marker: str) -> Rental:
        """As a controller of ours that died right after it."""
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
        return str(rental.wire["env"].get(runpod_wire.MARKER_VARIABLE))

    def is_stopped(self, rental: Rental) -> bool:
        return rental.status == "EXITED"

    def lists(self) -> list[float]:
        return [call["time"] for call in self.world.calls if (call["method"], call["path"]) == ("GET", "/v2/pods")]

    def rent_for_somebody_else(self, name: str) -> Rental:
        return self._rent({"name": name, "image": "x"})

    def rent_as_we_do(self, marker: str) -> Rental:
        env = {runpod_wire.MARKER_VARIABLE: marker}
        return self._rent({"name": marker, "image": self.wish["image"], "disk": 50, "env": env})

    def _rent(self, body: dict[str, Any]) -> Rental:
        wish = {**body, "gpu": {"id": "NVIDIA A40", "count": 1}}
        return self.world.rentals[self.order_directly("POST", "/v2/pods", wish).json()["id"]]


class Vastai(Cloud):
    def make_app(self) -> Any:
        return vastai_emulator.make(self.world, copies=5)

    def stored_marker(self, rental: Rental) -> str:
        return str(rental.wire["label"])

    def is_stopped(self, rental: Rental) -> bool:
        return bool(rental.wire["_intended"] == "stopped")

    def lists(self) -> list[float]:
        return [call["time"] for call in self.world.calls if call["path"] == "/api/v1/instances/"]

    def rent_for_somebody_else(self, name: str) -> Rental:
        # Of a kind that we don't want here.
        return self._rent({"image": "x", "disk": 8, "label": name}, (109, 110, 111))

    def rent_as_we_do(self, marker: str) -> Rental:
        body = {"image": wire.DEFAULT_VM_IMAGE, "disk": 50, "label": marker, "runtype": "ssh_direct"}
        return self._rent({**body, "env": {wire.ENV_PORTS: "v1.end"}}, (112,))

    def _rent(self, body: dict[str, Any], hosts: tuple[int, ...]) -> Rental:
        for host in hosts:
            for copy in range(5):
                offer = FIRST_OFFER + host + copy * vastai_emulator.MACHINES_APART
                answer = self.order_directly("PUT", f"/api/v0/asks/{offer}/", body)
                if answer.status_code == 200:
                    return self.world.rentals[str(answer.json()["new_contract"])]
        raise AssertionError("everything is rented")


class Tensordock(Cloud):
    def make_app(self) -> Any:
        return tensordock_emulator.make(self.world)

    def stored_marker(self, rental: Rental) -> str:
        return str(rental.wire["name"])

    def is_stopped(self, rental: Rental) -> bool:
        return bool(rental.wire["_wanted"] == "stopped")

    def lists(self) -> list[float]:
        path = f"{tensordock_emulator.URL_PATH}/instances"
        return [call["time"] for call in self.world.calls if (call["method"], call["path"]) == ("GET", path)]

    def new_nonce(self) -> str:
        return _marker.dated_nonce()

    def began(self, rental: Rental) -> float:
        marker = _marker.parse(self.stored_marker(rental))
        assert marker
        return _marker.claimed_at(marker)  # nobody tells another time

    def rent_for_somebody_else(self, name: str) -> Rental:
        return self._rent(name, PLACES[-1], "geforcertx3090-pcie-24gb")  # of a kind that we don't want here

    def rent_as_we_do(self, marker: str) -> Rental:
        return self._rent(marker, PLACES[0], "a40-pcie-48gb")

    def _rent(self, name: str, place: Place, gpu: str) -> Rental:
        attributes = {
            "name": name,
            "type": "virtualmachine",
            "image": tensordock_offers.DEFAULT_IMAGE,
            "resources": {"vcpu_count": 4, "ram_gb": 48, "storage_gb": 100, "gpus": {gpu: {"count": 1}}},
            "location_id": place.id,
            "useDedicatedIp": True,
            "ssh_key": KEY,
        }
        body = {"data": {"type": "virtualmachine", "attributes": attributes}}
        path = f"{tensordock_emulator.URL_PATH}/instances"
        return self.world.rentals[self.order_directly("POST", path, body).json()["data"]["id"]]


class Gcp(Cloud):
    project: gcp_emulator.Project

    def make_app(self) -> Any:
        app = gcp_emulator.make(self.world)
        self.project = app.state.project
        return app

    def settle(self) -> None:
        with self.world.lock:
            self.project.settle()

    def ended_itself(self, rental: Rental) -> bool:
        return not rental.alive and rental.wire["_wanted"] != "gone"

    def rentals(self, deployment_id: str) -> dict[str, tuple[Rental, Marker]]:
        """Without what was shown for some seconds, and then could not be had."""
        found = super().rentals(deployment_id)
        return {identity: one for identity, one in found.items() if not one[0].wire["_failing"]}

    def lists(self) -> list[float]:
        return [call["time"] for call in self.world.calls if call["path"].endswith("/aggregated/instances")]

    def our_id(self, rental: Rental) -> str:
        return f"{rental.wire['_zone']}/{rental.id}"

    def stored_marker(self, rental: Rental) -> str:
        return str(rental.wire["labels"].get(gcp_wire.MARKER_LABEL))

    def is_stopped(self, rental: Rental) -> bool:
        return bool(rental.wire["_wanted"] == "stopped")

    def rent_for_somebody_else(self, name: str) -> Rental:
        label = name.replace(" ", "-")  # no spaces there: almost ours is one that has more
        body = {
            "name": f"other-{len(self.world.rentals)}",
            "machineType": "zones/us-east4-a/machineTypes/e2-standard-2",
            "labels": {gcp_wire.MARKER_LABEL: label},
            "disks": [{"boot": True, "initializeParams": {"sourceImage": "x"}}],
            "networkInterfaces": [{"network": "global/networks/default"}],
        }
        return self.world.rentals[self._insert("us-east4-a", body).json()["targetId"]]

    def rent_as_we_do(self, marker: str) -> Rental:
        parsed = _marker.parse(marker)
        assert parsed
        for zone in ("us-central1-b", "europe-west4-b", "us-central1-a"):
            offer = Offer(self.name, f"{zone}/n1-standard-4/nvidia-tesla-t4*1/standard", gpu="T4", gpu_count=1)
            answer = self._insert(zone, gcp_wire.create_body(Request(parsed, offer, ssh_public_key=KEY), {}))
            if answer.status_code == 200:  # else that zone has one of that name
                return self.world.rentals[answer.json()["targetId"]]
        raise AssertionError("the name is taken everywhere")

    def _insert(self, zone: str, body: dict[str, Any]) -> requests.Response:
        path = f"{gcp_emulator.URL_PATH}/projects/{gcp_emulator.PROJECT}/zones/{zone}/instances"
        return self.order_directly("POST", path, body)
