# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory and offers from files, with real Ansible over an emulated provider: who asks, and what is never missed."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from emulators import runpod
from emulators.server import serving
from emulators.world import Fault, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
KEY = "planted-key-5fd2"
FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: it-cached-llm
defaults:
  providers: [runpod]
  runtime: container
  image: vllm/vllm-openai:v0.32.0
  max_lifetime: 8h
  wait: none
instances:
  - {name: vllm-1, gpu: A40}
"""
OFFERS = """\
- hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - gpuops.fleet.offer_info: {providers: [runpod], runtime: container, gpu: A40}
      register: market
    - ansible.builtin.copy: {content: "{{ market | to_json }}", dest: "{{ to }}", mode: "0600"}
"""


@dataclass
class Setting:
    """A fleet file, its provider, and a controller with a home."""

    work: pathlib.Path
    world: World
    environment: dict[str, str]

    def run(self, command: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command), *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def list(self, *arguments: str, file: str = "fleet.yml", **environment: str) -> tuple[dict[str, Any], str]:
        """The variables of vllm-1 with all that hold for all hosts, and what was warned of."""
        done = self.run("ansible-inventory", "-i", str(self.work / file), "--list", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert KEY not in done.stdout + done.stderr
        return json.loads(done.stdout)["_meta"]["hostvars"]["vllm-1"], " ".join(done.stderr.split())

    def asked(self, path: str = "/v2/pods") -> int:
        with self.world.lock:
            return sum((call["method"], call["path"]) == ("GET", path) for call in self.world.calls)

    def age(self, seconds: float) -> None:
        """Make all that is kept older."""
        for path in (self.work / "home" / "cache").iterdir():
            if path.suffix in (".json", ".changed"):
                told = json.loads(path.read_text())
                for name in {"asked_at", "fetched_at", "changed_at"}.intersection(told):
                    told[name] -= seconds
                path.write_text(json.dumps(told))

    def kept(self, kind: str) -> dict[str, Any]:
        """What was fetched last of that kind: offers are kept for each question that was asked."""
        told = [json.loads(path.read_text()) for path in (self.work / "home" / "cache").glob(f"*-{kind}*.json")]
        return dict(max(told, key=lambda one: one["fetched_at"]))

    def until(self, kind: str, name: str, before: Any) -> None:
        """Until something was done in the background; it is not waited for by anybody else."""
        deadline = time.monotonic() + 180  # a process of its own, on a machine that may be busy
        while self.kept(kind)[name] == before:
            assert time.monotonic() < deadline, "nothing happens in the background"
            time.sleep(0.1)

    def until_no_code_is_left(self) -> None:
        """The process removes its copy of the code as the last thing it does, after it has stored the answer."""
        deadline = time.monotonic() + 180
        while left := sorted((self.work / "home" / "cache").glob(".code-*")):
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    work = tmp_path_factory.mktemp("cached")
    (work / "fleet.yml").write_text(FLEET)
    (work / "always.fleet.yml").write_text(FLEET + "cache: false\n")
    (work / "offers.yml").write_text(OFFERS)
    world = World("runpod", scale=600)
    with serving(runpod.make(world), world) as url:
        yield Setting(
            work,
            world,
            {
                "RUNPOD_API_KEY": KEY,
                "RUNPOD_REST_V2_URL": url + runpod.URL_PATH,
                "GPUFLEET_HOME": str(work / "home"),
                "GPUFLEET_REPORT_DIRECTORY": str(work / "report"),
            },
        )


def test_what_was_rented_is_there_at_once(setting: Setting) -> None:
    assert setting.list()[0]["fleet_status"] == "absent"
    assert setting.list()[0]["fleet_status"] == "absent"
    assert setting.asked() == 1, "the second time it came from a file"
    done = setting.run("ansible-playbook", "-i", str(setting.work / "fleet.yml"), "playbooks/provision.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = setting.asked()
    variables, warnings = setting.list()
    assert variables["fleet_status"] in ("pending", "running")
    assert warnings == ""
    assert setting.asked() == asked, "the playbook refreshed the inventory at its end"


def test_who_wants_it_fresh_asks(setting: Setting) -> None:
    for arguments, file, environment in (
        (("--flush-cache",), "fleet.yml", {}),
        ((), "always.fleet.yml", {}),
        ((), "fleet.yml", {"GPUFLEET_CACHE": "false"}),
        ((), "fleet.yml", {"ANSIBLE_INVENTORY_CACHE": "false"}),
    ):
        asked = setting.asked()
        assert setting.list(*arguments, file=file, **environment)[0]["fleet_inventory_age_seconds"] == 0.0
        assert setting.asked() == asked + 1


def test_an_old_list_is_used_and_refreshed_behind_our_back(setting: Setting) -> None:
    setting.list("--flush-cache")
    asked = setting.asked()
    setting.age(300)
    before = setting.kept("instances")["fetched_at"]
    variables, warnings = setting.list()
    assert variables["fleet_inventory_age_seconds"] >= 300
    assert warnings == ""
    setting.until("instances", "fetched_at", before)
    assert setting.list()[0]["fleet_inventory_age_seconds"] < 300
    assert setting.asked() == asked + 1


def test_a_provider_that_is_down_is_a_warning_and_its_hosts_stay(setting: Setting) -> None:
    setting.age(300)
    setting.world.faults = [Fault(status=503, times=None)]
    try:
        setting.list()
        setting.until("instances", "failed_at", None)
        asked = setting.asked()
        variables, warnings = setting.list()
        assert setting.asked() == asked, "nobody waits for it again so soon"
    finally:
        setting.world.faults = []
    assert "Provider runpod did not say what lives there now: runpod can't be asked: GET /pods answers 503." in warnings
    assert "Its list of 3" in warnings
    assert variables["fleet_complete"] is True
    assert variables["fleet_status"] in ("pending", "running")


def test_a_home_that_can_not_be_used_changes_nothing_but_the_number_of_questions(setting: Setting) -> None:
    asked = setting.asked()
    for _time in range(2):
        variables, warnings = setting.list(GPUFLEET_HOME="/proc/gpufleet")
        assert variables["fleet_status"] in ("pending", "running")
        assert warnings == ""
    assert setting.asked() == asked + 2


def test_offers_are_refreshed_by_a_process_that_outlives_the_module(setting: Setting) -> None:
    """Ansible removes the archive from which a module runs as soon as the module ends."""

    def offers() -> dict[str, Any]:
        to = setting.work / "market.json"
        done = setting.run("ansible-playbook", str(setting.work / "offers.yml"), "-e", f"to={to}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert KEY not in done.stdout + to.read_text()
        market: dict[str, Any] = json.loads(to.read_text())
        assert [offer["id"] for offer in market["offers"]] == ["NVIDIA A40|SECURE|"]
        return market

    assert offers()["answers"] == [{"provider": "runpod", "age_seconds": 0.0, "error": None}]
    setting.age(100)
    asked = setting.asked("/v2/catalog/gpus")
    setting.world.faults = [Fault(path="/catalog/gpus", latency_seconds=2.0, times=2)]
    before = setting.kept("offers")["fetched_at"]
    assert offers()["answers"][0]["age_seconds"] >= 100
    setting.until("offers", "fetched_at", before)
    assert setting.asked("/v2/catalog/gpus") == asked + 2
    setting.until_no_code_is_left()


def test_what_was_ended_is_gone_at_once(setting: Setting) -> None:
    setting.list()
    done = setting.run(
        "ansible-playbook",
        "-i",
        str(setting.work / "fleet.yml"),
        "playbooks/destroy.yml",
        "-e",
        "fleet_confirm=it-cached-llm",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert setting.list()[0]["fleet_status"] == "absent"
    assert setting.world.alive() == []


def test_no_file_of_the_home_holds_the_key(setting: Setting) -> None:
    texts = [path.read_text() for path in (setting.work / "home").rglob("*") if path.is_file()]
    assert any("it-cached-llm" in text for text in texts)
    assert not [text for text in texts if KEY in text]
