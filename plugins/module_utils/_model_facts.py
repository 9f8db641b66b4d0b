# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""A model's sizes, from its own config.json and the index of its safetensors files. Pure: who calls has read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import Model

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
Config = Mapping[str, Any]

# Architectures whose weights are what the fields of the configuration say, and nothing else.
_PLAIN = ("gemma2", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe")
# Layers of these keep a state of fixed size, in ways that each model says otherwise.
_STATE_SPACE = ("attn_layer_period", "hybrid_override_pattern", "layers_block_type", "mamba_d_state", "ssm_state_size")
# What vLLM calls otherwise than the files do.
_OTHER_NAMES = {"auto-round": "inc", "compressed_tensors": "compressed-tensors"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_ONE_SCALE = ("awq", "gptq", "fp8")  # vLLM refuses to give a GPU a part of a piece of these with one scale


class FactsError(ValueError):
    """A file that doesn't say what such a file says; the text is one sentence."""


def from_config(name: str, config: object, weights_bytes: int, origin: str, gated: bool = False) -> Model:
    """Raises FactsError. weights_bytes: what the files have; 0: compute it where that can be done."""
    if not isinstance(config, Mapping):
        raise FactsError(f"The {CONFIG_FILE} of {name} is no JSON object, so it doesn't describe a model.")
    text = config.get("text_config")  # models that also see or hear keep the part that writes apart
    part: Config = text if isinstance(text, Mapping) else config
    heads = _number(name, part, "num_attention_heads", "n_head")
    hidden = _number(name, part, "hidden_size", "n_embd")
    full, window, tokens = _layers(name, part)
    quantization = config.get("quantization_config") or part.get("quantization_config")
    method, block = _quantization(quantization)
    return Model(
        name=name,
        weights_bytes=weights_bytes or estimate_weights(part, quantization),
        full_layers=full,
        window_layers=window,
        window_tokens=tokens,
        attention_heads=heads,
        kv_heads=_number(name, part, "num_key_value_heads", default=1 if part.get("multi_query") else heads),
        head_dim=_number(name, part, "head_dim", default=hidden // heads if heads else 0),
        latent_dim=_latent(name, part),
        context_tokens=_context(name, part),
        quantization=method,
        block=block,
        split_dim=_number(name, part, "moe_intermediate_size", "intermediate_size"),
        experts=any(_number(name, part, key) > 1 for key in _EXPERTS),
        gated=gated,
        origin=origin,
    )


def index_bytes(name: str, index: object) -> int:
    """Of all files that an index lists; raises FactsError."""
    size = index.get("metadata", {}).get("total_size") if isinstance(index, Mapping) else None
    if isinstance(size, float) and size.is_integer():
        size = int(size)  # some are written so
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise FactsError(
            f"The {INDEX_FILE} of {name} has no metadata.total_size, so the size of its weights is unknown."
        )
    return size


def _number(name: str, config: Config, *keys: str, default: int = 0) -> int:
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**48:
            raise FactsError(f"{key} in the {CONFIG_FILE} of {name} is {value!r}, which is no size.")
        return value
    return default


def _layers(name: str, config: Config) -> tuple[int, int, int]:
    """(layers that keep the whole context, layers that keep a window of it, tokens of that window)"""
    layers = _number(name, config, "num_hidden_layers", "n_layer")
    if any(key in config for key in _STATE_SPACE):
        return 0, 0, 0
    kinds = config.get("layer_types")
    window = _number(name, config, "sliding_window")
    if isinstance(kinds, list):
        sliding = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
        if sliding and not window:
            return layers, 0, 0
        return sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds) - sliding, sliding, window
    if not window or config.get("use_sliding_window") is False:
        return layers, 0, 0
    # Every so-manieth layer keeps all; the model says it, or its kind does.
    period = _number(name, config, "sliding_window_pattern", default=2 if config.get("model_type") == "gemma2" else 0)
    if config.get("model_type") == "gemma3_text" and not period:
        period = 6
    full = layers // period if period else 0
    return full, layers - full, window


def _latent(name: str, config: Config) -> int:
    rank = _number(name, config, "kv_lora_rank")
    return rank + _number(name, config, "qk_rope_head_dim") if rank else 0


def _context(name: str, config: Config) -> int:
    """What vLLM derives as the longest context."""
    tokens = _number(name, config, "max_position_embeddings", "n_positions", "seq_length")
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, Mapping):
        return tokens
    kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor")
    if kind in ("default", "llama3", "longrope", "mrope", "su", None) or not isinstance(factor, (int, float)):
        return tokens
    original = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
    return int((original if isinstance(original, int) else tokens) * factor)


def _quantization(said: object) -> tuple[str, int]:
    """(its method, how many weights in a row share a scale where that limits how they can be split, else 0)"""
    if not isinstance(said, Mapping) or not isinstance(said.get("quant_method"), str):
        return "", 0
    method = str(said["quant_method"]).lower()
    method = _OTHER_NAMES.get(method, method)
    if method == "modelopt" and str(said.get("quant_algo")).upper() == "NVFP4":
        method = "modelopt_fp4"
    blocks = said.get("weight_block_size")
    size = blocks[0] if isinstance(blocks, list) and blocks else said.get("group_size")
    return method, size if method in _ONE_SCALE and isinstance(size, int) and size > 0 else 0


def estimate_weights(config: Config, quantization: object = None) -> int:
    """Bytes of all weights, from the shapes alone; 0 for an architecture that isn't known to have just these."""
    if config.get("model_type") not in _PLAIN:
        return 0
    bytes_each = _bytes_of_a_weight(config, quantization)
    try:
        hidden, layers, heads = (
            int(config[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        dim = int(config.get("head_dim") or hidden // heads)
        kv_heads = int(config.get("num_key_value_heads") or heads)
        experts = int(config.get("num_experts") or config.get("num_local_experts") or 0)
        width = int((experts and config.get("moe_intermediate_size")) or config["intermediate_size"])
        vocabulary = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0
    if not bytes_each:
        return 0
    linear = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * width * max(experts, 1)
    rest = (4 if config["model_type"] == "gemma2" else 2) * hidden + hidden * experts
    if config["model_type"] == "qwen2":
        rest += dim * (heads + 2 * kv_heads)  # it has a bias where the others have none
    if config["model_type"].startswith("qwen3"):
        rest += 2 * dim
    tables = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(layers * (linear * bytes_each + 2 * rest) + 2 * (tables + hidden))


def _bytes_of_a_weight(config: Config, said: object) -> float:
    """With its share of scales and zero points; 0: not known."""
    if not isinstance(said, Mapping):
        return 4 if config.get("torch_dtype", config.get("dtype")) == "float32" else 2
    method, group = str(said.get("quant_method")).lower(), said.get("group_size")
    if method in ("awq", "gptq") and isinstance(said.get("bits"), int) and isinstance(group, int):
        bits = int(said["bits"])
        return bits / 8 + ((2 + bits / 8) / group if group > 0 else 0)
    return 1 if method in ("fp8", "fbgemm_fp8") else 0
