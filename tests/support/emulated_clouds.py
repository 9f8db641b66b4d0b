# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a test of renting wishes at each emulated provider, what our code calls there, and what goes wrong."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._providers import (
    gcp,
    gcp_api,
    runpod,
    runpod_billing,
    runpod_secrets,
    tensordock,
    vastai,
)
from emulators import gcp as gcp_emulator
from emulators import runpod as runpod_emulator
from emulators import tensordock as tensordock_emulator
from emulators import vastai as vastai_emulator
from emulators.world import Fault
from support import cloud_aws
from support.clouds import EVENTS, KEY, Cloud, Gcp, Runpod, Tensordock, Vastai

SOLD_OUT = {"detail": "There are no longer any instances available with the requested specifications."}
VANISHED = {"success": False, "error": "no_such_ask", "msg": "error 410/3907: no_such_ask"}
NO_NODES = {"status": 400, "error": "No available nodes found"}
NO_QUOTA = {"error": {"code": 403, "message": "Quota 'T4' exceeded.", "errors": [{"reason": "quotaExceeded"}]}}
TOO_MANY = {"error": {"code": 403, "message": "Too many queries.", "errors": [{"reason": "rateLimitExceeded"}]}}
UNREACHABLE = {
    "kind": "compute#instanceAggregatedList",
    "items": {"zones/us-central1-a": {"warning": {"code": "UNREACHABLE"}}},
    "unreachables": ["zones/us-central1-a"],
}
TOO_OFTEN = "API requests too frequent: endpoint threshold=1.0"


def _pods(what: str, **fault: Any) -> dict[str, Any]:
    return {"method": what, "path": "/pods$", **fault}


def _asks(**fault: Any) -> dict[str, Any]:
    return {"method": "PUT", "path": "/asks/", **fault}


def _page(**fault: Any) -> dict[str, Any]:
    return {"method": "GET", "path": "/api/v1/instances/$", **fault}


def _machines(method: str, **fault: Any) -> dict[str, Any]:
    return {"method": method, "path": "/instances$", **fault}


def _inserts(**fault: Any) -> dict[str, Any]:
    return {"method": "POST", "path": "/instances$", **fault}


ANYWHERE: dict[str, dict[str, Any]] = {
    "delete answer lost": {"method": "DELETE", "drop": "after"},
    "delete never arrived": {"method": "DELETE", "drop": "before"},
}


def make_clouds() -> dict[str, Cloud]:
    """Not started yet."""
    clouds = [
        Runpod(
            "runpod",
            (runpod, runpod_billing, runpod_secrets),
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
            EVENTS,
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
            ("the bill",),
        ),
        Vastai(
            "vastai",
            (vastai,),
            r"(?:self\._call|store\.call)\(",
            (
                "POST /api/v0/bundles/",
                "PUT /api/v0/asks/{id}/",
                "POST /api/v0/instances/{id}/ssh/",
                "GET /api/v1/instances/",
                "GET /api/v0/instances/{id}/",
                "PUT /api/v0/instances/{id}/",
                "PUT /api/v0/instances/{id}/ label",
                "DELETE /api/v0/instances/{id}/",
            ),
            (*EVENTS, "renewed", "host_key", "ssh_way"),
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
            ("the log, for the fingerprint of a certificate", "where that log lies"),
        ),
        Tensordock(
            "tensordock",
            (tensordock,),
            r"self\._call\(",
            (
                "GET /locations",
                "POST /instances",
                "GET /instances",
                "GET /instances/{id}",
                "POST /instances/{id}/start",
                "POST /instances/{id}/stop",
                "DELETE /instances/{id}",
            ),
            (*EVENTS, "host_key"),
            {"TENSORDOCK_API_TOKEN": "any", "TENSORDOCK_API_URL": "{url}" + tensordock_emulator.URL_PATH},
            {"runtime": "vm", "gpu": "A40", "disk_gib": 100, "ssh_public_key": KEY},
            {
                **ANYWHERE,
                "create answer lost": _machines("POST", drop="after"),
                "create never arrived": _machines("POST", drop="before"),
                "create sold out inside a 200": _machines("POST", status=200, body=NO_NODES),
                "create fails": _machines("POST", status=500),
                "create fails inside a 200": _machines("POST", status=200, body={"status": 500, "error": "Internal"}),
                "create refused by a list": _machines("POST", status=400, body=[{"code": "x", "message": "no"}]),
                "no credit": _machines("POST", status=200, body={"status": 400, "error": "You need at least $1"}),
                "list fails for good": _machines("GET", status=503, times=5),
                "list fails once": _machines("GET", status=502),
                "list is no list": _machines("GET", status=200, body={"data": {}}),
                "listed late": {"trouble": "list_late", "seconds": 15},
                "too many requests": {"status": 429, "times": 2},
                "delete takes its time": {"trouble": "delete_late", "seconds": 20},
                "delete does nothing": {"method": "DELETE", "status": 200, "body": {"data": {"type": "success"}}},
            },
        ),
        Gcp(
            "gcp",
            (gcp, gcp_api),
            r"_api\.(?:pages|order|call)\(|self\.call\(\"GET\", operation_path",
            (
                "GET /aggregated/machineTypes",
                "GET /aggregated/acceleratorTypes",
                "POST /zones/{zone}/instances",
                "GET /zones/{zone}/operations/{id}",
                "GET /aggregated/instances",
                "GET /zones/{zone}/operations",
                "GET /zones/{zone}/instances/{id}",
                "GET /zones/{zone}/instances/{id}/getGuestAttributes",
                "POST /zones/{zone}/instances/{id}/start",
                "POST /zones/{zone}/instances/{id}/setScheduling",
                "POST /zones/{zone}/instances/{id}/stop",
                "DELETE /zones/{zone}/instances/{id}",
            ),
            (*EVENTS, "host_key"),
            {
                "GCP_ACCESS_TOKEN": "any",
                "GCP_PROJECT": gcp_emulator.PROJECT,
                "GCP_COMPUTE_URL": "{url}" + gcp_emulator.URL_PATH,
            },
            # No table of ours has the price of a T4.
            {"runtime": "vm", "gpu": "T4", "ssh_public_key": KEY, "price_per_hour_usd": 0.54},
            {
                **ANYWHERE,
                "create answer lost": _inserts(drop="after"),
                "create answer lost for good": _inserts(drop="after", times=3),
                "create never arrived": _inserts(drop="before"),
                "create fails": _inserts(status=503, times=3),
                "zone sold out": {"trouble": "offer_gone", "of": "us-central1-a"},
                "sold out everywhere": {"trouble": "offer_gone", "of": ".*"},
                "no quota": _inserts(status=403, body=NO_QUOTA),
                "operations are not told": {"method": "GET", "path": "/operations/", "status": 503, "times": 5},
                "list fails for good": {"method": "GET", "path": "/aggregated/instances", "status": 503, "times": 5},
                "list fails once": {"method": "GET", "path": "/aggregated/instances", "status": 502},
                "list is not complete": {
                    "method": "GET",
                    "path": "/aggregated/instances",
                    "body": UNREACHABLE,
                    "status": 200,
                },
                "listed late": {"trouble": "list_late", "seconds": 15},
                "too many requests": {"status": 429, "times": 2},
                "too many requests in a 403": {"status": 403, "body": TOO_MANY, "times": 2},
                "delete takes its time": {"trouble": "delete_late", "seconds": 20},
            },
            ("tags that somebody changed", "labels that somebody changed", "scheduling that somebody changed"),
        ),
        cloud_aws.make(),
    ]
    return {cloud.name: cloud for cloud in clouds}


def bad_luck(cloud: Cloud, what: str) -> None:
    """The next calls meet this fault, and no other."""
    cloud.world.faults = [Fault(**cloud.faults[what])]
