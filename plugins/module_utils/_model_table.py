# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Models whose sizes are known here, so that most questions need no network. Pure data, with a source per row.

Written down on 2026-11-22 from each model's config.json and the index of its files, without the hub at hand: the unit
test computes the weights anew from the shapes in its own copy of the configurations, and compares. Where a row and the
hub differ, the hub is right; the module asks it when told to.
"""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import Model

_AS_OF = "2026-11-22"
_AWQ: dict[str, Any] = {"quantization": "awq", "block": 128}
_FP8: dict[str, Any] = {"quantization": "fp8", "block": 128}  # scales of squares of 128 weights
_WHOLE_FP8: dict[str, Any] = {"quantization": "compressed-tensors"}  # scales of rows or of all, which split anywhere
_EXPERTS: dict[str, Any] = {"experts": True}
_GATED: dict[str, Any] = {"gated": True}


def _row(family: str, name: str, weights_bytes: int, shape: tuple[int, int, int, int, int, int], **more: Any) -> Model:
    """shape: layers, heads, key-value heads, head size, feed-forward width (of an expert), longest context."""
    layers, heads, kv_heads, dim, width, context = shape
    values: dict[str, Any] = {
        "full_layers": layers - more.get("window_layers", 0),
        "source": f"https://huggingface.co/{name}",
        "as_of": _AS_OF,
    }
    return Model(
        name=name,
        family=family,
        weights_bytes=weights_bytes,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        split_dim=width,
        context_tokens=context,
        **(values | more),
    )


# Of each family first what its makers trained, then smaller formats: an equivalent is the first that fits.
MODELS = (
    _row("qwen3-0.6b", "Qwen/Qwen3-0.6B", 1503264768, (28, 16, 8, 128, 3072, 40960)),
    _row("qwen3-4b", "Qwen/Qwen3-4B", 8044936192, (36, 32, 8, 128, 9728, 40960)),
    _row("qwen3-8b", "Qwen/Qwen3-8B", 16381470720, (36, 32, 8, 128, 12288, 40960)),
    _row("qwen3-8b", "Qwen/Qwen3-8B-FP8", 9435703296, (36, 32, 8, 128, 12288, 40960), **_FP8),
    _row("qwen3-8b", "Qwen/Qwen3-8B-AWQ", 6098479104, (36, 32, 8, 128, 12288, 40960), **_AWQ),
    _row("qwen3-14b", "Qwen/Qwen3-14B", 29536614400, (40, 40, 8, 128, 17408, 40960)),
    _row("qwen3-14b", "Qwen/Qwen3-14B-AWQ", 9976576000, (40, 40, 8, 128, 17408, 40960), **_AWQ),
    _row("qwen3-32b", "Qwen/Qwen3-32B", 65524246528, (64, 64, 8, 128, 25600, 40960)),
    _row("qwen3-32b", "Qwen/Qwen3-32B-FP8", 34318624768, (64, 64, 8, 128, 25600, 40960), **_FP8),
    _row("qwen3-32b", "Qwen/Qwen3-32B-AWQ", 19325298688, (64, 64, 8, 128, 25600, 40960), **_AWQ),
    _row("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", 61064245248, (48, 32, 4, 128, 768, 40960), **_EXPERTS),
    _row("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B-FP8", 31167246336, (48, 32, 4, 128, 768, 40960), **_FP8, **_EXPERTS),
    _row("qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B", 470187269120, (94, 64, 4, 128, 1536, 40960), **_EXPERTS),
    _row(
        "qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B-FP8", 236388375552, (94, 64, 4, 128, 1536, 40960), **_FP8, **_EXPERTS
    ),
    _row("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", 15231233024, (28, 28, 4, 128, 18944, 32768)),
    _row("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct-AWQ", 5570747392, (28, 28, 4, 128, 18944, 32768), **_AWQ),
    _row("qwen2.5-14b-instruct", "Qwen/Qwen2.5-14B-Instruct", 29540067328, (48, 40, 8, 128, 13824, 32768)),
    _row("qwen2.5-14b-instruct", "Qwen/Qwen2.5-14B-Instruct-AWQ", 9980028928, (48, 40, 8, 128, 13824, 32768), **_AWQ),
    _row("qwen2.5-32b-instruct", "Qwen/Qwen2.5-32B-Instruct", 65527752704, (64, 40, 8, 128, 27648, 32768)),
    _row("qwen2.5-32b-instruct", "Qwen/Qwen2.5-32B-Instruct-AWQ", 19328804864, (64, 40, 8, 128, 27648, 32768), **_AWQ),
    _row("qwen2.5-72b-instruct", "Qwen/Qwen2.5-72B-Instruct", 145412407296, (80, 64, 8, 128, 29568, 32768)),
    # Its makers widened it from 29568, so that 128 weights with one scale stay together on up to 8 GPUs.
    _row("qwen2.5-72b-instruct", "Qwen/Qwen2.5-72B-Instruct-AWQ", 41595518976, (80, 64, 8, 128, 29696, 32768), **_AWQ),
    _row(
        "llama-3-8b-instruct",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        16060522496,
        (32, 32, 8, 128, 14336, 8192),
        **_GATED,
    ),
    _row(
        "llama-3.1-8b-instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        16060522496,
        (32, 32, 8, 128, 14336, 131072),
        **_GATED,
    ),
    _row(
        "llama-3.1-8b-instruct",
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8",
        9081200640,
        (32, 32, 8, 128, 14336, 131072),
        **_WHOLE_FP8,
    ),
    _row(
        "llama-3.1-8b-instruct",
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        5727854592,
        (32, 32, 8, 128, 14336, 131072),
        **_AWQ,
    ),
    _row(
        "llama-3.1-70b-instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        141107412992,
        (80, 64, 8, 128, 28672, 131072),
        **_GATED,
    ),
    _row(
        "llama-3.1-70b-instruct",
        "hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4",
        39767785472,
        (80, 64, 8, 128, 28672, 131072),
        **_AWQ,
    ),
    _row(
        "llama-3.3-70b-instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        141107412992,
        (80, 64, 8, 128, 28672, 131072),
        **_GATED,
    ),
    _row(
        "llama-3.1-405b-instruct",
        "meta-llama/Llama-3.1-405B-Instruct",
        811706777600,
        (126, 128, 8, 128, 53248, 131072),
        **_GATED,
    ),
    _row(
        "llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", 2471628800, (16, 32, 8, 64, 8192, 131072), **_GATED
    ),
    _row(
        "llama-3.2-3b-instruct",
        "meta-llama/Llama-3.2-3B-Instruct",
        6425499648,
        (28, 24, 8, 128, 8192, 131072),
        **_GATED,
    ),
    _row("mistral-7b-instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2", 14483464192, (32, 32, 8, 128, 14336, 32768)),
    _row(
        "mistral-7b-instruct-v0.2",
        "TheBloke/Mistral-7B-Instruct-v0.2-AWQ",
        4150796288,
        (32, 32, 8, 128, 14336, 32768),
        **_AWQ,
    ),
    _row("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3", 14496047104, (32, 32, 8, 128, 14336, 32768)),
    _row(
        "mixtral-8x7b-instruct-v0.1",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        93405585408,
        (32, 32, 8, 128, 14336, 32768),
        **_EXPERTS,
    ),
    _row(
        "gemma-2-9b-it",
        "google/gemma-2-9b-it",
        18483411968,
        (42, 16, 8, 256, 14336, 8192),
        window_layers=21,
        window_tokens=4096,
        gated=True,
    ),
    _row("phi-4", "microsoft/phi-4", 29319014400, (40, 40, 10, 128, 17920, 16384)),
    # "OpenAI's model card lists a 12.8 GiB checkpoint", and 60.8 GiB for the larger one.
    _row(
        "gpt-oss-20b",
        "openai/gpt-oss-20b",
        13761264768,
        (24, 64, 8, 64, 2880, 131072),
        window_layers=12,
        window_tokens=128,
        quantization="mxfp4",
        experts=True,
    ),
    _row(
        "gpt-oss-120b",
        "openai/gpt-oss-120b",
        65248815744,
        (36, 64, 8, 64, 2880, 131072),
        window_layers=18,
        window_tokens=128,
        quantization="mxfp4",
        experts=True,
    ),
    _row(
        "deepseek-r1-distill-qwen-14b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        29540067328,
        (48, 40, 8, 128, 13824, 131072),
    ),
    _row(
        "deepseek-r1-distill-llama-8b",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        16060522496,
        (32, 32, 8, 128, 14336, 131072),
    ),
    # It keeps 512 + 64 elements of a token in each layer, on every GPU.
    _row(
        "deepseek-r1",
        "deepseek-ai/DeepSeek-R1",
        688586727753,
        (61, 128, 128, 192, 2048, 163840),
        latent_dim=576,
        experts=True,
        **_FP8,
    ),
)
_BY_NAME = {model.name.casefold(): model for model in MODELS}

# What stands behind a model's own name to say its format.
_FORMATS = re.compile(
    r"(?:[-_.](?:gguf|awq|gptq|fp8|int[48]|nvfp4|mxfp4|bnb|4bit|8bit|w[48]a(?:8|16)|imat|i1|ud|(?:i?q\d|bf16|f16)[a-z0-9_]*))+$",
    re.IGNORECASE | re.ASCII,
)
_MAKERS = re.compile(r"^(?:meta|mistralai|qwen|google|microsoft|openai|deepseek-ai)[-_](?=[a-z])", re.ASCII)
_GGUF = re.compile(r"(?:^|[-_./])gguf(?:$|[-_./:])|:(?:UD-)?I?Q\d", re.IGNORECASE | re.ASCII)


def find(name: str) -> Model | None:
    return _BY_NAME.get(name.casefold())


def is_gguf(name: str) -> bool:
    """A repository of such files, or one such file in it."""
    return _GGUF.search(name) is not None


def family_of(name: str) -> str:
    """The name by which all formats of a model are one; of a model that isn't in the table its plain name."""
    known = find(name)
    if known:
        return known.family
    plain = name.split(":", 1)[0].rpartition("/")[2].casefold()
    plain = _FORMATS.sub("", plain.removesuffix(".gguf"))
    return _MAKERS.sub("", plain)


def variants(name: str) -> list[Model]:
    """The models of the table that are the same in another format, the best first."""
    family = family_of(name)
    return [model for model in MODELS if model.family == family and model.name.casefold() != name.casefold()]
