# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The one table of GPU names. A name that isn't in it is refused, never guessed."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A model of GPU; two memory sizes of one model are two entries."""

    name: str
    memory_mib: int
    aliases: tuple[str, ...] = ()


# Nominal memory. Cards report up to 7 % less (an L4 of 24 GiB says 22888 MiB), which the comparing code allows for.
_TABLE = (
    Gpu("A100_40GB", 40960, ("a100 pcie 40gb", "a100 sxm4 40gb", "nvidia a100 40gb")),
    Gpu("A100_80GB", 81920, ("a100 pcie 80gb", "a100 sxm4 80gb", "nvidia a100 80gb pcie", "nvidia a100 sxm4 80gb")),
    Gpu("H100_80GB", 81920, ("h100", "h100 pcie", "h100 sxm", "nvidia h100 pcie", "nvidia h100 80gb hbm3")),
    Gpu("H100_NVL", 96256, ("nvidia h100 nvl",)),
    Gpu("H200", 144384, ("nvidia h200", "h200 nvl")),
    Gpu("B200", 184320, ("nvidia b200",)),
    Gpu("L4", 24576, ("nvidia l4",)),
    Gpu("L40", 49152, ("nvidia l40",)),
    Gpu("L40S", 49152, ("nvidia l40s",)),
    Gpu("A10", 24576, ("nvidia a10",)),
    Gpu("A10G", 24576, ("nvidia a10g",)),
    Gpu("A30", 24576, ("nvidia a30",)),
    Gpu("A40", 49152, ("nvidia a40",)),
    Gpu("RTX_A4000", 16384, ("a4000", "nvidia rtx a4000")),
    Gpu("RTX_A5000", 24576, ("a5000", "nvidia rtx a5000")),
    Gpu("RTX_A6000", 49152, ("a6000", "nvidia rtx a6000")),
    Gpu("RTX_6000_ADA", 49152, ("rtx 6000ada", "nvidia rtx 6000 ada generation")),
    Gpu("RTX_3090", 24576, ("nvidia geforce rtx 3090", "geforce rtx 3090")),
    Gpu("RTX_4090", 24576, ("nvidia geforce rtx 4090", "geforce rtx 4090")),
    Gpu("RTX_5090", 32768, ("nvidia geforce rtx 5090", "geforce rtx 5090")),
    Gpu("T4", 16384, ("tesla t4", "nvidia tesla t4")),
    Gpu("V100_16GB", 16384, ("tesla v100 sxm2 16gb", "tesla v100 pcie 16gb")),
    Gpu("V100_32GB", 32768, ("tesla v100 sxm2 32gb", "tesla v100 pcie 32gb")),
)


def _normal(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.strip()).casefold()


_BY_NAME = {_normal(name): gpu for gpu in _TABLE for name in (gpu.name, *gpu.aliases)}


def names() -> list[str]:
    """All canonical names."""
    return [gpu.name for gpu in _TABLE]


def resolve(text: str) -> Gpu:
    """The GPU of that name or alias; raises ValueError that lists the nearest names for one we don't know."""
    wanted = _normal(text)
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    # An ambiguous short name ("A100") begins several canonical ones: those are what the user meant.
    near = [gpu.name for gpu in _TABLE if _normal(gpu.name).startswith(wanted + " ")]
    if not near:
        matches = difflib.get_close_matches(wanted, list(_BY_NAME), n=6, cutoff=0.5)
        near = list(dict.fromkeys(_BY_NAME[match].name for match in matches))
    raise ValueError(f"gpu '{text}' is not known; write one of: {', '.join(near[:4] or names())}.")
