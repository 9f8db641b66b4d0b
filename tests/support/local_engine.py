# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests that use the real local provider share: running modules as Ansible does, and looking at what is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import docker.errors

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = "ansible_collections.gpuops.fleet.plugins.modules"


def engine() -> docker.DockerClient | None:
    """The Docker Engine, or None when none answers."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        return None
    return client


def host_image(client: docker.DockerClient) -> str | None:
    """The host image to test with: GPUFLEET_TEST_HOST_IMAGE, else the one that set-up made."""
    for name in (os.environ.get("GPUFLEET_TEST_HOST_IMAGE"), "gpufleet/host:trixie", "gpufleet/host:dev"):
        if name and client.images.list(name):
            return name
    return None


def start_module(module: str, home: Path, **arguments: Any) -> subprocess.Popen[str]:
    """One controller: a process of its own that runs the module with these arguments."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "build" / "collections"),
        "GPUFLEET_HOME": str(home),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", f"{MODULES}.{module}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    try:
        result: dict[str, Any] = json.loads(out)
    except ValueError as error:
        raise AssertionError(f"no JSON: {out}\n{err}") from error
    return result


def run_module(module: str, home: Path, **arguments: Any) -> dict[str, Any]:
    return finish(start_module(module, home, **arguments))


def left_behind(client: docker.DockerClient, deployment_id: str) -> list[str]:
    """Names of all containers and networks of a deployment."""
    label: dict[str, str | list[str] | bool] = {"label": f"gpuops.fleet.deployment={deployment_id}"}
    containers = [
        str(container.name) for container in client.containers.list(all=True, filters=label, ignore_removed=True)
    ]
    return containers + [str(network.name) for network in client.networks.list(filters=label)]
