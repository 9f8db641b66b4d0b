"""What only a machine with an NVIDIA GPU can prove: what the roles of driver and toolkit read there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.nvidia_driver_decision import nvidia_driver_decision
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import GENERATIONS, Host, read_host, sections

SCRIPT = Path(__file__).parents[2] / "roles/nvidia_driver/files/nvidia_facts.sh"

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def printed() -> str:
    if not os.path.exists("/dev/nvidiactl") or not shutil.which("nvidia-smi"):
        pytest.skip("no NVIDIA GPU with a driver on this machine")
    return subprocess.run(
        ["sh", "-s", "all"], input=SCRIPT.read_text(), capture_output=True, text=True, check=True
    ).stdout


def listed() -> list[str]:
    """One line a GPU, as nvidia-smi lists them."""
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def machine(printed: str) -> Host:
    return read_host(sections(printed))


def test_every_gpu_of_the_machine_is_read(machine: Host) -> None:
    assert machine.works
    assert len(machine.smi_versions) == len(listed())
    # In a container the PCI bus may show GPUs of others too.
    assert machine.container or len(machine.generations) == len(listed())
    assert set(machine.generations) <= set(GENERATIONS[2:]) - {"newer"}, "the table knows what is rented"


def test_loaded_module_is_understood(machine: Host) -> None:
    assert machine.loaded_version == machine.smi_versions[0]
    assert machine.loaded_kind in ("open", "proprietary")


def test_a_driver_that_works_stays(printed: str) -> None:
    decision: dict[str, Any] = nvidia_driver_decision(printed, gpu_count=len(listed()))
    assert decision["action"] == "leave", decision["reason"]
    assert (decision["packages"], decision["remove"], decision["reboot"]) == ([], [], False)
    mine = {line.split()[1] for line in sections(printed)["packages"].splitlines()}
    assert set(decision["hold"]) <= mine


def test_one_gpu_more_than_there_are_is_refused(printed: str, machine: Host) -> None:
    if machine.container:
        pytest.skip("a container has the GPUs that it was given; none can be missing on its PCI bus")
    assert nvidia_driver_decision(printed, gpu_count=len(listed()) + 1)["action"] == "refuse"


def test_containers_can_ask_for_every_gpu() -> None:
    if not os.path.exists("/dev/nvidiactl") or not shutil.which("nvidia-ctk"):
        pytest.skip("no NVIDIA GPU with the container toolkit on this machine")
    done = subprocess.run(["nvidia-ctk", "cdi", "list"], capture_output=True, text=True, check=True)
    assert "nvidia.com/gpu=all" in done.stdout.splitlines()
    assert [line for line in done.stdout.splitlines() if line.removeprefix("nvidia.com/gpu=").isdigit()] == [
        f"nvidia.com/gpu={number}" for number in range(len(listed()))
    ]
