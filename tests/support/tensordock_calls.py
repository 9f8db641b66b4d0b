# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the provider tensordock share: one wish, and looks into the emulator's books."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Request, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock
from emulators.world import World

MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_000)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"
PLANTED = "planted-secret-5b1c"
IDAHO, OSLO, DELTA, MARLBORO = (f"10c00000-0000-4000-8000-{number:012x}" for number in (1, 2, 3, 4))
LIST, ONE, CREATE = r"/instances$", r"/instances/[0-9a-f-]+$", r"/instances$"
UNKNOWN = "7d0c0000-0000-4000-8000-ffffffffffff"
ROW = {
    "type": "virtualmachine",
    "id": "7d0c0000-0000-4000-8000-000000000001",
    "name": _marker.encode(MARKER),
    "status": "running",
    "ipAddress": "198.51.100.7",
    "portForwards": [],
    "resources": {"vcpu_count": 4, "ram_gb": 48, "storage_gb": 100, "gpus": {"a40-pcie-48gb": {"count": 1}}},
    "rateHourly": 0.513,
}


def query(**wanted: Any) -> dict[str, Any]:
    return {"gpu": None, "gpu_count": 1, "regions": [], "runtime": "vm", "disk_gib": 100} | wanted


def one_offer(provider: tensordock.TensordockProvider, **wanted: Any) -> Offer:
    return provider.offers(query(**{"gpu": "A40"} | wanted))[0]


def request(offer: Offer, **changes: Any) -> Request:
    return replace(Request(marker=MARKER, offer=offer, disk_gib=100, ssh_public_key=KEY), **changes)


def rent(provider: tensordock.TensordockProvider, **changes: Any) -> Instance:
    return provider.create(request(one_offer(provider), **changes))


def wait_for(provider: tensordock.TensordockProvider, instance_id: str, status: Status) -> Instance:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        current = provider.get(instance_id)
        if current and current.status is status and (current.ssh_endpoints or status is not Status.RUNNING):
            return current
    raise AssertionError(f"never {status}")


def calls(world: World, method: str) -> list[str]:
    return [call["path"] for call in world.calls if call["method"] == method]


def orders(world: World) -> list[str]:
    """All calls that change something."""
    return [f"{call['method']} {call['path']}" for call in world.calls if call["method"] != "GET"]


def body_of(world: World, instance_id: str) -> dict[str, Any]:
    return world.rentals[instance_id].wire
