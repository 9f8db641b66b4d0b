# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What the module model_preflight does: find out the model's sizes, examine, and say it as plain values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _model_hub, _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_facts import (
    CONFIG_FILE,
    INDEX_FILE,
    FactsError,
    from_config,
    index_bytes,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._model_preflight import Verdict, examine
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import (
    MIB,
    REFUSED,
    UNKNOWN,
    WARNED,
    Check,
    Model,
    Wish,
)


def answer(params: Mapping[str, Any]) -> dict[str, Any]:
    """checks, model, memory, equivalents; refused and warnings are sentences. Raises ValueError for a bad option."""
    wish = _wish(params)
    model, asked = _find(params, wish)
    verdict = examine(wish, model)
    verdict = replace(verdict, checks=(*asked, *verdict.checks))
    serious = (REFUSED, UNKNOWN) if params.get("on_unknown") == "refuse" else (REFUSED,)
    return {
        "refused": [str(check) for check in verdict.checks if check.result in serious],
        "warnings": [str(c) for c in verdict.checks if c.result in (WARNED, UNKNOWN) and c.result not in serious],
        "result": _result(verdict, model),
    }


def _wish(params: Mapping[str, Any]) -> Wish:
    known = {field.name for field in fields(Wish)}
    said = {name: value for name, value in params.items() if name in known and value is not None}
    said["gpu"] = _gpus.resolve(params["gpu"]).name
    said["has_hub_token"] = bool(params.get("hub_token"))
    said["from_hub"] = not params.get("model_directory")
    return Wish(**said)


def _find(params: Mapping[str, Any], wish: Wish) -> tuple[Model | None, list[Check]]:
    """The model's sizes from the best source that may be asked, and what was seen on the way."""
    if params.get("model_directory"):
        return read_directory(wish.model, params["model_directory"]), []
    known = _model_table.find(wish.model)
    how = params.get("hub", "never")
    if how == "never" or (how == "unknown" and known) or _model_table.is_gguf(wish.model):
        return known, []
    try:
        return _model_hub.look_up(
            wish.model,
            params.get("model_revision") or "",
            params["hub_url"],
            params.get("hub_token") or "",
            params["hub_timeout_seconds"],
        ), []
    except _model_hub.HubRefused as problem:
        return known, [Check("hub", REFUSED, str(problem))]
    except _model_hub.HubUnreachable as problem:
        if how == "require":
            return known, [Check("hub", REFUSED, str(problem), "Run again later, or set hub to try.")]
        instead = "What is said here is from the table." if known else "The table doesn't have the model either."
        return known, [Check("hub", WARNED, str(problem), instead)]
    except ValueError as problem:
        if how != "unknown":
            raise
        return known, [Check("hub", WARNED, str(problem))]


def read_directory(name: str, directory: str) -> Model:
    """Sizes of a model that lies on this machine; raises ValueError with one sentence."""
    place = Path(os.path.expanduser(directory))
    if not place.is_dir():
        raise ValueError(f"model_directory '{directory}' is no directory on this machine; correct the path.")
    try:
        config = json.loads((place / CONFIG_FILE).read_text())
        index = place / INDEX_FILE
        weights = (
            index_bytes(name, json.loads(index.read_text()))
            if index.is_file()
            else sum(file.stat().st_size for file in place.glob("*.safetensors"))
        )
        return from_config(name, config, weights, "directory")
    except FactsError as problem:
        raise ValueError(f"model_directory '{directory}': {problem}") from problem
    except OSError as problem:
        why = problem.strerror or str(problem)
        raise ValueError(f"model_directory '{directory}' has no {CONFIG_FILE} that can be read: {why}.") from problem
    except ValueError as problem:
        raise ValueError(f"model_directory '{directory}' has a {CONFIG_FILE} or an index that is no JSON.") from problem


def _result(verdict: Verdict, model: Model | None) -> dict[str, Any]:
    facts = None
    if model:
        facts = {
            "name": model.name,
            "origin": model.origin,
            "source": model.source,
            "as_of": model.as_of,
            "weights_mib": -(-model.weights_bytes // MIB),
            "context_tokens": model.context_tokens,
            "quantization": model.quantization,
            "gated": model.gated,
        }
    return {
        "checks": [asdict(check) for check in verdict.checks],
        "model": facts,
        "memory": asdict(verdict.memory) if verdict.memory else None,
        "equivalents": list(verdict.equivalents),
    }
