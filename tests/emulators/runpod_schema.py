# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RunPod's published v2 specification says about the bodies that we send and read, as JSON Schema.

Derived by hand from the OpenAPI documents of August and September 2026, and kept apart from the emulator, so that what
it answers, and what the provider sends, is judged by something that neither of them uses. Where the two documents
differ (pagination, entrypoint and cmd), both are accepted.
"""

from __future__ import annotations

import re
from typing import Any

import jsonschema

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}
LEVEL: Schema = {"enum": ["NONE", "LOW", "MEDIUM", "HIGH"]}
VERSION: Schema = {"type": "string", "pattern": r"^\d+\.\d+$"}


def whole(minimum: int) -> Schema:
    return {"type": "integer", "minimum": minimum}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def array(schema: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": schema, **more}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    """An object. Requests are closed: they refuse fields that nobody knows; answers may gain some."""
    properties = {**required, **(optional or {})}
    found: Schema = {"type": "object", "properties": properties, "required": list(required)}
    return found | ({"additionalProperties": False} if closed else {})


CONTAINER: dict[str, Schema] = {
    "args": TEXT,
    "disk": whole(1),
    "env": {"type": "object", "additionalProperties": TEXT},
    "image": TEXT,
    "ports": array({"type": "string", "pattern": "^[0-9]{1,5}/(tcp|http)$"}),
    "registry": maybe(TEXT),
}
START: dict[str, Schema] = {"entrypoint": array(TEXT), "cmd": array(TEXT)}  # only in the newer document
MOUNTS = record(
    {},
    {
        "persistent": record({"size": whole(10), "path": TEXT}, closed=True),
        "network": array(record({"volumeId": TEXT, "path": TEXT}, closed=True), maxItems=1),
    },
    closed=True,
)
WAY_IN = record({"host": TEXT, "port": whole(1), "username": TEXT, "command": TEXT})
POD = record(
    {
        **CONTAINER,
        "id": TEXT,
        "name": TEXT,
        "status": {"enum": ["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]},
        "actions": array({"enum": ["start", "stop", "restart", "terminate"]}),
        "mounts": MOUNTS,
        "cloud": {"enum": ["SECURE", "COMMUNITY"]},
        "dataCenterId": maybe(TEXT),
        "cudaVersion": maybe(TEXT),
        "ssh": record({"proxy": maybe(WAY_IN), "direct": maybe(WAY_IN)}),
        "template": maybe(TEXT),
        "cost": NUMBER,
        "locked": {"type": "boolean"},
        "globalNetworking": record({"enabled": {"type": "boolean"}}, {"ip": TEXT, "internalDns": TEXT}),
        "runtime": maybe(record({}, {"uptime": whole(0), "gpus": array({}), "ports": array({"type": "object"})})),
        "createdAt": TIME,
        "startedAt": maybe(TIME),
    },
    {**START, "gpu": record({"id": TEXT, "vcpuCount": NUMBER, "memory": NUMBER}, {"count": whole(1)})},
)
PAGE = record({"nextCursor": maybe(TEXT), "hasNextPage": {"type": "boolean"}})
PLACE = record({"id": TEXT, "name": TEXT, "availability": LEVEL})
GPU_TYPE = record(
    {
        "id": TEXT,
        "name": TEXT,
        "pool": maybe(TEXT),
        "manufacturer": {"enum": ["NVIDIA", "AMD", "UNKNOWN"]},
        "memory": whole(0),
        "secure": {"type": "boolean"},
        "community": {"type": "boolean"},
        "price": record({"secure": NUMBER, "community": NUMBER}, {"serverless": NUMBER}),
        "maxCount": record({"secure": whole(0), "community": whole(0)}),
    },
    {
        "availability": LEVEL,
        "dataCenters": array(PLACE),
        "cudaVersions": array(record({"version": VERSION, "available": {"type": "boolean"}})),
    },
)
AMOUNTS: dict[str, Schema] = dict.fromkeys(("totalAmount", "gpuAmount", "cpuAmount", "diskAmount"), NUMBER)
SPAN: dict[str, Schema] = {"startTime": TIME, "endTime": TIME}
BILLS = record(
    {
        "records": array(record({**SPAN, **AMOUNTS, "podId": TEXT})),
        "metadata": record(
            {
                "query": record({**SPAN, "bucketSize": TEXT}, {"podId": maybe(TEXT)}),
                "recordCount": whole(0),
                "uniquePodCount": whole(0),
                "totals": record(AMOUNTS),
            }
        ),
    }
)
PROBLEM = record({"title": TEXT, "status": whole(400), "detail": TEXT}, {"errors": array(TEXT)})

CREATE_GPU = record(
    {"id": TEXT, "count": whole(1)},  # the document calls count optional; without it every create fails
    {
        "allowedCudaVersions": array(VERSION),
        "minCudaVersion": VERSION,
        "minRamPerGpu": whole(1),
        "minVcpuCountPerGpu": whole(1),
    },
    closed=True,
)
CREATE = record(
    {"name": {"type": "string", "minLength": 1}, "image": TEXT, "gpu": CREATE_GPU},
    {
        **{name: schema for name, schema in CONTAINER.items() if name != "image"},
        **START,
        "cloud": {"enum": ["SECURE", "COMMUNITY"]},
        "dataCenterIds": array(TEXT),
        "globalNetworking": {"type": "boolean"},
        "mounts": MOUNTS,
        "startJupyter": {"type": "boolean"},
        "startSsh": {"type": "boolean"},
    },
    closed=True,
)
ACTION = record({"action": {"enum": ["start", "stop", "restart", "terminate"]}}, closed=True)
SECRET = record({"id": TEXT, "name": TEXT, "createdAt": TIME}, {"description": maybe(TEXT)}, closed=False)
CREATE_SECRET = record({"name": TEXT, "value": TEXT}, {"description": TEXT}, closed=True)
CHANGE_SECRET = record({}, {"value": TEXT, "description": maybe(TEXT)}, closed=True)

# method, path, what is sent, and what a success answers: status and body.
ROUTES: tuple[tuple[str, str, Schema | None, dict[int, Schema | None]], ...] = (
    ("GET", r"/v2/pods", None, {200: record({"pods": array(POD)}, {"pagination": PAGE})}),
    ("POST", r"/v2/pods", CREATE, {201: POD}),
    ("GET", r"/v2/pods/[^/]+", None, {200: POD}),
    ("DELETE", r"/v2/pods/[^/]+", None, {204: None}),
    ("POST", r"/v2/pods/[^/]+/action", ACTION, {200: POD, 204: None}),
    ("GET", r"/v2/catalog/gpus", None, {200: record({"gpus": array(GPU_TYPE)})}),
    ("GET", r"/v2/catalog/gpus/.+", None, {200: GPU_TYPE}),
    ("GET", r"/v2/billing/pods", None, {200: BILLS}),
    ("GET", r"/v2/account/secrets", None, {200: record({"secrets": array(SECRET)})}),
    ("POST", r"/v2/account/secrets", CREATE_SECRET, {201: SECRET}),
    ("PATCH", r"/v2/account/secrets/[^/]+", CHANGE_SECRET, {200: SECRET}),
    ("DELETE", r"/v2/account/secrets/[^/]+", None, {204: None}),
)


def mistakes_of_request(method: str, path: str, body: Any) -> list[str]:
    """Why RunPod would not take this."""
    for wanted, pattern, sent, _answers in ROUTES:
        if method == wanted and re.fullmatch(pattern, path):
            if sent is None:
                return [] if body is None else [f"{method} {path} takes no body"]
            return _mistakes(sent, body)
    return [f"there is no {method} {path}"]


def mistakes_of_answer(method: str, path: str, status: int, body: Any) -> list[str]:
    """Why RunPod would not answer this."""
    if status >= 400:
        return _mistakes(PROBLEM, body)
    for wanted, pattern, _sent, answers in ROUTES:
        if method == wanted and re.fullmatch(pattern, path):
            if status not in answers:
                return [f"{method} {path} never answers {status}"]
            schema = answers[status]
            return _mistakes(schema, body) if schema is not None else [] if body is None else ["it has a body"]
    return [f"there is no {method} {path}"]


def _mistakes(schema: Schema, body: Any) -> list[str]:
    found = jsonschema.Draft202012Validator(schema).iter_errors(body)
    return [f"{error.json_path}: {error.message}" for error in found]
