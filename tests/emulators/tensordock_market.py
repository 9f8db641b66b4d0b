# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be rented at TensorDock, and what is wrong with a wish for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SSH_PORT = 22
LEAST_STORAGE_GB, LONGEST_NAME = 100, 60
IMAGES = {"ubuntu2204", "ubuntu2404", "ubuntu2404_ml_everything", "ubuntu2404_ml_pytorch", "ubuntu2404_ml_tensorflow"}
MEMORY_STEPS_GB = {2, 4, 6, 8, 10, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 256, 512}
_ATTRIBUTES = {"name", "type", "image", "resources", "location_id", "hostnode_id", "useDedicatedIp", "port_forwards"}
_ATTRIBUTES |= {"ssh_key", "ssh_key_id", "cloud_init"}
_CLOUD_INIT = {"packages", "package_update", "package_upgrade", "write_files", "runcmd"}


@dataclass(frozen=True)
class Stock:
    """One kind of GPU at one location. Prices in USD per hour; None where the list leaves a price out."""

    v0_name: str
    price_per_hr: float
    really: int = 8  # how many there are; the list says max_count for ever
    max_count: int = 8
    per_vcpu_hr: float | None = 0.003
    own_address: bool = True
    forwards: bool = True
    max_vcpus: int = 64
    max_ram_gb: int = 512


@dataclass(frozen=True)
class Place:
    """Several hosts in one city."""

    number: int
    city: str
    state: str
    country: str
    tier: int
    stock: tuple[Stock, ...]

    @property
    def id(self) -> str:
        return f"10c00000-0000-4000-8000-{self.number:012x}"


PLACES = (
    Place(
        1,
        "Chubbuck",
        "Idaho",
        "United States",
        3,
        (
            Stock("a40-pcie-48gb", 0.40),
            Stock("geforcertx4090-pcie-24gb", 0.35),
            Stock("h100-sxm5-80gb", 2.25, max_vcpus=5, max_ram_gb=50),
            Stock("quadrop9999-pcie-1gb", 0.01),  # nobody knows it
        ),
    ),
    Place(
        2,
        "Oslo",
        "Oslo",
        "Norway",
        4,
        (
            Stock("a40-pcie-48gb", 0.42, own_address=False),
            Stock("a100-pcie-80gb", 1.10, per_vcpu_hr=None),
            Stock("rtxa6000-pcie-48gb", 0.44, own_address=False, forwards=False),
        ),
    ),
    # Listed, and not there.
    Place(3, "Delta", "British Columbia", "Canada", 0, (Stock("l40s-pcie-48gb", 0.55, really=0),)),
    Place(4, "Marlboro", "New Jersey", "United States", 2, (Stock("l40s-pcie-48gb", 0.60),)),
    Place(5, "Joplin", "Missouri", "United States", 1, (Stock("geforcertx3090-pcie-24gb", 0.18, 500, 8),)),
)


class Refused(Exception):
    """An answer that says no; its own status may stand in the body of a 200."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(str(content))
        self.status, self.content = status, content


def inside_200(error: str, status: int = 400) -> Refused:
    return Refused(200, {"status": status, "error": error})


def shown(place: Place) -> dict[str, Any]:
    return {
        "id": place.id,
        "city": place.city,
        "stateprovince": place.state,
        "country": place.country,
        "tier": place.tier,
        "gpus": [_gpu(stock) for stock in place.stock],
    }


def _gpu(stock: Stock) -> dict[str, Any]:
    return {
        "v0Name": stock.v0_name,
        "displayName": stock.v0_name.upper(),
        "max_count": stock.max_count,
        "price_per_hr": stock.price_per_hr,
        "resources": {"max_vcpus": stock.max_vcpus, "max_ram_gb": stock.max_ram_gb, "max_storage_gb": 2000},
        "pricing": {"per_vcpu_hr": stock.per_vcpu_hr, "per_gb_ram_hr": 0.002, "per_gb_storage_hr": 0.00005},
        "network_features": {
            "dedicated_ip_available": stock.own_address,
            "port_forwarding_available": stock.forwards,
            "network_storage_available": False,
        },
    }


def storage_price(storage_gb: int) -> float:
    return 0.00005 * storage_gb


def price(stock: Stock, resources: dict[str, Any], count: int) -> float:
    parts = (stock.per_vcpu_hr or 0.003) * resources["vcpu_count"] + 0.002 * resources["ram_gb"]
    return float(round(stock.price_per_hr * count + parts + storage_price(resources["storage_gb"]), 6))


def check(wish: Any, strict: bool) -> dict[str, Any]:
    """The attributes of a wish for a machine; strict: what it doesn't know is wrong, else it is left alone."""
    data = wish.get("data") if isinstance(wish, dict) else None
    wanted = data.get("attributes") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(wanted, dict) or data.get("type") != "virtualmachine":
        raise Refused(400, [_issue("Required", "data", "attributes")])
    issues = [*_wrong(wanted), *(_unknown(wanted) if strict else ())]
    if issues:
        raise Refused(400, issues)
    forwarded = [one.get("internal_port") for one in wanted.get("port_forwards") or ()]
    if not wanted.get("useDedicatedIp") and SSH_PORT not in forwarded:
        raise Refused(400, {"status": 400, "error": "SSH port (22) must be forwarded for Ubuntu VMs"})
    return wanted


def _wrong(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    resources = wanted.get("resources") or {}
    gpus = resources.get("gpus")
    tests = {
        "name": isinstance(wanted.get("name"), str) and 0 < len(wanted["name"]) <= LONGEST_NAME,
        "type": wanted.get("type") == "virtualmachine",
        "image": wanted.get("image") in IMAGES,
        "location_id": ("location_id" in wanted) != ("hostnode_id" in wanted),
        "ssh_key": ("ssh_key" in wanted) != ("ssh_key_id" in wanted),
        "cloud_init": isinstance(wanted.get("cloud_init", {}), dict),
        "resources.vcpu_count": _whole(resources.get("vcpu_count")) and resources["vcpu_count"] % 2 == 0,
        "resources.ram_gb": resources.get("ram_gb") in MEMORY_STEPS_GB,
        "resources.storage_gb": _whole(resources.get("storage_gb")) and resources["storage_gb"] >= LEAST_STORAGE_GB,
        "resources.gpus": isinstance(gpus, dict) and len(gpus) == 1 and all("count" in one for one in gpus.values()),
    }
    return [_issue("Invalid input", *path.split(".")) for path, right in tests.items() if not right]


def _unknown(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    more = [_issue("Unrecognized key", name) for name in wanted if name not in _ATTRIBUTES]
    more += [
        _issue("Unrecognized key", "cloud_init", one) for one in wanted.get("cloud_init", {}) if one not in _CLOUD_INIT
    ]
    files = wanted.get("cloud_init", {}).get("write_files", ())
    return more + [_issue("Unrecognized key", "write_files", "encoding") for one in files if "encoding" in one]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _issue(message: str, *path: str) -> dict[str, Any]:
    return {"code": "custom", "message": message, "path": ["data", "attributes", *path]}
