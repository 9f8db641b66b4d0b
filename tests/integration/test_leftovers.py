# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What interrupted tests left is found and removed, and a user's own fleet is not among it."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from support import local_engine

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = local_engine.engine()
IMAGE = local_engine.host_image(DOCKER) if DOCKER else None
pytestmark = [
    pytest.mark.skipif(DOCKER is None, reason="no Docker Engine answers on this machine"),
    pytest.mark.skipif(DOCKER is not None and IMAGE is None, reason="the host image is missing; run make setup"),
]


@pytest.fixture
def deployments() -> Iterator[tuple[str, str]]:
    """One of a test and one of a user, each with a container, a volume and a network."""
    assert DOCKER
    assert IMAGE
    number = f"{random.randrange(16**8):08x}"  # noqa: S311 (no secret)
    both = (f"it-{number}", f"my-it-{number}")
    made: list[Any] = []
    for deployment in both:
        labels = {"gpuops.fleet": "instance", "gpuops.fleet.deployment": deployment}
        made.append(DOCKER.containers.create(IMAGE, name=deployment, labels=labels))
        made.append(DOCKER.volumes.create(name=deployment, labels=labels))
        made.append(DOCKER.networks.create(name=deployment, labels=labels))
    yield both
    for one in made:
        try:
            one.remove()
        except docker.errors.NotFound:
            continue


def leftovers(*arguments: str, of: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "leftovers"), *arguments]
    return subprocess.run(
        command, env={**os.environ, "LEFTOVERS_OF": of}, capture_output=True, text=True, check=False, timeout=120
    )


def names() -> list[str]:
    assert DOCKER
    found: list[Any] = [*DOCKER.containers.list(all=True), *DOCKER.volumes.list(), *DOCKER.networks.list()]
    return [str(one.name) for one in found]


def test_leftovers_are_found_and_removed_and_nothing_else(deployments: tuple[str, str]) -> None:
    test, user = deployments
    found = leftovers(of=test)
    assert found.returncode == 1
    assert found.stderr.split("\n")[1:-1] == [f"{test} {kind} {test}" for kind in ("container", "volume", "network")]
    assert leftovers("remove", of=test).returncode == 0
    assert names().count(test) == 0
    assert names().count(user) == 3


def test_a_fleet_of_the_user_is_no_leftover(deployments: tuple[str, str]) -> None:
    _test, user = deployments
    script = (ROOT / "scripts" / "leftovers").read_text()
    usual = script.partition("LEFTOVERS_OF:-'")[2].partition("'")[0]
    shown = leftovers(of=usual).stderr
    assert deployments[0] in shown.split()
    assert user not in shown.split()
