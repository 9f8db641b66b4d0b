# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/ssh, examples/tensordock and examples/gcp, from the fleet file to a green verdict, and to their end.

Their model server is that of the demo, because a new one takes minutes to build: its host is a machine that somebody
may own, and the one behind a rental of the emulated TensorDock and of the emulated Google Cloud. The fleets name it and
its model as the demo does, so site.yml finds everything done. What it makes of a new machine is shown by the demo, and
of one that was rented by molecule's scenario `fleet`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from demo import FLEET_FILE, ROOT, SCALE, Fleet, Machine
from emulators import gcp, tensordock
from emulators.machines import NoMachines, WayIn
from emulators.server import serving
from emulators.world import World
from fastapi import FastAPI

NAME = "vllm-1"
CLIENTS = [{"name": "default"}, {"name": "verify", "unlimited": True}, {"name": "producer", "unlimited": True}]


class OneMachine(NoMachines):
    """Whatever is rented leads to it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def way_in(self, rental_id: str, port: int) -> WayIn:
        return WayIn(self._machine.address, port)

    def address(self, rental_id: str) -> str:
        return self._machine.address

    def host_key(self, rental_id: str) -> str:
        return str(self._machine.variables["fleet_host_key"])


@dataclass
class Example:
    """A copy of one of the examples, and a controller that sees it for the first time."""

    fleet: Fleet
    reports: Path

    def play(self, name: str, *arguments: str) -> dict[str, int]:
        """What it changed."""
        run = self.fleet.playbook(name, *arguments)
        assert run.status == 0, run.output[-3000:]
        return run.changed

    def told(self) -> tuple[dict[str, Any], set[str]]:
        """The report, and the checks of the verdict, all of which are green."""
        verdict = json.loads((self.reports / "verify.json").read_text())
        assert verdict["ok"] is True, verdict
        report = json.loads((self.reports / "report.json").read_text())
        return report, {check["name"] for check in verdict["checks"]}


def copied(example: str, work: Path, settings: dict[str, Any], **environment: str) -> Example:
    """With the demo's name, key, model and images; settings: what else its one instance has."""
    source, demo = ROOT / "examples" / example, FLEET_FILE.parent
    wanted, demos = (yaml.safe_load((folder / "fleet.yml").read_text()) for folder in (source, demo))
    wanted["deployment_id"] = demos["deployment_id"]
    (instance,) = wanted["instances"]
    assert instance["name"] == NAME
    key = (demo / demos["defaults"]["ssh_private_key_file"]).resolve()
    instance.update({"ssh_private_key_file": str(key), **settings})
    (work / "fleet.yml").write_text(yaml.safe_dump(wanted))
    own, demos = (yaml.safe_load((folder / "group_vars" / "all.yml").read_text()) for folder in (source, demo))
    # The demo's server has no card, takes the context that its small model was made for, and asks no cloud where it is.
    (work / "group_vars").mkdir()
    (work / "group_vars" / "all.yml").write_text(
        yaml.safe_dump(
            {**own, **demos, "vllm_gpu": False, "vllm_max_model_len": 0, "service_address_metadata": "none"}
            # The machine keeps the rules and the clients of the demo.
            | {
                "fleet_firewall": False,
                "fleet_hardening": False,
                "fleet_gpu_driver": False,
                "gateway_allowed_cidrs": [],
                "gateway_api_keys": CLIENTS,
                "vllm_listen_address": "127.0.0.1",
            }
        )
    )
    places = {"GPUFLEET_HOME": str(work / "home"), "GPUFLEET_REPORT_DIRECTORY": str(work / "reports")}
    return Example(Fleet(work / "fleet.yml", {**places, **environment}), work / "reports")


@pytest.fixture
def server(fleet: Fleet) -> Iterator[Machine]:
    """The machine, whose model server is the same before and after. Its private zone is not asked about peers."""
    service = fleet.service("vllm")
    before = service.container()
    yield service.machine
    # In place, because here this file is a mount.
    service.machine.run(
        "sed '/^# BEGIN peers of/,/^# END peers of/d' /etc/hosts >/run/hosts && cat /run/hosts >/etc/hosts"
    )
    assert service.container() == before
    assert service.healthy()


def named(machine: Machine) -> list[str]:
    """What the machine's own file says of peers."""
    return machine.run("sed -n '/^# BEGIN peers of/,/^# END peers of/p' /etc/hosts").splitlines()[1:-1]


CHECKS = {f"{NAME}: vllm: {what}" for what in ("health", "refused_without_key", "forbidden_routes", "completion")}


def test_a_machine_that_somebody_owns_serves_a_model_and_is_left_alone(server: Machine, tmp_path: Path) -> None:
    known = server.variables
    place = {name: known[f"ansible_{name}"] for name in ("port", "user")}
    own = copied("ssh", tmp_path, {"address": server.address, "host_key": known["fleet_host_key"], **place})
    assert own.play("site") == {NAME: 1}  # its name among its peers was written
    assert [line.split()[0] for line in named(server)] == [server.address]
    assert own.play("prepare") == {}
    report, checks = own.told()
    assert checks >= CHECKS
    assert report["endpoint"]["url"] == "http://127.0.0.1:8000"  # through a tunnel
    assert report["price_per_hour_usd"] == 0.4
    assert own.play("destroy") == {}  # its key was given, so there is nothing to forget


@dataclass
class Place:
    """A provider of the examples, emulated."""

    make: Callable[[World], FastAPI]
    url_path: str
    variables: dict[str, str]  # what says who asks, and where
    settings: dict[str, Any]  # what its one instance has besides
    highest_price_per_hour_usd: float  # as its example has it


PLACES = {
    "tensordock": Place(
        tensordock.make,
        tensordock.URL_PATH,
        {"TENSORDOCK_API_TOKEN": "any", "TENSORDOCK_API_URL": "{url}"},
        {},
        0.6,
    ),
    # There time passes faster, and Google itself ends what is over.
    "gcp": Place(
        gcp.make,
        gcp.URL_PATH,
        {"GCP_ACCESS_TOKEN": "any", "GCP_COMPUTE_URL": "{url}"},
        {"max_lifetime": "60d"},
        5.6,
    ),
}


# Both do the same on the machine; the emulated TensorDock is rented from in tests of its own, too.
@pytest.mark.parametrize("provider", PLACES if SCALE > 1 else ["gcp"])
def test_a_rented_machine_serves_a_model_and_is_ended(server: Machine, tmp_path: Path, provider: str) -> None:
    place, world = PLACES[provider], World(provider, scale=600, machines=OneMachine(server))
    with serving(place.make(world), world) as base:
        account = {name: value.format(url=base + place.url_path) for name, value in place.variables.items()}
        rented = copied(provider, tmp_path, place.settings, **account)
        # It was rented, and nothing else was to be done: the machine's own private zone knows its peers.
        assert rented.play("site", "-e", '{"fleet_hosts_block": false}') == {NAME: 1}
        (rental,) = world.alive()
        report, checks = rented.told()
        assert checks >= CHECKS | ({f"{NAME}: gateway: completion"} if provider == "gcp" else set())
        url = f"https://{server.address}" if provider == "gcp" else "http://127.0.0.1:8000"
        assert report["endpoint"]["url"] == url
        assert report["price_per_hour_usd"] == pytest.approx(rental.price_per_hour_usd, abs=1e-5)
        assert 0 < rental.price_per_hour_usd < place.highest_price_per_hour_usd
        assert rented.play("destroy", "-e", f"fleet_confirm={rental.owner.split('--')[1]}") == {NAME: 1}
        assert world.alive() == []
