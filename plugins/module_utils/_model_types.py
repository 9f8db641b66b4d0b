# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What is said of a model, of a wish to serve it, and of the answer whether that can run."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Model:
    """A model's sizes, from the table, from the hub or from a directory. 0 or empty: not known.

    full_layers keep keys and values of the whole context, window_layers those of the last window_tokens tokens; layers
    that keep no such cache (linear attention, state space) are in neither.
    """

    name: str
    weights_bytes: int = 0  # of all safetensors files that are loaded
    full_layers: int = 0
    window_layers: int = 0
    window_tokens: int = 0
    attention_heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    latent_dim: int = 0  # multi-head latent attention: elements that a layer keeps of a token, on every GPU
    context_tokens: int = 0  # what the model was made for
    quantization: str = ""  # quant_method of its configuration
    block: int = 0  # a piece of weights that shares one scale; no GPU may get a part of one
    split_dim: int = 0  # what tensor parallel splits in the (expert's) feed-forward network
    experts: bool = False  # its feed-forward networks are several, of which a token uses a few
    gated: bool = False
    family: str = ""  # the same for all files of one model, whatever their format
    origin: str = "table"
    source: str = ""
    as_of: str = ""


@dataclass(frozen=True)
class Wish:
    """What shall be served, on what. Named as the options of the module model_preflight."""

    model: str
    gpu: str  # canonical name
    gpu_count: int = 1
    gpu_memory_mib: int = 0  # as CUDA reports it; 0: from the table
    tensor_parallel_size: int = 1
    expert_parallel: bool = False  # whole experts to each GPU, instead of a part of each
    gpu_memory_utilization: float = 0.9
    max_model_len: int = 0  # tokens; 0: what the model was made for
    max_num_seqs: int = 0
    full_requests: int = 1  # so many requests of the whole context must fit at once
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str = ""
    image: str = "vllm/vllm-openai:v0.32.0"
    engine_version: str = ""  # where the image doesn't say it
    disk_gib: int = 0  # 0: not known
    disk_holds_image: bool = True
    driver_version: str = ""
    cuda_version: str = ""  # the newest that the driver knows
    has_hub_token: bool = False
    from_hub: bool = True  # weights are downloaded, not in a directory


PASSED, WARNED, REFUSED, UNKNOWN = "passed", "warned", "refused", "unknown"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: a sentence of what was found, and one of what to do unless it passed."""

    name: str
    result: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.detail} {self.fix}".strip()


@dataclass(frozen=True)
class Memory:
    """Of one GPU, in MiB: what vLLM may take of it, and what for."""

    usable_mib: int
    weights_mib: int
    kv_cache_mib: int  # for the wanted number of whole contexts
    overhead_mib: int  # below which nothing starts
    largest_context_tokens: int  # for that many requests
