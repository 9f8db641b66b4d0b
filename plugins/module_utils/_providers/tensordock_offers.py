# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What TensorDock has, what it costs, and what to send to rent it. Pure: nothing here talks to anybody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._limits import LEAST_DISK_GIB
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Offer, Request, Runtime
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock_wire as wire

DEFAULT_IMAGE = "ubuntu2404_ml_everything"  # the plain one has no driver for its GPU

# How SSH is reached there; part of an offer's id, because a create has to ask for one of them.
OWN_ADDRESS, FORWARDED = "address", "ports"

# The sizes of memory that it was seen to take, in GB: those that every list of them that we know has.
_MEMORY_STEPS_GB = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512)
_LEAST_MEMORY_GB = 16
_CPUS_PER_GPU = 4
_LEAST_CPUS = 2


def places(body: Any) -> wire.Rows | None:
    """The locations in an answer; None when that is no answer with locations."""
    data = body.get("data") if isinstance(body, dict) else None
    found = data.get("locations") if isinstance(data, dict) else data
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else None


def offers_at(place: Mapping[str, Any], query: Mapping[str, Any]) -> Iterator[Offer]:
    """What a location has for this query. Its stock is often stale: the create says what is really there."""
    names = {str(place.get(name) or "").casefold() for name in ("country", "stateprovince", "city", "id")}
    if not place.get("id") or (query.get("regions") and not names & {one.casefold() for one in query["regions"]}):
        return
    for row in place.get("gpus") or ():
        offer = _offer(place, row, query) if isinstance(row, dict) else None
        if offer:
            yield offer


def _offer(place: Mapping[str, Any], row: Mapping[str, Any], query: Mapping[str, Any]) -> Offer | None:
    gpu, count = _gpus.identify(row.get("v0Name")), query.get("gpu_count") or 1
    limits, prices, network = (
        wire.mapping(row.get(name)) or wire.mapping(place.get(name))
        for name in ("resources", "pricing", "network_features")
    )
    way = _way_in(network)
    if gpu is None or way is None or (wire.number(row.get("max_count")) or 0) < count:
        return None
    if query.get("gpu") and gpu != _gpus.resolve(query["gpu"]).name:
        return None
    size = _size(gpu, count, limits)
    disk_gib = max(query.get("disk_gib") or 0, LEAST_DISK_GIB[wire.PROVIDER])
    largest_disk = wire.number(limits.get("max_storage_gb"))
    if size is None or (largest_disk is not None and largest_disk < disk_gib):
        return None
    cpus, memory_gb = size
    return Offer(
        provider=wire.PROVIDER,
        id=f"{place['id']}/{row['v0Name']}/{way}",
        gpu=gpu,
        gpu_count=count,
        memory_mib=memory_gb * 1024,
        cpu_count=cpus,
        disk_gib=int(largest_disk) if largest_disk else None,
        region=str(place.get("country") or "") or None,
        runtime=Runtime.VM,
        price_per_hour_usd=_price(row.get("price_per_hr"), prices, count, (cpus, memory_gb, disk_gib)),
    )


def _way_in(network: Mapping[str, Any]) -> str | None:
    """How SSH can be reached. By an address of its own if it can be had: forwarded ports were seen to be forgotten."""
    if network.get("dedicated_ip_available") is True:
        return OWN_ADDRESS
    return FORWARDED if network.get("port_forwarding_available") is True else None


def _size(gpu: str, count: int, limits: Mapping[str, Any]) -> tuple[int, int] | None:
    """CPUs and GB of memory to rent: enough to load a model that fills the cards, else what the place has.

    What nobody says about a limit is taken for none: the create refuses what is too much.
    """
    wanted_gb = max(_LEAST_MEMORY_GB, count * _gpus.resolve(gpu).memory_mib / 1024)
    most_gb = wire.number(limits.get("max_ram_gb"))
    steps = [step for step in _MEMORY_STEPS_GB if most_gb is None or step <= most_gb]
    most_cpus = wire.number(limits.get("max_vcpus"))
    cpus = int(min(count * _CPUS_PER_GPU, most_cpus if most_cpus is not None else 128)) // 2 * 2
    if not steps or cpus < _LEAST_CPUS:
        return None
    return cpus, next((step for step in steps if step >= wanted_gb), steps[-1])


def _price(gpu: Any, prices: Mapping[str, Any], count: int, amounts: tuple[int, int, int]) -> float | None:
    """USD per hour for all of it; None when one part is unknown. The price that it shows is the GPU's alone."""
    names = ("per_vcpu_hr", "per_gb_ram_hr", "per_gb_storage_hr")
    total = (wire.number(gpu) or -1.0) * count  # a GPU for nothing is one whose price nobody filled in
    for name, amount in zip(names, amounts, strict=True):
        price = wire.number(prices.get(name))
        if total < 0 or price is None or price < 0:
            return None
        total += price * amount
    return round(total, 6)


def check_request(request: Request) -> None:
    """Raise InvalidRequest for what TensorDock would refuse or do differently."""
    problem = fix = ""
    if not re.fullmatch(rf"[0-9A-Za-z-]+/[0-9a-z-]+/({OWN_ADDRESS}|{FORWARDED})", request.offer.id):
        problem, fix = f"{request.offer.id!r} is no offer of {wire.PROVIDER}", "Take one that offer_info shows"
    elif request.disk_gib < LEAST_DISK_GIB[wire.PROVIDER]:
        least = LEAST_DISK_GIB[wire.PROVIDER]
        problem, fix = f"disk_gib {request.disk_gib} is too small", f"Set disk_gib to {least} or more"
    elif not request.ssh_public_key:
        problem, fix = "a machine needs an SSH key", "Set ssh_public_key or ssh_private_key_file"
    elif request.offer.runtime is not Runtime.VM:
        problem, fix = "it rents machines alone", "Set runtime: vm"
    elif request.args or request.entrypoint or request.env or request.secret_env:
        problem, fix = "a machine takes neither args nor entrypoint nor env", "Leave them out"
    elif request.marker.owner != "fleet":
        problem, fix = "the name of a machine has no room for its owner", "Rent it elsewhere"
    if problem:
        raise InvalidRequest(f"{wire.PROVIDER} can't rent this: {problem}.", provider=wire.PROVIDER, fix=f"{fix}.")


def create_body(request: Request) -> dict[str, Any]:
    """What to send to rent an offer."""
    place, v0_name, way = request.offer.id.split("/")
    key = _plain_key(str(request.ssh_public_key))
    attributes: dict[str, Any] = {
        "name": _marker.encode(request.marker),
        "type": "virtualmachine",
        "image": request.image or DEFAULT_IMAGE,
        "resources": {
            "vcpu_count": request.offer.cpu_count,
            "ram_gb": (request.offer.memory_mib or 0) // 1024,
            "storage_gb": request.disk_gib,
            "gpus": {v0_name: {"count": request.offer.gpu_count}},
        },
        "location_id": place,
        "ssh_key": key,
        "cloud_init": {"runcmd": _commands(key)},
    }
    if way == OWN_ADDRESS:
        attributes["useDedicatedIp"] = True
    else:
        inside = dict.fromkeys([22, *(port for port, _protocol in request.ports)])
        first = _first_outside(request.marker)
        attributes["port_forwards"] = [
            {"internal_port": port, "external_port": first + index} for index, port in enumerate(inside)
        ]
    return {"data": {"type": "virtualmachine", "attributes": attributes}}


def _first_outside(marker: Marker) -> int:
    """Ports outside to ask for: others than the neighbours', with which a machine shares its host's address."""
    return 20000 + int(marker.nonce, 36) % 39000


def _plain_key(ssh_public_key: str) -> str:
    """The key without its comment: nothing is left then that a shell would read in another way."""
    return " ".join(ssh_public_key.split()[:2])


def _commands(key: str) -> list[str]:
    """What cloud-init runs as root at the first boot.

    ssh_key alone was seen not to arrive, and files are written before the folders exist. root's file is replaced: an
    image may have forbidden root to log in with this very key, in a line above.
    """
    return [
        "mkdir -p /root/.ssh",
        f"echo '{key}' > /root/.ssh/authorized_keys",
        "chmod 700 /root/.ssh",
        "chmod 600 /root/.ssh/authorized_keys",
        f"if id user; then mkdir -p /home/user/.ssh; echo '{key}' >> /home/user/.ssh/authorized_keys; "
        "chmod 700 /home/user/.ssh; chmod 600 /home/user/.ssh/authorized_keys; chown -R user: /home/user/.ssh; fi",
    ]
