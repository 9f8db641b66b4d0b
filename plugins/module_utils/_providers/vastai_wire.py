# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What Vast.ai's API sends and takes, in our words and back. Pure: nothing here talks to anybody."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _clock,
    _fingerprints,
    _gpus,
    _limits,
    _marker,
    _pairs,
    _taken_back,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    ENDS_ITSELF,
    Endpoint,
    Instance,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CONSOLES, InvalidRequest

PROVIDER = "vastai"
CONSOLE = CONSOLES[PROVIDER]
# Virtual machines are rented by images of this name alone; the tags are dated, there is no "latest".
DEFAULT_VM_IMAGE = "docker.io/vastai/kvm:ubuntu_cli_22.04-2025-11-21"
LEAST_DISK_GIB = _limits.LEAST_DISK_GIB[PROVIDER]

ENV_MARKER = "GPUFLEET_MARKER"
ENV_OWNER = "GPUFLEET_OWNER"  # only of what a job rented
ENV_TLS = "GPUFLEET_TLS"  # "1": what the http ports lead to ends TLS itself
ENV_URL = "GPUFLEET_VAST_URL"  # where what ends itself finds the API
ENV_PORTS = "GPUFLEET_PORTS"  # "v1.8000:http.22:tcp.end": the API knows no protocol above TCP

_HOURS_PER_MONTH = 730
# How many offers to ask for: every row counts against a daily quota.
_SEARCH_LIMIT = 100
_WIDE_SEARCH_LIMIT = 500  # where we choose among the answers ourselves: by region, or any GPU

# A word that isn't here is none of a failure: nothing may be ended for it.
_STATUS = {
    None: Status.PENDING,
    "created": Status.PENDING,
    "loading": Status.PENDING,
    "rebooting": Status.PENDING,
    "restarting": Status.PENDING,
    "running": Status.RUNNING,
    "stopped": Status.STOPPED,
    "exited": Status.STOPPED,
    "frozen": Status.STOPPED,
    "unknown": Status.FAILED,
    "offline": Status.FAILED,
}
# What the host's Docker Engine says when it will never get there, while the status stays "created" for ever.
_FATAL = re.compile(r"OCI runtime create failed|Error response from daemon|manifest unknown|pull access denied", re.I)


def spellings(gpu: str) -> list[str]:
    """How Vast.ai writes the name of this card."""
    known = _gpus.resolve(gpu)
    return list(known.vastai) or [known.name.replace("_", " ")]


def search_body(query: Mapping[str, Any]) -> dict[str, Any]:
    """The search that fits a query of the provider contract."""
    gpu, regions = query.get("gpu"), query.get("regions")
    body: dict[str, Any] = {
        "verified": {"eq": True},
        "rentable": {"eq": True},
        "external": {"eq": False},
        "direct_port_count": {"gte": 1},
        "disk_space": {"gte": query.get("disk_gib") or LEAST_DISK_GIB},
        "type": "bid" if query.get("interruptible") else "on-demand",
        "order": [["dph_total", "asc"]],
        "limit": _WIDE_SEARCH_LIMIT if regions or not gpu else _SEARCH_LIMIT,
        # Part of dph_total: with another size the price would be another one.
        "allocated_storage": query.get("disk_gib") or LEAST_DISK_GIB,
    }
    if gpu:
        body["gpu_name"] = {"in": spellings(gpu)}
    if query.get("gpu_count"):
        body["num_gpus"] = {"eq": query["gpu_count"]}
    if query.get("minimum_cuda_version"):
        body["cuda_max_good"] = {"gte": float(query["minimum_cuda_version"])}
    if query.get("runtime", "vm") == "vm":
        body["vms_enabled"] = {"eq": True}
    return body


def bid_of(row: Mapping[str, Any]) -> float | None:
    """The lowest bid, USD per hour for the machine without its storage; None when nobody knows, as with 0."""
    return _number(row.get("min_bid")) or None


def offer_from(row: Mapping[str, Any], query: Mapping[str, Any]) -> Offer | None:
    """The offer in our words; None when it doesn't fit the query, is taken, or is of a card that we don't know."""
    gpu = _gpus.identify(row.get("gpu_name"), _number(row.get("gpu_ram")))
    gpu_count = int(_number(row.get("num_gpus")) or 0)
    if not isinstance(row.get("id"), int) or gpu is None or row.get("rented") or row.get("rentable") is False:
        return None
    if query.get("gpu") and gpu != _gpus.resolve(query["gpu"]).name:
        return None
    if query.get("gpu_count") and gpu_count != query["gpu_count"]:
        return None
    region = region_of(row.get("geolocation"))
    if query.get("regions") and region not in [one.upper() for one in query["regions"]]:
        return None
    interruptible = bool(query.get("interruptible"))
    cores, mine, memory_mb = (_number(row.get(name)) for name in ("cpu_cores", "cpu_cores_effective", "cpu_ram"))
    disk_gib = _number(row.get("disk_space"))
    return Offer(
        provider=PROVIDER,
        id=str(row["id"]),
        gpu=gpu,
        gpu_count=gpu_count,
        memory_mib=int(memory_mb * mine / cores) if memory_mb and mine and cores else None,
        cpu_count=int(mine) if mine else None,
        disk_gib=int(disk_gib) if disk_gib else None,
        region=region,
        runtime=Runtime(query.get("runtime", "vm")),
        interruptible=interruptible,
        price_per_hour_usd=_price(row, query) if interruptible else _number(row.get("dph_total")) or None,
        machine_id=_machine_id(row),
    )


def _price(row: Mapping[str, Any], query: Mapping[str, Any]) -> float | None:
    """What a bid costs, USD per hour with its disk; None when one part of it is unknown."""
    bid, storage = bid_of(row), _number(row.get("storage_cost"))
    if bid is None or storage is None:
        return None
    return round(bid + storage * (query.get("disk_gib") or LEAST_DISK_GIB) / _HOURS_PER_MONTH, 6)


def region_of(geolocation: Any) -> str | None:
    """The country code of "City, CC"."""
    code = geolocation.rpartition(",")[2].strip().upper() if isinstance(geolocation, str) else ""
    return code or None


def check_request(request: Request) -> None:
    """Raise InvalidRequest for what Vast.ai would refuse or do differently: the last look, after the preflight's."""
    names = [name for name in request.env if not _limits.ENV_NAME.fullmatch(name)]
    longest = _limits.LONGEST_START[PROVIDER]
    problem = fix = ""
    if names:
        problem, fix = f"env has {names[0]!r}, which is no name of a variable", "Use letters, digits and '_'"
    elif request.disk_gib < LEAST_DISK_GIB:
        problem, fix = f"disk_gib {request.disk_gib} is too small", f"Set disk_gib to {LEAST_DISK_GIB} or more"
    elif request.offer.runtime is Runtime.CONTAINER and not request.image:
        problem, fix = "a container needs an image", "Set image"
    elif _limits.start_length([*(request.entrypoint or ()), *(request.args or ())]) > longest:
        problem, fix = (
            f"entrypoint and args have more than {longest} characters together",
            "Shorten them; for the role vllm that is vllm_extra_arguments",
        )
    elif request.offer.runtime is Runtime.VM and (request.args or request.entrypoint):
        problem, fix = "a machine takes neither args nor entrypoint", "Set runtime: container, or leave them out"
    if problem:
        raise InvalidRequest(f"{PROVIDER} can't rent this: {problem}.", provider=PROVIDER, fix=f"{fix}.")


def create_body(request: Request, bid_per_hour_usd: float | None, api_url: str) -> dict[str, Any]:
    """What to send to rent an offer; a bid is sent only for an interruptible one, because it makes it so."""
    marker = _marker.encode(request.marker)
    ports = _pairs.join((str(port), protocol) for port, protocol in request.ports)
    # Vast.ai keeps no secrets: whoever may look at the account or at the machine can read them here.
    env = {**request.env, **request.secret_env, ENV_MARKER: marker, ENV_PORTS: ports}
    if request.marker.owner != "fleet":
        env[ENV_OWNER] = request.marker.owner
    if request.started_with:
        env[_fingerprints.VARIABLE] = request.started_with
    if request.own_tls:
        env[ENV_TLS] = "1"
    if ENDS_ITSELF in env:
        env[ENV_URL] = api_url.rstrip("/")
    env.update({f"-p {port}:{port}": "1" for port, _protocol in request.ports})
    body: dict[str, Any] = {
        "client_id": "me",
        "image": request.image or DEFAULT_VM_IMAGE,
        "disk": request.disk_gib,
        "label": marker,
        "env": env,
        "target_state": "running",
        "cancel_unavail": True,  # fail now, instead of starting some day
    }
    if request.offer.interruptible:
        body["price"] = bid_per_hour_usd
    if request.offer.runtime is Runtime.VM:
        return body | {"runtype": "ssh_direct", "onstart": _start_script(request.ssh_public_key)}
    body["runtype"] = "args"
    if request.entrypoint:
        body["onstart"] = request.entrypoint[0]  # in this mode Vast.ai takes it as the entry point
    arguments = [*(request.entrypoint or ())[1:], *(request.args or ())]
    return body | {"args": arguments} if arguments else body


def _start_script(ssh_public_key: str | None) -> str:
    lines = ["touch ~/.no_auto_tmux"]  # else a login ends up in tmux
    if ssh_public_key:
        key = shlex.quote(ssh_public_key.strip())
        lines += [
            "mkdir -p ~/.ssh && chmod 700 ~/.ssh",
            f"grep -qxF {key} ~/.ssh/authorized_keys 2>/dev/null || printf '%s\\n' {key} >> ~/.ssh/authorized_keys",
            "chmod 600 ~/.ssh/authorized_keys",
        ]
    return "\n".join(lines)


def created(request: Request, contract: str, detail: str) -> Instance:
    """The instance as far as it is known right after its create; nothing of the answer but its id is kept."""
    offer, image = request.offer, request.image or DEFAULT_VM_IMAGE
    return Instance(
        provider=PROVIDER,
        id=contract,
        marker=request.marker,
        status=Status.PENDING,
        runtime=offer.runtime,
        gpu=offer.gpu,
        gpu_count=offer.gpu_count,
        price_per_hour_usd=offer.price_per_hour_usd,
        region=offer.region,
        image=image,
        disk_gib=request.disk_gib,
        ports=request.ports,
        interruptible=offer.interruptible,
        started_with=request.started_with,
        created_at=_clock.now(),
        detail=detail,
        machine_id=offer.machine_id,
        ends_itself=offer.runtime is Runtime.CONTAINER and ENDS_ITSELF in request.env,
    )


def instance_from(row: Mapping[str, Any]) -> Instance | None:
    """The instance in our words; None when its label isn't exactly one of our markers. Its secrets stay behind."""
    label = row.get("label")
    owner = str(_env(row).get(ENV_OWNER) or "fleet")
    marker = _marker.parse(label, owner) if isinstance(label, str) else None
    if marker is None:
        return None
    runtime = Runtime.CONTAINER if "args" in str(row.get("image_runtype")) else Runtime.VM
    status, detail = _status(row)
    address = str(row.get("public_ipaddr") or "").strip() or None
    disk_gib, created_at = _number(row.get("disk_space")), _number(row.get("start_date"))
    return Instance(
        provider=PROVIDER,
        id=str(row["id"]),
        marker=marker,
        status=status,
        runtime=runtime,
        gpu=_gpus.identify(row.get("gpu_name"), _number(row.get("gpu_ram"))),
        gpu_count=int(_number(row.get("num_gpus")) or 0),
        price_per_hour_usd=price_of(row),
        running_price_per_hour_usd=_number(row.get("dph_total")),
        region=region_of(row.get("geolocation")),
        image=row.get("image_uuid"),
        disk_gib=round(disk_gib) if disk_gib else None,
        ports=_ports(row),
        address=address,
        # In a container that runs an image as it is, nobody listens to SSH.
        ssh_endpoints=_endpoints(row, address) if runtime is Runtime.VM else (),
        urls=_urls(row, address),
        outbid=_outbid(row),
        interruptible=row["is_bid"] if isinstance(row.get("is_bid"), bool) else None,
        started_with=str(_env(row).get(_fingerprints.VARIABLE) or ""),
        own_tls=_env(row).get(ENV_TLS) == "1",
        ends_itself=runtime is Runtime.CONTAINER and bool(_env(row).get(ENDS_ITSELF)),
        created_at=created_at,
        uptime_seconds=_uptime_seconds(row) if status is Status.RUNNING else None,
        detail=detail,
        machine_id=_machine_id(row),
    )


def _uptime_seconds(row: Mapping[str, Any]) -> float | None:
    minutes = _number(row.get("uptime_mins"))
    return None if minutes is None else minutes * 60


def _status(row: Mapping[str, Any]) -> tuple[Status, str]:
    actual, intended = row.get("actual_status"), row.get("intended_status")
    status = _STATUS.get(actual, Status.PENDING)
    detail = " ".join(str(row.get("status_msg") or actual or "scheduling").split())[:300]
    if _outbid(row) is None:
        return Status.STOPPED, f"{_taken_back.STOPPED_OR_OUTBID}; its disk goes on costing ({detail})"
    if intended == "stopped" and status is Status.PENDING:
        return Status.STOPPED, detail  # it will never start by itself
    if intended == "running" and status is Status.STOPPED and row.get("cur_state") == "stopped":
        return Status.PENDING, f"its start is queued ({detail})"
    if actual in ("created", "loading") and _FATAL.search(detail):
        return Status.FAILED, detail
    return status, detail


def _outbid(row: Mapping[str, Any]) -> bool | None:
    """None for a bid that is to stand still, as its user or a higher bid may have stopped it: both look the same."""
    return None if row.get("is_bid") and row.get("intended_status") == "stopped" else False


def price_of(row: Mapping[str, Any]) -> float | None:
    """What it costs now, USD per hour."""
    charged = row.get("instance")
    now = _number(charged.get("totalHour")) if isinstance(charged, dict) else None
    total = _number(row.get("dph_total"))
    return total if row.get("actual_status") == "running" or now is None else now


def _ports(row: Mapping[str, Any]) -> tuple[tuple[int, str], ...] | None:
    """The ports that were asked for; None when nobody knows."""
    pairs = _pairs.split(_env(row).get(ENV_PORTS))
    return None if pairs is None else tuple((int(port), protocol) for port, protocol in pairs if port.isdecimal())


def _env(row: Mapping[str, Any]) -> dict[str, Any]:
    pairs = row.get("extra_env")
    return dict(pairs) if isinstance(pairs, dict) else dict(pair for pair in pairs or () if len(pair) == 2)


def _urls(row: Mapping[str, Any], address: str | None) -> tuple[tuple[int, str], ...]:
    """Where http ports answer from outside; only with TLS, because a key must not travel without it."""
    if not address or _env(row).get(ENV_TLS) != "1":
        return ()
    asked = [port for port, protocol in _ports(row) or () if protocol == "http"]
    outside = {port: _outside(row, port) for port in asked}
    return tuple((port, f"https://{address}:{mapped}") for port, mapped in outside.items() if mapped)


def _outside(row: Mapping[str, Any], port: int) -> str:
    """The port outside that leads to a port of the container; "" while nobody knows."""
    mapped = (row.get("ports") or {}).get(f"{port}/tcp") or [{}]
    number = str(mapped[0].get("HostPort") or "")
    return number if number.isdecimal() else ""


def _endpoints(row: Mapping[str, Any], address: str | None) -> tuple[Endpoint, ...]:
    """Directly first, as it is faster; then through Vast.ai's proxy, for machines whose ports can't be reached."""
    found = []
    port = _outside(row, 22)
    if address and port:
        found.append(Endpoint(address, int(port)))
    if row.get("ssh_host") and row.get("ssh_port"):
        found.append(Endpoint(str(row["ssh_host"]).strip(), int(row["ssh_port"]), "proxy"))
    return tuple(found)


def _machine_id(row: Mapping[str, Any]) -> str | None:
    """The host's machine: it stays the same while its offers come and go."""
    return str(row["machine_id"]) if isinstance(row.get("machine_id"), int) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
