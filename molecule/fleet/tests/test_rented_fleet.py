"""Four providers, one fleet: machines with SSH and a container with an endpoint, until all are gone."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import urllib.parse
import urllib.request
from typing import Any

import pytest

DIRECTORY = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
PROJECT = pathlib.Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
URLS: dict[str, str] = json.loads((DIRECTORY / "emulators.json").read_text())


def run(*command: str) -> str:
    done = subprocess.run(
        [command[0], "-i", str(DIRECTORY / "fleet.yml"), *command[1:]],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "GPUFLEET_HOME": str(DIRECTORY / "home"),
            "GCP_ACCESS_TOKEN": "any",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def inventory() -> dict[str, Any]:
    listed: dict[str, Any] = json.loads(run("ansible-inventory", "--list"))
    return listed


def ask(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.read().decode()


def rentals(provider: str) -> list[dict[str, Any]]:
    """The provider's own books."""
    books: dict[str, Any] = json.loads(ask(urllib.parse.urljoin(URLS[provider], "/_control/state")))
    return list(books["instances"])


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    """The inventory as it was before any of these tests changed something."""
    return inventory()


def test_one_rental_at_each_provider() -> None:
    owners = {provider: [one["owner"].split("--")[1:3] for one in rentals(provider)] for provider in URLS}
    names = {"runpod": "web-1", "vastai": "vm-1", "tensordock": "vm-2", "gcp": "vm-3"}
    assert owners == {provider: [["molecule-fleet", name]] for provider, name in names.items()}


def test_the_inventory_tells_machines_from_endpoints(listed: dict[str, Any]) -> None:
    assert (listed["fleet_ssh"]["hosts"], listed["fleet_endpoints"]["hosts"]) == (["vm-1", "vm-2", "vm-3"], ["web-1"])
    groups = {"vastai": "vm-1", "tensordock": "vm-2", "gcp": "vm-3", "runpod": "web-1"}
    groups = {f"provider_{provider}": name for provider, name in groups.items()}
    assert {name: listed[name]["hosts"] for name in groups} == {name: [host] for name, host in groups.items()}
    url = listed["_meta"]["hostvars"]["web-1"]["fleet_endpoint_url"]
    assert ask(f"{url}/health") == "rented\n", "what was ordered runs there"


def test_a_stop_and_a_start_change_the_port_and_nothing_else(listed: dict[str, Any]) -> None:
    before = listed["_meta"]["hostvars"]["vm-1"]
    run("ansible-playbook", "playbooks/provision.yml", "--limit", "vm-1", "-e", "fleet_instance_state=stopped")
    assert [one["status"] for one in rentals("vastai")] == ["exited"]
    run("ansible-playbook", "playbooks/provision.yml", "--limit", "vm-1")
    after = inventory()["_meta"]["hostvars"]["vm-1"]
    assert after["ansible_port"] != before["ansible_port"]
    assert after["fleet_instance_id"] == before["fleet_instance_id"]
    assert after["fleet_host_key"] == before["fleet_host_key"]
    version = run("ansible", "vm-1", "-m", "ansible.builtin.command", "-a", "docker version")
    assert "linux" in version.partition("Server:")[2], "the engine that the role brought"


def test_all_is_ended_with_proof() -> None:
    ended = run("ansible-playbook", "playbooks/destroy.yml", "-e", "fleet_confirm=molecule-fleet")
    assert "is left" in ended
    assert all(one["deleted_at"] and one["billed_usd"] > 0 for provider in URLS for one in rentals(provider))
