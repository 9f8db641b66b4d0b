# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What RunPod's API sends and takes, in our words and back. Pure: nothing here talks to anybody."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _fingerprints, _gpus, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer

Rows = list[dict[str, Any]]

PROVIDER = "runpod"
MARKER_VARIABLE = "GPUFLEET_MARKER"
OWNER_VARIABLE = "GPUFLEET_OWNER"  # only of what a job rented
_SOLD_OUT = "no longer any instances available"

# A word that isn't here is none of a failure: nothing may be ended for it.
_STATUS = {
    "PROVISIONING": Status.PENDING,
    "STARTING": Status.PENDING,
    "RUNNING": Status.RUNNING,
    "EXITED": Status.STOPPED,
    "ERROR": Status.FAILED,
    "TERMINATED": Status.TERMINATING,
}


def canonical(entry: Mapping[str, Any]) -> str | None:
    """The name of a type of the catalog in our table; None for one that is not in it."""
    memory_gb = entry.get("memory")
    memory_mib = memory_gb * 1024.0 if isinstance(memory_gb, (int, float)) else None
    return _gpus.identify(entry.get("id")) or _gpus.identify(entry.get("name"), memory_mib)


def offers_from(entry: Mapping[str, Any], cloud: str, count: int, regions: list[str]) -> list[Offer]:
    price = _number(_mapping(entry.get("price")).get(cloud.lower())) or None  # nothing is free: 0 is not known
    most = (entry.get("maxCount") or {}).get(cloud.lower()) or 0
    if not entry.get(cloud.lower()) or entry.get("availability") in (None, "NONE") or count > most:
        return []
    stocked = {place["id"]: place for place in entry.get("dataCenters") or [] if place.get("availability") != "NONE"}
    places: list[str | None] = [None]
    if regions:  # community machines have no data centre, so no wish for one can be met there
        wanted = {place.casefold() for place in regions}
        places = [place for place in stocked if place.casefold() in wanted] if cloud == "SECURE" else []
    return [
        Offer(
            provider=PROVIDER,
            id="|".join([entry["id"], cloud, place or ""]),
            gpu=canonical(entry),
            gpu_count=count,
            region=place,
            runtime=Runtime.CONTAINER,
            # Of one GPU; the disk of the container costs nothing while the pod runs.
            price_per_hour_usd=None if price is None else round(price * count, 6),
        )
        for place in places
    ]


def create_body(request: Request, references: Mapping[str, str]) -> dict[str, Any]:
    """The body of the create call."""
    gpu, cloud, place = request.offer.id.split("|")
    marker = _marker.encode(request.marker)
    environment = {**request.env, **references, MARKER_VARIABLE: marker}
    if request.started_with:
        environment[_fingerprints.VARIABLE] = request.started_with
    if request.marker.owner != "fleet":
        environment[OWNER_VARIABLE] = request.marker.owner
    if request.ssh_public_key:
        environment["PUBLIC_KEY"] = request.ssh_public_key
    body: dict[str, Any] = {
        "name": marker,
        "image": request.image,
        "gpu": {"id": gpu, "count": request.offer.gpu_count},  # without count every create fails as sold out
        "cloud": cloud,
        "disk": request.disk_gib,
        "ports": [f"{port}/{protocol}" for port, protocol in request.ports],
        "env": environment,
    }
    if request.minimum_cuda_version:  # else the pod may be put onto a host whose driver is too old for its image
        body["gpu"]["minCudaVersion"] = request.minimum_cuda_version
    if place:
        body["dataCenterIds"] = [place]
    if request.entrypoint is not None:
        body["entrypoint"] = list(request.entrypoint)
        body["cmd"] = list(request.args or ())
    elif request.args is not None:
        body["args"] = shlex.join(request.args)
    return body


def pod_of(body: Any) -> dict[str, Any] | None:
    """One pod, from an answer or a list; None when it has no id, or nothing that says whose it is."""
    is_pod = isinstance(body, dict) and isinstance(body.get("id"), str) and body["id"]
    return body if is_pod and ("name" in body or "env" in body) else None


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether it is shown although it was ended."""
    return pod.get("status") == "TERMINATED"


def is_not_found(answer: Answer) -> bool:
    """Whether a 404 is RunPod's own, as its specification describes one."""
    body = answer.body
    return answer.status == 404 and isinstance(body, dict) and bool(body.get("title")) and body.get("status") == 404


def instance_from(pod: Mapping[str, Any], proxy_url: str) -> Instance | None:
    """What the API says of a pod, in our words but for its environment; None when it carries no marker of ours."""
    marker = _marker_of(pod)
    if marker is None:
        return None
    gpu = _mapping(pod.get("gpu"))
    count, cost, disk_gib = (_number(value) for value in (gpu.get("count"), pod.get("cost"), pod.get("disk")))
    direct = _mapping(_mapping(pod.get("ssh")).get("direct"))
    host, port = direct.get("host"), _number(direct.get("port"))
    endpoints = (Endpoint(str(host), int(port)),) if host and port else ()
    ports = _ports(pod.get("ports"))
    inside = [port for port, protocol in ports or () if protocol == "http"]
    word = str(pod.get("status") or "")
    return Instance(
        provider=PROVIDER,
        id=pod["id"],
        marker=marker,
        status=_STATUS.get(word, Status.PENDING),
        runtime=Runtime.CONTAINER,
        gpu=canonical(gpu) if gpu else None,
        gpu_count=int(count or 0),
        price_per_hour_usd=cost,
        running_price_per_hour_usd=cost or None,  # 0 while it is stopped
        region=pod.get("dataCenterId"),
        image=pod.get("image"),
        disk_gib=int(disk_gib) if disk_gib else None,
        ports=ports,
        address=endpoints[0].host if endpoints else None,
        ssh_endpoints=endpoints,
        ssh_user=str(direct.get("username") or "root"),
        urls=tuple((port, proxy_url.format(id=pod["id"], port=port)) for port in inside),
        interruptible=False,  # this API sells nothing else
        started_with=str(_mapping(pod.get("env")).get(_fingerprints.VARIABLE) or ""),
        created_at=_seconds(pod.get("createdAt")),
        uptime_seconds=_number(_mapping(pod.get("runtime")).get("uptime")),
        detail=word,
    )


def _marker_of(pod: Mapping[str, Any]) -> Marker | None:
    """The environment can't be changed without a reset, so it counts; the name only where a list leaves it out."""
    environment = _mapping(pod.get("env"))
    text = environment.get(MARKER_VARIABLE) or pod.get("name")
    owner = str(environment.get(OWNER_VARIABLE) or "fleet")
    return _marker.parse(text, owner) if isinstance(text, str) else None


def _ports(texts: Any) -> tuple[tuple[int, str], ...] | None:
    """The ports that were asked for; None when that can't be read: then nobody knows."""
    listed = texts or []
    pairs = [str(text).partition("/") for text in listed] if isinstance(listed, list) else []
    if not isinstance(listed, list) or not all(port.isdecimal() for port, slash, protocol in pairs):
        return None
    return tuple(sorted((int(port), protocol or "tcp") for port, slash, protocol in pairs))


def _seconds(text: Any) -> float | None:
    """Seconds since the epoch, in UTC where no zone is said; None for what is no time."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def log_line(event: str) -> str:
    """The line that a server-sent event carries; "" for what is none."""
    try:
        told = json.loads(event.removeprefix("data:")) if event.startswith("data:") else {}
    except ValueError:
        return ""
    return str(told.get("line") or "") if isinstance(told, dict) else ""


def refusal(answer: Answer) -> ProviderError:
    """An answer of 4xx as an error of the contract. What RunPod calls sold out has no code of its own."""
    told = answer.body if isinstance(answer.body, Mapping) else {}
    words = [str(told.get("detail") or told.get("title") or answer.text[:200] or "no reason given")]
    words += [str(error) for error in told.get("errors") or []]
    message = f"RunPod refused: {'; '.join(words)}"
    details: dict[str, Any] = {"provider": PROVIDER, "status": answer.status, "request_id": answer.request_id}
    if answer.status == 400 and _SOLD_OUT in message:
        return NoCapacity(message, fix="Another offer is tried, if there is one.", **details)
    if answer.status == 402:
        return QuotaError(message, fix="Add credit to the RunPod account.", **details)
    if answer.status in (401, 403):
        if "error code: 1010" in answer.text:
            return ProviderUnavailable(
                "RunPod's gateway (Cloudflare) refused this client; that says nothing about the key.",
                fix="Run again from another network, or report it with the request id.",
                **details,
            )
        return AuthError(message, fix="Check RUNPOD_API_KEY and what it may do.", **details)
    if answer.status == 410:
        return ProviderUnavailable(
            "This address of RunPod's API is switched off.",
            fix=f"Remove api_url and RUNPOD_REST_V2_URL, or set them to {_accounts.APIS[PROVIDER].url}.",
            **details,
        )
    fix = "Correct the option that is named there."
    if answer.status == 422 and "entrypoint" in message:
        fix = (
            "This API can't replace an image's entry point: remove entrypoint. For the role vllm take a vllm_image "
            "that brings gpufleet_routes.py, and set vllm_image_has_routes: true."
        )
    return InvalidRequest(message, fix=fix, **details)
