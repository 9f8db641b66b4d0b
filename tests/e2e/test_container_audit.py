# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every container and every unit of ours passes an audit.

The containers: section 5 of the CIS Docker Benchmark, 4.1 and 4.6, check by check (`support/container_audit.py`), from
one `docker inspect` a host. The hosts of the demo are containers of this machine themselves, and stand for rented
machines: they are not audited, nor is the registry that stands for one in the internet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from demo import SERVICES, Machine
from support.container_audit import CHECKS, NEEDED_PORTS, audit

# One line for the engine, one for each container with what runs in it, and one for each of `docker inspect`.
LOOK = r"""
docker info --format '{{json .}}'
for id in $(docker ps --all --quiet --no-trunc); do
    echo "$(docker top $id -eo pid,comm 2>/dev/null | sed "1d; s/^ *[0-9]* *//" | sort -u | paste -sd/)"
done
containers=$(docker ps --all --quiet --no-trunc)
[ -z "$containers" ] || docker inspect --format '{{json .}}' $containers
"""
EXPOSURE = r"""
for unit in $(grep -l '^# Written by the role gpuops.fleet' /etc/systemd/system/*.service); do
    systemd-analyze security --no-pager "$(basename "$unit")" | grep 'Overall exposure level'
done
"""
MOST_EXPOSURE = 3.0


@dataclass(frozen=True)
class Look:
    """What one host says about its containers."""

    engine: dict[str, Any]
    containers: list[dict[str, Any]]
    processes: list[set[str]]

    def findings(self) -> Iterator[str]:
        for container, processes in zip(self.containers, self.processes, strict=True):
            project = container["Config"]["Labels"].get("com.docker.compose.project", "")
            yield from audit(container, self.engine, processes, NEEDED_PORTS.get(project, set()))


def look(machine: Machine) -> Look:
    engine, *lines = machine.run(LOOK).splitlines()
    half = len(lines) // 2
    return Look(
        json.loads(engine), [json.loads(line) for line in lines[half:]], [set(line.split("/")) for line in lines[:half]]
    )


@pytest.fixture(scope="module")
def looks(machines: list[Machine]) -> list[Look]:
    with ThreadPoolExecutor(len(machines)) as at_once:
        return list(at_once.map(look, machines))


@pytest.fixture(scope="module")
def findings(looks: list[Look]) -> list[str]:
    return [finding for look in looks for finding in look.findings()]


def test_every_service_is_audited(looks: list[Look]) -> None:
    seen = {str(one["Config"]["Labels"]["com.docker.compose.service"]) for look in looks for one in look.containers}
    assert set(SERVICES) <= seen
    assert all(processes - {""} for look in looks for processes in look.processes), "5.7 looks at what runs"


@pytest.mark.parametrize("check", CHECKS)
def test_check(findings: list[str], check: str) -> None:
    assert [finding for finding in findings if finding.startswith(f"{check} ")] == []


def test_units_are_confined(machines: list[Machine]) -> None:
    """By the systemd that runs them; tests/unit/roles/test_unit_exposure.py judges all that a role may write."""
    with ThreadPoolExecutor(len(machines)) as at_once:
        told = "".join(at_once.map(lambda machine: machine.run(EXPOSURE), machines))
    levels = re.findall(r"level for (\S+): ([0-9.]+)", told)
    assert {f"{name}.service" for name in SERVICES} <= {unit for unit, _level in levels}
    assert [(unit, level) for unit, level in levels if float(level) > MOST_EXPOSURE] == []
