# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""On-demand prices of EC2 for Linux, shared tenancy: the machine alone, without its disk, address and traffic.

Read from the table that Karpenter generates from AWS's own price list ("generated at 2026-07-20T13:44:30Z for
us-east-1"). Prices differ between regions, and none of another region has a source here yet: they are unknown.
"""

from __future__ import annotations

from ansible_collections.gpuops.fleet.plugins.module_utils._prices import Row, Table

_KARPENTER = (
    "https://github.com/aws/karpenter-provider-aws/blob/6fc13b5236fd04fd16ff3f9dc7490d0813994099/"
    "pkg/providers/pricing/zz_generated.pricing_aws.go"
)

TABLE = Table(
    (
        Row("c7i.large", "us-east-1", 0.08925, "2026-07-20", _KARPENTER),
        Row("c7i.xlarge", "us-east-1", 0.1785, "2026-07-20", _KARPENTER),
        Row("c7i.2xlarge", "us-east-1", 0.357, "2026-07-20", _KARPENTER),
        Row("c7i.4xlarge", "us-east-1", 0.714, "2026-07-20", _KARPENTER),
        Row("c7i.8xlarge", "us-east-1", 1.428, "2026-07-20", _KARPENTER),
        Row("m7i.large", "us-east-1", 0.1008, "2026-07-20", _KARPENTER),
        Row("m7i.xlarge", "us-east-1", 0.2016, "2026-07-20", _KARPENTER),
        Row("m7i.2xlarge", "us-east-1", 0.4032, "2026-07-20", _KARPENTER),
        Row("m7i.4xlarge", "us-east-1", 0.8064, "2026-07-20", _KARPENTER),
        Row("m7i.8xlarge", "us-east-1", 1.6128, "2026-07-20", _KARPENTER),
        Row("r7i.large", "us-east-1", 0.1323, "2026-07-20", _KARPENTER),
        Row("r7i.xlarge", "us-east-1", 0.2646, "2026-07-20", _KARPENTER),
        Row("r7i.2xlarge", "us-east-1", 0.5292, "2026-07-20", _KARPENTER),
        Row("r7i.4xlarge", "us-east-1", 1.0584, "2026-07-20", _KARPENTER),
        Row("r7i.8xlarge", "us-east-1", 2.1168, "2026-07-20", _KARPENTER),
        Row("t3.medium", "us-east-1", 0.0416, "2026-07-20", _KARPENTER),
        Row("t3.large", "us-east-1", 0.0832, "2026-07-20", _KARPENTER),
        Row("t3.xlarge", "us-east-1", 0.1664, "2026-07-20", _KARPENTER),
        Row("t3.2xlarge", "us-east-1", 0.3328, "2026-07-20", _KARPENTER),
        Row("g4dn.xlarge", "us-east-1", 0.526, "2026-07-20", _KARPENTER),
        Row("g4dn.2xlarge", "us-east-1", 0.752, "2026-07-20", _KARPENTER),
        Row("g4dn.4xlarge", "us-east-1", 1.204, "2026-07-20", _KARPENTER),
        Row("g4dn.8xlarge", "us-east-1", 2.176, "2026-07-20", _KARPENTER),
        Row("g4dn.12xlarge", "us-east-1", 3.912, "2026-07-20", _KARPENTER),
        Row("g4dn.16xlarge", "us-east-1", 4.352, "2026-07-20", _KARPENTER),
        Row("g5.xlarge", "us-east-1", 1.006, "2026-07-20", _KARPENTER),
        Row("g5.2xlarge", "us-east-1", 1.212, "2026-07-20", _KARPENTER),
        Row("g5.4xlarge", "us-east-1", 1.624, "2026-07-20", _KARPENTER),
        Row("g5.8xlarge", "us-east-1", 2.448, "2026-07-20", _KARPENTER),
        Row("g5.12xlarge", "us-east-1", 5.672, "2026-07-20", _KARPENTER),
        Row("g5.16xlarge", "us-east-1", 4.096, "2026-07-20", _KARPENTER),
        Row("g5.24xlarge", "us-east-1", 8.144, "2026-07-20", _KARPENTER),
        Row("g5.48xlarge", "us-east-1", 16.288, "2026-07-20", _KARPENTER),
        Row("g6.xlarge", "us-east-1", 0.8048, "2026-07-20", _KARPENTER),
        Row("g6.2xlarge", "us-east-1", 0.9776, "2026-07-20", _KARPENTER),
        Row("g6.4xlarge", "us-east-1", 1.3232, "2026-07-20", _KARPENTER),
        Row("g6.8xlarge", "us-east-1", 2.0144, "2026-07-20", _KARPENTER),
        Row("g6.12xlarge", "us-east-1", 4.6016, "2026-07-20", _KARPENTER),
        Row("g6.16xlarge", "us-east-1", 3.3968, "2026-07-20", _KARPENTER),
        Row("g6.24xlarge", "us-east-1", 6.6752, "2026-07-20", _KARPENTER),
        Row("g6.48xlarge", "us-east-1", 13.3504, "2026-07-20", _KARPENTER),
        Row("g6e.xlarge", "us-east-1", 1.861, "2026-07-20", _KARPENTER),
        Row("g6e.2xlarge", "us-east-1", 2.24208, "2026-07-20", _KARPENTER),
        Row("g6e.4xlarge", "us-east-1", 3.00424, "2026-07-20", _KARPENTER),
        Row("g6e.8xlarge", "us-east-1", 4.52856, "2026-07-20", _KARPENTER),
        Row("g6e.12xlarge", "us-east-1", 10.49264, "2026-07-20", _KARPENTER),
        Row("g6e.16xlarge", "us-east-1", 7.57719, "2026-07-20", _KARPENTER),
        Row("g6e.24xlarge", "us-east-1", 15.06559, "2026-07-20", _KARPENTER),
        Row("g6e.48xlarge", "us-east-1", 30.13118, "2026-07-20", _KARPENTER),
        Row("g7.2xlarge", "us-east-1", 2.52, "2026-07-20", _KARPENTER),
        Row("g7.4xlarge", "us-east-1", 3.04208, "2026-07-20", _KARPENTER),
        Row("g7.8xlarge", "us-east-1", 4.08624, "2026-07-20", _KARPENTER),
        Row("g7.12xlarge", "us-east-1", 7.12832, "2026-07-20", _KARPENTER),
        Row("g7.24xlarge", "us-east-1", 14.25664, "2026-07-20", _KARPENTER),
        Row("g7.48xlarge", "us-east-1", 28.51328, "2026-07-20", _KARPENTER),
        Row("g7e.2xlarge", "us-east-1", 3.36312, "2026-07-20", _KARPENTER),
        Row("g7e.4xlarge", "us-east-1", 3.99816, "2026-07-20", _KARPENTER),
        Row("g7e.8xlarge", "us-east-1", 5.26824, "2026-07-20", _KARPENTER),
        Row("g7e.12xlarge", "us-east-1", 8.28608, "2026-07-20", _KARPENTER),
        Row("g7e.24xlarge", "us-east-1", 16.57216, "2026-07-20", _KARPENTER),
        Row("g7e.48xlarge", "us-east-1", 33.14432, "2026-07-20", _KARPENTER),
        Row("gr6.4xlarge", "us-east-1", 1.5392, "2026-07-20", _KARPENTER),
        Row("gr6.8xlarge", "us-east-1", 2.4464, "2026-07-20", _KARPENTER),
        Row("p4d.24xlarge", "us-east-1", 21.957642, "2026-07-20", _KARPENTER),
        Row("p4de.24xlarge", "us-east-1", 27.44705, "2026-07-20", _KARPENTER),
        Row("p5.4xlarge", "us-east-1", 6.88, "2026-07-20", _KARPENTER),
        Row("p5.48xlarge", "us-east-1", 55.04, "2026-07-20", _KARPENTER),
        Row("p5e.48xlarge", "us-east-1", None, "2026-07-20", _KARPENTER),
        Row("p5en.48xlarge", "us-east-1", 63.296, "2026-07-20", _KARPENTER),
        Row("p6-b200.48xlarge", "us-east-1", 113.9328, "2026-07-20", _KARPENTER),
        Row("p6-b300.48xlarge", "us-east-1", 142.416, "2026-07-20", _KARPENTER),
    )
)
