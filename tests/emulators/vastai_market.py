# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be rented at Vast.ai, and how one asks for it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIRST_OFFER = 31_000_000
HOURS_PER_MONTH = 730


@dataclass(frozen=True)
class Host:
    """A machine that somebody lets. Memory of cards and hosts in MB, prices in USD per hour."""

    machine_id: int
    gpu_name: str
    num_gpus: int
    gpu_ram: int
    dph_base: float
    geolocation: str | None
    verified: bool = True
    rented: bool = False  # by somebody else; shown all the same
    vms_enabled: bool = True
    direct_port_count: int = 99
    storage_cost: float = 0.15  # USD per GB and month
    disk_space: float = 800.0
    cpu_cores: int | None = 64
    cpu_ram: int = 515_000
    cuda_max_good: float = 13.0  # of its driver


HOSTS = (
    Host(101, "A100 SXM4", 1, 81920, 1.20, "Quebec, CA"),
    Host(102, "A100 SXM4", 1, 40960, 0.80, "Texas, US"),
    Host(103, "A100 SXM4", 2, 81251, 2.30, "Sweden, SE"),
    Host(104, "A100 PCIE", 1, 81920, 1.05, "California, US", rented=True),
    Host(105, "RTX 4090", 1, 24564, 0.35, "Czechia, CZ", vms_enabled=False),
    Host(106, "RTX 4090", 2, 24564, 0.68, "Norway, NO"),
    Host(107, "RTX 4090", 1, 24564, 0.29, "Poland, PL", direct_port_count=0),
    Host(108, "RTX 3090", 1, 24576, 0.14, ", US", verified=False),
    Host(109, "RTX 3090", 1, 24576, 0.20, None, cpu_cores=None),
    Host(110, "H100 SXM", 1, 81559, 2.10, "Iceland, IS"),
    Host(111, "L40S", 1, 46068, 0.70, "Bulgaria, BG"),
    Host(112, "A40", 1, 46068, 0.40, "Virginia, US"),
    Host(113, "Radeon VII", 1, 16368, 0.08, "Utah, US"),
    Host(114, "L4", 1, 23034, 0.30, "Oregon, US", cuda_max_good=12.8),
    Host(115, "L4", 1, 23034, 0.42, "Finland, FI"),
)

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, values: value in values,
    "notin": lambda value, values: value not in values,
}


class Refused(Exception):
    """An answer that says no; some do so with status 200, and one kind leaves a contract behind."""

    def __init__(self, status: int, error: str, msg: str, **more: Any) -> None:
        super().__init__(msg)
        self.status, self.content = status, {"success": False, "error": error, "msg": msg, **more}


def fits(row: dict[str, Any], conditions: dict[str, Any]) -> bool:
    for field, wanted in conditions.items():
        if field not in row:
            raise Refused(400, "invalid_args", f"unknown field {field}")
        for name, value in wanted.items():
            compare, mine = _OPERATORS.get(name), row[field]
            if compare is None:
                raise Refused(400, "invalid_args", f"unknown operator {name}")
            if mine is None and name in ("gt", "gte", "lt", "lte"):
                return False
            if not compare(mine, _like(mine, value)):
                return False
    return True


def _like(mine: Any, value: Any) -> Any:
    """The value as what it is compared with: the official client sends numbers as text."""
    if isinstance(value, list):
        return [_like(mine, one) for one in value]
    if isinstance(value, str) and isinstance(mine, (int, float)):
        return value.lower() == "true" if isinstance(mine, bool) else float(value)
    return value


def offer_row(host: Host, storage_gb: float, bid: bool) -> dict[str, Any]:
    storage = host.storage_cost * storage_gb / HOURS_PER_MONTH
    number = FIRST_OFFER + host.machine_id
    return {
        "id": number,
        "ask_contract_id": number,
        "machine_id": host.machine_id,
        "host_id": host.machine_id + 5000,
        "gpu_name": host.gpu_name,
        "num_gpus": host.num_gpus,
        "gpu_ram": host.gpu_ram,
        "gpu_total_ram": host.gpu_ram * host.num_gpus,
        "gpu_frac": 0.5,
        "cpu_cores": host.cpu_cores,
        "cpu_cores_effective": 16.0,
        "cpu_ghz": 2.4,
        "cpu_ram": host.cpu_ram,
        "disk_space": host.disk_space,
        "dph_base": host.dph_base,
        "dph_total": round(host.dph_base + storage, 6),
        "discounted_dph_total": round(host.dph_base + storage, 6),
        "min_bid": round(host.dph_base / 2, 4),
        "storage_cost": host.storage_cost,
        "storage_total_cost": storage,
        "search": {"gpuCostPerHour": host.dph_base, "diskHour": storage, "totalHour": host.dph_base + storage},
        "inet_up": 900.0,
        "inet_down": 1800.0,
        "inet_up_cost": 0.01,
        "inet_down_cost": 0.01,
        "reliability": 0.99,
        "reliability2": 0.99,
        "verified": host.verified,
        "verification": "verified" if host.verified else "unverified",
        "geolocation": host.geolocation,
        "cuda_max_good": host.cuda_max_good,
        "compute_cap": 890,
        "driver_version": "580.95.05" if host.cuda_max_good >= 13 else "570.86.15",
        "direct_port_count": host.direct_port_count,
        "static_ip": True,
        "public_ipaddr": "203.0.113.20",
        "duration": 30 * 86400.0,
        "pcie_bw": 24.0,
        "dlperf": 100.0,
        "dlperf_per_dphtotal": 100.0,
        "score": 100.0 / host.dph_base,
        "rentable": True,
        "rented": host.rented,
        "external": False,
        "is_bid": bid,
        "hosting_type": 1,
        "vms_enabled": host.vms_enabled,
    }
