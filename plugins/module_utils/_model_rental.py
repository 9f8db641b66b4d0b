# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What an instance of a fleet file, and the server's further arguments, say to the preflight of a model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._model_engines import KV_BYTES

_WHOLE_EXPERTS = {"--enable-expert-parallel": True, "-ep": True, "--no-enable-expert-parallel": False}


def disk_gib(instance: Mapping[str, Any]) -> int:
    """The disk that is rented, also where the fleet file leaves it to the default; 0 for a machine of one's own."""
    if any(map(_provider.owned, instance.get("providers") or ())):
        return 0
    return int(instance.get("disk_gib") or _arguments.INSTANCE_SPEC["disk_gib"]["default"])


def of_arguments(arguments: Iterable[object]) -> dict[str, Any]:
    """expert_parallel and kv_cache_dtype, as vLLM reads them: the last one counts, and '_' is '-' in a name.

    A type of cache that nobody here knows counts as none said, because a newer vLLM may have it.
    """
    words = [str(argument) for argument in arguments]
    expert_parallel, kv_cache_dtype = False, "auto"
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        expert_parallel = _WHOLE_EXPERTS.get(name, expert_parallel)
        if name == "--kv-cache-dtype":
            kv_cache_dtype = value if equals else following
    return {
        "expert_parallel": expert_parallel,
        "kv_cache_dtype": kv_cache_dtype if kv_cache_dtype in KV_BYTES else "auto",
    }
