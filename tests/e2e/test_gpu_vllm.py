# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only a GPU host can prove: the GPU is in the container by CDI, and stays there when systemd reloads."""

from __future__ import annotations

import json
import os

import pytest
from demo import FLEET_FILE, Fleet
from testinfra.host import Host

CONTAINER = "vllm-vllm-1"


@pytest.fixture(scope="module")
def gpu_host() -> Host:
    if not os.path.exists("/dev/nvidiactl") and "FLEET_FILE" not in os.environ:
        pytest.skip("no NVIDIA GPU on this machine; FLEET_FILE names a fleet that rents one")
    demo = Fleet(FLEET_FILE)
    if not demo.inventory().get("vllm", {}).get("hosts"):
        pytest.skip(f"no vllm host lives in {FLEET_FILE}")
    machine = demo.machine("vllm")
    if not machine.variables.get("fleet_gpu_count"):
        pytest.skip(f"the vllm host {machine.name} has no GPU")
    return machine.host


def gpus(host: Host, *prefix: str) -> list[str]:
    return sorted(str(host.check_output(" ".join([*prefix, "nvidia-smi", "-L"]))).splitlines())


@pytest.mark.gpu
def test_gpu_comes_by_cdi_and_nothing_else(gpu_host: Host) -> None:
    settings = json.loads(gpu_host.check_output(f"docker inspect {CONTAINER}"))[0]["HostConfig"]
    assert [request["Driver"] for request in settings["DeviceRequests"]] == ["cdi"]
    assert not settings["Privileged"]
    assert settings["Runtime"] == "runc"
    assert gpus(gpu_host, "docker", "exec", CONTAINER) == gpus(gpu_host)


@pytest.mark.gpu
def test_gpu_survives_a_reload_of_systemd(gpu_host: Host) -> None:
    before = gpus(gpu_host, "docker", "exec", CONTAINER)
    gpu_host.check_output("systemctl daemon-reload")
    assert gpus(gpu_host, "docker", "exec", CONTAINER) == before


@pytest.mark.gpu
def test_vllm_took_the_gpu(gpu_host: Host) -> None:
    # A CUDA process of vLLM shows in the list of those that compute.
    listed = gpu_host.check_output("nvidia-smi --query-compute-apps=used_memory --format=csv,noheader,nounits")
    assert sum(int(line) for line in listed.splitlines() if line.strip().isdigit()) > 1024
