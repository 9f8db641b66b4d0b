# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Compute v1 insists on beside its schemas: what is required, what goes together, and who may still rent."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from .compute_market import ACCELERATORS, SIZES, Quotas, Size, Zone, sold_in

LEAST_RUN_SECONDS, MOST_RUN_SECONDS = 30, 120 * 86400
_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_METADATA_KEY = re.compile(r"[-_a-zA-Z0-9]{1,128}")
NO_MIGRATION = "Instances with guest accelerators do not support live migration."


class Refused(Exception):
    """An answer that says no, in Google's words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "domain": "global", "reason": reason}
        self.content = {"error": {"code": status, "message": message, "errors": [error]}}


def invalid(message: str) -> Refused:
    return Refused(400, "invalid", message)


def not_found(what: str) -> Refused:
    return Refused(404, "notFound", f"The resource '{what}' was not found")


def last(url: str) -> str:
    """The name at the end of a full or partial URL."""
    return url.rpartition("/")[2]


def fingerprint(value: Any) -> str:
    digest = hashlib.sha256(repr(value).encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def check_request_id(text: str | None) -> None:
    if text is None:
        return
    try:
        right = uuid.UUID(text).int != 0
    except ValueError:
        right = False
    if not right:
        raise invalid(f"Invalid value for field 'requestId': '{text}'. Must be a valid UUID.")


def check_instance(wish: Mapping[str, Any], zone: Zone) -> tuple[Size, dict[str, int]]:
    """The machine type that is ordered, and its GPUs: {accelerator: how many}."""
    size = _size(wish, zone)
    gpus = _accelerators(wish, zone, size)
    _check_disks(wish.get("disks") or [])
    if not wish.get("networkInterfaces"):
        raise invalid("At least one network interface is required.")
    if size.spot_only and provisioning(wish.get("scheduling") or {}) != "SPOT":
        raise invalid(f"Machine type {size.name} can be used with provisioning model SPOT only.")
    check_scheduling(wish.get("scheduling") or {}, has_accelerators=bool(gpus))
    check_labels(wish.get("labels") or {})
    check_tags((wish.get("tags") or {}).get("items") or [])
    check_metadata((wish.get("metadata") or {}).get("items") or [])
    return size, gpus


def _size(wish: Mapping[str, Any], zone: Zone) -> Size:
    url = wish.get("machineType") or ""
    match = re.fullmatch(r"(?:.*/)?zones/([^/]+)/machineTypes/([^/]+)", url)
    if match is None or match[1] != zone.name:
        raise invalid(f"Invalid value for field 'resource.machineType': '{url}'. The URL is malformed.")
    size = SIZES.get(match[2])
    if size is None or not sold_in(zone, size):
        raise invalid(
            f"Invalid value for field 'resource.machineType': '{url}'. Machine type with name '{match[2]}' does not "
            f"exist in zone '{zone.name}'."
        )
    return size


def _accelerators(wish: Mapping[str, Any], zone: Zone, size: Size) -> dict[str, int]:
    own = {size.accelerator: size.accelerators} if size.accelerator else {}
    asked: dict[str, int] = {}
    for one in wish.get("guestAccelerators") or []:
        url = one.get("acceleratorType") or ""
        match = re.fullmatch(r"(?:.*/)?zones/([^/]+)/acceleratorTypes/([^/]+)", url)
        if match is None or match[1] != zone.name or match[2] not in zone.left:
            raise invalid(
                f"Invalid value for field 'resource.guestAccelerators[0].acceleratorType': '{url}'. The referenced "
                "accelerator type cannot be found."
            )
        asked[match[2]] = int(one.get("acceleratorCount") or 0)
    if asked and not size.takes_accelerators and asked != own:
        raise invalid(f"[{next(iter(asked))}] features are not compatible for creating instance.")
    if asked and min(asked.values()) < 1:
        raise invalid("Invalid value for field 'resource.guestAccelerators[0].acceleratorCount'.")
    return asked or own


def _check_disks(disks: Iterable[Mapping[str, Any]]) -> None:
    boot = [disk for disk in disks if disk.get("boot")]
    if len(boot) != 1:
        raise invalid("Exactly one boot disk is required.")
    made_of = boot[0].get("initializeParams") or {}
    if not boot[0].get("source") and not made_of.get("sourceImage"):
        raise invalid("Invalid value for field 'resource.disks[0].initializeParams.sourceImage': ''.")
    if made_of and int(made_of.get("diskSizeGb", 10)) < 10:
        raise invalid("Invalid value for field 'resource.disks[0].initializeParams.diskSizeGb': smaller than image.")


def provisioning(scheduling: Mapping[str, Any]) -> str:
    return str(scheduling.get("provisioningModel") or ("SPOT" if scheduling.get("preemptible") else "STANDARD"))


def check_scheduling(scheduling: Mapping[str, Any], *, has_accelerators: bool) -> None:
    spot = provisioning(scheduling) == "SPOT"
    maintenance = scheduling.get("onHostMaintenance") or ("TERMINATE" if spot else "MIGRATE")
    if has_accelerators and maintenance != "TERMINATE":
        raise Refused(400, "badRequest", NO_MIGRATION)
    if spot and maintenance != "TERMINATE":
        raise invalid("Scheduling must have onHostMaintenance TERMINATE when it is preemptible.")
    if spot and scheduling.get("automaticRestart"):
        raise invalid("Scheduling must have automaticRestart be false when it is preemptible.")
    limited = [name for name in ("maxRunDuration", "terminationTime") if scheduling.get(name)]
    if len(limited) == 2:
        raise invalid("Only one of maxRunDuration and terminationTime may be specified.")
    if scheduling.get("instanceTerminationAction") and not (spot or limited):
        raise invalid("instanceTerminationAction needs provisioning model SPOT or a limit of the run time.")
    if scheduling.get("maxRunDuration"):
        seconds = int(scheduling["maxRunDuration"].get("seconds", 0))
        if not LEAST_RUN_SECONDS <= seconds <= MOST_RUN_SECONDS:
            raise invalid(f"maxRunDuration of {seconds} seconds is not between 30 seconds and 120 days.")
        if not scheduling.get("instanceTerminationAction"):
            raise invalid("A limit of the run time needs an instanceTerminationAction.")


def full_scheduling(wish: Mapping[str, Any]) -> dict[str, Any]:
    """With what holds when nobody says anything."""
    spot = provisioning(wish) == "SPOT"
    full = {
        "onHostMaintenance": "TERMINATE" if spot else "MIGRATE",
        "automaticRestart": not spot,
        "preemptible": spot,
        "provisioningModel": provisioning(wish),
        **wish,
    }
    limit = full.get("maxRunDuration")
    if limit:
        full["maxRunDuration"] = {"seconds": str(limit.get("seconds", 0))}
    return full


def check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > 64:
        raise invalid("Too many labels.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise invalid(
                f"Invalid value for field 'resource.labels': ''. Label key '{key}' violates format constraints."
            )
        if not _LABEL_VALUE.fullmatch(value):
            raise invalid(
                f"Invalid value for field 'resource.labels': ''. Label value '{value}' violates format constraints."
            )


def check_tags(tags: Iterable[str]) -> None:
    for tag in tags:
        if not _NAME.fullmatch(tag):
            raise invalid(f"Invalid value for field 'resource.tags.items': '{tag}'.")


def check_metadata(items: Iterable[Mapping[str, Any]]) -> None:
    keys = [str(one.get("key")) for one in items]
    if len(set(keys)) != len(keys) or not all(_METADATA_KEY.fullmatch(key) for key in keys):
        raise invalid("Invalid value for field 'metadata.items': duplicate or malformed keys.")


def quota_error(region: str, gpus: Mapping[str, int], used: Iterable[tuple[str, Mapping[str, int]]], of: Quotas) -> Any:
    """The error of an operation that would need more than the project may have, or None. used: (region, GPUs)."""
    others = list(used)
    for accelerator, count in gpus.items():
        limit = of.regional.get((region, accelerator))
        taken = sum(more.get(accelerator, 0) for place, more in others if place == region)
        if limit is not None and taken + count > limit:
            metric = ACCELERATORS[accelerator]
            return _quota(metric, f"Quota '{metric}' exceeded.  Limit: {limit}.0 in region {region}.", limit, region)
    taken = sum(sum(more.values()) for _place, more in others)
    if gpus and taken + sum(gpus.values()) > of.all_regions:
        text = f"Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: {of.all_regions}.0 globally."
        return _quota("GPUS_ALL_REGIONS", text, of.all_regions, "global")
    return None


def _quota(metric: str, text: str, limit: int, where: str) -> dict[str, Any]:
    dimensions = {} if where == "global" else {"region": where}
    info = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{metric}-per-project" + ("-region" if dimensions else ""),
        "limit": float(limit),
        "dimensions": dimensions or {"global": "global"},
    }
    return {"code": "QUOTA_EXCEEDED", "message": text, "errorDetails": [{"quotaInfo": info}]}


def sold_out_error(size: Size, zone: Zone, stocked: Iterable[str], *, details: bool) -> dict[str, Any]:
    """The error of an operation that found nothing left; with details it names the zones that have some."""
    code = "ZONE_RESOURCE_POOL_EXHAUSTED" + ("_WITH_DETAILS" if details else "")
    names = ",".join(stocked)
    text = f"The zone 'projects/p/zones/{zone.name}' does not have enough resources available to fulfill the request."
    meta = {"vmType": size.name, "zone": zone.name, "attachment": "", "zonesAvailable": names}
    info = {"errorInfo": {"domain": "compute.googleapis.com", "reason": "resource_availability", "metadatas": meta}}
    return {"code": code, "message": text, **({"errorDetails": [info]} if details else {})}
