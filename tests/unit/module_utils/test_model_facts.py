# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A configuration is read as vLLM reads it, and the table says what the configurations say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_facts import (
    FactsError,
    estimate_weights,
    from_config,
    index_bytes,
)

CONFIGS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parents[1] / "corpus" / "model_configs.yml").read_text())
PLAIN = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "max_position_embeddings": 8192}


def of(**more: Any) -> Any:
    return from_config("a/b", PLAIN | more, 1, "hub")


@pytest.mark.parametrize("known", CONFIGS, ids=lambda known: known["name"])
def test_a_row_of_the_table_is_what_the_configuration_says(known: dict[str, Any]) -> None:
    """Two ways to one number: the weights of a row were written down, these are computed from the shapes."""
    row = _model_table.find(known["name"])
    assert row is not None
    read = from_config(known["name"], known["config"], 0, "table", row.gated)
    assert read == replace(row, family="", source="", as_of="")


@pytest.mark.parametrize(
    "known", [known for known in CONFIGS if "total_size" in known], ids=lambda known: known["name"]
)
def test_weights_computed_from_the_shapes_are_those_of_the_index(known: dict[str, Any]) -> None:
    assert estimate_weights(known["config"]) == known["total_size"]


def test_most_of_the_table_is_proven_so() -> None:
    proven = {known["name"] for known in CONFIGS}
    assert {model.name for model in _model_table.MODELS} - proven == {
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8",
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
        "deepseek-ai/DeepSeek-R1",
    }


def test_a_model_that_sees_keeps_the_part_that_writes_apart() -> None:
    model = from_config("a/b", {"model_type": "gemma3", "text_config": PLAIN | {"num_key_value_heads": 4}}, 7, "hub")
    assert (model.full_layers, model.kv_heads, model.head_dim, model.weights_bytes) == (32, 4, 128, 7)


@pytest.mark.parametrize(
    ("more", "layers"),
    [
        ({}, (32, 0, 0)),
        ({"sliding_window": 4096}, (0, 32, 4096)),
        ({"sliding_window": 4096, "use_sliding_window": False}, (32, 0, 0)),
        ({"sliding_window": 4096, "model_type": "gemma2"}, (16, 16, 4096)),
        ({"sliding_window": 1024, "model_type": "gemma3_text"}, (5, 27, 1024)),
        ({"sliding_window": 512, "sliding_window_pattern": 8}, (4, 28, 512)),
        ({"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}, (16, 16, 128)),
        (
            {"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8},
            (8, 0, 0),
        ),
        ({"mamba_d_state": 128}, (0, 0, 0)),
    ],
)
def test_layers_are_counted_by_what_they_keep(more: dict[str, Any], layers: tuple[int, int, int]) -> None:
    model = of(**more)
    assert (model.full_layers, model.window_layers, model.window_tokens) == layers


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 8192),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"type": "linear", "factor": 2.0}, 16384),
        ({"type": "longrope", "short_factor": [1.0]}, 8192),
    ],
)
def test_the_longest_context_is_derived_as_vllm_does(scaling: Any, tokens: int) -> None:
    assert of(rope_scaling=scaling).context_tokens == tokens


def test_latent_attention_keeps_one_vector_of_a_token() -> None:
    model = of(kv_lora_rank=512, qk_rope_head_dim=64, n_routed_experts=256, moe_intermediate_size=2048)
    assert (model.latent_dim, model.experts, model.split_dim) == (576, True, 2048)


@pytest.mark.parametrize(
    ("said", "method", "block"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq", 0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 128),
        ({"quant_method": "fp8"}, "fp8", 0),
        ({"quant_method": "mxfp4"}, "mxfp4", 0),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "inc", 0),
        ({"quant_method": "compressed_tensors"}, "compressed-tensors", 0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt_fp4", 0),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt", 0),
        ({"bits": 4}, "", 0),
        ("awq", "", 0),
    ],
)
def test_a_quantisation_tells_how_it_can_be_split(said: Any, method: str, block: int) -> None:
    model = of(quantization_config=said)
    assert (model.quantization, model.block) == (method, block)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "is no JSON object"),
        (PLAIN | {"num_hidden_layers": "32"}, "num_hidden_layers in the config.json of a/b is '32', which is no size."),
        (PLAIN | {"head_dim": -1}, "head_dim in the config.json of a/b is -1, which is no size."),
        (PLAIN | {"num_attention_heads": True}, "num_attention_heads in the config.json of a/b is True"),
    ],
)
def test_a_configuration_that_says_no_size_is_refused(config: Any, said: str) -> None:
    with pytest.raises(FactsError, match=said.replace(".", r"\.")):
        from_config("a/b", config, 1, "hub")


@pytest.mark.parametrize("index", [None, [], {}, {"metadata": {"total_size": "1"}}, {"metadata": {"total_size": 0}}])
def test_an_index_without_a_size_is_refused(index: Any) -> None:
    with pytest.raises(FactsError, match=r"has no metadata\.total_size"):
        index_bytes("a/b", index)


def test_an_index_may_write_its_size_with_a_point() -> None:
    assert index_bytes("a/b", {"metadata": {"total_size": 16060522496.0}}) == 16060522496


def test_the_weights_of_an_unknown_architecture_are_not_guessed() -> None:
    assert estimate_weights(PLAIN | {"model_type": "falcon_h1", "vocab_size": 1, "intermediate_size": 1}) == 0
    assert estimate_weights(PLAIN | {"model_type": "llama"}) == 0
