# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Spot machines that their provider takes back, and the next run of a real playbook: gone, and standing stopped."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from emulators import vastai
from emulators.server import serving
from emulators.world import Fault, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: it-spot
instances:
  - name: vllm-1
    providers: [vastai]
    runtime: vm
    gpu: A40
    interruptible: true
    max_lifetime: 8h
    wait: running
    on_unready: ON_UNREADY
"""


@dataclass
class Setting:
    work: pathlib.Path
    world: World
    environment: dict[str, str]

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command), "-i", str(self.work / "fleet.yml"), *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def provision(self, on_unready: str = "keep") -> subprocess.CompletedProcess[str]:
        (self.work / "fleet.yml").write_text(FLEET.replace("ON_UNREADY", on_unready))
        return self.run("ansible-playbook", "gpuops.fleet.provision")

    def host(self) -> dict[str, Any]:
        """As the inventory sees it, which may use what it has kept."""
        done = self.run("ansible-inventory", "--host", "vllm-1")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def alive(self) -> list[str]:
        return [one.id for one in self.world.alive()]


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> Iterator[Setting]:
    world = World("vastai", scale=600)
    with serving(vastai.make(world, copies=2), world) as url:
        environment = {"VAST_API_KEY": "any", "VAST_URL": url, "GPUFLEET_HOME": str(tmp_path / "home")}
        yield Setting(tmp_path, world, environment)


def words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def test_what_vanished_is_rented_anew(setting: Setting) -> None:
    done = setting.provision()
    assert done.returncode == 0, done.stdout + done.stderr
    (first,) = setting.alive()
    before = setting.host()
    assert before["fleet_instance_id"] == first
    setting.world.take_back("vllm-1")
    done = setting.provision()
    assert done.returncode == 0, done.stdout + done.stderr
    (second,) = setting.alive()
    assert f"vllm-1 at vastai ({first}) is no longer there. It was interruptible" in words(done)
    after = setting.host()
    assert after["fleet_instance_id"] == second != first, "kept lists don't know the old one any more"
    assert after["ansible_port"] != before["ansible_port"]


def test_what_is_outbid_is_told_and_replaced_only_when_that_was_asked_for(setting: Setting) -> None:
    assert setting.provision().returncode == 0
    (first,) = setting.alive()
    setting.world.faults = [Fault(trouble="outbid", of=first)]
    done = setting.provision()
    assert done.returncode != 0
    assert "TROUBLESHOOTING.md says what to do about 'outbid'" in words(done)
    assert "It is kept: its disk goes on costing" in words(done)
    assert setting.alive() == [first]
    shown = setting.host()
    assert (shown["fleet_status"], shown["fleet_outbid"]) == ("stopped", True)
    status = setting.run("ansible-playbook", "gpuops.fleet.status")
    assert "Outbid by others, or stopped from elsewhere: vllm-1. The disk goes on costing" in words(status)
    done = setting.provision("replace")
    assert done.returncode == 0, done.stdout + done.stderr
    (second,) = setting.alive()
    assert second != first
    assert setting.host()["fleet_outbid"] is False
