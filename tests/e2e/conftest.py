# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the end-to-end tests, and the order in which their files run."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from demo import FLEET_FILE, SERVICES, Fleet, Machine, Run

# What only looks comes before what changes something, and what breaks things comes last.
ORDER = [
    "test_gpu_vllm",
    "test_services",
    "test_monitoring",
    "test_firewall",
    "test_container_audit",
    "test_pull",
    "test_rolling_upgrade",
    "test_tools",
    "test_pipeline",
    "test_idempotence",
    "test_verdict",
    "test_secrets",
    "test_own_and_rented_machines",
    "test_rented_vllm",
    "test_bad_input",
    "test_survival",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem))  # a file that isn't there has to be put there


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    demo = Fleet(FLEET_FILE)
    inventory = demo.inventory()
    missing = [role for role in SERVICES if not inventory.get(role, {}).get("hosts")]
    if missing:
        pytest.fail(f"The demo does not run ({', '.join(missing)} missing): run 'make demo' first.", pytrace=False)
    return demo


@pytest.fixture(scope="session")
def machines(fleet: Fleet) -> list[Machine]:
    """Every host that Ansible reaches, for what only looks: where it is may change in `test_survival`."""
    return [Machine(name, fleet.variables(name)) for name in fleet.inventory()["fleet_ssh"]["hosts"]]


def _copy_vllm_image(fleet: Fleet) -> str:
    """Its name, once this machine's engine has it, too."""
    vllm = fleet.service("vllm")
    name = str(vllm.inspect()["Config"]["Image"])
    # Its host is a container here: three gigabytes need not be encrypted on their way.
    saving = ["docker", "exec", vllm.machine.variables["fleet_instance_id"], "docker", "save", name]
    with subprocess.Popen(saving, stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, timeout=900)
    assert saved.returncode == 0
    return name


@pytest.fixture(scope="session", autouse=True)
def vllm_image(request: pytest.FixtureRequest) -> Callable[[], str] | None:
    """Waits for the image of vLLM on this machine; its copy begins first, because it is long and needs no processor."""
    if not any(item.path.stem == "test_rented_vllm" for item in request.session.items):
        return None
    copying = ThreadPoolExecutor(1).submit(_copy_vllm_image, request.getfixturevalue("fleet"))
    return copying.result


@pytest.fixture(scope="session")
def second_reports(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where second_run writes its verdict and its report."""
    return tmp_path_factory.mktemp("second-reports")


@pytest.fixture(scope="session")
def second_run(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory, second_reports: pathlib.Path) -> Run:
    """site.yml once more, as a controller does it that has never seen this fleet, and as talkative as can be."""
    home = tmp_path_factory.mktemp("empty-home")
    return fleet.playbook(
        "site",
        *("-vvv", "--diff"),
        HOME=str(home),
        GPUFLEET_HOME=str(home / ".local" / "state" / "gpuops-fleet"),
        GPUFLEET_REPORT_DIRECTORY=str(second_reports),
    )
