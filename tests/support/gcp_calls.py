# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the provider gcp share: one wish, and looks into the emulator's books."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Request, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp
from emulators.world import Rental, World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"
PLANTED = "planted-token-9d3f"
INSERT, ONE = r"/instances$", r"/instances/[0-9]+$"
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("gcp",),
    look_at=("gcp",),
    gpu="L4",
    gpu_count=1,
    lifetime_seconds=8 * 3600,
    ssh_public_key=KEY,
    wait="none",
)


def marker(hours: int = 8, **changes: Any) -> Marker:
    """One that expires so many hours from now on; 0 is never."""
    expiry = int(_clock.now() // 3600) + hours if hours else 0
    return replace(Marker("acme-llm", "vllm-1", "abc123", expiry), **changes)


def query(**wanted: Any) -> dict[str, Any]:
    return {"gpu": None, "gpu_count": 1, "regions": [], "runtime": "vm", "disk_gib": 50} | wanted


def offer_in(provider: gcp.GcpProvider, zone: str, **wanted: Any) -> Offer:
    found = provider.offers(query(**{"gpu": "L4"} | wanted))
    return next(one for one in found if one.id.startswith(f"{zone}/"))


def request(offer: Offer, **changes: Any) -> Request:
    return replace(Request(marker=marker(), offer=offer, ssh_public_key=KEY), **changes)


def rent(provider: gcp.GcpProvider, zone: str = "us-central1-b", **changes: Any) -> Instance:
    return provider.create(request(offer_in(provider, zone), **changes))


def rental(world: World, instance_id: str) -> Rental:
    return world.rentals[instance_id.partition("/")[2]]


def orders(world: World) -> list[str]:
    """All calls that change something, without the project."""
    changing = [one for one in world.calls if one["method"] != "GET"]
    return [f"{one['method']} {one['path'].partition('/projects/')[2].partition('/')[2]}" for one in changing]
