# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of GPU names against what the providers were seen to write (noted in 2026-02 to 2026-11)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod_wire, vastai_wire

# Canonical name: nominal GiB, ids in RunPod's reference, (gpu_name, a memory that such a card reports) at Vast.ai.
SEEN: dict[str, tuple[int, list[str], list[tuple[str, int]]]] = {
    "A100_40GB": (40, [], [("A100 PCIE", 40960), ("A100 SXM4", 40536)]),
    "A100_80GB": (
        80,
        ["NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB"],
        [("A100 PCIE", 81920), ("A100 SXM4", 81251)],
    ),
    "H100_80GB": (80, ["NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3"], [("H100 PCIE", 81559), ("H100 SXM", 81559)]),
    "H100_NVL": (94, ["NVIDIA H100 NVL"], [("H100 NVL", 95830)]),
    "H200": (141, ["NVIDIA H200", "NVIDIA H200 NVL"], [("H200", 143771), ("H200 NVL", 143771)]),
    "B200": (180, ["NVIDIA B200"], [("B200", 183359)]),
    "B300": (288, ["NVIDIA B300 SXM6 AC"], [("B300", 275040)]),
    "L4": (24, ["NVIDIA L4"], [("L4", 22888), ("L4", 23034)]),
    "L40": (48, ["NVIDIA L40"], [("L40", 46068)]),
    "L40S": (48, ["NVIDIA L40S"], [("L40S", 45776), ("L40S", 46068)]),
    "A10": (24, [], [("A10", 23028)]),
    "A10G": (24, [], []),
    "A16": (16, [], [("A16", 15356)]),
    "A30": (24, ["NVIDIA A30"], [("A30", 24576)]),
    "A40": (48, ["NVIDIA A40"], [("A40", 46068)]),
    "RTX_A4000": (16, ["NVIDIA RTX A4000"], [("RTX A4000", 16376)]),
    "RTX_A4500": (20, ["NVIDIA RTX A4500", "NVIDIA  RTX A4500"], [("RTX A4500", 20470)]),
    "RTX_A5000": (24, ["NVIDIA RTX A5000"], [("RTX A5000", 24564)]),
    "RTX_A6000": (48, ["NVIDIA RTX A6000"], [("RTX A6000", 49140)]),
    "RTX_2000_ADA": (16, ["NVIDIA RTX 2000 Ada Generation"], [("RTX 2000Ada", 16380)]),
    "RTX_4000_ADA": (
        20,
        ["NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX 4000 SFF Ada Generation"],
        [("RTX 4000Ada", 20475)],
    ),
    "RTX_5000_ADA": (32, ["NVIDIA RTX 5000 Ada Generation"], [("RTX 5000Ada", 32760)]),
    "RTX_6000_ADA": (48, ["NVIDIA RTX 6000 Ada Generation"], [("RTX 6000Ada", 49140)]),
    "RTX_PRO_4500": (32, ["NVIDIA RTX PRO 4500 Blackwell"], []),
    "RTX_PRO_6000": (
        96,
        [
            "NVIDIA RTX PRO 6000 Blackwell Server Edition",
            "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
            "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        ],
        [("RTX PRO 6000 S", 97887), ("RTX PRO 6000 WS", 97887)],
    ),
    "RTX_3070": (8, ["NVIDIA GeForce RTX 3070"], [("RTX 3070", 8192)]),
    "RTX_3080": (10, ["NVIDIA GeForce RTX 3080"], [("RTX 3080", 10240)]),
    "RTX_3080_TI": (12, ["NVIDIA GeForce RTX 3080 Ti"], [("RTX 3080 Ti", 12288)]),
    "RTX_3090": (24, ["NVIDIA GeForce RTX 3090"], [("RTX 3090", 24576)]),
    "RTX_3090_TI": (24, ["NVIDIA GeForce RTX 3090 Ti"], [("RTX 3090 Ti", 24564)]),
    "RTX_4080": (16, ["NVIDIA GeForce RTX 4080"], [("RTX 4080", 16376)]),
    "RTX_4080_SUPER": (16, ["NVIDIA GeForce RTX 4080 SUPER"], [("RTX 4080S", 16376)]),
    "RTX_4090": (24, ["NVIDIA GeForce RTX 4090"], [("RTX 4090", 24564), ("RTX_4090", 24576)]),
    "RTX_4090D": (24, [], [("RTX 4090D", 24564)]),
    "RTX_5060_TI_8GB": (8, [], [("RTX 5060 Ti", 8151)]),
    "RTX_5060_TI_16GB": (16, [], [("RTX 5060 Ti", 16311)]),
    "RTX_5070_TI": (16, [], [("RTX 5070 Ti", 16303)]),
    "RTX_5080": (16, ["NVIDIA GeForce RTX 5080"], [("RTX 5080", 16303)]),
    "RTX_5090": (32, ["NVIDIA GeForce RTX 5090"], [("RTX 5090", 32607)]),
    "T4": (16, [], [("Tesla T4", 15360)]),
    "T4G": (16, [], []),
    "V100_16GB": (16, ["Tesla V100-PCIE-16GB", "Tesla V100-SXM2-16GB"], [("Tesla V100", 16384)]),
    "V100_32GB": (32, ["Tesla V100-SXM2-32GB"], [("Tesla V100", 32510)]),
    "P100": (16, [], [("Tesla P100", 16280)]),
    "P4": (8, [], [("Tesla P4", 7680)]),
    "K80": (12, [], [("Tesla K80", 11441)]),
    "MI300X": (192, ["AMD Instinct MI300X OAM"], []),
}
# Names of other providers and of nvidia-smi that mean one model.
OTHERS = [
    ("a100-pcie-40gb", "A100_40GB"),
    ("nvidia-tesla-a100", "A100_40GB"),
    ("NVIDIA A100-SXM4-40GB", "A100_40GB"),
    ("a100-80gb", "A100_80GB"),
    ("a100-sxm4-80gb", "A100_80GB"),
    ("nvidia-a100-80gb", "A100_80GB"),
    ("h100-sxm5-80gb", "H100_80GB"),
    ("nvidia-h100-mega-80gb", "H100_80GB"),
    ("nvidia-h200-141gb", "H200"),
    ("l40s-pcie-48gb", "L40S"),
    ("rtxa6000-pcie-48gb", "RTX_A6000"),
    ("rtx6000ada-pcie-48gb", "RTX_6000_ADA"),
    ("rtx4000sffada-pcie-20gb", "RTX_4000_ADA"),
    ("geforcertx4090-pcie-24gb", "RTX_4090"),
    ("v100-sxm2-32gb", "V100_32GB"),
    ("nvidia-tesla-t4", "T4"),
    ("RTX PRO Server 6000", "RTX_PRO_6000"),
    ("nvidia-rtx-pro-6000", "RTX_PRO_6000"),
    ("T4g", "T4G"),
    ("rtx 4090", "RTX_4090"),
    ("A5000", "RTX_A5000"),
    ("RTX 5000 Ada", "RTX_5000_ADA"),  # not the same card as the one above
]


def test_the_table_has_what_was_seen_and_nothing_else() -> None:
    assert {name: gib for name, (gib, _runpod, _vastai) in SEEN.items()} == {
        gpu.name: gpu.memory_mib / 1024 for gpu in _gpus._TABLE
    }


@pytest.mark.parametrize(("identity", "name"), [(one, name) for name, row in SEEN.items() for one in row[1]])
def test_ids_of_runpods_catalog(identity: str, name: str) -> None:
    assert _gpus.resolve(identity).name == name
    assert runpod_wire.canonical({"id": identity, "name": "something new", "memory": SEEN[name][0]}) == name


@pytest.mark.parametrize(
    ("written", "memory_mib", "name"), [(*one, name) for name, row in SEEN.items() for one in row[2]]
)
def test_names_and_memory_of_vastais_cards(written: str, memory_mib: int, name: str) -> None:
    assert _gpus.identify(written, memory_mib) == name
    assert written.replace("_", " ") in vastai_wire.spellings(name)


# v0Name in TensorDock's list of locations.
TENSORDOCK = [
    ("a100-pcie-40gb", "A100_40GB"),
    ("a100-pcie-80gb", "A100_80GB"),
    ("a100-sxm4-80gb", "A100_80GB"),
    ("h100-sxm5-80gb", "H100_80GB"),
    ("l4-pcie-24gb", "L4"),
    ("l40-pcie-48gb", "L40"),
    ("l40s-pcie-48gb", "L40S"),
    ("a40-pcie-48gb", "A40"),
    ("rtxa6000-pcie-48gb", "RTX_A6000"),
    ("rtxa5000-pcie-24gb", "RTX_A5000"),
    ("rtxa4500-pcie-20gb", "RTX_A4500"),
    ("rtxa4000-pcie-16gb", "RTX_A4000"),
    ("rtx6000ada-pcie-48gb", "RTX_6000_ADA"),
    ("rtx5000ada-pcie-32gb", "RTX_5000_ADA"),
    ("rtx4000ada-pcie-20gb", "RTX_4000_ADA"),
    ("rtx4000sffada-pcie-20gb", "RTX_4000_ADA"),
    ("geforcertx5090-pcie-32gb", "RTX_5090"),
    ("geforcertx4090-pcie-24gb", "RTX_4090"),
    ("geforcertx4080-pcie-16gb", "RTX_4080"),
    ("geforcertx3090-pcie-24gb", "RTX_3090"),
    ("geforcertx3080-pcie-10gb", "RTX_3080"),
    ("geforcertx3080ti-pcie-12gb", "RTX_3080_TI"),
    ("geforcertx3070-pcie-8gb", "RTX_3070"),
    ("v100-pcie-16gb", "V100_16GB"),
    ("v100-sxm2-16gb", "V100_16GB"),
    ("v100-sxm2-32gb", "V100_32GB"),
    ("teslap100-pcie-16gb", "P100"),
    ("teslap4-pcie-8gb", "P4"),
]


@pytest.mark.parametrize(("written", "name"), TENSORDOCK)
def test_names_of_tensordocks_cards_need_no_memory(written: str, name: str) -> None:
    assert _gpus.identify(written) == name


@pytest.mark.parametrize(("written", "name"), OTHERS)
def test_names_by_others(written: str, name: str) -> None:
    assert _gpus.resolve(written).name == name


@pytest.mark.parametrize("name", sorted(SEEN))
def test_canonical_names_in_any_case_and_with_any_separator(name: str) -> None:
    for text in (name, name.lower(), name.replace("_", " "), f" {name.replace('_', '-')} "):
        assert _gpus.resolve(text).name == name
    assert _gpus.identify(name, SEEN[name][0] * 1024 * 0.935) == name  # what a card of AWS reports at worst


@pytest.mark.parametrize(
    ("written", "memory_mib"),
    [
        ("A100 SXM4", 60000),
        ("A100 SXM4", None),
        ("RTX 4090", 49140),  # rebuilt cards with twice the memory are another model
        ("RTX 3080", 12288),
        ("L4", 20000),
        ("Radeon VII", 16368),
        ("NVIDIA RTX PRO 6000 Blackwell MIG 1g.24gb", 24576),  # a slice of a card is no card
        ("unknown", None),
        ("", None),
        (None, 1),
        (17, 1),
    ],
)
def test_a_card_that_can_not_be_told_is_none_of_them(written: Any, memory_mib: float | None) -> None:
    assert _gpus.identify(written, memory_mib) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A100", "is several models; write one of: A100_40GB, A100_80GB."),
        ("Tesla V100", "is several models; write one of: V100_16GB, V100_32GB."),
        ("RTX 5060 Ti", "is several models; write one of: RTX_5060_TI_8GB, RTX_5060_TI_16GB."),
        ("L40X", "is not known; write one of: L40"),
        ("RTX_4091", "is not known; write one of: RTX_4090"),
        ("H100_81GB", "is not known; write one of: H100_80GB"),
        ("RTX_PRO", "is not known; write one of: RTX_PRO_6000, RTX_PRO_4500."),
    ],
)
def test_what_can_not_be_told_is_refused_with_the_nearest(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"gpu '{text}' ") as caught:
        _gpus.resolve(text)
    assert words in str(caught.value)


def test_what_is_like_nothing_is_refused_with_all_names() -> None:
    with pytest.raises(ValueError, match="is not known") as caught:
        _gpus.resolve("zzzzzzzz")
    assert all(name in str(caught.value) for name in SEEN)


def test_models_of_one_name_can_be_told_by_their_memory() -> None:
    for models in _gpus._BY_NAME.values():
        sizes = sorted(gpu.memory_mib for gpu in models)
        assert all(small * 1.07 < large * 0.93 for small, large in itertools.pairwise(sizes))
