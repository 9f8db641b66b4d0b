# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the emulated Google Cloud has: zones, machine types, accelerators, what is left of them, and quota."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Size:
    """A machine type: with GPUs of its own, or such to which GPUs can be attached (N1), or neither."""

    name: str
    cpus: int
    memory_mib: int
    price_per_hour_usd: float
    accelerator: str | None = None
    accelerators: int = 0
    takes_accelerators: bool = False
    spot_only: bool = False
    local_ssds: int = 0


@dataclass(frozen=True)
class Zone:
    """left is how many GPUs of a kind can really be had there; what isn't listed is not sold there."""

    name: str
    left: dict[str, int] = field(default_factory=dict)
    local_ips: str = "10.128.0"

    @property
    def region(self) -> str:
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Quotas:
    """Of GPUs. What a region doesn't list is without a limit."""

    all_regions: int = 8
    regional: dict[tuple[str, str], int] = field(default_factory=dict)  # (region, accelerator)


GIB = 1024
SIZES = {
    size.name: size
    for size in (
        Size("e2-standard-2", 2, 8 * GIB, 0.067006),
        Size("e2-standard-4", 4, 16 * GIB, 0.134012),
        Size("n1-standard-4", 4, 15 * GIB, 0.189999, takes_accelerators=True),
        Size("n1-standard-8", 8, 30 * GIB, 0.379998, takes_accelerators=True),
        Size("g2-standard-4", 4, 16 * GIB, 0.706832, "nvidia-l4", 1),
        Size("g2-standard-8", 8, 32 * GIB, 0.853624, "nvidia-l4", 1),
        Size("g2-standard-24", 24, 96 * GIB, 2.000736, "nvidia-l4", 2),
        Size("a2-highgpu-1g", 12, 85 * GIB, 3.673385, "nvidia-tesla-a100", 1),
        # As in us-east5, where its price is known.
        Size("a2-ultragpu-1g", 12, 170 * GIB, 5.52382, "nvidia-a100-80gb", 1, local_ssds=1),
        Size("a3-highgpu-1g", 26, 234 * GIB, 11.0, "nvidia-h100-80gb", 1, spot_only=True, local_ssds=2),
        Size("a3-highgpu-8g", 208, 1872 * GIB, 88.49, "nvidia-h100-80gb", 8, local_ssds=16),
    )
}
ACCELERATORS = {
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
    "nvidia-h100-80gb": "PREEMPTIBLE_NVIDIA_H100_GPUS",
}
ZONES = (
    # The first one lists L4 and has none left.
    Zone("us-central1-a", {"nvidia-l4": 0, "nvidia-tesla-t4": 4, "nvidia-tesla-a100": 8, "nvidia-a100-80gb": 2}),
    Zone("us-central1-b", {"nvidia-l4": 4, "nvidia-tesla-t4": 4}),
    Zone("us-central1-c", {"nvidia-l4": 8, "nvidia-a100-80gb": 2, "nvidia-h100-80gb": 16}),
    Zone("us-east4-a", {"nvidia-l4": 4, "nvidia-h100-80gb": 16}, "10.150.0"),
    Zone("europe-west4-b", {"nvidia-l4": 4, "nvidia-tesla-t4": 4}, "10.164.0"),
    # The first one lists this card and has none left.
    Zone("us-east5-a", {"nvidia-a100-80gb": 0}, "10.202.0"),
    Zone("us-east5-b", {"nvidia-a100-80gb": 2}, "10.202.0"),
)
QUOTAS = Quotas()


def sold_in(zone: Zone, size: Size) -> bool:
    return size.accelerator is None or size.accelerator in zone.left
