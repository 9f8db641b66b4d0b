#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_preflight
short_description: Refuse what vLLM could not serve on a GPU, before one is rented
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Compares the weights of a model, and the KV cache that its context needs, with the memory of the GPUs.
  - Also looks for GGUF and other quantisations that the engine doesn't have or the GPU can't do, for GPUs that can't
    share the model equally, for a missing hub token, for a disk that is too small, and for a driver that is too old for
    the image.
  - Runs on the controller and asks nobody, unless O(hub) says so. Sizes of well-known models are in the collection.
  - Fails for what can't run, with a sentence for each reason and what to do. What merely may not run is a warning.
  - All numbers are lower bounds, so what passes may still turn out not to fit.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.attributes.info_module
options:
  model:
    description: Name of the model on the hub, C(OWNER/NAME).
    type: str
    required: true
  model_revision:
    description: Branch, tag or commit to ask the hub for.
    type: str
    default: main
  model_directory:
    description:
      - Directory on the controller with the model's C(config.json) and its safetensors files, or their index.
      - The sizes are read from there, and neither the hub nor a token is needed.
    type: path
  gpu:
    description: The GPU, by a name that M(gpuops.fleet.instance) takes.
    type: str
    required: true
  gpu_count:
    description: How many of them one machine has.
    type: int
    default: 1
  gpu_memory_mib:
    description: Memory of one GPU as the driver reports it, where it was looked up. By default what such a card has.
    type: int
  tensor_parallel_size:
    description: How many GPUs the model is split over.
    type: int
    default: 1
  expert_parallel:
    description: Whether each GPU gets whole experts (C(--enable-expert-parallel)) instead of a part of each.
    type: bool
    default: false
  gpu_memory_utilization:
    description: The share of a GPU's memory that vLLM takes.
    type: float
    default: 0.9
  max_model_len:
    description: The longest context in tokens. V(0) means what the model was made for, as with vLLM itself.
    type: int
    default: 0
  max_num_seqs:
    description:
      - How many requests run at once. Fewer of the whole context that fit are a warning, because vLLM lets the others
        wait.
      - V(0) leaves it open.
    type: int
    default: 0
  full_requests:
    description: How many requests of the whole context must fit at once. Fewer that fit are a failure.
    type: int
    default: 1
  kv_cache_dtype:
    description: Type of the KV cache, such as V(auto) or V(fp8).
    type: str
    default: auto
  dtype:
    description: Type of the weights in memory.
    type: str
    default: auto
  quantization:
    description: Quantisation that vLLM is told. Empty means what the model's own configuration says.
    type: str
    default: ""
  image:
    description: Image that runs the model. Its tag says which vLLM and which CUDA it brings.
    type: str
    default: vllm/vllm-openai:v0.32.0
  engine_version:
    description: Version of vLLM in O(image), where its tag doesn't say it.
    type: str
    default: ""
  disk_gib:
    description: Size of the disk. V(0) means that it isn't checked.
    type: int
    default: 0
  disk_holds_image:
    description: Whether the image lies on that disk as well. A provider may keep it elsewhere for container rentals.
    type: bool
    default: true
  driver_version:
    description: Version of the host's NVIDIA driver, where it is known, such as V(580.95.05).
    type: str
    default: ""
  cuda_version:
    description: The newest CUDA that the host's driver knows, where an offer says that instead, such as V(12.8).
    type: str
    default: ""
  hub:
    description:
      - V(never) asks nobody and takes the sizes that the collection knows.
      - V(try) asks the hub for the model's own configuration and file sizes, and goes on with what is known here when
        nobody answers.
      - V(unknown) does the same for models that the collection doesn't know, and asks nobody about the others. An
        O(hub_url) that O(hub_token) may not be sent to is a warning then.
      - V(require) fails when nobody answers.
    type: str
    choices: [never, try, unknown, require]
    default: never
  hub_url:
    description:
      - Address of the hub.
      - The environment variable E(HF_ENDPOINT) is used when it is not set.
    type: str
    default: https://huggingface.co
  hub_token:
    description:
      - Token of the hub. It is sent in a header only, to O(hub_url) only, and not unencrypted.
      - The environment variable E(HF_TOKEN) is used when it is not set.
    type: str
  hub_timeout_seconds:
    description: Seconds after which all questions to the hub are over.
    type: int
    default: 15
  on_unknown:
    description: Whether what nobody knows, such as the size of a rare model, is a warning or a failure.
    type: str
    choices: [warn, refuse]
    default: warn
seealso:
  - module: gpuops.fleet.offer_info
  - module: gpuops.fleet.instance
"""

EXAMPLES = r"""
- name: Refuse a model that an L4 can't serve
  gpuops.fleet.model_preflight:
    model: "{{ vllm_model }}"
    gpu: L4
    max_model_len: 8192
    disk_gib: 80

- name: Look at a large one, split over four GPUs, with the model's own sizes from the hub
  gpuops.fleet.model_preflight:
    model: meta-llama/Llama-3.3-70B-Instruct
    gpu: A100_80GB
    gpu_count: 4
    tensor_parallel_size: 4
    max_model_len: 32768
    hub: try
    hub_token: "{{ vllm_hub_token }}"
  delegate_to: localhost

- name: See what would run instead
  gpuops.fleet.model_preflight:
    model: bartowski/Meta-Llama-3.1-8B-Instruct-GGUF
    gpu: RTX_4090
    max_model_len: 16384
  register: preflight
  failed_when: false
"""

RETURN = r"""
checks:
  description: What was looked at.
  returned: when the options could be read
  type: list
  elements: dict
  contains:
    name:
      description: What it is about.
      type: str
      returned: always
      sample: memory
    result:
      description: One of V(passed), V(warned), V(refused) and V(unknown).
      type: str
      returned: always
      sample: refused
    detail:
      description: What was seen.
      type: str
      returned: always
      sample: Qwen/Qwen3-32B needs 63.1 GiB of each GPU (61.1 for weights, 1.5 for 8192 tokens, 0.6 to work in).
    fix:
      description: What to do unless it passed.
      type: str
      returned: always
      sample: With tensor_parallel_size 2 on 2 of these GPUs it fits.
model:
  description: What is known of the model; null when nothing is.
  returned: when the options could be read
  type: dict
  sample:
    name: Qwen/Qwen3-8B
    origin: table
    source: https://huggingface.co/Qwen/Qwen3-8B
    as_of: "2026-11-22"
    weights_mib: 15623
    context_tokens: 40960
    quantization: ""
    gated: false
memory:
  description:
    - MiB of one GPU, each the least that it can be; null while the model's size is unknown.
    - C(largest_context_tokens) is the longest context that fits.
  returned: when the options could be read
  type: dict
  sample:
    usable_mib: 20599
    weights_mib: 15623
    kv_cache_mib: 1152
    overhead_mib: 580
    largest_context_tokens: 31264
equivalents:
  description: Names of the same model in other formats that would run there, when O(model) would not.
  returned: when the options could be read
  type: list
  elements: str
  sample: [Qwen/Qwen3-8B-AWQ]
"""

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible_collections.gpuops.fleet.plugins.module_utils._model_answer import answer

SPEC = {
    "model": {"type": "str", "required": True},
    "model_revision": {"type": "str", "default": "main"},
    "model_directory": {"type": "path"},
    "gpu": {"type": "str", "required": True},
    "gpu_count": {"type": "int", "default": 1},
    "gpu_memory_mib": {"type": "int"},
    "tensor_parallel_size": {"type": "int", "default": 1},
    "expert_parallel": {"type": "bool", "default": False},
    "gpu_memory_utilization": {"type": "float", "default": 0.9},
    "max_model_len": {"type": "int", "default": 0},
    "max_num_seqs": {"type": "int", "default": 0},
    "full_requests": {"type": "int", "default": 1},
    "kv_cache_dtype": {"type": "str", "default": "auto"},
    "dtype": {"type": "str", "default": "auto"},
    "quantization": {"type": "str", "default": ""},
    "image": {"type": "str", "default": "vllm/vllm-openai:v0.32.0"},
    "engine_version": {"type": "str", "default": ""},
    "disk_gib": {"type": "int", "default": 0},
    "disk_holds_image": {"type": "bool", "default": True},
    "driver_version": {"type": "str", "default": ""},
    "cuda_version": {"type": "str", "default": ""},
    "hub": {"type": "str", "choices": ["never", "try", "unknown", "require"], "default": "never"},
    "hub_url": {"type": "str", "default": "https://huggingface.co", "fallback": (env_fallback, ["HF_ENDPOINT"])},
    "hub_token": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HF_TOKEN"])},
    "hub_timeout_seconds": {"type": "int", "default": 15},
    "on_unknown": {"type": "str", "choices": ["warn", "refuse"], "default": "warn"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    try:
        said = answer(module.params)
    except ValueError as problem:
        module.fail_json(msg=str(problem))
    for warning in said["warnings"]:
        module.warn(warning)
    if said["refused"]:
        where = f"{module.params['gpu_count']} x {module.params['gpu']}"
        module.fail_json(
            msg=f"{module.params['model']} can't be served on {where}: {' '.join(said['refused'])}", **said["result"]
        )
    module.exit_json(changed=False, **said["result"])


if __name__ == "__main__":
    main()
