# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks over an emulated provider of containers, with real Ansible: plan, rent, list, look, end."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from emulators import runpod
from emulators.server import serving
from emulators.world import World

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
PLANTED = "planted-secret-93aa"
FLEET = f"""\
plugin: gpuops.fleet.fleet
deployment_id: it-acme-llm
defaults:
  providers: [runpod]
  runtime: container
  image: vllm/vllm-openai:v0.32.0
  env: {{TOKEN: {PLANTED}}}
  ports: [{{port: 8000, protocol: http}}]
  max_lifetime: 8h
  wait: running
instances:
  - {{name: vllm-1, gpu: A100_80GB, max_price_per_hour_usd: 1.7, roles: [vllm]}}
  - {{name: vllm-2, gpu: RTX_4090, gpu_count: 2, max_lifetime: unlimited}}
"""


@dataclass
class Setting:
    """A fleet file, and the provider behind it."""

    file: pathlib.Path
    world: World
    environment: dict[str, str]

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command), "-i", str(self.file), *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def play(self, name: str, *arguments: str) -> str:
        done = self.run("ansible-playbook", f"playbooks/{name}.yml", *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert PLANTED not in done.stdout + done.stderr
        return done.stdout

    def owners(self) -> list[str]:
        """DEPLOYMENT--NAME of what lives."""
        return sorted("--".join(rental.owner.split("--")[1:3]) for rental in self.world.alive())


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    work = tmp_path_factory.mktemp("containers")
    file = work / "fleet.yml"
    file.write_text(FLEET)
    world = World("runpod", scale=600)
    with serving(runpod.make(world), world) as url:
        environment = {
            "RUNPOD_API_KEY": "any",
            "RUNPOD_REST_V2_URL": url + runpod.URL_PATH,
            "GPUFLEET_HOME": str(work / "home"),
            "GPUFLEET_REPORT_DIRECTORY": str(work / "report"),
        }
        yield Setting(file, world, environment)


def test_the_plan_says_what_it_would_cost_and_rents_nothing(setting: Setting) -> None:
    shown = setting.play("plan")
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if " create " in line}
    assert lines["vllm-1"][1:4] == ["create", "runpod", "A100_80GB"]
    assert lines["vllm-1"][-4:] == ["1.19", "8h", "9.52", "sweep"]
    assert lines["vllm-2"][-4:] == ["0.68", "unlimited", "-", "nobody"]
    assert "In all: 1.87 USD per hour." in shown
    assert "vllm-1: no provider ends it by itself." in shown
    assert "vllm-2: nobody ends it, because its lifetime is unlimited" in shown
    assert "costs 1.89 USD per hour, more than 1.7" in shown
    assert setting.world.rentals == {}


def test_a_plan_that_can_not_be_is_an_error_that_names_the_instance(setting: Setting) -> None:
    dear = setting.file.with_name("dear.fleet.yml")
    dear.write_text(FLEET.replace("max_price_per_hour_usd: 1.7", "max_price_per_hour_usd: 0.1"))
    done = Setting(dear, setting.world, setting.environment).run("ansible-playbook", "playbooks/plan.yml")
    assert done.returncode != 0
    words = " ".join((done.stdout + done.stderr).split())
    assert "vllm-1: can't be had as wanted now" in words
    assert "3 refused for their price" in words
    assert "In all: 0.68 USD per hour and the unknown price of vllm-1." in words
    assert setting.world.rentals == {}


def test_rented_once_and_listed_as_endpoints(setting: Setting) -> None:
    setting.play("provision")
    assert "changed=0" in setting.play("provision")
    assert setting.owners() == ["it-acme-llm--vllm-1", "it-acme-llm--vllm-2"]
    assert len(setting.world.rentals) == 2
    assert {rental.wire["env"]["TOKEN"] for rental in setting.world.alive()} == {PLANTED}
    listed = setting.run("ansible-inventory", "--list")
    assert PLANTED not in listed.stdout, "it would be cached, shown and logged"
    inventory = json.loads(listed.stdout)
    assert sorted(inventory["fleet_endpoints"]["hosts"]) == ["vllm-1", "vllm-2"]
    assert "fleet_ssh" not in inventory
    one = inventory["_meta"]["hostvars"]["vllm-1"]
    assert one["fleet_endpoint_url"] == f"https://{one['fleet_instance_id']}-8000.proxy.runpod.net"
    assert (one["fleet_gpu"], one["fleet_price_per_hour_usd"]) == ("A100_80GB", 1.19)
    assert "nothing" in setting.play("plan")
    assert "0.68" in setting.play("status")


def test_all_is_ended_with_proof(setting: Setting) -> None:
    assert "nothing that was to be destroyed of deployment it-acme-llm is left" in " ".join(
        setting.play("destroy", "-e", "fleet_confirm=it-acme-llm").split()
    )
    assert setting.owners() == []
    assert all(rental.billed_usd > 0 for rental in setting.world.rentals.values())
