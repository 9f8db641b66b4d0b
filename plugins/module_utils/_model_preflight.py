# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Would this model run on this GPU with this engine? A pure function of what is wanted and what is known.

Refused is only what can't run; what merely may not is a warning, and what nobody knows is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ansible_collections.gpuops.fleet.plugins.module_utils import _model_host, _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_engines import (
    BY_QUANTIZATION,
    CARDS,
    KV_BYTES,
    MEMORY_DOUBT,
    NEWEST_SEEN,
    NOT_NVIDIA,
    OLDER_CUDA,
    USUAL_OVERHEAD_MIB,
    Engine,
    engine_of,
    has_quantization,
    words,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._model_memory import memory_of
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import (
    MIB,
    PASSED,
    REFUSED,
    UNKNOWN,
    WARNED,
    Check,
    Memory,
    Model,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import (
    DTYPES,
    QUANTIZATIONS,
    SettingsError,
    check_model,
)


@dataclass(frozen=True)
class Verdict:
    """All that was looked at. memory is None while the sizes of the model or of the GPU are unknown."""

    checks: tuple[Check, ...]
    memory: Memory | None = None
    equivalents: tuple[str, ...] = ()

    def of(self, result: str) -> list[Check]:
        return [check for check in self.checks if check.result == result]


def check_wish(wish: Wish) -> None:
    """Numbers that no card, no disk and no context has: raises ValueError with one sentence."""
    for name, least, most in (
        ("gpu_count", 1, 64),
        ("gpu_memory_mib", 0, 2**24),
        ("tensor_parallel_size", 1, 64),
        ("max_model_len", 0, 100_000_000),
        ("max_num_seqs", 0, 65536),
        ("full_requests", 1, 65536),
        ("disk_gib", 0, 2**20),
    ):
        value = getattr(wish, name)
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; it must be between {least} and {most}.")
    if not 0.05 <= wish.gpu_memory_utilization <= 0.99:
        raise ValueError(
            f"gpu_memory_utilization is {wish.gpu_memory_utilization}; it is the share of the GPU's memory that vLLM "
            "takes, from 0.05 to 0.99."
        )
    if wish.dtype not in DTYPES:
        raise ValueError(f"dtype is '{wish.dtype}', which is unknown; it must be one of: {', '.join(DTYPES)}.")
    if wish.kv_cache_dtype not in KV_BYTES:
        raise ValueError(
            f"kv_cache_dtype is '{wish.kv_cache_dtype}', which vLLM {words(NEWEST_SEEN)} doesn't have; it must be one "
            f"of: {', '.join(KV_BYTES)}."
        )


def examine(wish: Wish, model: Model | None, advise: bool = True) -> Verdict:
    """model: None when nobody knows its sizes. advise: also look for what would run instead."""
    check_wish(wish)
    engine = engine_of(wish.image, wish.engine_version)
    advice = _Advice(wish, model, advise)
    checks = [*_name(wish, engine, advice), *_card(wish, engine)]
    if checks[0].result == REFUSED:
        return Verdict(tuple(checks), None, advice.named)
    memory = memory_of(wish, model) if model and model.weights_bytes else None
    checks += _quantization(wish, model, engine, advice)
    checks += _dtype(wish)
    checks += _split(wish, model)
    checks += _context(wish, model)
    checks += _memory(wish, model, memory, advice)
    checks += _model_host.checks(wish, model, engine)
    return Verdict(tuple(checks), memory, advice.named)


class _Advice:
    """Looks for another format of the model that would run here, once, and only where somebody needs it."""

    def __init__(self, wish: Wish, model: Model | None, wanted: bool) -> None:
        self._wish, self._model, self._wanted = wish, model, wanted
        self.named: tuple[str, ...] = ()

    def equivalent(self) -> str:
        """A sentence, empty where none is known. What needs a token that isn't there comes last."""
        if self._wanted and not self.named:
            open_ones = self._that_run(self._wish.has_hub_token)
            self.named = (*open_ones, *(name for name in self._that_run(True) if name not in open_ones))
        if not self.named:
            return ""
        found = _model_table.find(self.named[0])
        token = " (gated: it needs hub_token)" if found and found.gated and not self._wish.has_hub_token else ""
        return f"{self.named[0]}{token} is the same model in a form that runs here."

    def _that_run(self, has_hub_token: bool) -> tuple[str, ...]:
        wish = replace(self._wish, quantization="", has_hub_token=has_hub_token)
        return tuple(
            one.name
            for one in _model_table.variants(wish.model)
            if not examine(replace(wish, model=one.name), one, False).of(REFUSED)
        )

    def spread(self) -> str:
        """Over how many such GPUs it would run."""
        if not self._wanted or self._model is None:
            return ""
        for size in (2, 4, 8):
            if size > self._wish.tensor_parallel_size:
                more = replace(self._wish, tensor_parallel_size=size, gpu_count=max(size, self._wish.gpu_count))
                if not examine(more, self._model, False).of(REFUSED):
                    return f"With tensor_parallel_size {size} on {size} of these GPUs it fits."
        return ""


def _name(wish: Wish, engine: Engine, advice: _Advice) -> Iterator[Check]:
    if _model_table.is_gguf(wish.model) or wish.quantization.lower() == "gguf":
        has = has_quantization("gguf", engine.version)
        if has:
            detail = (
                f"{wish.model} is GGUF, which vLLM {words(engine.version)} reads, but nothing about it is known here."
            )
            yield Check("model", UNKNOWN, detail, "Take the model's own safetensors repository.")
            return
        if not _model_table.is_gguf(wish.model):
            detail = "quantization is gguf, which vLLM has not had since 0.24."
            yield Check("model", REFUSED, detail, "Leave quantization empty, and vLLM takes what the files say.")
            return
        which = f"vLLM {words(engine.version)}" if engine.version else "vLLM since 0.24"
        fix = advice.equivalent() or (
            f"Take the safetensors repository that it was made from (look for '{_model_table.family_of(wish.model)}'), "
            "or an AWQ, GPTQ or FP8 version of it."
        )
        yield Check("model", REFUSED, f"{wish.model} is GGUF, which {which} no longer reads.", fix)
        return
    try:
        check_model(wish.model)
    except SettingsError as problem:
        yield Check("model", REFUSED, str(problem))
        return
    yield Check("model", PASSED, f"{wish.model} is a name that the hub can have.")


def _card(wish: Wish, engine: Engine) -> Iterator[Check]:
    if engine.kind == "cpu":
        yield Check("gpu", REFUSED, f"{wish.image} is for the CPU, so it would leave {wish.gpu} idle.", _OTHER_IMAGE)
        return
    if (wish.gpu in NOT_NVIDIA) != (engine.kind == "rocm"):
        yield Check("gpu", REFUSED, f"{wish.image} is not made for {wish.gpu}.", _OTHER_IMAGE)
        return
    card = CARDS.get(wish.gpu)
    if card is None or engine.image is None:
        yield Check("gpu", UNKNOWN, f"Whether {wish.image} has code for {wish.gpu} is not known here.", _SAY_VERSION)
        return
    needed = engine.image.capability
    detail = (
        f"{wish.gpu} has compute capability {words(card.capability)}, and {wish.image} has code for {words(needed)}"
    )
    if card.capability < needed:
        yield Check(
            "gpu", REFUSED, f"{detail} and newer only.", f"Take a newer GPU{_older_cuda(engine, card.capability)}."
        )
    else:
        yield Check("gpu", PASSED, f"{detail} and newer.")


_OTHER_IMAGE = "Take vllm/vllm-openai for NVIDIA's GPUs, vllm/vllm-openai-rocm for AMD's."
_SAY_VERSION = "Name an image with a version in its tag, or set engine_version."


def _older_cuda(engine: Engine, capability: tuple[int, ...]) -> str:
    older = OLDER_CUDA
    if engine.version and engine.image and engine.image.cuda > older.cuda and capability >= older.capability:
        return f", or the image's tag for CUDA {words(older.cuda)} (v{words(engine.version)}-cu129)"
    return ""


def _quantization(wish: Wish, model: Model | None, engine: Engine, advice: _Advice) -> Iterator[Check]:
    own = model.quantization if model else ""
    name = wish.quantization or own
    if not name:
        yield (
            Check("quantization", PASSED, "The weights are not quantised.")
            if model
            else Check("quantization", UNKNOWN, f"Whether {wish.model} is quantised is not known here.", _ASK)
        )
        return
    said = f"The quantisation '{name}'" + (f" of {wish.model}" if name == own else "")
    has, row = has_quantization(name, engine.version), BY_QUANTIZATION.get(name)
    version = f"vLLM {words(engine.version)}" if engine.version else "this vLLM"
    if has is False:
        gone = f" It is gone since {words(row.removed)}." if row and row.removed else ""
        fix = advice.equivalent() or f"Take one of: {', '.join(QUANTIZATIONS)}."
        yield Check("quantization", REFUSED, f"{said} is not one that {version} has.{gone}", fix)
        return
    if wish.quantization and own and not _reads(wish.quantization, own):
        detail = f"quantization is '{wish.quantization}', but the files of {wish.model} are '{own}'."
        yield Check("quantization", REFUSED, detail, "Leave quantization empty, and vLLM takes what the files say.")
        return
    if wish.quantization and model and not own and row and not row.online:
        detail = f"quantization is '{name}', but the weights of {wish.model} are not quantised."
        fix = advice.equivalent() or "Leave quantization empty, take 'fp8', or a quantised version of the model."
        yield Check("quantization", REFUSED, detail, fix)
        return
    card = CARDS.get(wish.gpu)
    if row and card and card.capability < row.capability:
        detail = (
            f"{said} needs compute capability {words(row.capability)}, and {wish.gpu} has {words(card.capability)}."
        )
        yield Check("quantization", REFUSED, detail, advice.equivalent() or "Take a newer GPU.")
        return
    if has is None:
        yield Check("quantization", UNKNOWN, f"Whether {version} has '{name}' is not known here.", _SAY_VERSION)
        return
    if row and row.deprecated:
        fix = "Add --allow-deprecated-quantization to vllm_extra_arguments, or take another version of the model."
        yield Check("quantization", WARNED, f"{version} has '{name}', but refuses it unless told otherwise.", fix)
        return
    yield Check("quantization", PASSED, f"{version} has '{name}'.")


_ASK = "Set hub to try, or model_directory, to read the model's own configuration."


def _reads(wanted: str, own: str) -> bool:
    """Whether files of one quantisation may be opened as another."""
    if wanted == own or wanted == "humming":
        return True
    mine, theirs = BY_QUANTIZATION.get(wanted), BY_QUANTIZATION.get(own)
    if not mine or not theirs or not theirs.family:
        return mine is None or theirs is None
    return mine.family == theirs.family or (mine.family == "wna16" and theirs.family in ("awq", "gptq"))


def _dtype(wish: Wish) -> Iterator[Check]:
    card = CARDS.get(wish.gpu)
    if wish.dtype == "bfloat16" and card and card.capability < (8, 0):
        detail = f"dtype is bfloat16, which needs compute capability 8.0, and {wish.gpu} has {words(card.capability)}."
        yield Check("dtype", REFUSED, detail, "Set dtype to float16 or auto.")


def _split(wish: Wish, model: Model | None) -> Iterator[Check]:
    size = wish.tensor_parallel_size
    if size > wish.gpu_count:
        detail = f"tensor_parallel_size is {size}, but gpu_count is {wish.gpu_count}."
        yield Check("tensor_parallel", REFUSED, detail, f"Rent {size} GPUs, or split over {wish.gpu_count}.")
        return
    if size < wish.gpu_count:
        detail = f"tensor_parallel_size is {size}, so {wish.gpu_count - size} of {wish.gpu_count} GPUs stay idle."
        yield Check("tensor_parallel", WARNED, detail, f"Set tensor_parallel_size to {wish.gpu_count}.")
    if model is None or size == 1:
        return
    fits = ", ".join(str(one) for one in (1, 2, 4, 8, 16) if not _uneven(wish, model, one)) or "no number of GPUs"
    uneven = _uneven(wish, model, size)
    if uneven:
        whole = ", or set expert_parallel (--enable-expert-parallel)" if model.experts and "scale" in uneven else ""
        yield Check("tensor_parallel", REFUSED, f"{wish.model} {uneven}.", f"Split over {fits}{whole}.")
    else:
        yield Check("tensor_parallel", PASSED, f"{size} GPUs share {wish.model} equally.")


def _uneven(wish: Wish, model: Model, size: int) -> str:
    """Why so many GPUs can't share a model; empty when they can. The checks are those of vLLM when it loads one."""
    heads, kv_heads = model.attention_heads, 0 if model.latent_dim else model.kv_heads
    if heads % size:
        return f"has {heads} attention heads, which {size} GPUs can't share equally"
    if kv_heads and max(kv_heads, size) % min(kv_heads, size):
        return f"has {kv_heads} key-value heads, which {size} GPUs can neither share equally nor have equal copies of"
    part = model.split_dim // size
    if size > 1 and model.block and part % model.block and not (model.experts and wish.expert_parallel):
        return (
            f"gives each of {size} GPUs {part} of {model.split_dim} columns, which cuts blocks of {model.block} that "
            "share one scale"
        )
    return ""


def _context(wish: Wish, model: Model | None) -> Iterator[Check]:
    if model and model.context_tokens and wish.max_model_len > model.context_tokens:
        detail = f"max_model_len is {wish.max_model_len}, but {wish.model} was made for {model.context_tokens} tokens."
        yield Check("context", REFUSED, detail, f"Set max_model_len to {model.context_tokens} or less.")


def _memory(wish: Wish, model: Model | None, memory: Memory | None, advice: _Advice) -> Iterator[Check]:
    if model is None or memory is None:
        yield Check("memory", UNKNOWN, f"The size of {wish.model} is not known here.", _ASK)
        return
    tokens = wish.max_model_len or model.context_tokens
    needed = memory.weights_mib + memory.kv_cache_mib + memory.overhead_mib
    times = f"{wish.full_requests} times " if wish.full_requests > 1 else ""
    detail = (
        f"{wish.model} needs {_gib(needed)} GiB of each GPU ({_gib(memory.weights_mib)} for weights, "
        f"{_gib(memory.kv_cache_mib)} for {times}{tokens} tokens, {_gib(memory.overhead_mib)} to work in), and vLLM "
        f"may take {_gib(memory.usable_mib)} of {wish.gpu} (gpu_memory_utilization {wish.gpu_memory_utilization:g})."
    )
    if needed > memory.usable_mib:
        ways = [_shorter(memory, tokens), advice.spread(), advice.equivalent()]
        yield Check("memory", REFUSED, detail, " ".join(filter(None, ways)) or "Take a GPU with more memory.")
        return
    usual = needed - memory.overhead_mib + USUAL_OVERHEAD_MIB
    doubt = 0 if wish.gpu_memory_mib or (CARDS.get(wish.gpu) and CARDS[wish.gpu].memory_mib) else MEMORY_DOUBT
    if usual > memory.usable_mib * (1 - doubt):
        fix = f"It may not start: lower max_model_len from {tokens}, or take a GPU with more memory."
        yield Check("memory", WARNED, f"It is tight: {detail}", fix)
    else:
        yield Check("memory", PASSED, detail)
    if not model.full_layers and not model.window_layers:
        yield Check("kv_cache", UNKNOWN, f"What a context takes in {wish.model} is not known here.", "Try a short one.")
    elif wish.max_num_seqs > 1:
        yield from _requests(wish, memory, tokens)


def _shorter(memory: Memory, tokens: int) -> str:
    """Weights that don't fit are not helped by a shorter context."""
    room = memory.largest_context_tokens
    return f"Set max_model_len to {room} or less." if 256 <= room < tokens else ""


def _requests(wish: Wish, memory: Memory, tokens: int) -> Iterator[Check]:
    """vLLM starts when one request fits; more wait for one another, or are computed twice."""
    each = max(1, memory.kv_cache_mib // wish.full_requests)
    fit = (memory.usable_mib - memory.weights_mib - memory.overhead_mib) // each
    if fit < wish.max_num_seqs:
        detail = f"max_num_seqs is {wish.max_num_seqs}, but only {fit} requests of {tokens} tokens fit at once."
        yield Check("requests", WARNED, detail, "Set full_requests to how many must fit, to have fewer refused.")
    else:
        yield Check("requests", PASSED, f"{fit} requests of {tokens} tokens fit at once.")


def _gib(mib: int) -> str:
    return f"{mib * MIB / 1024**3:.1f}"
