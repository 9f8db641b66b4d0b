# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the demo takes: from nothing, again with its caches, unchanged, and until it recovers at other addresses.

Each is compared with something plain that the same machine did in the same run, because seconds alone say more about
the machine than about us. The demo runs afterwards, as it did before.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import demo

from benchmarks.results import Row

FROM_NOTHING_GOAL_SECONDS = 15 * 60
AGAIN_GOAL_SECONDS = 8 * 60
UNCHANGED_GOAL_SECONDS_PER_HOST = 25
HOST_ROLES_GOAL_SECONDS_PER_HOST = 10
RECOVERY_GOAL_SECONDS = 60
CACHE = demo.ROOT / "build" / "cache"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen about this benchmark."""
    parser.add_argument("--from-nothing", action="store_true", help="remove caches and images first (+ 12 minutes)")


def run(chosen: argparse.Namespace) -> list[Row]:
    """The rows, in the order of a fleet's life. A playbook that fails is an error: there is nothing to compare then."""
    fleet = demo.Fleet(demo.FLEET_FILE)
    rows = []
    if chosen.from_nothing:
        rows.append(_from_nothing(fleet))
    _play(fleet, "destroy")
    again = _seconds(lambda: _play(fleet, "site"))
    facts = _seconds(lambda: _ansible(fleet, "ansible", "fleet_ssh", "-m", "ansible.builtin.setup"))
    hosts = len(fleet.inventory()["fleet_ssh"]["hosts"])
    unchanged = _seconds(lambda: _play(fleet, "site"))
    prepared = _seconds(lambda: _play(fleet, "prepare"))
    rows += [
        _row("demo again, with its caches", again, AGAIN_GOAL_SECONDS, "an unchanged run", unchanged),
        _row(
            "unchanged run, per host", unchanged / hosts, UNCHANGED_GOAL_SECONDS_PER_HOST, "facts of all hosts", facts
        ),
        _row(
            "its host roles, per host", prepared / hosts, HOST_ROLES_GOAL_SECONDS_PER_HOST, "facts of all hosts", facts
        ),
        _recovery(fleet),
    ]
    return rows


def _from_nothing(fleet: demo.Fleet) -> Row:
    """Without host images, caches and what the engine remembers of builds; the engine itself stays."""
    _play(fleet, "destroy")
    _ansible(fleet, "ansible-playbook", "playbooks/local_provider.yml", "-e", "local_provider_state=absent")
    subprocess.run(["make", "setup"], cwd=demo.ROOT, check=True, stdout=sys.stderr)
    images = subprocess.run(
        ["docker", "image", "ls", "--quiet", "--filter", "reference=gpufleet/*"], capture_output=True, check=True
    )
    subprocess.run(["docker", "image", "rm", "--force", *images.stdout.decode().split()], check=True, stdout=sys.stderr)
    subprocess.run(["docker", "builder", "prune", "--all", "--force"], check=True, stdout=sys.stderr)
    shutil.rmtree(CACHE, ignore_errors=True)
    began = time.monotonic()
    subprocess.run(["make", "setup"], cwd=demo.ROOT, check=True, stdout=sys.stderr)
    base = time.monotonic() - began
    _play(fleet, "site")
    total = time.monotonic() - began
    return _row("demo from nothing", total, FROM_NOTHING_GOAL_SECONDS, "the images of the hosts", base)


def _recovery(fleet: demo.Fleet) -> Row:
    """Broker and database get other addresses; the reference is the moment when their machines can be reached."""
    roles = ("kafka", "mongodb")
    names = ",".join(fleet.machine(role).name for role in roles)
    _play(fleet, "provision", "--limit", names, "-e", "fleet_instance_state=stopped")
    began = time.monotonic()
    _play(fleet, "provision", "--limit", names, "-e", "fleet_instance_state=started")
    reached = time.monotonic() - began
    demo.wait_until_healthy(fleet, *roles)
    program = [*demo.LOAD, "--count", "200"]
    ledger = demo.eventually(lambda: fleet.service("producer").inside(*program), 120, "acknowledged events")
    verdict = demo.balance(fleet, ledger)
    if not verdict["ok"]:
        raise RuntimeError(f"events were lost: {verdict}")
    recovered = time.monotonic() - began
    return _row("recovery at other addresses", recovered, RECOVERY_GOAL_SECONDS, "machines started", reached)


def _row(name: str, value: float, goal: float, reference_name: str, reference: float) -> Row:
    ratio = round(value / reference, 3)
    return Row(name, value, "s", f"{reference:,.0f} s ({reference_name})", ratio, f"<= {goal:g} s", value <= goal)


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _play(fleet: demo.Fleet, name: str, *arguments: str) -> None:
    _ansible(fleet, "ansible-playbook", str(pathlib.Path("playbooks") / f"{name}.yml"), *arguments)


def _ansible(fleet: demo.Fleet, *arguments: str) -> None:
    sys.stderr.write(f"fleet benchmark: {' '.join(arguments)}\n")
    started = fleet.start(*arguments)
    output, _none = started.communicate(timeout=1800)
    if started.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{output[-4000:]}")
