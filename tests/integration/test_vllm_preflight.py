# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role vllm refuses what can't work in one sentence, before anything is created: one real run, a host a case."""

from __future__ import annotations

import pathlib
import socket
from typing import Any

import pytest
from support.free_port import free_port
from support.refusals import refusals, said

GOOD = {
    "vllm_model": "gpuops/tiny-random-llama",
    "vllm_model_source": "generated",
    "vllm_image_build": True,
    "vllm_memory_mib": 3072,
}
ON_GPU = {"vllm_gpu": True, "vllm_image_build": False, "vllm_memory_mib": 6144}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "port": ({"vllm_port": 99999}, "vllm_port is 99999; it must be between 1024 and 65535"),
    "source": (
        {"vllm_model_source": "torrent"},
        "value of vllm_model_source must be one of: hub, directory, generated",
    ),
    "task": ({"vllm_task": "rank"}, "value of vllm_task must be one of: generate, embed"),
    "model": ({"vllm_model": "https://example.org/model"}, "an address; give only the model's name"),
    "gguf": (
        {"vllm_model": "Qwen/Qwen3-8B-GGUF", "vllm_model_source": "hub"},
        "no longer reads GGUF files; take the model's own safetensors repository",
    ),
    "key_file": ({"vllm_api_key_file": "/nowhere/key"}, "vllm_api_key_file is /nowhere/key, and there is no such file"),
    "directory": (
        {"vllm_model_source": "directory", "vllm_model_directory": "/nowhere/model"},
        "holds no model: it needs config.json and weights",
    ),
    "listens_everywhere": (
        {"vllm_listen_address": "0.0.0.0"},  # noqa: S104 (refused)
        "vllm_listen_address is '0.0.0.0'; it must be an IPv4 address of listens_everywhere",
    ),
    "listens_nowhere": ({"vllm_listen_address": "300.1.1.1"}, "vllm_listen_address is '300.1.1.1'; it must be an IPv4"),
    "pids": ({"vllm_pids_limit": -1}, "vllm_pids_limit is -1; the server has more than 64"),
    "patience": ({"vllm_prefetch_timeout_seconds": 0}, "vllm_prefetch_timeout_seconds is 0; it must be one second"),
    "no_time": ({"vllm_healthy_timeout_seconds": -1}, "vllm_healthy_timeout_seconds is -1; no server is up"),
    "negative": ({"vllm_memory_mib": -8}, "vllm_memory_mib is -8; it must be between 1024 and"),
    "quantization": ({"vllm_quantization": "int3"}, "vllm_quantization is 'int3', which is unknown; it must be one of"),
    "hub": ({"vllm_hub_url": "hub"}, "vllm_hub_url is not the address of a model hub; write https://HOST"),
    "key_host": ({"vllm_api_key_host": "vllm-9"}, "vllm_api_key_host is vllm-9, and the inventory has no such host"),
    "empty_key_file": ({"vllm_api_key_file": "empty"}, "empty is not usable as an API key: it needs at least 16"),
    "port_in_use": ({"vllm_port": "taken"}, "of port_in_use is in use by py"),
    "address": ({"vllm_listen_address": "192.0.2.77"}, "vllm_listen_address names 192.0.2.77, and address has no such"),
    "relative": ({"vllm_model_source": "directory", "vllm_model_directory": "model"}, "must be the absolute path"),
    "memory": ({"vllm_memory_mib": 33554432}, "Take a larger host or lower vllm_memory_mib"),
    "limit": ({"vllm_cpu_kv_cache_gib": 40}, "needs at least 43008. Raise it, lower vllm_cpu_kv_cache_gib"),
    "gpu_build": ({"vllm_gpu": True}, "vllm_image_build builds an image for the CPU, but vllm_gpu is true"),
    "weights_twice": (
        {"vllm_model_source": "directory", "vllm_model_directory": "model_directory"},
        # MiB: 2048 for the server, 4096 for the context, and 2048 for the safetensors alone.
        "needs at least 8192.",
    ),
    "cpu_image": ({"vllm_image_build": False}, "which needs a GPU, and vllm_gpu is false"),
    "shared": (
        ON_GPU | {"vllm_tensor_parallel_size": 2, "vllm_gpu_count": 2},
        "vllm_shared_memory_mib is 1024, but 2 GPUs that share a model need 2048: 1024 for each",
    ),
    "eight": (
        ON_GPU | {"vllm_tensor_parallel_size": 8, "vllm_gpu_count": 8, "vllm_memory_mib": 8192},
        "vllm_memory_mib is 8192, but gpuops/tiny-random-llama needs at least 11264",
    ),
    "one_gpu": (
        ON_GPU | {"vllm_tensor_parallel_size": 4, "fleet_gpu_count": 1},
        "vllm_tensor_parallel_size is 4, but the server sees 1 of the GPUs of one_gpu",
    ),
    "one_device": (
        ON_GPU | {"vllm_tensor_parallel_size": 2, "fleet_gpu_count": 8, "vllm_gpu_devices": ["nvidia.com/gpu=0"]},
        "vllm_tensor_parallel_size is 2, but the server sees 1 of the GPUs of one_device",
    ),
    "weak_key": ({"vllm_api_key": "too short"}, "vllm_api_key is not usable as an API key: it needs at least 16"),
    "root": ({"vllm_uid": 0}, "the server must not run as root"),
    "argument": ({"vllm_extra_arguments": ["--api-key=planted"]}, "a key in the command line can be read by everybody"),
    "device": (
        {"vllm_image_build": False, "vllm_gpu": True, "vllm_gpu_devices": ["all"]},
        "vllm_gpu_devices has a name that is no CDI device: all",
    ),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("vllm")
    (work / "empty").write_text("")
    (work / "model").mkdir()
    (work / "model" / "config.json").write_text("{}")
    for name in ("model.safetensors", "pytorch_model.bin"):
        with (work / "model" / name).open("wb") as weights:
            weights.truncate(2 << 30)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = {
            "empty": str(work / "empty"),
            "model_directory": str(work / "model"),
            "taken": listener.getsockname()[1],
        }
        hosts = {}
        for name, (values, _sentence) in BAD.items():
            named = {key: words.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
            hosts[name] = ("vllm", {**GOOD, "vllm_port": free_port(), "vllm_listen_address": "127.0.0.1", **named})
        return refusals(work, hosts)


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_sentence(refused: pathlib.Path, name: str) -> None:
    assert BAD[name][1] in said(refused, name)


def test_gpus_that_are_there_are_no_reason(refused: pathlib.Path) -> None:
    for name in ("shared", "eight"):
        assert "the server sees" not in said(refused, name)


def test_nothing_was_created(refused: pathlib.Path) -> None:
    assert refused.exists()
    assert not pathlib.Path("/etc/systemd/system/vllm.service").exists()
