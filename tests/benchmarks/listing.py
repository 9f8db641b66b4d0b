# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long one waits for offers and for the inventory, with emulated providers that are slow, down, or large.

Commands are compared with the same command over an empty static inventory, run in turns, because Ansible's own start
takes most of the time; the fastest of each counts, because whatever else the machine does can only add. They run where
there is no ansible.cfg, so that the other one doesn't load our plugin. Needs no Docker engine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from ansible_collections.gpuops.fleet.plugins.module_utils import _cached, _engine, _offers, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Offer, Request, Runtime
from emulators import runpod, vastai
from emulators.server import serving
from emulators.world import Fault, World

from benchmarks.results import Row

SLOWEST_SECONDS, OTHERS_SECONDS = 5.0, 1.2
COLD_GOAL_RATIO = 1.1
OVER_STATIC_GOAL_MILLISECONDS = 120
MANY = 500
MANY_GOAL_SECONDS = 1.5
QUERY = {"gpu": "A40", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 20, "interruptible": False}
FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: bench-listing
defaults: {{providers: {providers}, runtime: container, image: x/y:1, max_lifetime: 8h, wait: none, gpu: A40}}
instances: [{instances}]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen about this benchmark."""
    parser.add_argument("--listing-repeats", type=int, default=9, help="commands of each kind that are timed")


def run(chosen: argparse.Namespace) -> list[Row]:
    """The rows; each with a home of its own."""
    rows = _offers_rows()
    for make in (_inventory_rows, _many_rows):
        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder:
            rows += make(pathlib.Path(folder), chosen.listing_repeats)
    return rows


# Offers, inside the engine ------------------------------------------------------------------------------------------


def _offers_rows() -> list[Row]:
    rows = []
    with contextlib.ExitStack() as stack:
        home = _fresh_home(stack)
        _worlds, providers = _four_endpoints(stack)
        rows.append(_offers_row("offers of 4 endpoints, cold", providers))
        _age(home, 100)
        rows.append(_offers_row("offers of 4 endpoints, stale", providers))
        _settle(home)
    with contextlib.ExitStack() as stack:
        _fresh_home(stack)
        worlds, providers = _four_endpoints(stack)
        worlds[-1].faults = [Fault(status=503, times=None)]
        rows.append(_offers_row("offers of 4 endpoints, cold, one down", providers, warnings=1))
    return rows


def _fresh_home(stack: contextlib.ExitStack) -> pathlib.Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-bench-"))
    stack.enter_context(_environment(GPUFLEET_HOME=folder))
    return pathlib.Path(folder)


def _four_endpoints(stack: contextlib.ExitStack) -> tuple[list[World], dict[str, _provider.Provider]]:
    """Four accounts at two kinds of provider; the first takes long, the others less."""
    worlds, providers = [], {}
    for number, (name, kind) in enumerate((("runpod", runpod), ("vastai", vastai)) * 2):
        world = World(name, scale=60)
        url = stack.enter_context(serving(kind.make(world), world)) + kind.URL_PATH
        seconds = OTHERS_SECONDS if number else SLOWEST_SECONDS
        world.faults = [Fault(path="catalog/gpus|bundles", latency_seconds=seconds, times=None)]
        worlds.append(world)
        providers[name if number < 2 else f"{name}-2"] = _engine.load_providers(
            [name], {name: {"api_url": url, "api_key": "any"}}
        )[name]
    return worlds, providers


def _offers_row(what: str, providers: dict[str, _provider.Provider], warnings: int = 0) -> Row:
    began = time.monotonic()
    market = _offers.survey(providers, QUERY, _cached.OFFERS)
    seconds = time.monotonic() - began
    if not market.offers or len(market.warnings) != warnings:
        raise RuntimeError(f"{what}: {len(market.offers)} offers, warnings {market.warnings}")
    ratio = seconds / SLOWEST_SECONDS
    goal = COLD_GOAL_RATIO if "cold" in what else OVER_STATIC_GOAL_MILLISECONDS / 1000 / SLOWEST_SECONDS
    return Row(
        what, seconds, "s", f"{SLOWEST_SECONDS:g} s (the slowest)", round(ratio, 3), f"<= {goal:g} x", ratio <= goal
    )


# The inventory, as a command ----------------------------------------------------------------------------------------


def _inventory_rows(folder: pathlib.Path, repeats: int) -> list[Row]:
    """One small account at each provider."""
    with contextlib.ExitStack() as stack:
        home, worlds = folder / "home", []
        variables = {"GPUFLEET_HOME": str(home)}
        for kind, key, url in ((runpod, "RUNPOD_API_KEY", "RUNPOD_REST_V2_URL"), (vastai, "VAST_API_KEY", "VAST_URL")):
            world = World("one", scale=60)
            worlds.append(world)
            variables |= {key: "any", url: stack.enter_context(serving(kind.make(world), world)) + kind.URL_PATH}
        stack.enter_context(_environment(**variables))
        fleet = _write(folder / "fleet.yml", FLEET.format(providers="[runpod, vastai]", instances="{name: a-1}"))
        static = _write(folder / "hosts.yml", "all: {}\n")
        _listed(fleet)

        def stale() -> None:
            _settle(home)
            _age(home, 100)

        rows = [
            _over_static("inventory, fresh, over an empty one", fleet, static, repeats, lambda: None),
            _over_static("inventory, stale, over an empty one", fleet, static, repeats, stale),
        ]
        worlds[0].faults = [Fault(status=503, times=None)]
        stale()
        _listed(fleet)
        _settle(home)
        said = _listed(fleet)
        if "runpod did not say what lives there now" not in said:
            raise RuntimeError(f"no warning: {said}")
        rows.append(_over_static("inventory, one provider down", fleet, static, repeats, lambda: None))
    return rows


def _over_static(what: str, fleet: pathlib.Path, static: pathlib.Path, repeats: int, before: Callable[[], None]) -> Row:
    ours, theirs = [], []
    for _number in range(repeats):
        before()
        ours.append(_seconds(fleet))
        theirs.append(_seconds(static))
    mine, base = min(ours), min(theirs)
    over = (mine - base) * 1000
    goal = OVER_STATIC_GOAL_MILLISECONDS
    reference = f"{base * 1000:,.0f} ms (an empty static inventory)"
    return Row(what, over, "ms", reference, round(mine / base, 3), f"<= {goal} ms", over <= goal)


def _many_rows(folder: pathlib.Path, repeats: int) -> list[Row]:
    """A large account: all of it lives, and all of it is in the file."""
    world = World("runpod", scale=60)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(runpod.make(world), world)) + runpod.URL_PATH
        stack.enter_context(
            _environment(GPUFLEET_HOME=str(folder / "home"), RUNPOD_API_KEY="any", RUNPOD_REST_V2_URL=url)
        )
        provider = _provider.load("runpod", {})
        offer = Offer("runpod", "NVIDIA A40|SECURE|", gpu="A40", gpu_count=1, runtime=Runtime.CONTAINER)
        for number in range(MANY):
            marker = Marker("bench-listing", f"n-{number}", "abc123")
            provider.create(Request(marker, offer, image="x/y:1", ports=((8000, "http"),)))
        names = ", ".join(f"{{name: n-{number}, roles: [vllm]}}" for number in range(MANY))
        fleet = _write(folder / "fleet.yml", FLEET.format(providers="[runpod]", instances=names))
        _listed(fleet)
        seconds = min(_seconds(fleet) for _number in range(repeats))
    static = _write(folder / "hosts.yml", "all: {}\n")
    base = min(_seconds(static) for _number in range(repeats))
    return [
        Row(
            f"inventory of {MANY} instances",
            seconds,
            "s",
            f"{base:.2f} s (an empty static inventory)",
            round(seconds / base, 3),
            f"<= {MANY_GOAL_SECONDS:g} s",
            seconds <= MANY_GOAL_SECONDS,
        )
    ]


# Tools --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_text(text)
    return path


def _command(inventory: pathlib.Path) -> list[str]:
    return [str(pathlib.Path(sys.executable).with_name("ansible-inventory")), "-i", str(inventory), "--list"]


def _seconds(inventory: pathlib.Path) -> float:
    began = time.monotonic()
    _listed(inventory)
    return time.monotonic() - began


def _listed(inventory: pathlib.Path) -> str:
    """What it warns of."""
    collections = str(pathlib.Path("build/collections").absolute())
    done = subprocess.run(
        _command(inventory),
        cwd=inventory.parent,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections},
        check=True,
        capture_output=True,
        text=True,
    )
    return " ".join(done.stderr.split())


def _age(home: pathlib.Path, seconds: float) -> None:
    """Make all that is kept older."""
    for path in (home / "cache").glob("*.json"):
        told = json.loads(path.read_text())
        told["fetched_at"] -= seconds
        told["asked_at"] -= seconds
        path.write_text(json.dumps(told))


def _settle(home: pathlib.Path) -> None:
    """Wait until nothing is refreshed in the background."""
    for path in (home / "cache").glob("*.lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
