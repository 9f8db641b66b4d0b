# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The one place that turns settings into vLLM's command line and environment, on hosts and in container rentals alike.

Pure: no files, no network, no host. Written for vLLM 0.32. Secrets never pass through here: on hosts the entry point
reads the API key from a file, in container rentals it stands in the environment, because a command line can be read by
everybody on the host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._secret_words import may_be_secret

MODEL_SOURCES = ("hub", "directory", "generated")
# With their arguments: how a model that was made to generate is converted, vLLM 0.32 finds out by itself.
TASKS = {"generate": [], "embed": ["--runner", "pooling"]}
DTYPES = ("auto", "bfloat16", "float", "float16", "float32", "half")
# QuantizationMethods of vLLM 0.32; gguf and bitsandbytes are gone from it.
QUANTIZATIONS = (
    *("auto_awq", "auto_gptq", "awq", "awq_marlin", "compressed-tensors", "deepseek_v4_fp8", "experts_int8"),
    *("fbgemm_fp8", "fp8", "fp8_per_block", "fp8_per_channel", "fp8_per_tensor", "fp_quant", "gpt_oss_mxfp4", "gptq"),
    *("gptq_marlin", "humming", "inc", "int8_per_channel_weight_only", "modelopt", "modelopt_fp4", "modelopt_mixed"),
    *("modelopt_mxfp8", "moe_wna16", "mxfp4", "mxfp8", "nvfp4_per_token", "online", "quark", "torchao"),
)

HUB_URL = "https://huggingface.co"
MODEL_DIRECTORY = "/model"
CACHE_DIRECTORY = "/cache"
FILES_DIRECTORY = "/etc/gpufleet"  # where the allow-list of routes lies; Python looks for it there
# Always there, and always the last one, which vLLM makes the outermost: no request gets past it.
ALLOWED_ROUTES = "gpufleet_routes.AllowedRoutes"

# Measured with vLLM 0.32 on CPU: 1.8 GiB beside weights and KV cache. With a GPU, the CUDA libraries and their pinned
# buffers take more, while the weights only pass through.
CPU_OVERHEAD_MIB = 2048
GPU_OVERHEAD_MIB = 4096
SHARED_MEMORY_MIB_PER_GPU = 1024  # where several share a model; it counts towards the memory

_MODEL_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_MODEL = re.compile(rf"{_MODEL_PART}(?:/{_MODEL_PART})?", re.ASCII)
_GGUF = re.compile(r"(?:^|[-_./])gguf(?:$|[-_./])|:(?:UD-)?I?Q\d", re.IGNORECASE | re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", re.ASCII)
_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.ASCII)
_HUB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?", re.ASCII)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

# Arguments that have a setting of their own, or that would undo what the settings promise.
_OWNED_ARGUMENTS = {
    "--api-key": "a key in the command line can be read by everybody on the host; set vllm_api_key",
    "--convert": "set vllm_task to embed, and vLLM converts a model that needs it",
    "--disable-access-log-for-endpoints": "the role sets it",
    "--disable-fastapi-docs": "the role sets it",
    "--no-disable-fastapi-docs": "the interactive documentation needs no key and stays off",
    "--dtype": "set vllm_dtype",
    "--enforce-eager": "set vllm_enforce_eager",
    "--gpu-memory-utilization": "set vllm_gpu_memory_utilization",
    "--host": "the role sets it",
    "--max-model-len": "set vllm_max_model_len",
    "--max-num-seqs": "set vllm_max_num_seqs",
    "--middleware": "the role sets it",
    "--model": "set vllm_model",
    "--port": "set vllm_port",
    "--quantization": "set vllm_quantization",
    "-q": "set vllm_quantization",
    "--revision": "set vllm_model_revision",
    "--runner": "set vllm_task",
    "--served-model-name": "set vllm_served_model_name",
    "--shutdown-timeout": "set vllm_shutdown_timeout_seconds",
    "--ssl-certfile": "the server of a container rental makes its own certificate; a host's TLS is a gateway's work",
    "--ssl-keyfile": "the server of a container rental makes its own key; a host's TLS is a gateway's work",
    "--tensor-parallel-size": "set vllm_tensor_parallel_size",
    "-tp": "set vllm_tensor_parallel_size",
}
_OWNED_ENVIRONMENT = {
    "VLLM_API_KEY": "the environment of a container can be read by everybody who may talk to Docker; set vllm_api_key",
    "HF_TOKEN": "the environment of a container can be read by everybody who may talk to Docker; set vllm_hub_token",
    "HUGGING_FACE_HUB_TOKEN": "the environment of a container can be read by everybody who may talk to Docker; "
    "set vllm_hub_token",
    "PYTHONPATH": "the role sets it, because the list of allowed routes lies there",
    "VLLM_SERVER_DEV_MODE": "it opens routes that control the server without a key",
    "HF_ENDPOINT": "set vllm_hub_url",
}
# With these a server that may not ask the hub would not find its files, or would ask it all the same.
_NOT_OFFLINE = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_USE_MODELSCOPE"),
    *("--download-dir", "--hf-config-path", "--tokenizer", "--speculative-config", "--lora-modules"),
)


class SettingsError(ValueError):
    """A setting that can't work; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Settings:
    """What decides how vLLM is started. Named as the role's variables without their prefix `vllm_`."""

    model: str
    model_source: str = "hub"
    model_revision: str = ""
    prefetch: bool = False  # the files lie in the cache before the server starts, which asks the hub for nothing
    hub_url: str = HUB_URL
    task: str = "generate"
    served_model_name: str = ""  # empty: the model
    port: int = 8000
    gpu: bool = False
    dtype: str = "auto"
    quantization: str = ""  # empty: what the model's own configuration says
    max_model_len: int = 0  # tokens; 0: what the model was made for
    max_num_seqs: int = 0  # requests at once; 0: vLLM's choice
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    cpu_kv_cache_gib: int = 4
    enforce_eager: bool = False
    shutdown_timeout_seconds: int = 60
    memory_mib: int = 8192
    shared_memory_mib: int = 1024
    middleware: tuple[str, ...] = ()  # dotted names of ASGI middleware classes; the last one is outer
    extra_arguments: tuple[str, ...] = ()
    extra_environment: tuple[tuple[str, str], ...] = ()
    model_directory: str = MODEL_DIRECTORY  # inside the container, for what is not from the hub
    files_directory: str = FILES_DIRECTORY  # inside the container
    tls: bool = False  # the server itself ends TLS, with a key in files_directory

    def __post_init__(self) -> None:
        check_model(self.model)
        _check_choice("model_source", self.model_source, MODEL_SOURCES)
        if self.model_revision:
            if self.model_source != "hub":
                raise SettingsError("vllm_model_revision only means something with vllm_model_source: hub; remove it.")
            if not _REVISION.fullmatch(self.model_revision) or ".." in self.model_revision:
                raise SettingsError(f"vllm_model_revision '{self.model_revision}' is no branch, tag or commit.")
        if not _HUB_ADDRESS.fullmatch(self.hub_url):
            raise SettingsError(
                "vllm_hub_url is not the address of a model hub; write https://HOST, such as https://huggingface.co, "
                "and a token into vllm_hub_token."
            )
        _check_choice("task", self.task, tuple(TASKS))
        if self.served_model_name:
            check_model(self.served_model_name, "served_model_name")
        _check_range("port", self.port, 1024, 65535, "a container without privileges can't listen below 1024")
        _check_choice("dtype", self.dtype, DTYPES)
        if self.quantization.lower() == "gguf":
            raise SettingsError(f"vllm_quantization is gguf, {_GGUF_SENTENCE}")
        if self.quantization:
            _check_choice("quantization", self.quantization, QUANTIZATIONS)
        if self.max_model_len:
            _check_range("max_model_len", self.max_model_len, 16, 100_000_000, "0 takes what the model was made for")
        _check_range("max_num_seqs", self.max_num_seqs, 0, 65536, "0 leaves it to vLLM")
        if not 0.05 <= self.gpu_memory_utilization <= 0.99:
            raise SettingsError(
                f"vllm_gpu_memory_utilization is {self.gpu_memory_utilization}; it is the share of the GPU's memory "
                "that vLLM takes, from 0.05 to 0.99."
            )
        _check_range("tensor_parallel_size", self.tensor_parallel_size, 1, 64, "it is the number of GPUs to split over")
        if not self.gpu and self.tensor_parallel_size > 1:
            raise SettingsError(
                f"vllm_tensor_parallel_size is {self.tensor_parallel_size}, but vllm_gpu is false; "
                "without GPUs there is nothing to split the model over: set it to 1."
            )
        _check_range("cpu_kv_cache_gib", self.cpu_kv_cache_gib, 1, 4096, "whole GiB for the context of all requests")
        _check_range("shutdown_timeout_seconds", self.shutdown_timeout_seconds, 0, 3600, "0 drops running requests")
        _check_range("memory_mib", self.memory_mib, 1024, 64 * 1024 * 1024, "the container's memory limit")
        _check_range("shared_memory_mib", self.shared_memory_mib, 64, 1024 * 1024, "the size of /dev/shm")
        if self.shared_memory_mib >= self.memory_mib:
            raise SettingsError(
                f"vllm_shared_memory_mib is {self.shared_memory_mib}, but shared memory counts towards "
                f"vllm_memory_mib, which is {self.memory_mib}; lower the first or raise the second."
            )
        for name in self.middleware:
            if not _DOTTED_NAME.fullmatch(name):
                raise SettingsError(f"middleware '{name}' is not the dotted name of a class, such as package.Class.")
        for argument in self.extra_arguments:
            # argparse takes --x_y for --x-y.
            name = argument.split("=", 1)[0].replace("_", "-")
            if name in _OWNED_ARGUMENTS:
                raise SettingsError(f"vllm_extra_arguments has {name}: {_OWNED_ARGUMENTS[name]}.")
            self._check_offline("arguments", name)
        for name, value in self.extra_environment:
            if not _ENVIRONMENT_NAME.fullmatch(name) or "\n" in value:
                raise SettingsError(f"vllm_extra_environment has '{name}', which can't be an environment variable.")
            if name in _OWNED_ENVIRONMENT:
                raise SettingsError(f"vllm_extra_environment has {name}: {_OWNED_ENVIRONMENT[name]}.")
            self._check_offline("environment", name)
            if may_be_secret(name, value):
                raise SettingsError(
                    f"vllm_extra_environment has {name}, which looks like a secret: the environment of a container can "
                    "be read by everybody who may talk to Docker. Leave it out; only the name of a file with it may "
                    "stand here (NAME_FILE)."
                )

    @property
    def offline(self) -> bool:
        return self.prefetch or self.model_source != "hub"

    def _check_offline(self, where: str, name: str) -> None:
        if self.prefetch and self.model_source == "hub" and name in _NOT_OFFLINE:
            raise SettingsError(
                f"vllm_extra_{where} has {name}, but with vllm_prefetch the server reads {self.model} alone, from the "
                "cache, and asks no hub. Take it out, or set vllm_prefetch to false."
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """Read what Ansible hands over, where a number from the command line is a string. Unknown names are refused."""
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise SettingsError(f"unknown vLLM setting: {', '.join(unknown)}. Known are: {', '.join(sorted(known))}.")
        if "model" not in values:
            raise SettingsError("vllm_model is missing: name the model to serve, such as Qwen/Qwen3-0.6B.")
        return cls(**{str(name): _READERS[str(known[name].type)](str(name), value) for name, value in values.items()})


_GGUF_SENTENCE = (
    "and vLLM 0.32 no longer reads GGUF files; take the model's own safetensors repository (for "
    "Qwen/Qwen3-8B-GGUF that is Qwen/Qwen3-8B), or an AWQ, GPTQ or FP8 version of it where memory is short."
)


def check_model(value: str, name: str = "model") -> str:
    """Return a Hugging Face style model name, or raise SettingsError with a sentence that says what to type instead."""
    if not value:
        raise SettingsError(f"vllm_{name} is empty: name the model to serve, such as Qwen/Qwen3-0.6B.")
    if _GGUF.search(value):
        raise SettingsError(f"vllm_{name} is '{value}', {_GGUF_SENTENCE}")
    if "://" in value:
        raise SettingsError(
            f"vllm_{name} is '{value}', an address; give only the model's name on the hub, such as Qwen/Qwen3-0.6B."
        )
    if value.startswith(("/", ".", "~")):
        raise SettingsError(
            f"vllm_{name} is '{value}', a path; set vllm_model_source: directory, put the path into "
            "vllm_model_directory, and let vllm_model be the name to serve it under."
        )
    if not _MODEL.fullmatch(value) or ".." in value or "--" in value or value.endswith(".git"):
        raise SettingsError(
            f"vllm_{name} is '{value}', which can't be a model's name: it is NAME or OWNER/NAME, each of up to 96 "
            "letters, digits, '-', '_' and '.', such as Qwen/Qwen3-0.6B."
        )
    return value


def build_arguments(settings: Settings) -> list[str]:
    """What stands after `vllm serve`, which is the entry point of the upstream image."""
    model = settings.model if settings.model_source == "hub" else settings.model_directory
    arguments = [model, "--served-model-name", settings.served_model_name or settings.model]
    if settings.model_revision:
        arguments += ["--revision", settings.model_revision]
    arguments += ["--host", "0.0.0.0", "--port", str(settings.port)]  # noqa: S104 - inside a container; the host decides what is published
    arguments += TASKS[settings.task]
    if settings.dtype != "auto":
        arguments += ["--dtype", settings.dtype]
    if settings.quantization:
        arguments += ["--quantization", settings.quantization]
    if settings.max_model_len:
        arguments += ["--max-model-len", str(settings.max_model_len)]
    if settings.max_num_seqs:
        arguments += ["--max-num-seqs", str(settings.max_num_seqs)]
    if settings.gpu:
        arguments += ["--gpu-memory-utilization", f"{settings.gpu_memory_utilization:g}"]
        if settings.tensor_parallel_size > 1:
            arguments += ["--tensor-parallel-size", str(settings.tensor_parallel_size)]
    if settings.enforce_eager:
        arguments.append("--enforce-eager")
    arguments += ["--shutdown-timeout", str(settings.shutdown_timeout_seconds)]
    arguments += ["--disable-fastapi-docs", "--disable-access-log-for-endpoints", "/health,/metrics"]
    for name in (*settings.middleware, ALLOWED_ROUTES):
        arguments += ["--middleware", name]
    arguments += settings.extra_arguments
    if settings.tls:
        arguments += ["--ssl-keyfile", f"{settings.files_directory}/tls.key"]
        arguments += ["--ssl-certfile", f"{settings.files_directory}/tls.crt"]
    return arguments


def build_environment(settings: Settings) -> dict[str, str]:
    """The server's environment: no secrets, and every cache in the one directory that is writable."""
    environment = {
        "PYTHONPATH": settings.files_directory,
        # A uid without an entry in the image's passwd has no name and no home, and PyTorch asks for both.
        "HOME": CACHE_DIRECTORY,
        "USER": "vllm",
        "LOGNAME": "vllm",
        "HF_HOME": f"{CACHE_DIRECTORY}/huggingface",
        "VLLM_CACHE_ROOT": f"{CACHE_DIRECTORY}/vllm",
        "VLLM_CONFIG_ROOT": f"{CACHE_DIRECTORY}/config",
        "XDG_CACHE_HOME": f"{CACHE_DIRECTORY}/xdg",
        "TORCHINDUCTOR_CACHE_DIR": f"{CACHE_DIRECTORY}/inductor",
        "TRITON_CACHE_DIR": f"{CACHE_DIRECTORY}/triton",
        "NUMBA_CACHE_DIR": f"{CACHE_DIRECTORY}/numba",
        "VLLM_RPC_BASE_PATH": "/tmp",  # noqa: S108 - the container's own tmpfs
        # Nobody outside learns what is served here.
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # One request may not ask for thousands of answers, nor send the server to another address.
        "VLLM_MAX_N_SEQUENCES": "64",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if settings.hub_url != HUB_URL:
        environment["HF_ENDPOINT"] = settings.hub_url
    if settings.offline:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if settings.model_source == "generated":
        environment["GPUFLEET_GENERATE_MODEL"] = "1"
    if not settings.gpu:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
    return environment | dict(settings.extra_environment)


def memory_needed_mib(settings: Settings, weights_mib: int = 0) -> int:
    """Host memory below which the server can't start: a lower bound while the weights are unknown (0)."""
    if settings.gpu:
        return GPU_OVERHEAD_MIB + SHARED_MEMORY_MIB_PER_GPU * (settings.tensor_parallel_size - 1)
    return CPU_OVERHEAD_MIB + 1024 * settings.cpu_kv_cache_gib + weights_mib


def describe(values: Mapping[str, Any], weights_mib: int = 0) -> dict[str, Any]:
    """Everything that a template needs, from the role's or a rental's settings."""
    settings = Settings.from_mapping(values)
    arguments = build_arguments(settings)
    return {
        "command": ["vllm", "serve", *arguments],
        "arguments": arguments,
        "environment": build_environment(settings),
        "served_model_name": settings.served_model_name or settings.model,
        "memory_needed_mib": memory_needed_mib(settings, weights_mib),
        "settings": asdict(settings),
    }


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"vllm_{name} is '{value}', which is unknown; it must be one of: {', '.join(known)}.")


def _check_range(name: str, value: int, low: int, high: int, why: str) -> None:
    if not low <= value <= high:
        raise SettingsError(f"vllm_{name} is {value}; it must be between {low} and {high} ({why}).")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"vllm_{name} must be text, not {value!r}; put it in quotes.")
    return str(value)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value, re.ASCII):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingsError(f"vllm_{name} is {value!r}; it must be a whole number.")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{0,6}\.?[0-9]{1,6}", value, re.ASCII):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(f"vllm_{name} is {value!r}; it must be a number.")
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "yes", "false", "no"):
        return value.lower() in ("true", "yes")
    raise SettingsError(f"vllm_{name} is {value!r}; it must be true or false.")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise SettingsError(f"vllm_{name} must be a list of texts, not {value!r}.")
    return tuple(_text(name, entry) for entry in value)


def _pairs(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"vllm_{name} must be a dictionary of texts, not {value!r}.")
    return tuple((_text(name, key), _text(name, entry)) for key, entry in value.items())


_READERS: dict[str, Any] = {
    "str": _text,
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "tuple[str, ...]": _texts,
    "tuple[tuple[str, str], ...]": _pairs,
}
