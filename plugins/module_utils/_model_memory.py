# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How much of a GPU's memory a model takes: its part of the weights, and the cache that a context needs. Pure.

Every number is the least that it can be: what is refused for it can't run. Bytes inside, MiB outside.
"""

from __future__ import annotations

from ansible_collections.gpuops.fleet.plugins.module_utils import _model_engines
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import MIB, Memory, Model, Wish

_BLOCK_TOKENS = 16  # vLLM hands out the cache in blocks of so many


def memory_of(wish: Wish, model: Model) -> Memory:
    """For a model whose weights and layers are known."""
    usable = int((wish.gpu_memory_mib or _model_engines.memory_mib(wish.gpu)) * wish.gpu_memory_utilization)
    weights = -(-int(model.weights_bytes * _kept_share(wish, model)) // wish.tensor_parallel_size // MIB)
    overhead = _model_engines.LEAST_OVERHEAD_MIB
    tokens = wish.max_model_len or model.context_tokens
    window, each = _cache_bytes(wish, model)
    cache = wish.full_requests * (min(tokens, model.window_tokens) * window + tokens * each)
    left = (usable - weights - overhead) * MIB - wish.full_requests * min(tokens, model.window_tokens) * window
    largest = left // (wish.full_requests * each) // _BLOCK_TOKENS * _BLOCK_TOKENS if each else model.context_tokens
    if model.context_tokens:
        largest = min(largest, model.context_tokens)
    return Memory(usable, weights, -(-cache // MIB), overhead, max(0, int(largest)))


def _cache_bytes(wish: Wish, model: Model) -> tuple[int, int]:
    """Of one token on one GPU: (in the layers that keep a window, in those that keep all)"""
    size = _model_engines.KV_BYTES.get(wish.kv_cache_dtype)
    if size is None:
        size = 4 if wish.dtype in ("float", "float32") else 2
    # Heads are split over the GPUs, and copied where there are fewer of them than GPUs.
    heads = max(1, model.kv_heads // wish.tensor_parallel_size)
    elements = model.latent_dim or 2 * heads * model.head_dim
    return int(model.window_layers * elements * size), int(model.full_layers * elements * size)


def _kept_share(wish: Wish, model: Model) -> float:
    """What is left of the files' bytes once vLLM has quantised them itself, or blown them up."""
    if not model.quantization:
        row = _model_engines.BY_QUANTIZATION.get(wish.quantization)
        if row and row.online:
            return row.online
        if wish.dtype in ("float", "float32"):
            return 2
    return 1
