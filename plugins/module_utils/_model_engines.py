# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What versions of vLLM, its images, CUDA and GPUs can do, each row with its date and its source. Pure data.

A number that nobody could see isn't here: what isn't known is not refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import QUANTIZATIONS

Version = tuple[int, ...]
NEWEST_SEEN: Version = (0, 32)  # the version whose package was read for the tables below

_WHEEL = "https://github.com/vllm-project/vllm/tree/v0.32.0 (the package's own code)"
_CUDA_GPUS = "https://developer.nvidia.com/cuda-gpus"
_LEGACY_GPUS = "https://developer.nvidia.com/cuda-legacy-gpus"


@dataclass(frozen=True)
class Image:
    """What the images vllm/vllm-openai bring from a version on, until the next row."""

    since: Version
    cuda: Version
    capability: Version  # the oldest GPUs that it has code for
    size_gib: int  # unpacked, at least; 0: not known
    as_of: str
    source: str


IMAGES = (
    # The size is that of 0.12: "Size of official out-of-the-box vllm-openai:latest docker image: 28.6 GB".
    Image(
        (0, 9), (12, 8), (7, 0), 0, "2025-07-08", "https://docs.vllm.ai/en/v0.9.2/getting_started/installation/gpu.html"
    ),
    Image((0, 12), (12, 9), (7, 0), 26, "2025-12-10", "https://github.com/vllm-project/vllm/pull/22377"),
    # CUDA 13 has no code for Volta any more; TORCH_CUDA_ARCH_LIST in docker/versions.json begins with 7.5.
    Image((0, 20), (13, 0), (7, 5), 26, "2026-04-28", "https://github.com/vllm-project/router/pull/154"),
)
# The same version for an older CUDA has another tag: v0.20.0-cu129.
OLDER_CUDA = Image((0, 20), (12, 9), (7, 0), 26, "2026-07-31", "https://github.com/NVIDIA/Model-Optimizer/pull/2042")

# The first driver branch that runs programs built for a major version of CUDA.
DRIVERS: dict[int, tuple[Version, str, str]] = {
    12: ((525,), "2026-11-22", "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"),
    13: ((580,), "2026-11-22", "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"),
}


@dataclass(frozen=True)
class Quantization:
    """One that some version of vLLM has or had. online: it also takes weights that are not quantised, at that share."""

    name: str
    capability: Version = (7, 0)
    removed: Version = ()
    online: float = 0.0  # what is left of 16-bit weights
    deprecated: bool = False  # only taken with --allow-deprecated-quantization
    family: str = ""  # those of one family read each other's files
    as_of: str = "2026-11-22"
    source: str = _WHEEL


_GGUF_SOURCE = "https://github.com/vllm-project/vllm/pull/39612"
_BNB_SOURCE = "https://github.com/vllm-project/vllm/pull/43529"

# get_min_capability() of each, which vLLM compares before it loads a byte.
QUANTIZATION_ROWS = (
    Quantization("awq", (7, 5), family="awq"),
    Quantization("auto_awq", (7, 5), family="awq"),
    Quantization("awq_marlin", (7, 5), family="awq"),
    Quantization("gptq", (6, 0), family="gptq"),
    Quantization("auto_gptq", (6, 0), family="gptq"),
    Quantization("gptq_marlin", (6, 0), family="gptq"),
    Quantization("moe_wna16", (7, 0), family="wna16"),
    Quantization("inc", (6, 0), family="inc"),
    Quantization("fp8", (7, 5), online=0.5, family="fp8"),
    Quantization("deepseek_v4_fp8", (7, 5), family="fp8"),
    Quantization("fbgemm_fp8", (8, 0), deprecated=True),
    Quantization("fp_quant", (10, 0), deprecated=True),
    Quantization("experts_int8", (8, 0), online=0.5),
    Quantization("fp8_per_tensor", (7, 5), online=0.5),
    Quantization("fp8_per_block", (7, 5), online=0.5),
    Quantization("fp8_per_channel", (7, 5), online=0.5),
    Quantization("int8_per_channel_weight_only", (7, 5), online=0.5),
    Quantization("nvfp4_per_token", (7, 5), online=0.25),
    Quantization("mxfp8", (7, 5), online=0.5),
    Quantization("online", (7, 5), online=0.25),
    Quantization("compressed-tensors", (7, 0), family="compressed-tensors"),
    Quantization("modelopt", (8, 0), family="modelopt"),
    Quantization("modelopt_fp4", (7, 5), family="modelopt"),
    Quantization("modelopt_mixed", (7, 5), family="modelopt"),
    Quantization("modelopt_mxfp8", (8, 0), family="modelopt"),
    Quantization("mxfp4", (8, 0), family="mxfp4"),
    Quantization("gpt_oss_mxfp4", (8, 0), family="mxfp4"),
    Quantization("quark", (7, 0), family="quark"),
    Quantization("torchao", (7, 5), online=0.25),
    Quantization("humming", (7, 5), online=0.125),
    # Gone, each with the version that has it no more.
    Quantization("gguf", removed=(0, 24), as_of="2026-07-10", source=_GGUF_SOURCE),
    Quantization("bitsandbytes", removed=(0, 28), as_of="2026-08-26", source=_BNB_SOURCE),
)
BY_QUANTIZATION = {row.name: row for row in QUANTIZATION_ROWS}

# Those that every version since 0.9 has (https://docs.vllm.ai/en/v0.9.2/features/quantization/supported_hardware.html).
_LONG_KNOWN = ("awq", "awq_marlin", "compressed-tensors", "fp8", "gptq", "gptq_marlin")

# What a cached element takes at least, in bytes; CacheDType of vLLM 0.32. None: as the model's own type.
KV_BYTES: dict[str, float | None] = {
    "auto": None,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "fp8_inc": 1,
    "fp8_ds_mla": 1,
    "fp8_per_token_head": 1,
    "int8_per_token_head": 1,
    "int4_per_token_head": 0.5,
    "nvfp4": 0.5,
    "nvfp4_4over6": 0.5,
    "nvfp4_ds_mla": 0.5,
    "turboquant_k8v4": 0.75,
    "turboquant_4bit_nc": 0.5,
    "turboquant_k3v4_nc": 0.4375,
    "turboquant_3bit_nc": 0.375,
    "ultraquant_4bit": 0.5,
}

# What vLLM took beside weights and cache at the least: 0.20 + 0.37 GiB a GPU, with all of a 4090 given to it
# (https://github.com/vllm-project/vllm/pull/14447), and what it usually takes: 1.26 GiB of activations, 0.16 GiB and
# more beside PyTorch (pull requests 10511 and 12126).
LEAST_OVERHEAD_MIB = 580
USUAL_OVERHEAD_MIB = 1536


@dataclass(frozen=True)
class Card:
    """What CUDA says of a GPU. memory_mib: what vLLM sees of it, largest seen; 0: nobody looked, so the nominal one."""

    capability: Version
    memory_mib: int = 0
    source: str = _CUDA_GPUS
    memory_source: str = ""
    as_of: str = "2026-11-22"


def _issue(name: str) -> str:
    return f"https://github.com/{name}"


CARDS = {
    "A100_40GB": Card((8, 0)),
    "A100_80GB": Card((8, 0), 81152, memory_source=_issue("levihsu/OOTDiffusion/issues/235")),
    "H100_80GB": Card((9, 0), 81122, memory_source=_issue("vllm-project/vllm/pull/10511")),
    "H100_NVL": Card((9, 0)),
    "H200": Card((9, 0)),
    "B200": Card((10, 0)),
    "B300": Card((10, 3)),
    "L4": Card((8, 9), 22888, memory_source="measured, see _gpus.py"),
    "L40": Card((8, 9), 45466, memory_source=_issue("NVlabs/Eagle/issues/68")),
    "L40S": Card((8, 9), 45776, memory_source="measured, see _gpus.py"),
    "A10": Card((8, 6), 23143, memory_source=_issue("signalnine/q27/issues/1")),
    "A10G": Card((8, 6), 23143, memory_source=_issue("signalnine/q27/issues/1")),
    "A16": Card((8, 6)),
    "A30": Card((8, 0)),
    "A40": Card((8, 6)),
    "RTX_A4000": Card((8, 6)),
    "RTX_A4500": Card((8, 6)),
    "RTX_A5000": Card((8, 6)),
    "RTX_A6000": Card((8, 6)),
    "RTX_2000_ADA": Card((8, 9)),
    "RTX_4000_ADA": Card((8, 9)),
    "RTX_5000_ADA": Card((8, 9)),
    "RTX_6000_ADA": Card((8, 9)),
    "RTX_PRO_6000": Card((12, 0)),
    "RTX_PRO_4500": Card((12, 0)),
    "RTX_3070": Card((8, 6)),
    "RTX_3080": Card((8, 6)),
    "RTX_3080_TI": Card((8, 6)),
    "RTX_3090": Card((8, 6)),
    "RTX_3090_TI": Card((8, 6)),
    "RTX_4080": Card((8, 9)),
    "RTX_4080_SUPER": Card((8, 9)),
    "RTX_4090": Card((8, 9), 24146, memory_source=_issue("vllm-project/vllm/pull/14447")),
    "RTX_4090D": Card((8, 9)),
    "RTX_5060_TI_8GB": Card((12, 0)),
    "RTX_5060_TI_16GB": Card((12, 0)),
    "RTX_5070_TI": Card((12, 0)),
    "RTX_5080": Card((12, 0)),
    "RTX_5090": Card((12, 0)),
    "T4": Card((7, 5), 14930, memory_source=_issue("datawhalechina/self-llm/issues/162")),
    "T4G": Card((7, 5)),
    "V100_16GB": Card((7, 0), source=_LEGACY_GPUS),
    "V100_32GB": Card((7, 0), source=_LEGACY_GPUS),
    "P100": Card((6, 0), source=_LEGACY_GPUS),
    "P4": Card((6, 1), source=_LEGACY_GPUS),
    "K80": Card((3, 7), source=_LEGACY_GPUS),
}
NOT_NVIDIA = ("MI300X",)

# What a nominal size may promise too much: CUDA sees 9 % less of a T4, 7 % of an L4 and nearly all of an A100.
MEMORY_DOUBT = 0.09

_TAG_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?=$|[-._+])", re.ASCII)
_VLLM_IMAGE = re.compile(r"(?:^|/)vllm-openai(?P<kind>-cpu|-rocm|-xpu)?(?=[:@]|$)", re.ASCII)


def numbers(text: str) -> Version:
    """Of a version: '580.95.05' is (580, 95, 5); empty where there are none."""
    return tuple(int(one) for one in re.findall(r"\d+", text, re.ASCII)[:4]) if re.match(r"\s*v?\d", text) else ()


def words(version: Version) -> str:
    return ".".join(str(one) for one in version)


@dataclass(frozen=True)
class Engine:
    """The vLLM of an image. Empty and None: not known."""

    version: Version = ()
    kind: str = "cuda"  # cuda, cpu, rocm, xpu
    image: Image | None = None


def engine_of(reference: str, said: str = "") -> Engine:
    """What is in an image, by its name and tag, or by the version that the user says."""
    name = _VLLM_IMAGE.search(reference)
    tag = reference.split("@", 1)[0].rpartition("/")[2].partition(":")[2]
    found = _TAG_VERSION.match(tag) if name else None
    version = numbers(said) or (tuple(int(one or 0) for one in found.groups()) if found else ())
    kind = (name["kind"] or "")[1:] if name else ""
    kind = kind or ("rocm" if "rocm" in tag else "cpu" if re.search(r"(^|[-_])cpu($|[-_])", tag) else "cuda")
    if not version or kind != "cuda" or not name:
        return Engine(version, kind)
    rows = [row for row in IMAGES if row.since <= version]
    if not rows:
        return Engine(version, kind)
    older = re.search(r"-cu12\d", tag) is not None and rows[-1].cuda[0] > 12
    return Engine(version, kind, OLDER_CUDA if older else rows[-1])


def cuda_of(reference: str) -> str:
    """The CUDA that an image is built for, such as "13.0"; empty where nobody knows."""
    image = engine_of(reference).image
    return words(image.cuda) if image else ""


def has_quantization(name: str, version: Version) -> bool | None:
    """Whether that version of vLLM has it; None: nobody looked."""
    row = BY_QUANTIZATION.get(name)
    if row and row.removed:
        return version < row.removed if version else None
    if version[:2] >= NEWEST_SEEN:
        return name in QUANTIZATIONS
    return True if name in _LONG_KNOWN and version >= IMAGES[0].since else None


def memory_mib(gpu: str) -> int:
    """What CUDA sees of such a card, at the most."""
    card = CARDS.get(gpu)
    return (card.memory_mib if card else 0) or _gpus.resolve(gpu).memory_mib
