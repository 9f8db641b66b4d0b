# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can't run is refused for its own reason, and nothing else is: other people's cases, and rules for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _model_engines, _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_memory import memory_of
from ansible_collections.gpuops.fleet.plugins.module_utils._model_preflight import examine
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import (
    MIB,
    REFUSED,
    UNKNOWN,
    WARNED,
    Model,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import QUANTIZATIONS
from hypothesis import given
from hypothesis import strategies as st

CORPUS = Path(__file__).parents[1] / "corpus" / "model_preflight.yml"
CASES: list[dict[str, Any]] = yaml.safe_load(CORPUS.read_text())
RESULTS = {REFUSED: "refused", WARNED: "warned", UNKNOWN: "unknown"}


def model_of(case: dict[str, Any]) -> Model | None:
    name = case["wish"]["model"]
    return Model(name, **case["facts"]) if "facts" in case else _model_table.find(name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_case_has_the_verdict_that_its_source_shows(case: dict[str, Any]) -> None:
    verdict = examine(Wish(**case["wish"]), model_of(case))
    found = {word: [check.name for check in verdict.of(result)] for result, word in RESULTS.items()}
    assert found == {word: case.get(word, []) for word in RESULTS.values()}, [str(one) for one in verdict.checks]
    spoken = " ".join(str(check) for check in verdict.checks if check.result in RESULTS)
    assert case.get("says", "") in spoken


def test_there_are_enough_cases_and_each_says_where_it_is_from() -> None:
    assert len([case for case in CASES if case.get("refused")]) >= 30
    assert len([case for case in CASES if not case.get("refused")]) >= 20
    assert [case["name"] for case in CASES if not case.get("source")] == []
    assert len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [case for case in CASES if case.get("refused")], ids=lambda case: case["name"])
def test_a_refusal_is_whole_sentences_with_something_to_do(case: dict[str, Any]) -> None:
    for check in examine(Wish(**case["wish"]), model_of(case)).of(REFUSED):
        said = str(check)
        assert said.endswith((".", "?")), said
        assert "  " not in said
        assert check.fix or check.name == "model"  # whose sentence has it already


MEASURED = [
    # model, GPU, how many, gpu_memory_utilization, GiB of weights that vLLM told, tokens that it had room for
    ("meta-llama/Meta-Llama-3-8B-Instruct", "H100_80GB", 1, 0.9, 14.96, 53.29 * 8192),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "H100_80GB", 2, 0.9, 7.48, 0),
    ("meta-llama/Llama-3.1-8B-Instruct", "L40S", 1, 0.9, 14.99, 158656),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "RTX_4090", 2, 0.98, 13.95, 81536),
    ("Qwen/Qwen3-235B-A22B-FP8", "H100_80GB", 4, 0.9, 55.0, 178880),
]


@pytest.mark.parametrize(("name", "gpu", "size", "share", "weights_gib", "tokens"), MEASURED)
def test_what_vllm_measured_is_never_more_than_the_bound(
    name: str, gpu: str, size: int, share: float, weights_gib: float, tokens: float
) -> None:
    """The logs are those of the corpus' sources; a bound below what was reached would refuse what ran."""
    model = _model_table.find(name)
    assert model
    wish = Wish(name, gpu, gpu_count=size, tensor_parallel_size=size, gpu_memory_utilization=share)
    memory = memory_of(wish, replace(model, context_tokens=100_000_000))
    assert memory.weights_mib / 1024 == pytest.approx(weights_gib, rel=0.015)
    assert memory.largest_context_tokens >= tokens
    if tokens:
        assert memory.largest_context_tokens <= 2 * tokens  # that far only where vLLM measured too early


def test_the_cache_of_a_token_is_what_vllm_divided_by() -> None:
    """8.11 GiB were 178880 tokens (vllm-project/vllm/issues/21348)."""
    model = _model_table.find("Qwen/Qwen3-235B-A22B-FP8")
    assert model
    wish = Wish(model.name, "H100_80GB", gpu_count=4, tensor_parallel_size=4, max_model_len=178880)
    assert memory_of(wish, model).kv_cache_mib / 1024 == pytest.approx(8.11, rel=0.015)


MODELS = st.sampled_from(_model_table.MODELS)
GPUS = st.sampled_from(sorted(_model_engines.CARDS))


@given(MODELS, GPUS, st.sampled_from([1, 2, 4, 8]), st.integers(256, 40960))
def test_a_longer_context_or_a_smaller_share_never_helps(model: Model, gpu: str, size: int, tokens: int) -> None:
    wish = Wish(model.name, gpu, gpu_count=size, tensor_parallel_size=size, max_model_len=tokens, has_hub_token=True)
    harder = (replace(wish, max_model_len=tokens * 2), replace(wish, gpu_memory_utilization=0.7))
    if any(check.name == "memory" for check in examine(wish, model, False).of(REFUSED)):
        for one in harder:
            assert "memory" in [check.name for check in examine(one, model, False).of(REFUSED)]


@given(MODELS, GPUS, st.sampled_from([1, 2, 4, 8]))
def test_the_context_that_is_named_as_the_longest_fits_and_a_longer_one_does_not(
    model: Model, gpu: str, size: int
) -> None:
    wish = Wish(model.name, gpu, gpu_count=size, tensor_parallel_size=size, has_hub_token=True)
    memory = memory_of(wish, model)
    longest = memory.largest_context_tokens

    def fits(tokens: int) -> bool:
        one = memory_of(replace(wish, max_model_len=tokens), model)
        return one.weights_mib + one.kv_cache_mib + one.overhead_mib <= one.usable_mib + 1  # all are rounded up

    if longest > model.window_tokens:
        assert fits(longest)
    if longest < model.context_tokens:
        assert not fits(longest + 4096)  # more than what rounding to MiB hides


@given(MODELS, GPUS)
def test_an_equivalent_that_is_named_runs_where_the_model_does_not(model: Model, gpu: str) -> None:
    wish = Wish(model.name, gpu, max_model_len=4096, has_hub_token=True)
    for name in examine(wish, model).equivalents:
        other = _model_table.find(name)
        assert other is not None
        assert other.family == model.family
        assert not examine(replace(wish, model=name), other).of(REFUSED)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpu_count": 0}, "gpu_count is 0; it must be between 1 and 64."),
        ({"tensor_parallel_size": -1}, "tensor_parallel_size is -1; it must be between 1 and 64."),
        ({"max_model_len": -5}, "max_model_len is -5; it must be between 0 and 100000000."),
        ({"full_requests": 0}, "full_requests is 0; it must be between 1 and 65536."),
        ({"disk_gib": -1}, "disk_gib is -1; it must be between 0 and 1048576."),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization is 1.5; it is the share"),
        ({"dtype": "int3"}, "dtype is 'int3', which is unknown"),
        ({"kv_cache_dtype": "q8_0"}, "kv_cache_dtype is 'q8_0', which vLLM 0.32 doesn't have"),
        ({"driver_version": "new"}, "driver_version is 'new', which is no version"),
    ],
)
def test_a_number_that_nothing_has_is_refused_in_one_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        examine(Wish("Qwen/Qwen3-0.6B", "L4", **wrong), _model_table.find("Qwen/Qwen3-0.6B"))


def test_the_tables_know_every_gpu_and_every_quantisation() -> None:
    assert {*_model_engines.CARDS, *_model_engines.NOT_NVIDIA} == set(_gpus.names())
    rows = _model_engines.BY_QUANTIZATION
    assert {name for name, row in rows.items() if not row.removed} == set(QUANTIZATIONS)


def test_no_gpu_shows_more_memory_than_it_has() -> None:
    for name, card in _model_engines.CARDS.items():
        nominal = _gpus.resolve(name).memory_mib
        assert card.memory_mib == 0 or (1 - _model_engines.MEMORY_DOUBT) * nominal - 50 < card.memory_mib <= nominal


def test_every_row_has_a_date_and_a_source() -> None:
    engines: list[Any] = [*_model_engines.IMAGES, *_model_engines.QUANTIZATION_ROWS, *_model_engines.CARDS.values()]
    assert [row for row in engines if not (row.as_of.startswith("20") and row.source.startswith("https://"))] == []
    assert [row.name for row in _model_table.MODELS if not (row.as_of and row.source.startswith("https://"))] == []
    assert [name for name, card in _model_engines.CARDS.items() if card.memory_mib and not card.memory_source] == []


def test_weights_are_split_and_windows_are_kept_short() -> None:
    model = Model(
        "a/b", weights_bytes=100 * MIB, full_layers=1, window_layers=1, window_tokens=16, kv_heads=2, head_dim=8
    )
    wish = Wish("a/b", "L4", tensor_parallel_size=2, gpu_count=2, max_model_len=65536)
    memory = memory_of(wish, model)
    assert memory.weights_mib == 50
    # 2 (keys and values) x 1 head x 8 elements x 2 bytes = 32 bytes a token and layer
    assert memory.kv_cache_mib == -(-(32 * 65536 + 32 * 16) // MIB)


@pytest.mark.parametrize(
    ("reference", "said", "version", "cuda"),
    [
        ("vllm/vllm-openai:v0.32.0", "", (0, 32, 0), (13, 0)),
        ("docker.io/vllm/vllm-openai:v0.19.1", "", (0, 19, 1), (12, 9)),
        ("vllm/vllm-openai:v0.32.0-cu129", "", (0, 32, 0), (12, 9)),
        ("registry:5000/vllm/vllm-openai:v0.10.2@sha256:" + 64 * "a", "", (0, 10, 2), (12, 8)),
        ("vllm/vllm-openai:latest", "", (), None),
        ("vllm/vllm-openai:latest", "0.32.0", (0, 32, 0), (13, 0)),
        ("acme/server:1.2.3", "", (), None),
        ("vllm/vllm-openai:v0.3.0", "", (0, 3, 0), None),
    ],
)
def test_an_image_tells_its_version(reference: str, said: str, version: tuple[int, ...], cuda: Any) -> None:
    engine = _model_engines.engine_of(reference, said)
    assert engine.version == version
    assert (engine.image.cuda if engine.image else None) == cuda


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen3-8B-GGUF", "qwen3-8b"),
        ("bartowski/Qwen_Qwen3-8B-GGUF", "qwen3-8b"),
        ("unsloth/gpt-oss-20b-GGUF", "gpt-oss-20b"),
        ("lmstudio-community/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "llama-3.1-8b-instruct"),
        ("TheBloke/Mistral-7B-Instruct-v0.2-GPTQ", "mistral-7b-instruct-v0.2"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b-instruct"),
        ("x/phi-4-Q8_0.gguf", "phi-4"),
    ],
)
def test_a_format_is_no_part_of_what_a_model_is(name: str, family: str) -> None:
    assert _model_table.family_of(name) == family
