# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The one table of GPU names. A name that isn't in it is refused, never guessed.

A model that exists with several sizes of memory is several entries; where a provider writes them alike, only the memory
tells which one is meant. Form factors (PCIe, SXM, NVL) of one size are one entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A model of GPU, with its nominal memory, and how providers and people write it."""

    name: str
    memory_mib: int
    runpod: tuple[str, ...] = ()  # ids of its catalog
    vastai: tuple[str, ...] = ()  # gpu_name, as its search takes it
    aliases: tuple[str, ...] = ()  # by others, and in short


_GIB = 1024
_MEMORY_TOLERANCE = 0.07  # cards report less than they nominally have: an L4 of 24 GiB 22888 MiB, an L40S 45776

_TABLE = (
    Gpu(
        "A100_40GB",
        40 * _GIB,
        vastai=("A100 PCIE", "A100 SXM4"),
        aliases=(
            "A100",
            "NVIDIA A100",
            "A100-PCIE-40GB",
            "A100-SXM4-40GB",
            "NVIDIA A100-SXM4-40GB",
            "NVIDIA A100 40GB",
            "nvidia-tesla-a100",
        ),
    ),
    Gpu(
        "A100_80GB",
        80 * _GIB,
        runpod=("NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"),
        vastai=("A100 PCIE", "A100 SXM4"),
        aliases=("A100", "NVIDIA A100", "A100-PCIE-80GB", "A100-SXM4-80GB", "NVIDIA A100 80GB"),
    ),
    Gpu(
        "H100_80GB",
        80 * _GIB,
        runpod=("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3"),  # the second is the SXM part
        vastai=("H100 PCIE", "H100 SXM"),
        aliases=("H100", "H100-SXM5-80GB", "NVIDIA H100 80GB", "NVIDIA H100 MEGA 80GB"),
    ),
    Gpu("H100_NVL", 94 * _GIB, ("NVIDIA H100 NVL",), ("H100 NVL",)),
    Gpu("H200", 141 * _GIB, ("NVIDIA H200", "NVIDIA H200 NVL"), ("H200", "H200 NVL"), ("NVIDIA H200 141GB",)),
    Gpu("B200", 180 * _GIB, ("NVIDIA B200",), ("B200",)),
    Gpu("B300", 288 * _GIB, ("NVIDIA B300 SXM6 AC",), ("B300",), ("NVIDIA B300",)),
    Gpu("L4", 24 * _GIB, ("NVIDIA L4",), ("L4",), ("L4-PCIE-24GB",)),
    Gpu("L40", 48 * _GIB, ("NVIDIA L40",), ("L40",), ("L40-PCIE-48GB",)),
    Gpu("L40S", 48 * _GIB, ("NVIDIA L40S",), ("L40S",), ("L40S-PCIE-48GB",)),
    Gpu("A10", 24 * _GIB, (), ("A10",), ("NVIDIA A10",)),
    Gpu("A10G", 24 * _GIB, aliases=("NVIDIA A10G",)),
    Gpu("A16", 16 * _GIB, (), ("A16",), ("NVIDIA A16",)),
    Gpu("A30", 24 * _GIB, ("NVIDIA A30",), ("A30",)),
    Gpu("A40", 48 * _GIB, ("NVIDIA A40",), ("A40",), ("A40-PCIE-48GB",)),
    Gpu("RTX_A4000", 16 * _GIB, ("NVIDIA RTX A4000",), ("RTX A4000",), ("A4000", "RTXA4000-PCIE-16GB")),
    Gpu("RTX_A4500", 20 * _GIB, ("NVIDIA RTX A4500",), ("RTX A4500",), ("A4500", "RTXA4500-PCIE-20GB")),
    Gpu("RTX_A5000", 24 * _GIB, ("NVIDIA RTX A5000",), ("RTX A5000",), ("A5000", "RTXA5000-PCIE-24GB")),
    Gpu("RTX_A6000", 48 * _GIB, ("NVIDIA RTX A6000",), ("RTX A6000",), ("A6000", "RTXA6000-PCIE-48GB")),
    Gpu("RTX_2000_ADA", 16 * _GIB, ("NVIDIA RTX 2000 Ada Generation",), ("RTX 2000Ada",)),
    Gpu(
        "RTX_4000_ADA",
        20 * _GIB,
        ("NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX 4000 SFF Ada Generation"),
        ("RTX 4000Ada",),
        ("RTX4000Ada-PCIE-20GB", "RTX4000SFFAda-PCIE-20GB"),
    ),
    Gpu(
        "RTX_5000_ADA",
        32 * _GIB,
        ("NVIDIA RTX 5000 Ada Generation",),
        ("RTX 5000Ada",),
        ("RTX5000Ada-PCIE-32GB",),
    ),
    Gpu(
        "RTX_6000_ADA",
        48 * _GIB,
        ("NVIDIA RTX 6000 Ada Generation",),
        ("RTX 6000Ada",),
        ("RTX6000Ada-PCIE-48GB",),
    ),
    Gpu(
        "RTX_PRO_6000",
        96 * _GIB,
        (
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        ),
        ("RTX PRO 6000 S", "RTX PRO 6000 WS"),
        ("NVIDIA RTX PRO 6000", "RTX PRO Server 6000"),
    ),
    Gpu("RTX_PRO_4500", 32 * _GIB, ("NVIDIA RTX PRO 4500 Blackwell",)),
    Gpu("RTX_3070", 8 * _GIB, ("NVIDIA GeForce RTX 3070",), ("RTX 3070",), ("GeForceRTX3070-PCIE-8GB",)),
    Gpu("RTX_3080", 10 * _GIB, ("NVIDIA GeForce RTX 3080",), ("RTX 3080",), ("GeForceRTX3080-PCIE-10GB",)),
    Gpu("RTX_3080_TI", 12 * _GIB, ("NVIDIA GeForce RTX 3080 Ti",), ("RTX 3080 Ti",), ("GeForceRTX3080Ti-PCIE-12GB",)),
    Gpu("RTX_3090", 24 * _GIB, ("NVIDIA GeForce RTX 3090",), ("RTX 3090",), ("GeForceRTX3090-PCIE-24GB",)),
    Gpu("RTX_3090_TI", 24 * _GIB, ("NVIDIA GeForce RTX 3090 Ti",), ("RTX 3090 Ti",), ("GeForceRTX3090Ti-PCIE-24GB",)),
    Gpu("RTX_4080", 16 * _GIB, ("NVIDIA GeForce RTX 4080",), ("RTX 4080",), ("GeForceRTX4080-PCIE-16GB",)),
    Gpu(
        "RTX_4080_SUPER",
        16 * _GIB,
        ("NVIDIA GeForce RTX 4080 SUPER",),
        ("RTX 4080S",),
        ("GeForceRTX4080Super-PCIE-16GB",),
    ),
    Gpu("RTX_4090", 24 * _GIB, ("NVIDIA GeForce RTX 4090",), ("RTX 4090",), ("GeForceRTX4090-PCIE-24GB",)),
    Gpu("RTX_4090D", 24 * _GIB, (), ("RTX 4090D",), ("NVIDIA GeForce RTX 4090 D",)),
    Gpu("RTX_5060_TI_8GB", 8 * _GIB, (), ("RTX 5060 Ti",), ("NVIDIA GeForce RTX 5060 Ti",)),
    Gpu("RTX_5060_TI_16GB", 16 * _GIB, (), ("RTX 5060 Ti",), ("NVIDIA GeForce RTX 5060 Ti",)),
    Gpu("RTX_5070_TI", 16 * _GIB, (), ("RTX 5070 Ti",), ("NVIDIA GeForce RTX 5070 Ti",)),
    Gpu("RTX_5080", 16 * _GIB, ("NVIDIA GeForce RTX 5080",), ("RTX 5080",)),
    Gpu("RTX_5090", 32 * _GIB, ("NVIDIA GeForce RTX 5090",), ("RTX 5090",), ("GeForceRTX5090-PCIE-32GB",)),
    Gpu("T4", 16 * _GIB, (), ("Tesla T4",), ("NVIDIA Tesla T4", "NVIDIA T4")),
    Gpu("T4G", 16 * _GIB),
    Gpu(
        "V100_16GB",
        16 * _GIB,
        ("Tesla V100-PCIE-16GB", "Tesla V100-SXM2-16GB"),
        ("Tesla V100",),
        ("V100", "nvidia-tesla-v100", "V100-PCIE-16GB", "V100-SXM2-16GB"),
    ),
    Gpu(
        "V100_32GB",
        32 * _GIB,
        ("Tesla V100-SXM2-32GB",),
        ("Tesla V100",),
        ("V100", "V100-SXM2-32GB", "Tesla V100-PCIE-32GB"),
    ),
    Gpu("P100", 16 * _GIB, (), ("Tesla P100",), ("NVIDIA Tesla P100", "TeslaP100-PCIE-16GB")),
    Gpu("P4", 8 * _GIB, (), ("Tesla P4",), ("NVIDIA Tesla P4", "TeslaP4-PCIE-8GB")),
    Gpu("K80", 12 * _GIB, (), ("Tesla K80",), ("NVIDIA Tesla K80",)),
    Gpu("MI300X", 192 * _GIB, ("AMD Instinct MI300X OAM",)),
)


def _normal(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.strip()).casefold()


_BY_NAME: dict[str, list[Gpu]] = {}
for _gpu in _TABLE:
    for _spelling in dict.fromkeys(_normal(one) for one in (_gpu.name, *_gpu.runpod, *_gpu.vastai, *_gpu.aliases)):
        _BY_NAME.setdefault(_spelling, []).append(_gpu)


def names() -> list[str]:
    """All canonical names."""
    return [gpu.name for gpu in _TABLE]


def resolve(text: str) -> Gpu:
    """The GPU that a user means; raises ValueError that lists the nearest names for one that can't be told."""
    known = _BY_NAME.get(_normal(text), [])
    if len(known) == 1:
        return known[0]
    if known:
        raise ValueError(f"gpu '{text}' is several models; write one of: {', '.join(gpu.name for gpu in known)}.")
    raise ValueError(f"gpu '{text}' is not known; write one of: {', '.join(_near(_normal(text)) or names())}.")


def identify(text: object, memory_mib: float | None = None) -> str | None:
    """The canonical name of a card that a provider names so; its memory decides between models of one name.

    None for a card that isn't in the table, or has another memory than the one of that name: it is another card.
    """
    if not isinstance(text, str):
        return None
    known = _BY_NAME.get(_normal(text), [])
    if memory_mib is not None:
        known = [gpu for gpu in known if abs(memory_mib - gpu.memory_mib) <= _MEMORY_TOLERANCE * gpu.memory_mib]
    return known[0].name if len(known) == 1 else None


def _near(wanted: str) -> list[str]:
    """What a mistyped name may have meant: first what it begins, then what is spelled alike."""
    near = [gpu.name for gpu in _TABLE if _normal(gpu.name).startswith(wanted + " ")]
    if not near:
        import difflib  # only when something is wrong

        matches = difflib.get_close_matches(wanted, list(_BY_NAME), n=6, cutoff=0.5)
        near = list(dict.fromkeys(gpu.name for match in matches for gpu in _BY_NAME[match]))
    return near[:4]
