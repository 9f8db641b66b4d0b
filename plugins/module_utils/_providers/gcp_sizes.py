# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which machine types to ask Google for, by the GPU that is wanted: its whole list has tens of thousands.

What a type really has is what Google says of it; this only names candidates. GPUs come with their machine (A2, A3, A4,
G2, G4), or are attached to one (N1).
"""

from __future__ import annotations

from dataclasses import dataclass

GENERAL = "e2-standard-4"  # for a wish that names neither a GPU nor a machine type


@dataclass(frozen=True)
class Size:
    """attached is the accelerator that a create adds; None where the machine brings its own."""

    name: str
    gpu: str
    gpu_count: int
    attached: str | None = None
    spot_only: bool = False  # on demand it can't be had


def _with_own(gpu: str, counts: dict[str, int], *, spot_only: bool = False) -> tuple[Size, ...]:
    return tuple(Size(name, gpu, count, spot_only=spot_only) for name, count in counts.items())


def _with_attached(gpu: str, accelerator: str, hosts: tuple[tuple[str, int], ...]) -> tuple[Size, ...]:
    return tuple(Size(name, gpu, count, accelerator) for name, count in hosts)


_N1 = (("n1-standard-4", 1), ("n1-standard-8", 1), ("n1-standard-8", 2), ("n1-standard-16", 4))
_G2 = {f"g2-standard-{cpus}": 1 for cpus in (4, 8, 12, 16, 32)} | {
    "g2-standard-24": 2,
    "g2-standard-48": 4,
    "g2-standard-96": 8,
}
SIZES = (
    *_with_own("L4", _G2),
    *_with_own("A100_40GB", {f"a2-highgpu-{count}g": count for count in (1, 2, 4, 8)} | {"a2-megagpu-16g": 16}),
    *_with_own("A100_80GB", {f"a2-ultragpu-{count}g": count for count in (1, 2, 4, 8)}),
    *_with_own("H100_80GB", {f"a3-highgpu-{count}g": count for count in (1, 2, 4)}, spot_only=True),
    *_with_own("H100_80GB", {"a3-highgpu-8g": 8, "a3-megagpu-8g": 8}),
    *_with_own("H200", {"a3-ultragpu-8g": 8}, spot_only=True),
    *_with_own("B200", {"a4-highgpu-8g": 8}, spot_only=True),
    *_with_own("RTX_PRO_6000", {"g4-standard-48": 1, "g4-standard-96": 2, "g4-standard-192": 4, "g4-standard-384": 8}),
    *_with_attached("T4", "nvidia-tesla-t4", _N1),
    *_with_attached("V100_16GB", "nvidia-tesla-v100", (("n1-standard-8", 1), ("n1-standard-8", 2))),
    *_with_attached("P100", "nvidia-tesla-p100", (("n1-standard-8", 1), ("n1-standard-8", 2))),
    *_with_attached("P4", "nvidia-tesla-p4", _N1),
)


def candidates(gpu: str | None, gpu_count: int, instance_type: str | None, interruptible: bool) -> list[Size]:
    """The types that may fit; for a type that isn't in the table, what its user says about it."""
    if gpu is None:
        return [Size(instance_type or GENERAL, "", 0)]
    fitting = [
        size
        for size in SIZES
        if (size.gpu, size.gpu_count) == (gpu, gpu_count)
        and instance_type in (None, size.name)
        and (interruptible or not size.spot_only)
    ]
    known = instance_type is None or any(size.name == instance_type for size in SIZES)
    return fitting if known else [Size(str(instance_type), gpu, gpu_count)]


def needs_hyperdisk(machine_type: str) -> bool:
    """Newer families take no persistent disk."""
    family = machine_type.split("-")[0]
    return family in ("a4", "a4x", "g4", "n4", "c4", "c4a", "c4d", "n4a", "n4d")
