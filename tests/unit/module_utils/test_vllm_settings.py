# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM is started with, and what is refused before anything starts."""

from __future__ import annotations

import itertools
import string
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _vllm
from hypothesis import given
from hypothesis import strategies as st

MODEL = "Qwen/Qwen3-0.6B"


def command(**settings: Any) -> list[str]:
    return list(_vllm.describe({"model": MODEL, **settings})["command"])


def environment(**settings: Any) -> dict[str, str]:
    return dict(_vllm.describe({"model": MODEL, **settings})["environment"])


def after(arguments: list[str], name: str) -> str:
    assert arguments.count(name) == 1
    return arguments[arguments.index(name) + 1]


def test_hub_model_on_a_gpu() -> None:
    assert command(gpu=True, max_model_len=8192, model_revision="abc123") == [
        *("vllm", "serve", MODEL, "--served-model-name", MODEL, "--revision", "abc123"),
        *("--host", "0.0.0.0", "--port", "8000", "--max-model-len", "8192"),  # noqa: S104 - a container's own address
        *("--gpu-memory-utilization", "0.9", "--shutdown-timeout", "60"),
        *("--disable-fastapi-docs", "--disable-access-log-for-endpoints", "/health,/metrics"),
        *("--middleware", "gpufleet_routes.AllowedRoutes"),
    ]
    assert "HF_HUB_OFFLINE" not in environment(gpu=True)
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(gpu=True)


@pytest.mark.parametrize("source", ["directory", "generated"])
def test_local_model_never_asks_the_hub(source: str) -> None:
    arguments = command(model_source=source)
    assert arguments[:5] == ["vllm", "serve", "/model", "--served-model-name", MODEL]
    assert environment(model_source=source)["HF_HUB_OFFLINE"] == "1"
    assert ("GPUFLEET_GENERATE_MODEL" in environment(model_source=source)) == (source == "generated")


def test_a_prefetched_model_has_its_name_and_needs_no_hub() -> None:
    assert command(prefetch=True, model_revision="v2") == command(model_revision="v2")
    values = environment(prefetch=True)
    assert values["HF_HUB_OFFLINE"] == values["TRANSFORMERS_OFFLINE"] == "1"
    assert values["HF_HOME"] == "/cache/huggingface", "or the files would lie elsewhere than where they were fetched to"


def test_a_mirror_is_asked_instead_of_the_hub() -> None:
    assert "HF_ENDPOINT" not in environment()
    assert environment(hub_url="https://mirror.example.org/hf")["HF_ENDPOINT"] == "https://mirror.example.org/hf"


def test_cpu_has_its_kv_cache_and_nothing_of_a_gpu() -> None:
    assert environment(cpu_kv_cache_gib=3)["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert "--gpu-memory-utilization" not in command()
    assert "--tensor-parallel-size" not in command()


def test_optional_arguments_appear_only_when_asked_for() -> None:
    arguments = command(
        gpu=True,
        dtype="bfloat16",
        quantization="awq",
        max_num_seqs=8,
        tensor_parallel_size=2,
        enforce_eager=True,
        served_model_name="chat",
        middleware=["package.First", "package.Last"],
        extra_arguments=["--seed", "1"],
    )
    assert after(arguments, "--dtype") == "bfloat16"
    assert after(arguments, "--quantization") == "awq"
    assert after(arguments, "--max-num-seqs") == "8"
    assert after(arguments, "--tensor-parallel-size") == "2"
    assert after(arguments, "--served-model-name") == "chat"
    assert "--enforce-eager" in arguments
    # vLLM makes the last one the outermost, and that is always the list of allowed routes.
    names = [value for name, value in itertools.pairwise(arguments) if name == "--middleware"]
    assert names == ["package.First", "package.Last", "gpufleet_routes.AllowedRoutes"]
    assert environment()["PYTHONPATH"] == "/etc/gpufleet", "or vLLM would not find it"
    assert arguments[-2:] == ["--seed", "1"]


def test_a_model_that_embeds_is_started_as_one_and_how_it_is_converted_is_left_to_vllm() -> None:
    assert after(command(task="embed"), "--runner") == "pooling"
    assert "--convert" not in command(task="embed")
    # As ever: another argument would restart each server that runs.
    assert command(task="generate") == command()
    assert "--runner" not in command()


def test_arguments_are_what_the_upstream_entry_point_expects() -> None:
    described = _vllm.describe({"model": MODEL})
    assert described["command"] == ["vllm", "serve", *described["arguments"]]


def test_every_cache_lies_in_the_writable_directory() -> None:
    values = environment()
    for name in ("HF_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        assert values[name].startswith("/cache/")
    assert values["HOME"] == "/cache"
    assert values["VLLM_NO_USAGE_STATS"] == "1"


def test_extra_environment_takes_what_is_no_secret() -> None:
    wanted = {
        "AWS_SHARED_CREDENTIALS_FILE": "/cache/credentials",
        "HTTPS_PROXY": "http://proxy:3128",
        "TOKENIZERS_PARALLELISM": "true",
        "AWS_SESSION_TOKEN": "",
    }
    assert environment(extra_environment=wanted).items() >= wanted.items()


def test_extra_environment_wins_over_ours() -> None:
    assert environment(extra_environment={"HF_HOME": "/cache/other"})["HF_HOME"] == "/cache/other"


def test_numbers_from_the_command_line_are_texts() -> None:
    described = _vllm.describe({"model": MODEL, "port": "8001", "gpu": "yes", "gpu_memory_utilization": "0.5"})
    assert described["settings"]["port"] == 8001
    assert described["settings"]["gpu"] is True
    assert after(described["command"], "--gpu-memory-utilization") == "0.5"


def test_memory_on_cpu_counts_weights_and_context() -> None:
    settings = _vllm.Settings(model=MODEL, cpu_kv_cache_gib=4)
    assert _vllm.memory_needed_mib(settings) == 2048 + 4096
    assert _vllm.memory_needed_mib(settings, weights_mib=1000) == 2048 + 4096 + 1000


def test_memory_with_a_gpu_does_not() -> None:
    settings = _vllm.Settings(model=MODEL, gpu=True, cpu_kv_cache_gib=400)
    assert _vllm.memory_needed_mib(settings, weights_mib=16_000) == _vllm.GPU_OVERHEAD_MIB
    eight = _vllm.Settings(model=MODEL, gpu=True, tensor_parallel_size=8)
    assert _vllm.memory_needed_mib(eight) == 4096 + 7 * 1024


REFUSED = [
    ({"model": ""}, "vllm_model is empty"),
    ({"model": None}, "vllm_model must be text"),
    ({"model": "/srv/model"}, "vllm_model_source: directory"),
    ({"model": "./model"}, "vllm_model_source: directory"),
    ({"model": "https://huggingface.co/Qwen/Qwen3-0.6B"}, "an address"),
    ({"model": "a/b/c"}, "can't be a model's name"),
    ({"model": "Qwen/Qwen3 0.6B"}, "can't be a model's name"),
    ({"model": "Qwen/${MODEL_ID}"}, "can't be a model's name"),
    ({"model": "Qwen/Qwen3-0.6B; reboot"}, "can't be a model's name"),
    ({"model": "-rf"}, "can't be a model's name"),
    ({"model": "Qwen/--help"}, "can't be a model's name"),
    ({"model": "Qwen/Qwen3-0.6B\n"}, "can't be a model's name"),
    ({"model": "Qwen/Qwen3-8B-GGUF"}, "no longer reads GGUF"),
    ({"model": "TheBloke/Llama-2-7B-Chat-GGUF"}, "no longer reads GGUF"),
    ({"model": "llama-2-7b-chat.Q4_K_M.gguf"}, "no longer reads GGUF"),
    ({"model": "unsloth/Qwen3-8B:Q4_K_M"}, "no longer reads GGUF"),
    ({"model_source": "s3"}, "must be one of: hub, directory, generated"),
    ({"model_source": "generated", "model_revision": "main"}, "vllm_model_source: hub"),
    ({"model_revision": "../x"}, "no branch, tag or commit"),
    ({"served_model_name": "two words"}, "vllm_served_model_name"),
    ({"task": "rank"}, "vllm_task is 'rank', which is unknown; it must be one of: generate, embed"),
    ({"task": "embed", "extra_arguments": ["--runner=generate"]}, "has --runner: set vllm_task"),
    ({"extra_arguments": ["--convert", "embed"]}, "has --convert: set vllm_task to embed"),
    ({"port": 0}, "between 1024 and 65535"),
    ({"port": 80}, "between 1024 and 65535"),
    ({"port": 65536}, "between 1024 and 65535"),
    ({"port": "http"}, "must be a whole number"),
    ({"port": True}, "must be a whole number"),
    ({"port": 8000.5}, "must be a whole number"),
    ({"dtype": "int4"}, "vllm_dtype is 'int4'"),
    ({"quantization": "gguf"}, "no longer reads GGUF"),
    ({"quantization": "bitsandbytes"}, "vllm_quantization is 'bitsandbytes'"),
    ({"max_model_len": -1}, "vllm_max_model_len is -1"),
    ({"max_num_seqs": -1}, "vllm_max_num_seqs is -1"),
    ({"gpu_memory_utilization": 1.5}, "from 0.05 to 0.99"),
    ({"gpu_memory_utilization": "most"}, "must be a number"),
    ({"gpu": "maybe"}, "must be true or false"),
    ({"tensor_parallel_size": 2}, "vllm_gpu is false"),
    ({"gpu": True, "tensor_parallel_size": 0}, "number of GPUs"),
    ({"cpu_kv_cache_gib": 0}, "between 1 and 4096"),
    ({"shutdown_timeout_seconds": -5}, "vllm_shutdown_timeout_seconds"),
    ({"memory_mib": -8}, "vllm_memory_mib"),
    ({"memory_mib": 1024, "shared_memory_mib": 2048}, "lower the first"),
    ({"middleware": ["no dots"]}, "dotted name of a class"),
    ({"middleware": "package.Class"}, "must be a list"),
    ({"extra_arguments": ["--api-key", "planted-9d1c"]}, "set vllm_api_key"),
    ({"extra_arguments": ["--api_key=planted-9d1c"]}, "set vllm_api_key"),
    ({"extra_arguments": ["--port=1"]}, "set vllm_port"),
    ({"extra_arguments": ["--seed", 1]}, "must be text"),
    ({"extra_environment": {"VLLM_API_KEY": "planted-9d1c"}}, "set vllm_api_key"),
    ({"extra_environment": {"HF_TOKEN": "planted-9d1c"}}, "set vllm_hub_token"),
    ({"extra_environment": {"AWS_SECRET_ACCESS_KEY": "planted-9d1c"}}, "has AWS_SECRET_ACCESS_KEY, which looks like"),
    ({"extra_environment": {"S3_ACCESS_KEY_ID": "planted-9d1c"}}, "has S3_ACCESS_KEY_ID, which looks like a secret"),
    ({"extra_environment": {"HTTPS_PROXY": "http://me:planted-9d1c@proxy:3128"}}, "has HTTPS_PROXY, which looks like"),
    ({"extra_environment": {"VLLM_SERVER_DEV_MODE": "1"}}, "without a key"),
    ({"extra_environment": {"A B": "1"}}, "can't be an environment variable"),
    ({"extra_environment": ["A=1"]}, "must be a dictionary"),
    ({"prefetch": True, "extra_environment": {"HF_HOME": "/cache/x"}}, "has HF_HOME, but with vllm_prefetch"),
    ({"prefetch": True, "extra_environment": {"HF_HUB_OFFLINE": "0"}}, "has HF_HUB_OFFLINE, but with vllm_prefetch"),
    ({"prefetch": True, "extra_arguments": ["--tokenizer=a/b"]}, "has --tokenizer, but with vllm_prefetch"),
    ({"extra_environment": {"HF_ENDPOINT": "https://x"}}, "set vllm_hub_url"),
    ({"hub_url": "huggingface.co"}, "vllm_hub_url is not the address of a model hub"),
    ({"hub_url": "https://me:planted@hub.example.org"}, "vllm_hub_url is not the address of a model hub"),
    ({"max_model_len": -4096}, "vllm_max_model_len is -4096; it must be between 16 and"),
    ({"tensor_parallel_size": -1}, "vllm_tensor_parallel_size is -1"),
    ({"cpu_kv_cache_gib": -1}, "vllm_cpu_kv_cache_gib is -1"),
    ({"shared_memory_mib": -1}, "vllm_shared_memory_mib is -1"),
    ({"gpu_memory_utilization": -0.5}, "vllm_gpu_memory_utilization is -0.5"),
    ({"modle": "x"}, "unknown vLLM setting: modle"),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_what_cannot_work_is_refused_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(_vllm.SettingsError) as caught:
        _vllm.describe({"model": MODEL, **settings})
    assert sentence in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_missing_model_is_named() -> None:
    with pytest.raises(_vllm.SettingsError, match="vllm_model is missing"):
        _vllm.describe({"port": 8000})


@pytest.mark.parametrize(
    "model",
    ["gpt2", MODEL, "meta-llama/Llama-3.1-8B-Instruct", "01-ai/Yi-6B", "TheBloke/Mistral-7B-Instruct-v0.2-AWQ", "a/b_"],
)
def test_real_model_names_are_accepted(model: str) -> None:
    assert _vllm.check_model(model) == model


@given(st.text(alphabet=string.printable, max_size=40))
def test_an_accepted_model_name_is_one_harmless_word(name: str) -> None:
    try:
        _vllm.check_model(name)
    except _vllm.SettingsError:
        return
    assert name[0].isalnum()
    assert set(name) <= set(string.ascii_letters + string.digits + "-_./")
    assert name.count("/") <= 1
