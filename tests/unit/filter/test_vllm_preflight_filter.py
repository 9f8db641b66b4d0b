# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preflight of a model is told of an instance and of the server's further arguments."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.vllm_preflight import FilterModule, vllm_preflight
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import INSTANCE_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._model_preflight import examine
from ansible_collections.gpuops.fleet.plugins.module_utils._model_table import find
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import REFUSED, Wish

RENTED = {"name": "vllm-1", "providers": ["runpod"], "gpu": "A100_80GB"}


@pytest.mark.parametrize(
    ("instance", "disk_gib"),
    [
        (RENTED, INSTANCE_SPEC["disk_gib"]["default"]),
        (RENTED | {"disk_gib": 200}, 200),
        (RENTED | {"disk_gib": None}, INSTANCE_SPEC["disk_gib"]["default"]),
        ({"name": "gpu-1", "providers": ["ssh"], "gpu": "A40"}, 0),
    ],
)
def test_the_disk_is_the_one_that_is_rented(instance: dict[str, Any], disk_gib: int) -> None:
    assert FilterModule().filters()["vllm_preflight"](instance)["disk_gib"] == disk_gib


def test_a_large_model_is_refused_where_the_disk_is_left_to_the_default() -> None:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    told = vllm_preflight(RENTED | {"gpu_count": 4})
    wish = Wish(model, "A100_80GB", 4, tensor_parallel_size=4, max_model_len=8192, has_hub_token=True, **told)
    refused = examine(wish, find(model)).of(REFUSED)
    assert [check.name for check in refused] == ["disk"]
    assert "disk_gib is 50; the weights of meta-llama/Llama-3.3-70B-Instruct take" in refused[0].detail


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], (False, "auto")),
        (["--enable-expert-parallel", "--kv-cache-dtype", "fp8"], (True, "fp8")),
        (["--enable_expert_parallel", "--kv_cache_dtype=fp8_e5m2"], (True, "fp8_e5m2")),
        (["-ep", "--no-enable-expert-parallel"], (False, "auto")),
        (["--kv-cache-dtype=fp8", "--kv-cache-dtype", "auto"], (False, "auto")),
        (["--kv-cache-dtype", "of_a_newer_vllm", "--seed", "1"], (False, "auto")),
        (["--kv-cache-dtype"], (False, "auto")),
    ],
)
def test_the_further_arguments_count(arguments: list[str], told: tuple[bool, str]) -> None:
    found = vllm_preflight(RENTED, arguments)
    assert (found["expert_parallel"], found["kv_cache_dtype"]) == told


def test_a_context_that_only_fits_in_eight_bits_is_taken_with_that_argument() -> None:
    model = "Qwen/Qwen3-8B"
    plain, eight = (
        examine(Wish(model, "L4", max_model_len=40960, **vllm_preflight(RENTED, arguments)), find(model)).of(REFUSED)
        for arguments in ([], ["--kv-cache-dtype", "fp8"])
    )
    assert [check.name for check in plain] == ["memory"]
    assert eight == []
