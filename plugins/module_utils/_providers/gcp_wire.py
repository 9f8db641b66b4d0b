# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What Google's Compute v1 sends and takes for machines, in our words and back. Pure: nothing here talks to anybody."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _gpus, _limits, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._prices_gcp import TABLE
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_boot
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_errors import PROVIDER, strange
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_sizes import Size, needs_hyperdisk

Row = Mapping[str, Any]

MARKER_LABEL, OWNER_LABEL = "gpufleet-marker", "gpufleet-owner"
IMAGE_ITEM = "gpufleet-image"  # in the metadata, as asked for: an instance doesn't say what its disk was made from
_GUEST_ATTRIBUTES = "enable-guest-attributes"
TAG = "gpuops-fleet"
GENERAL_IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
# With the driver, Docker and the container toolkit in it.
GPU_IMAGE = "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2404-nvidia-580"
LEAST_RUN_SECONDS = 30
_OWN_ACCELERATORS = "-"
_SPOT, _STANDARD = "spot", "standard"
_REQUESTS = uuid.UUID("6c0b0f53-54f2-5a0e-9d3c-6f8f0f9b6f51")

_STATUS = {
    "RUNNING": Status.RUNNING,
    # The order was taken, or its time is over; who ends it stands in its operations.
    "PENDING_STOP": Status.STOPPED,
    "STOPPING": Status.STOPPED,
    "STOPPED": Status.STOPPED,
    "TERMINATED": Status.STOPPED,
    "SUSPENDING": Status.STOPPED,
    "SUSPENDED": Status.STOPPED,
    "DEPROVISIONING": Status.TERMINATING,
}
STOPPING = ("PENDING_STOP", "STOPPING", "SUSPENDING")


def last(url: object) -> str:
    """The name at the end of a full or partial URL."""
    return str(url or "").rpartition("/")[2]


def region_of(zone: str) -> str:
    return zone.rpartition("-")[0]


# Offers ---------------------------------------------------------------------------------------------------------------


def names_filter(names: Iterable[str]) -> str:
    return " OR ".join(f"(name = {name})" for name in dict.fromkeys(names))


def rows_in(body: Row, name: str) -> Iterator[tuple[str, Row]]:
    """(zone, row) of a page of an aggregated list; an error when a part of it could not be asked."""
    items = body.get("items", {})
    told = str(body.get("kind") or "").endswith("AggregatedList") and isinstance(items, dict)
    if not told or body.get("unreachables") or _warns(body):
        raise strange(f"a list of {name} that is not complete")
    for scope, part in items.items():
        warning = _warns(part)
        if warning:
            raise strange(f"a list of {name} that is not complete: {scope} says {warning}")
        for row in part.get(name) or ():
            yield last(scope), row


def _warns(part: Row) -> str | None:
    """The code of a warning that something is missing."""
    code = (part.get("warning") or {}).get("code")
    return None if code == "NO_RESULTS_ON_PAGE" else code


def offer_from(
    zone: str, row: Row, size: Size, interruptible: bool, zones_with: Mapping[str, set[str]]
) -> Offer | None:
    """The offer of one machine type in a zone, if that has what was wished for. What it has is what Google says."""
    own = [one for one in row.get("accelerators") or () if one.get("guestAcceleratorCount")]
    attached = size.attached
    if attached and (own or zone not in zones_with.get(attached, set())):
        return None
    if attached:
        gpu, count = _gpus.identify(attached), size.gpu_count
    else:
        gpu = _gpus.identify(own[0].get("guestAcceleratorType")) if own else None
        count = sum(int(one["guestAcceleratorCount"]) for one in own)
    if size.gpu and (gpu, count) != (size.gpu, size.gpu_count):
        return None
    region, model = region_of(zone), _SPOT if interruptible else _STANDARD
    accelerator = attached or (own[0].get("guestAcceleratorType") if own else None)
    return Offer(
        provider=PROVIDER,
        id=f"{zone}/{row['name']}/{f'{attached}*{count}' if attached else _OWN_ACCELERATORS}/{model}",
        gpu=gpu,
        gpu_count=count,
        instance_type=str(row["name"]),
        memory_mib=row.get("memoryMb"),
        cpu_count=row.get("guestCpus"),
        region=region,
        runtime=Runtime.VM,
        interruptible=interruptible,
        price_per_hour_usd=price(str(row["name"]), {accelerator: count} if accelerator else {}, region, interruptible),
    )


def price(machine_type: str, accelerators: Mapping[str, int], region: str, interruptible: bool) -> float | None:
    """USD per hour for the machine and its GPUs; None when one part is unknown."""
    parts = [(machine_type, 1), *accelerators.items()]
    prices = [(TABLE.price_per_hour_usd(item, region, interruptible), count) for item, count in parts]
    if any(one is None for one, _count in prices):
        return None
    return round(sum(float(one or 0) * count for one, count in prices), 6)


def elsewhere(offer_id: str, zones: Iterable[str]) -> tuple[str, ...]:
    """The ids of the same offer in other zones."""
    rest = offer_id.partition("/")[2]
    return tuple(f"{zone}/{rest}" for zone in zones)


# Orders ---------------------------------------------------------------------------------------------------------------


def check_request(request: Request) -> None:
    """Raise InvalidRequest for what Google would refuse, or do differently."""
    left = seconds_left(request.marker)
    problem = fix = ""
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+/(-|[a-z0-9-]+\*[0-9]+)/(spot|standard)", request.offer.id):
        problem, fix = f"{request.offer.id!r} is no offer of {PROVIDER}", "Take one that offer_info shows"
    elif request.offer.runtime is not Runtime.VM:
        problem, fix = "it rents machines alone", "Set runtime: vm"
    elif request.args or request.entrypoint or request.env or request.secret_env:
        problem, fix = "a machine takes neither args nor entrypoint nor env", "Leave them out"
    elif left is not None and left > _limits.LONGEST_LIFETIME_SECONDS[PROVIDER] + 3600:  # an expiry is rounded up
        problem, fix = "it ends nothing later than after 120 days", "Set max_lifetime to 120d or less, or to unlimited"
    if problem:
        raise InvalidRequest(f"{PROVIDER} can't rent this: {problem}.", provider=PROVIDER, fix=f"{fix}.")


def seconds_left(marker: Marker) -> int | None:
    """Until its expiry; None for unlimited."""
    if not marker.expiry_epoch_hours:
        return None
    return int(marker.expiry_epoch_hours * 3600 - _clock.now())


def request_id(marker: Marker) -> str:
    """The same for the same claim, so that its order takes effect once, however often it is sent."""
    return str(uuid.uuid5(_REQUESTS, _marker.identity(marker)))


def zone_of(offer: Offer) -> str:
    return offer.id.partition("/")[0]


def instance_name(marker: Marker) -> str:
    """Google refuses a second one of it in the same zone."""
    return f"gf--{marker.deployment_id}--{marker.name}"


def network_tags(deployment_id: str, settings: Row) -> list[str]:
    """By which firewall rules reach it: all of ours, those of this deployment, and what the user wants beside."""
    return list(dict.fromkeys([TAG, f"{TAG}-{deployment_id}", *(settings.get("network_tags") or ())]))


def labels(marker: Marker) -> dict[str, str]:
    return {MARKER_LABEL: _marker.encode(marker), OWNER_LABEL: marker.owner.replace(":", "_")}


def create_body(request: Request, settings: Row) -> dict[str, Any]:
    """What to send to rent an offer. The marker is there from the first moment on."""
    zone, machine_type, accelerators, model = request.offer.id.split("/")
    marker = request.marker
    image = request.image or (GPU_IMAGE if request.offer.gpu_count else GENERAL_IMAGE)
    disk_type = "hyperdisk-balanced" if needs_hyperdisk(machine_type) else "pd-balanced"
    body: dict[str, Any] = {
        "name": instance_name(marker),
        "machineType": f"zones/{zone}/machineTypes/{machine_type}",
        "labels": labels(marker),
        "tags": {"items": network_tags(marker.deployment_id, settings)},
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": image,
                    "diskSizeGb": str(request.disk_gib),
                    "diskType": f"zones/{zone}/diskTypes/{disk_type}",
                    "labels": {MARKER_LABEL: _marker.encode(marker)},
                },
            }
        ],
        "networkInterfaces": [_network(settings, region_of(zone))],
        "scheduling": scheduling(
            has_accelerators=request.offer.gpu_count > 0, spot=model == _SPOT, seconds=seconds_left(marker)
        ),
        "metadata": {"items": _metadata(request)},
        # Drivers that are built on the machine are not signed.
        "shieldedInstanceConfig": {"enableSecureBoot": False, "enableVtpm": True, "enableIntegrityMonitoring": True},
    }
    if accelerators != _OWN_ACCELERATORS:
        name, count = accelerators.split("*")
        body["guestAccelerators"] = [
            {"acceleratorType": f"zones/{zone}/acceleratorTypes/{name}", "acceleratorCount": int(count)}
        ]
    return body


def scheduling(*, has_accelerators: bool, spot: bool, seconds: int | None) -> dict[str, Any]:
    """What becomes of it when Google maintains its host, takes it back, or its time is over.

    A machine with GPUs can't be moved while it runs, however it is called; the default is to try that.
    """
    return {
        "provisioningModel": "SPOT" if spot else "STANDARD",
        "onHostMaintenance": "TERMINATE" if has_accelerators or spot else "MIGRATE",
        "automaticRestart": not spot,
        **(
            {
                "maxRunDuration": {
                    "seconds": str(min(max(LEAST_RUN_SECONDS, seconds), _limits.LONGEST_LIFETIME_SECONDS[PROVIDER]))
                },
            }
            if seconds is not None
            else {}
        ),
        # Google's own default is to stop it, and its disk would cost on.
        **({"instanceTerminationAction": "DELETE"} if spot or seconds is not None else {}),
    }


def _network(settings: Row, region: str) -> dict[str, Any]:
    network = str(settings.get("network") or "default")
    subnetwork = settings.get("subnetwork")
    return {
        "network": network if "/" in network else f"global/networks/{network}",
        **({"subnetwork": f"regions/{region}/subnetworks/{subnetwork}"} if subnetwork else {}),
        "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "external-nat"}],
    }


def _metadata(request: Request) -> list[dict[str, str]]:
    items = {
        "block-project-ssh-keys": "TRUE",  # keys of the whole project are not ours
        "enable-oslogin": "FALSE",
        _GUEST_ATTRIBUTES: "TRUE",  # where the guest writes its host keys
    }
    if request.image:
        items[IMAGE_ITEM] = request.image
    if request.ssh_public_key:
        items["startup-script"] = gcp_boot.startup_script(request.ssh_public_key)
    if request.offer.interruptible:
        items["shutdown-script"] = gcp_boot.shutdown_script()
    return [{"key": key, "value": value} for key, value in items.items()]


# Instances ------------------------------------------------------------------------------------------------------------


def path_of(instance_id: str) -> str:
    """Where an instance is: by its number, which no other one ever gets."""
    match = re.fullmatch(r"([a-z][a-z0-9-]{0,61})/([1-9][0-9]{0,19})", instance_id)
    if match is None:
        raise InvalidRequest(
            f"{instance_id!r} is no id of {PROVIDER}: those are a zone, '/' and a number.",
            provider=PROVIDER,
            fix="Take one that instance_info shows.",
        )
    return f"/zones/{match[1]}/instances/{match[2]}"


def marker_of(row: Row) -> Marker | None:
    """The marker in its label; None when that is not exactly one: then it is not ours."""
    labels = row.get("labels") or {}
    return _marker.parse(labels.get(MARKER_LABEL), labels.get(OWNER_LABEL, "fleet").replace("_", ":", 1))


def _items(row: Row) -> dict[str, Any]:
    return {one["key"]: one.get("value") for one in (row.get("metadata") or {}).get("items") or ()}


def tells_host_keys(row: Row) -> bool:
    return bool(_items(row).get(_GUEST_ATTRIBUTES) == "TRUE")


def host_key_in(body: Any) -> str | None:
    """The key that we pin, among those that the guest has written."""
    entries = ((body or {}).get("queryValue") or {}).get("items") or ()
    known = {one.get("key"): one.get("value") for one in entries}
    return f"ssh-ed25519 {known['ssh-ed25519']}" if known.get("ssh-ed25519") else None


def is_spot(row: Row) -> bool:
    return bool((row.get("scheduling") or {}).get("provisioningModel") == "SPOT")


def created(request: Request, number: str) -> Instance:
    """The instance as far as it is known right after its create."""
    offer = request.offer
    return Instance(
        provider=PROVIDER,
        id=f"{zone_of(offer)}/{number}",
        marker=request.marker,
        status=Status.PENDING,
        gpu=offer.gpu,
        gpu_count=offer.gpu_count,
        price_per_hour_usd=offer.price_per_hour_usd,
        instance_type=offer.instance_type,
        region=offer.region,
        image=request.image,
        disk_gib=request.disk_gib,
        interruptible=offer.interruptible,
        created_at=_clock.now(),
    )


def instance_from(row: Row) -> Instance | None:
    """The instance in our words; None when its label isn't exactly one of our markers."""
    marker = marker_of(row)
    if marker is None:
        return None
    zone, machine_type = last(row.get("zone")), last(row.get("machineType"))
    accelerators = {
        last(one["acceleratorType"]): int(one["acceleratorCount"]) for one in row.get("guestAccelerators") or ()
    }
    nic: dict[str, Any] = next(iter(row.get("networkInterfaces") or ()), {})
    outside = next((one["natIP"] for one in nic.get("accessConfigs") or () if one.get("natIP")), None)
    way = outside or (nic.get("networkIP") if not nic.get("accessConfigs") else None)
    disk: dict[str, Any] = next((one for one in row.get("disks") or () if one.get("boot")), {})
    spot, word = is_spot(row), str(row.get("status") or "")
    asked = price(machine_type, accelerators, region_of(zone), spot)
    rests = _STATUS.get(word) is Status.STOPPED and word not in STOPPING
    return Instance(
        provider=PROVIDER,
        id=f"{zone}/{row['id']}",
        marker=marker,
        status=_STATUS.get(word, Status.PENDING),
        gpu=_gpus.identify(next(iter(accelerators))) if len(accelerators) == 1 else None,
        gpu_count=sum(accelerators.values()),
        price_per_hour_usd=None if rests else asked,  # what its disk costs stands in no table
        running_price_per_hour_usd=asked,
        instance_type=machine_type,
        region=region_of(zone),
        image=_items(row).get(IMAGE_ITEM),
        disk_gib=int(disk["diskSizeGb"]) if disk.get("diskSizeGb") else None,
        address=nic.get("networkIP"),
        ssh_endpoints=(Endpoint(way, 22),) if way else (),
        interruptible=spot,
        created_at=moment(row.get("creationTimestamp")),
        detail=" ".join(filter(None, [word.lower(), "(spot)" if spot else "", str(row.get("statusMessage") or "")])),
    )


def moment(text: object) -> float | None:
    """Seconds since the epoch; None for what is no time."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
