# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Sizes of EC2 that can be rented without being described first: x86 alone, and none with a part of a GPU.

Read from the labels that Karpenter generates from EC2's DescribeInstanceTypes, of 2026-07-11:
https://github.com/aws/karpenter-provider-aws/blob/692ccdd0629e488300821443f0fa0bc3c3e08047/website/content/en/docs/reference/instance-types.md
Left out is p3, whose V100 the driver of the default image does not know.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus


@dataclass(frozen=True)
class Size:
    """gpu_model and gpu_memory_mib are EC2's words for one card."""

    name: str
    cpu_count: int
    memory_mib: int
    gpu_model: str = ""
    gpu_memory_mib: int = 0
    gpu_count: int = 0
    general: bool = False  # taken for a wish that names neither a GPU nor a size

    @property
    def gpu(self) -> str | None:
        """The canonical name; None for a size without GPUs, and for a card that nobody here knows."""
        return _gpus.identify(self.gpu_model, self.gpu_memory_mib) if self.gpu_count else None


_GIB = 1024

SIZES = {
    size.name: size
    for size in (
        Size("c7i.large", 2, 4 * _GIB),
        Size("c7i.xlarge", 4, 8 * _GIB),
        Size("c7i.2xlarge", 8, 16 * _GIB),
        Size("c7i.4xlarge", 16, 32 * _GIB),
        Size("c7i.8xlarge", 32, 64 * _GIB),
        Size("m7i.large", 2, 8 * _GIB, general=True),
        Size("m7i.xlarge", 4, 16 * _GIB, general=True),
        Size("m7i.2xlarge", 8, 32 * _GIB, general=True),
        Size("m7i.4xlarge", 16, 64 * _GIB, general=True),
        Size("m7i.8xlarge", 32, 128 * _GIB, general=True),
        Size("r7i.large", 2, 16 * _GIB),
        Size("r7i.xlarge", 4, 32 * _GIB),
        Size("r7i.2xlarge", 8, 64 * _GIB),
        Size("r7i.4xlarge", 16, 128 * _GIB),
        Size("r7i.8xlarge", 32, 256 * _GIB),
        Size("t3.medium", 2, 4 * _GIB),
        Size("t3.large", 2, 8 * _GIB),
        Size("t3.xlarge", 4, 16 * _GIB),
        Size("t3.2xlarge", 8, 32 * _GIB),
        Size("g4dn.xlarge", 4, 16 * _GIB, "T4", 16384, 1),
        Size("g4dn.2xlarge", 8, 32 * _GIB, "T4", 16384, 1),
        Size("g4dn.4xlarge", 16, 64 * _GIB, "T4", 16384, 1),
        Size("g4dn.8xlarge", 32, 128 * _GIB, "T4", 16384, 1),
        Size("g4dn.12xlarge", 48, 192 * _GIB, "T4", 16384, 4),
        Size("g4dn.16xlarge", 64, 256 * _GIB, "T4", 16384, 1),
        Size("g5.xlarge", 4, 16 * _GIB, "A10G", 22888, 1),
        Size("g5.2xlarge", 8, 32 * _GIB, "A10G", 22888, 1),
        Size("g5.4xlarge", 16, 64 * _GIB, "A10G", 22888, 1),
        Size("g5.8xlarge", 32, 128 * _GIB, "A10G", 22888, 1),
        Size("g5.12xlarge", 48, 192 * _GIB, "A10G", 22888, 4),
        Size("g5.16xlarge", 64, 256 * _GIB, "A10G", 22888, 1),
        Size("g5.24xlarge", 96, 384 * _GIB, "A10G", 22888, 4),
        Size("g5.48xlarge", 192, 768 * _GIB, "A10G", 22888, 8),
        Size("g6.xlarge", 4, 16 * _GIB, "L4", 22888, 1),
        Size("g6.2xlarge", 8, 32 * _GIB, "L4", 22888, 1),
        Size("g6.4xlarge", 16, 64 * _GIB, "L4", 22888, 1),
        Size("g6.8xlarge", 32, 128 * _GIB, "L4", 22888, 1),
        Size("g6.12xlarge", 48, 192 * _GIB, "L4", 22888, 4),
        Size("g6.16xlarge", 64, 256 * _GIB, "L4", 22888, 1),
        Size("g6.24xlarge", 96, 384 * _GIB, "L4", 22888, 4),
        Size("g6.48xlarge", 192, 768 * _GIB, "L4", 22888, 8),
        Size("g6e.xlarge", 4, 32 * _GIB, "L40S", 45776, 1),
        Size("g6e.2xlarge", 8, 64 * _GIB, "L40S", 45776, 1),
        Size("g6e.4xlarge", 16, 128 * _GIB, "L40S", 45776, 1),
        Size("g6e.8xlarge", 32, 256 * _GIB, "L40S", 45776, 1),
        Size("g6e.12xlarge", 48, 384 * _GIB, "L40S", 45776, 4),
        Size("g6e.16xlarge", 64, 512 * _GIB, "L40S", 45776, 1),
        Size("g6e.24xlarge", 96, 768 * _GIB, "L40S", 45776, 4),
        Size("g6e.48xlarge", 192, 1536 * _GIB, "L40S", 45776, 8),
        Size("g7.2xlarge", 8, 32 * _GIB, "RTX PRO 4500", 32768, 1),
        Size("g7.4xlarge", 16, 64 * _GIB, "RTX PRO 4500", 32768, 1),
        Size("g7.8xlarge", 32, 128 * _GIB, "RTX PRO 4500", 32768, 1),
        Size("g7.12xlarge", 48, 192 * _GIB, "RTX PRO 4500", 32768, 2),
        Size("g7.24xlarge", 96, 384 * _GIB, "RTX PRO 4500", 32768, 4),
        Size("g7.48xlarge", 192, 768 * _GIB, "RTX PRO 4500", 32768, 8),
        Size("g7e.2xlarge", 8, 64 * _GIB, "RTX PRO Server 6000", 98304, 1),
        Size("g7e.4xlarge", 16, 128 * _GIB, "RTX PRO Server 6000", 98304, 1),
        Size("g7e.8xlarge", 32, 256 * _GIB, "RTX PRO Server 6000", 98304, 1),
        Size("g7e.12xlarge", 48, 512 * _GIB, "RTX PRO Server 6000", 98304, 2),
        Size("g7e.24xlarge", 96, 1024 * _GIB, "RTX PRO Server 6000", 98304, 4),
        Size("g7e.48xlarge", 192, 2048 * _GIB, "RTX PRO Server 6000", 98304, 8),
        Size("gr6.4xlarge", 16, 128 * _GIB, "L4", 22888, 1),
        Size("gr6.8xlarge", 32, 256 * _GIB, "L4", 22888, 1),
        Size("p4d.24xlarge", 96, 1152 * _GIB, "A100", 40960, 8),
        Size("p4de.24xlarge", 96, 1152 * _GIB, "A100", 81920, 8),
        Size("p5.4xlarge", 16, 256 * _GIB, "H100", 81920, 1),
        Size("p5.48xlarge", 192, 2048 * _GIB, "H100", 81920, 8),
        Size("p5e.48xlarge", 192, 2048 * _GIB, "H200", 144384, 8),
        Size("p5en.48xlarge", 192, 2048 * _GIB, "H200", 144384, 8),
        Size("p6-b200.48xlarge", 192, 2048 * _GIB, "B200", 183359, 8),
        Size("p6-b300.48xlarge", 192, 4096 * _GIB, "B300", 275040, 8),
    )
}
