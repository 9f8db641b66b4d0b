# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What scenarios need beside testinfra: playbooks, reboots, other addresses, and waiting for what comes back."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import testinfra

Host = Any  # testinfra has no types


def wait_until(question: Callable[[], Any], timeout_seconds: float, what: str) -> Any:
    """Ask again and again until the answer is true; errors of a host that is away count as no."""
    deadline = time.monotonic() + timeout_seconds
    problem: object = "never true"
    while time.monotonic() < deadline:
        try:
            answer = question()
            if answer:
                return answer
        except Exception as error:  # the host is away: ssh, Ansible and testinfra fail in many ways
            problem = error
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen within {timeout_seconds:g} s ({problem})")


def instance(name: str, state: str) -> dict[str, Any]:
    """Bring a host of this scenario into a state by our own module, as any controller would."""
    arguments = {
        "deployment_id": f"molecule-{os.environ['MOLECULE_SCENARIO_NAME']}",
        "name": name,
        "providers": ["local"],
        "image": os.environ.get("MOLECULE_HOST_IMAGE", "gpufleet/host-docker:trixie"),
        "ssh_private_key_file": key_file(),
        "state": state,
    }
    done = subprocess.run(
        [
            "ansible",
            "localhost",
            "--one-line",
            "--module-name",
            "gpuops.fleet.instance",
            "--args",
            json.dumps(arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.partition("=>")[2])["instance"]
    return result


def key_file() -> str:
    return os.environ.get("MOLECULE_SSH_KEY") or f"{os.environ['MOLECULE_PROJECT_DIRECTORY']}/build/ssh/id_ed25519"


def connect(address: str) -> Host:
    """A testinfra host for an address that the generated inventory does not have."""
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes"
    return testinfra.get_host(f"ssh://root@{address}", ssh_identity_file=key_file(), ssh_extra_args=options)


def restart_with_another_address(name: str) -> tuple[Host, str]:
    """Stop and start the rental: with the provider local it then has another address."""
    instance(name, "stopped")
    address = str(instance(name, "started")["address"])
    return connect(address), address


def play(playbook: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Play a file of the scenario on its hosts, whatever comes of it."""
    return subprocess.run(
        ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook), *options],
        env={**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "false", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def boot_id(host: Host) -> str:
    return str(host.check_output("cat /proc/sys/kernel/random/boot_id; systemctl show --property=UserspaceTimestamp"))


def reboot(host: Host) -> None:
    """Reboot and wait until the host answers again."""
    before = boot_id(host)
    host.run("systemctl reboot")
    wait_until(lambda: boot_id(host) != before, 120, "The reboot")
