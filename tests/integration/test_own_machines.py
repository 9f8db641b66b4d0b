# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that somebody owns: the playbooks, and real Ansible over a real SSH server that knows nothing of fleets.

That server is a host of the provider "local" in a deployment of its own, made and ended by this test.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import local_engine

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DOCKER = local_engine.engine()
IMAGE = local_engine.host_image(DOCKER) if DOCKER else None
needs_a_machine = [
    pytest.mark.skipif(DOCKER is None, reason="no Docker Engine answers on this machine"),
    pytest.mark.skipif(DOCKER is not None and IMAGE is None, reason="the host image is missing; run make setup"),
]

FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: {deployment_id}
defaults:
  providers: [ssh]
  wait_timeout_seconds: {wait_timeout_seconds}
  {more}
instances:
  - {{name: gpu-1, roles: [vllm], address: {address}, port: {port}, gpu: A40, price_per_hour_usd: 0.4}}
"""


@dataclass
class Controller:
    """A fleet file, and somebody with a home who runs Ansible on it."""

    work: Path
    address: str = "127.0.0.1"
    port: int = 1  # where nobody listens
    wait_timeout_seconds: int = 2
    deployment_id: str = "it-own"

    def write(self, more: str = "", home: str = "home") -> None:
        self.home = self.work / home
        fleet = {**vars(self), "more": more}
        (self.work / "fleet.yml").write_text(FLEET.format(**fleet))

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(BIN / command), "-i", str(self.work / "fleet.yml"), *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "GPUFLEET_HOME": str(self.home),
                "GPUFLEET_REPORT_DIRECTORY": str(self.work / "report"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",  # a connection that is open already asks for no host key
                "COLUMNS": "1000",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def play(self, name: str, *arguments: str) -> str:
        status, shown = self.run("ansible-playbook", f"playbooks/{name}.yml", *arguments)
        assert status == 0, shown[-3000:]
        return shown


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    found = Controller(tmp_path)
    found.write()
    return found


def test_the_playbooks_say_what_is_ones_own_and_leave_it_alone(controller: Controller) -> None:
    """Where nobody listens: none of these goes there."""
    plan = controller.play("plan")
    assert "gpu-1 use ssh A40 1 vm - - 0.4 unlimited - nobody" in plan
    assert "gpu-1: yours, so it is used as it is, and nobody ends it" in plan
    assert "gpuops.fleet.destroy does" not in plan
    status = controller.play("status")
    assert "gpu-1 ssh running A40 1 127.0.0.1 - - - nobody 0.4 - price_and_age 127.0.0.1:1" in status
    assert "In all: 0.4 USD per hour, 0 USD so far (incomplete" in status
    assert "not there" not in status
    assert "orphans" not in status
    nobody_asked = "No provider was asked, because"
    assert f"{nobody_asked} {controller.work}/fleet.yml names none that rents. If anything of deployment" in status
    code, swept = controller.run("ansible-playbook", "playbooks/sweep.yml", "-e", "fleet_confirm=it-own")
    assert code != 0
    assert "No provider that rents is named, so there is nowhere to look" in swept
    destroyed = controller.play("destroy")  # asks nothing: nobody pays less afterwards
    assert "gpu-1 is a machine that you own, so nothing on it was changed" in destroyed
    assert nobody_asked in destroyed
    assert "of deployment it-own is left" not in destroyed
    assert "Yours, and left as they are, with what runs there: gpu-1." in destroyed
    assert "changed=0" in destroyed


def test_provision_says_why_it_can_not_be_used(controller: Controller) -> None:
    status, shown = controller.run("ansible-playbook", "playbooks/provision.yml")
    assert status != 0
    assert "was not ready (ssh) after" in shown
    assert "refused" in shown
    assert "It is yours, so it is left as it is. Run again to go on waiting." in shown
    status, shown = controller.run("ansible-playbook", "playbooks/provision.yml", "-e", "fleet_instance_state=stopped")
    assert status != 0
    assert "provider 'ssh' can't stop a machine that you own; do that yourself." in shown


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A real machine with a real SSH server, and the key that opens it."""
    work = tmp_path_factory.mktemp("machine")
    key = work / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    rented = {
        "deployment_id": f"it-{random.randrange(16**8):08x}",  # noqa: S311 (no secret)
        "name": "a-1",
        "providers": ["local"],
        "provider_settings": {"local": {"image": IMAGE}},
        "ssh_private_key_file": str(key),
    }
    try:
        result = local_engine.run_module("instance", work, **rented)
        assert not result.get("failed"), result.get("msg")
        yield {**result["instance"], "key": key}
    finally:
        gone = local_engine.run_module("instance", work, **{**rented, "state": "absent"})
        assert not gone.get("failed"), gone.get("msg")


@pytest.fixture
def own(machine: dict[str, Any], tmp_path: Path) -> Controller:
    found = Controller(tmp_path, machine["ssh_host"], machine["ssh_port"], 60)
    found.write(f"ssh_private_key_file: {machine['key']}")
    return found


class TestOnARealMachine:
    pytestmark = needs_a_machine

    def test_its_key_is_learnt_at_the_first_login_and_pinned_then(
        self, own: Controller, machine: dict[str, Any]
    ) -> None:
        first = own.play("provision")
        assert f"trusted from now on ({machine['host_key']})" in first
        assert "changed=0" in first
        second = own.play("provision")
        assert "trusted from now on" not in second
        status, listed = own.run("ansible-inventory", "--host", "gpu-1")
        assert status == 0, listed
        assert machine["host_key"] in listed
        status, answer = own.run("ansible", "gpu-1", "-m", "ansible.builtin.ping")
        assert status == 0, answer
        assert "pong" in answer

        assert "changed=1" in own.play("destroy")  # the key is forgotten, and that is all
        status, answer = own.run("ansible-inventory", "--host", "gpu-1")
        assert machine["host_key"] not in answer
        assert "changed=0" in own.play("destroy")
        assert "trusted from now on" in own.play("provision")  # so it still runs

    def test_another_key_than_the_given_one_is_never_accepted(
        self, own: Controller, machine: dict[str, Any], tmp_path: Path
    ) -> None:
        stranger = tmp_path / "stranger"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
        wrong = Path(f"{stranger}.pub").read_text().strip()
        own.write(f"ssh_private_key_file: {machine['key']}\n  host_key: {wrong}")
        status, shown = own.run("ansible-playbook", "playbooks/provision.yml")
        assert status != 0
        assert "host_key_changed" in shown
        status, shown = own.run("ansible", "gpu-1", "-m", "ansible.builtin.ping")
        assert status != 0
        assert "Host key verification failed" in shown

    def test_the_given_key_needs_no_first_trust_on_any_controller(
        self, own: Controller, machine: dict[str, Any]
    ) -> None:
        own.write(f"ssh_private_key_file: {machine['key']}\n  host_key: {machine['host_key']} root@gpu-1", home="other")
        shown = own.play("provision")
        assert "trusted from now on" not in shown
        assert "WARNING" not in shown
        status, answer = own.run("ansible", "gpu-1", "-m", "ansible.builtin.ping")
        assert status == 0, answer

    def test_an_rsa_key_may_be_the_given_one(self, own: Controller, machine: dict[str, Any]) -> None:
        """The machine gets one first; who signs with SHA-1 is refused by ssh, so the name of the key is not enough."""
        made = subprocess.run(
            [
                *("ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", machine["key"]),
                *("-p", str(machine["ssh_port"]), f"root@{machine['ssh_host']}"),
                "ssh-keygen -q -t rsa -N '' -f /etc/ssh/ssh_host_rsa_key <<<y >/dev/null;"
                " sshd -T | grep -q ssh_host_rsa_key || echo HostKey /etc/ssh/ssh_host_rsa_key >>/etc/ssh/sshd_config;"
                " systemctl restart ssh.service; cat /etc/ssh/ssh_host_rsa_key.pub",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        own.write(f"ssh_private_key_file: {machine['key']}\n  host_key: {made.strip()}")
        own.play("provision")
        status, answer = own.run("ansible", "gpu-1", "-m", "ansible.builtin.ping")
        assert status == 0, answer

    def test_a_key_that_it_does_not_know_is_refused_for_good(self, own: Controller, tmp_path: Path) -> None:
        stranger = tmp_path / "stranger"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
        own.write(f"ssh_private_key_file: {stranger}")
        result = local_engine.run_module(
            "instance",
            own.home,
            deployment_id="it-own",
            name="gpu-1",
            providers=["ssh"],
            address=own.address,
            port=own.port,
            ssh_private_key_file=str(stranger),
        )
        assert result["failed"]
        assert result["readiness"]["last_class"] == "auth"
        assert json.dumps(result["failed_rentals"]) == "[]"
