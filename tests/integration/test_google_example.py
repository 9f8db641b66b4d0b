# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/gcp by real Ansible, against the emulated Google Cloud: planned, opened, rented, left alone, ended.
And with a pod at RunPod in the same fleet.

Nothing stands behind what is rented here; test_emulated_machines.py logs in to a machine of the same provider.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_command import vllm_command
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_sizes
from emulators import gcp, runpod
from emulators.server import serving
from emulators.world import World

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
API_KEY = "planted-api-key-41c0"
TOKEN = "planted-token-77aa"  # noqa: S105 (nobody's)


class Controller:
    """A copy of the example, and somebody who runs Ansible on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.work = folder / "gcp"
        self.home = folder / "home"
        shutil.copytree(ROOT / "examples" / "gcp", self.work)
        key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        text = (self.work / "fleet.yml").read_text().replace("~/.ssh/id_ed25519", str(key))
        # Its time runs faster there, and Google ends what is over.
        text = re.sub(r"max_lifetime: 8h.*", "max_lifetime: 60d\n    wait: running", text)
        (self.work / "fleet.yml").write_text(text)
        self.environment = {
            "GCP_ACCESS_TOKEN": TOKEN,
            "GCP_COMPUTE_URL": url,
            "GPUFLEET_HOME": str(self.home),
            "GPUFLEET_REPORT_DIRECTORY": str(folder / "report"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "1000",
        }

    def play(self, playbook: Path | str, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(self.work / "fleet.yml"), str(playbook), *arguments, "-vv"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        shown = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 0, shown[-3000:]
        assert TOKEN not in shown
        return shown


@pytest.fixture
def world() -> World:
    return World("gcp", scale=30)


@pytest.fixture
def controller(world: World, tmp_path: Path) -> Iterator[Controller]:
    with serving(gcp.make(world), world) as base:
        yield Controller(tmp_path, base + gcp.URL_PATH)


def who_may_reach_what(controller: Controller) -> None:
    """Of the emulated project, whole: the gateway's port from its clients alone, and nothing from everybody."""
    api = f"{controller.environment['GCP_COMPUTE_URL']}/projects/acme-gpus/global/firewalls"
    answer = requests.get(api, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
    rules = {rule["name"]: rule for rule in answer.json()["items"]}
    clients = yaml.safe_load((controller.work / "group_vars" / "all.yml").read_text())["gateway_allowed_cidrs"]
    assert {name: rule["allowed"] for name, rule in rules.items()} == {
        "gf--acme-gcp--ssh": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "gf--acme-gcp--gateway": [{"IPProtocol": "tcp", "ports": ["443"]}],
    }
    assert rules["gf--acme-gcp--gateway"]["sourceRanges"] == clients
    for rule in rules.values():
        assert rule["targetTags"] == ["gpuops-fleet-acme-gcp"]
        assert not [cidr for cidr in rule["sourceRanges"] if cidr.endswith("/0")]


def test_the_example_is_planned_rented_once_and_ended(controller: Controller, world: World) -> None:
    planned = controller.play("playbooks/plan.yml")
    assert re.search(r"vllm-1 create gcp A100_80GB 1 vm a2-ultragpu-1g us-east5 5\.52382 60d \S+ provider", planned)
    assert world.rentals == {}
    rule = controller.work / "firewall.yml"
    assert [re.findall(r"changed=(\d)", controller.play(rule)) for _turn in range(2)] == [["2"], ["0"]]
    who_may_reach_what(controller)
    controller.play("playbooks/provision.yml")
    (rental,) = world.alive()
    assert rental.owner.startswith("gf--acme-gcp--vllm-1--")
    assert rental.wire["scheduling"]["onHostMaintenance"] == "TERMINATE"
    # us-east5-a lists this card, too, but has none left.
    assert rental.wire["_zone"] == "us-east5-b"
    assert "changed=0" in controller.play("playbooks/provision.yml")
    assert world.alive() == [rental]
    assert "is left" in controller.play("playbooks/destroy.yml", "-e", "fleet_confirm=acme-gcp")
    assert world.alive() == []
    kept = "".join(path.read_text() for path in controller.home.rglob("*") if path.is_file())
    assert TOKEN not in kept, "neither the journal nor a cache holds it"


def test_a_fleet_written_once_is_the_same_gpu_and_the_same_model_at_google_and_at_runpod(
    controller: Controller, world: World
) -> None:
    file, variables = (controller.work / name for name in ("fleet.yml", "group_vars/all.yml"))
    fleet, chosen = (yaml.safe_load(one.read_text()) for one in (file, variables))
    machine = fleet["instances"].pop()
    once = ("gpu", "max_lifetime", "wait", "disk_gib")
    fleet["defaults"] = {name: machine.pop(name) for name in once}
    fleet["instances"] = [machine, {"name": "vllm-2", "roles": ["vllm"], "providers": ["runpod"]}]
    file.write_text(yaml.safe_dump(fleet))
    variables.write_text(yaml.safe_dump({**chosen, "vllm_api_key": API_KEY}))
    pods = World("runpod", scale=30)
    with serving(runpod.make(pods), pods) as base:
        controller.environment |= {"RUNPOD_API_KEY": "any", "RUNPOD_REST_V2_URL": base + runpod.URL_PATH}
        controller.play("playbooks/provision.yml")
        ((rental,), (pod,)) = world.alive(), pods.alive()
        assert rental.wire["machineType"].rpartition("/")[2] == "a2-ultragpu-1g"
        assert [one.gpu for one in gcp_sizes.SIZES if one.name == "a2-ultragpu-1g"] == ["A100_80GB"]
        assert _gpus.identify(pod.wire["gpu"]["id"]) == "A100_80GB"
        # What the role writes on the machine is what the pod was ordered with, to the last argument.
        own = {name: value for name, value in chosen.items() if name.startswith("vllm_") and name != "vllm_gpu_devices"}
        settings = {name.removeprefix("vllm_"): value for name, value in own.items()}
        command = vllm_command({**settings, "gpu": True})["command"]
        ordered = pod.wire["cmd"]
        assert ordered[ordered.index("vllm") :] == command
        assert command[2] == chosen["vllm_model"]
        controller.play("playbooks/destroy.yml", "-e", "fleet_confirm=acme-gcp")
        assert world.alive() == pods.alive() == []
