# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the provider vastai share: one wish, and looks into the emulator's books."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Instance,
    Marker,
    Offer,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai
from emulators.world import Rental, World

MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_000)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"
PLANTED = "planted-secret-5b1c"
ASKS, INSTANCE, PAGES = r"/asks/", r"/v0/instances/[0-9]+/$", r"/v1/instances/"
ROW = {"id": 1, "label": _marker.encode(MARKER), "actual_status": "running", "intended_status": "running"}


def query(**wanted: Any) -> dict[str, Any]:
    return {"gpu": None, "gpu_count": 1, "regions": [], "runtime": "vm", "disk_gib": 50} | wanted


def one_offer(provider: vastai.VastaiProvider, **wanted: Any) -> Offer:
    return provider.offers(query(**{"gpu": "A40"} | wanted))[0]


def request(offer: Offer, **changes: Any) -> Request:
    return replace(Request(marker=MARKER, offer=offer, image="vllm/vllm-openai:v0.32.0"), **changes)


def rent(provider: vastai.VastaiProvider, **changes: Any) -> Instance:
    return provider.create(request(one_offer(provider), **changes))


def wait_for(provider: vastai.VastaiProvider, instance_id: str, status: Status) -> Instance:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        current = provider.get(instance_id)
        if current and current.status is status:
            return current
    raise AssertionError(f"never {status}")


def calls(world: World, method: str) -> list[str]:
    return [call["path"] for call in world.calls if call["method"] == method]


def body_of(world: World, instance_id: str) -> dict[str, Any]:
    return world.rentals[instance_id].wire


def env_of(world: World, instance_id: str) -> dict[str, str]:
    return dict(body_of(world, instance_id)["extra_env"])


def add_rentals(world: World, labels: list[str | None], provider: vastai.VastaiProvider) -> None:
    """Many more than there are offers: copies of a real one, as if they had always been there."""
    first = world.rentals[rent(provider).id]
    del world.rentals[first.id]
    for label in labels:
        number = 9_100_000 + next(world.numbers)
        wire = {**first.wire, "id": number, "label": label}
        world.rent(Rental(str(number), "vastai", label or "", "created", first.created_at, 0.1, wire))
