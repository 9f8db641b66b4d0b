# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Prices of Google Cloud: of machine types without their GPUs, and of GPUs. Neither disks nor addresses nor traffic.

Read from the catalog that SkyPilot makes of Google's own price list; as_of is the day on which that commit was read.
Machine types of one family cost the same for each CPU, so one row of it tells the others. Where the catalog has a price
on demand that can't be true (no more than as spot, or less than half of what other regions ask), it is unknown here.
N1, and so T4, V100, P100 and P4, have no rows yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.gpuops.fleet.plugins.module_utils._prices import Row, Table

AS_OF = "2026-11-22"
SOURCE = (
    "https://github.com/skypilot-org/skypilot-catalog/blob/006059e0f18acb1341e22a27751e9f80df6ba92f/"
    "catalogs/v8/gcp/vms.csv"
)
Regions = Mapping[str, "tuple[float | None, float | None]"]  # on demand, as spot

_E2_STANDARD_4: Regions = {
    "us-central1": (0.13402, 0.05879),
    "us-east1": (0.13402, 0.05879),
    "us-west1": (0.13402, 0.05879),
    "us-east4": (0.15094, 0.07266),
    "us-east5": (0.13402, 0.03027),
    "us-west2": (0.16098, 0.04543),
    "us-west4": (0.15094, 0.01573),
    "europe-west1": (0.14743, 0.05896),
    "europe-west2": (0.17267, 0.04746),
    "europe-west3": (0.17267, 0.06904),
    "europe-west4": (0.14754, 0.06142),
    "asia-northeast1": (0.17193, 0.07547),
    "asia-southeast1": (0.16533, 0.07255),
}
_G2_STANDARD_4: Regions = {
    "us-central1": (0.14679, 0.05874),
    "us-east1": (0.14679, 0.05874),
    "us-west1": (0.14679, 0.05874),
    "us-east4": (0.14631, 0.05851),
    "us-west4": (0.16533, 0.05125),
    "northamerica-northeast1": (0.16163, 0.05002),
    "northamerica-northeast2": (0.16163, 0.05374),
    "europe-west1": (0.16163, 0.05296),
    "europe-west2": (0.16714, 0.07741),
    "europe-west3": (0.173, 0.08393),
    "europe-west4": (0.15429, 0.0715),
    "europe-west6": (0.19231, 0.08814),
    "asia-east1": (0.16997, 0.0449),
    "asia-northeast1": (0.18851, 0.09422),
    "asia-northeast3": (0.18851, 0.03654),
    "asia-south1": (0.1528, 0.0611),
    "asia-southeast1": (0.1811, 0.07535),
    "me-central2": (0.23487, 0.08749),
}
_L4: Regions = {
    "us-central1": (0.56004, 0.2231),
    "us-east1": (0.56004, 0.2231),
    "us-west1": (0.56004, 0.2231),
    "us-east4": (0.558205, 0.2233),
    "us-west4": (0.630775, 0.2103),
    "northamerica-northeast1": (0.61666, 0.2521),
    "northamerica-northeast2": (0.61666, 0.2298),
    "europe-west1": (0.61666, 0.2406),
    "europe-west2": (0.637655, 0.2847),
    "europe-west3": (0.66085, 0.3201),
    "europe-west4": (0.58804, 0.2438),
    "europe-west6": (0.78344, 0.1982),
    "asia-east1": (0.64847, 0.2311),
    "asia-northeast1": (0.719203, 0.3564),
    "asia-northeast3": (0.719203, 0.1555),
    "asia-south1": (0.582975, 0.2321),
    "asia-southeast1": (0.69092, 0.2478),
    "me-central2": (0.896065, 0.3895),
}
_A2_HIGHGPU_1G: Regions = {
    "us-central1": (0.73948, 0.36975),
    "us-east1": (0.73948, 0.36975),
    "us-west1": (0.73948, 0.36975),
    "us-west3": (0.8882, 0.40554),
    "us-west4": (0.8328, 0.33306),
    "europe-west4": (0.81406, 0.31824),
    "asia-northeast1": (0.94803, 0.41783),
    "asia-northeast3": (0.94803, 0.34226),
    "asia-southeast1": (0.9122, 0.41954),
    "me-west1": (0.81342, 0.33516),
}
_A2_MEGAGPU_16G: Regions = {
    "us-central1": (8.79698, 4.39824),
    "europe-west4": (9.68403, 3.78624),
    "asia-southeast1": (10.85126, 4.99032),
}
_A100: Regions = {
    "us-central1": (2.933908, 1.4341),
    "us-east1": (2.933908, 1.4341),
    "us-west1": (2.933908, 1.4341),
    "us-west3": (3.436863, 1.5648),
    "us-west4": (3.10156, 1.2406),
    "me-west1": (3.2273, 1.058),
    "europe-west4": (None, 1.1691),
    "asia-northeast1": (None, 1.2307),
    "asia-northeast3": (None, 1.2406),
    "asia-southeast1": (None, 1.4261),
}
_A2_ULTRAGPU_1G: Regions = {
    "us-central1": (1.09962, 0.54978),
    "us-east4": (1.23833, 0.49613),
    "us-east5": (1.09962, 0.31193),
    "europe-west4": (1.2105, 0.47328),
    "asia-southeast1": (1.35641, 0.62379),
}
_A100_80GB: Regions = {
    "us-central1": (None, 1.964),
    "us-east4": (None, 1.7697),
    "us-east5": (4.4242, 1.3356),
    "europe-west4": (None, 2.1626),
    "asia-southeast1": (4.84607, 1.823),
}
_A3_HIGHGPU_1G: Regions = {
    "us-central1": (1.18251, 0.36117),
    "us-east4": (1.18251, 0.26996),
    "us-east5": (1.33186, 0.29078),
    "us-west1": (1.18251, 0.36117),
    "us-west4": (1.33186, 0.30467),
    "europe-west1": (1.30206, 0.29773),
    "europe-west3": (1.39536, 0.31954),
    "europe-west4": (1.24163, 0.28434),
    "asia-northeast1": (1.51858, 0.38002),
    "asia-south1": (1.22981, 0.28161),
    "asia-southeast1": (1.45886, 0.34879),
}
_H100: Regions = {
    "us-central1": (None, 2.9926),
    "us-east4": (9.79655, 2.2356),
    "us-east5": (11.03385, 2.4081),
    "us-west1": (None, 2.9926),
    "us-west4": (None, 2.5227),
    "europe-west1": (10.78698, 2.467),
    "europe-west3": (11.55993, 2.6437),
    "europe-west4": (12.73552, 2.9112),
    "asia-northeast1": (None, 3.5578),
    "asia-south1": (10.18841, 2.33),
    "asia-southeast1": (None, 3.0441),
}


def _rows(item: str, regions: Regions, times: float = 1) -> Iterator[Row]:
    """Of one item, which costs so many times what the regions have."""
    for region, prices in regions.items():
        for interruptible, price in zip((False, True), prices, strict=True):
            known = None if price is None else round(price * times, 6)
            yield Row(item, region, known, AS_OF, SOURCE, interruptible)


def _family(regions: Regions, sizes: Mapping[str, float]) -> Iterator[Row]:
    for item, times in sizes.items():
        yield from _rows(item, regions, times)


TABLE = Table(
    (
        *_family(_E2_STANDARD_4, {f"e2-standard-{cpus}": cpus / 4 for cpus in (2, 4, 8, 16, 32)}),
        *_family(_G2_STANDARD_4, {f"g2-standard-{cpus}": cpus / 4 for cpus in (4, 8, 12, 16, 24, 32, 48, 96)}),
        *_family(_A2_HIGHGPU_1G, {f"a2-highgpu-{gpus}g": gpus for gpus in (1, 2, 4, 8)}),
        *_rows("a2-megagpu-16g", _A2_MEGAGPU_16G),
        *_family(_A2_ULTRAGPU_1G, {f"a2-ultragpu-{gpus}g": gpus for gpus in (1, 2, 4, 8)}),
        *_family(_A3_HIGHGPU_1G, {f"a3-highgpu-{gpus}g": gpus for gpus in (1, 2, 4, 8)}),
        *_rows("nvidia-l4", _L4),
        *_rows("nvidia-tesla-a100", _A100),
        *_rows("nvidia-a100-80gb", _A100_80GB),
        *_rows("nvidia-h100-80gb", _H100),
    )
)
