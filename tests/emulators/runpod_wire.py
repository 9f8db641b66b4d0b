# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RunPod's API takes and says: bodies, the catalog, refusals."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

Cloud = Literal["SECURE", "COMMUNITY"]


class GpuType(NamedTuple):
    """A line of the catalog: memory in GB, prices in USD per hour and GPU, stock by data centre, CUDA of its hosts."""

    id: str
    name: str
    memory: int
    secure: float | None
    community: float | None
    stock: dict[str, str]
    cuda: str = "13.0"

    def has_cuda(self, least: str | None) -> bool:
        return least is None or [*map(int, self.cuda.split("."))] >= [*map(int, least.split("."))]


GPUS = (
    GpuType("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 1.64, 1.19, {"US-KS-2": "LOW", "EU-RO-1": "MEDIUM"}),
    GpuType("NVIDIA A100-SXM4-80GB", "A100 SXM", 80, 1.89, None, {"US-MO-1": "HIGH"}),
    GpuType("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 2.99, 2.69, {"US-CA-2": "LOW"}),
    GpuType("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 0.69, 0.34, {"EU-RO-1": "HIGH", "US-IL-1": "HIGH"}),
    GpuType("NVIDIA GeForce RTX 3090", "RTX 3090", 24, 0.46, 0.22, {"EU-CZ-1": "NONE"}),
    GpuType("NVIDIA L40S", "L40S", 48, 0.86, None, {"US-KS-2": "MEDIUM"}),
    GpuType("NVIDIA A40", "A40", 48, 0.40, None, {"EU-SE-1": "LOW"}),
    GpuType("NVIDIA L4", "L4", 24, 0.43, 0.32, {"EU-RO-1": "HIGH"}, cuda="12.8"),
    GpuType("unknown", "unknown", 0, None, None, {}),
)


class Strict(BaseModel):
    """Every body of this API refuses fields that it doesn't know, and types that are not the right ones."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PersistentMount(Strict):
    size: int = Field(ge=10)
    path: str


class NetworkMount(Strict):
    volumeId: str
    path: str


class Mounts(Strict):
    persistent: PersistentMount | None = None
    network: list[NetworkMount] | None = Field(default=None, max_length=1)


class Gpu(Strict):
    id: str
    count: int | None = Field(default=None, ge=1)
    allowedCudaVersions: list[str] | None = None
    minCudaVersion: str | None = None
    minRamPerGpu: int | None = None
    minVcpuCountPerGpu: int | None = None


class CreatePod(Strict):
    name: str = Field(min_length=1, max_length=191)
    image: str
    gpu: Gpu
    cloud: Cloud = "SECURE"
    dataCenterIds: list[str] | None = None
    disk: int = Field(default=20, ge=1)
    mounts: Mounts = Mounts()
    ports: list[str] = []
    env: dict[str, str] = {}
    args: str | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    registry: str | None = None
    globalNetworking: bool = False
    startSsh: bool = False
    startJupyter: bool = False

    @model_validator(mode="after")
    def _one_way_to_start(self) -> CreatePod:
        if self.args is not None and (self.entrypoint is not None or self.cmd is not None):
            raise ValueError("args excludes entrypoint and cmd")
        return self


class Action(Strict):
    action: Literal["start", "stop", "restart", "terminate"]


class Problem(Exception):
    """An answer that says no."""

    def __init__(self, status: int, title: str, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.errors = status, title, detail, errors

    def answer(self) -> JSONResponse:
        body: dict[str, Any] = {"title": self.title, "status": self.status, "detail": self.detail}
        if self.errors:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, request_id(), media_type="application/problem+json")


def request_id() -> dict[str, str]:
    return {"x-request-id": secrets.token_hex(8)}


def _availability(stock: dict[str, str]) -> str:
    return max(stock.values(), key=["NONE", "LOW", "MEDIUM", "HIGH"].index, default="NONE")


def catalog_entry(row: GpuType, cloud: str | None) -> dict[str, Any]:
    identity, name, memory, secure, community, stock = row[:6]
    entry: dict[str, Any] = {
        "id": identity,
        "name": name,
        "pool": None,
        "manufacturer": "NVIDIA" if identity != "unknown" else "UNKNOWN",
        "memory": memory,
        "secure": secure is not None,
        "community": community is not None,
        "price": {"secure": secure or 0.0, "community": community or 0.0},
        "maxCount": {"secure": 8 if secure else 0, "community": 4 if community else 0},
    }
    if cloud:
        entry["availability"] = _availability(stock)
        entry["dataCenters"] = (
            [{"id": place, "name": place, "availability": level} for place, level in stock.items()]
            if cloud == "SECURE"
            else []
        )
    return entry


def time_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
