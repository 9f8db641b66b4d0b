# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What renting and ending cost beside the provider: one whole run of the module's work against an emulated provider.

Waiting is left out by a clock that only counts it; what HTTP took is measured in the same run, as the reference.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _engine
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport
from emulators import runpod
from emulators.server import serving
from emulators.world import World

from benchmarks.results import Row

RUNS = 10
GOAL_MILLISECONDS = 200


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(_chosen: argparse.Namespace) -> list[Row]:
    """A row for creating and one for deleting: the median of what is left when HTTP and waiting are taken away."""
    os.environ |= {"GPUFLEET_HOME": tempfile.mkdtemp(prefix="gpufleet-bench-"), "RUNPOD_API_KEY": "bench"}
    world = World("runpod", scale=100_000.0)
    measured: dict[str, list[tuple[float, float]]] = {"started": [], "absent": []}
    with serving(runpod.make(world), world) as url, _instruments() as spent:
        # The first one imports what later ones find imported; a playbook pays that once for each module call.
        for index in range(RUNS + 1):
            for state, results in measured.items():
                spent.update(http=0.0, waited=0.0)
                began = time.perf_counter()
                _engine.run_instance(_wish(f"a-{index}", state, url + runpod.URL_PATH), check_mode=False)
                whole = time.perf_counter() - began
                if index:
                    results.append((whole - spent["http"], spent["http"]))
    return [_row("creating", measured["started"]), _row("deleting", measured["absent"])]


def _wish(name: str, state: str, url: str) -> dict[str, Any]:
    settings, problems = complete_instance(
        {
            "name": name,
            "providers": ["runpod"],
            "gpu": "A100_80GB",
            "runtime": "container",
            "image": "vllm/vllm-openai:v0.32.0",
            "secret_env": {"VLLM_API_KEY": "bench-key-of-forty-characters-1234567890"},
            "max_lifetime": "8h",
            "wait": "none",
        }
    )
    assert not problems, problems
    return {
        **settings,
        "deployment_id": "acme-bench",
        "state": state,
        "provider_settings": {"runpod": {"api_url": url}},
    }


@contextmanager
def _instruments() -> Iterator[dict[str, float]]:
    """A clock that passes by being slept on, and a transport that says how long its calls took."""
    spent = {"http": 0.0, "waited": 0.0}
    now, monotonic, sleep, send = _clock.now, _clock.monotonic, _clock.sleep, Transport._send
    total = 0.0

    def slept(seconds: float) -> None:
        nonlocal total
        total += seconds
        spent["waited"] += seconds

    def sends(self: Transport, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return send(self, *arguments, **options)
        finally:
            spent["http"] += time.perf_counter() - began

    _clock.now, _clock.monotonic, _clock.sleep = lambda: now() + total, lambda: monotonic() + total, slept
    Transport._send = sends  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        _clock.now, _clock.monotonic, _clock.sleep = now, monotonic, sleep
        Transport._send = send  # type: ignore[method-assign]


def _row(what: str, results: list[tuple[float, float]]) -> Row:
    own = statistics.median(one[0] for one in results) * 1000
    http = statistics.median(one[1] for one in results) * 1000
    return Row(
        f"{what}, beyond HTTP and waiting",
        round(own, 1),
        "ms",
        f"{http:,.0f} ms (HTTP)",
        round(own / http, 3),
        f"<= {GOAL_MILLISECONDS} ms",
        own <= GOAL_MILLISECONDS,
    )
