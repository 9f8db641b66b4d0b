# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As AWX runs jobs: by ansible-runner, each in a place of its own with an empty home, from a project that is only read,
with credentials that come by the environment alone. Nothing survives a step but what the providers have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from emulators import runpod, vastai
from emulators.machines import NoMachines
from emulators.server import serving
from emulators.world import Rental, World
from support.served_rental import ProcessMachines

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "RUNPOD_API_KEY": "planted-runpod-key-71c2",
    "VAST_API_KEY": "planted-vastai-key-08ff",
    "VLLM_API_KEY": "planted-model-key-77ab",
}
FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: it-awx
defaults:
  gpu: A40
  max_lifetime: 8h
  wait: running
instances:
  - {name: web-1, providers: [runpod], runtime: container, image: "debian:12", ports: [{port: 8000, protocol: http}]}
  - {name: vm-1, providers: [vastai], disk_gib: 20, ssh_public_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleet awx}
"""
LIST_THE_INVENTORY = """\
import json, sys, ansible_runner
out, err = ansible_runner.get_inventory("list", [sys.argv[2]], "json", private_data_dir=sys.argv[1], quiet=True)
json.dump(out, sys.stdout)
sys.stderr.write(str(err or ""))
"""


@dataclass
class Awx:
    """A project, and jobs that each see nothing else."""

    folder: Path
    environment: dict[str, str]
    worlds: dict[str, World]
    jobs: list[Path] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def _place(self) -> tuple[Path, dict[str, str]]:
        """A new, empty place for one job, and all that it knows from outside."""
        place = self.folder / f"job-{len(self.jobs)}"
        self.jobs.append(place)
        for name in ("home", "tmp", "env", "inventory"):
            (place / name).mkdir(parents=True)
        (place / "project").symlink_to(self.project)
        known = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "ANSIBLE_NOCOLOR": "1"}
        (place / "env" / "envvars").write_text(json.dumps({**self.environment, **known}))
        return place, {**known, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8"}

    def _finish(self, place: Path, command: list[str], environment: dict[str, str]) -> str:
        before = self.state_of_the_project()
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert self.state_of_the_project() == before, "a job wrote into its project"
        told = done.stdout + done.stderr
        told += "".join(event.read_text() for event in place.glob("artifacts/*/job_events/*.json"))
        for key in KEYS.values():
            assert key not in told
        return done.stdout

    def play(self, name: str, inventory: Any = None, **variables: Any) -> str:
        """A job; given what an inventory update found, with that alone: AWX writes it as a program that prints it."""
        place, environment = self._place()
        (place / "env" / "extravars").write_text(json.dumps(variables))
        hosts = self.project / "fleet.yml"
        if inventory is not None:
            hosts = place / "inventory" / "hosts"
            hosts.write_text(f"#!/usr/bin/env python3\nprint({json.dumps(inventory)!r})\n")
            hosts.chmod(0o700)
        command = [sys.executable, "-m", "ansible_runner", "run", str(place), "-p", f"{name}.yml"]
        return self._finish(place, [*command, "--inventory", str(hosts)], environment)

    def inventory(self) -> Any:
        place, environment = self._place()
        command = [sys.executable, "-c", LIST_THE_INVENTORY, str(place), str(self.project / "fleet.yml")]
        return json.loads(self._finish(place, command, {**environment, **self.environment}))

    def state_of_the_project(self) -> dict[str, tuple[int, bytes]]:
        files = [path for path in self.project.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    def living(self) -> dict[str, list[str]]:
        return {name: [rental.owner.split("--")[2] for rental in world.alive()] for name, world in self.worlds.items()}


@contextmanager
def serving_jobs(folder: Path, playbooks: tuple[str, ...], machines: NoMachines | None = None) -> Iterator[Awx]:
    """Both providers, and a project with these playbooks; its fleet file is still to come."""
    (folder / "project").mkdir()
    for name in playbooks:
        (folder / "project" / f"{name}.yml").write_text(f"---\n- import_playbook: gpuops.fleet.{name}\n")
    worlds = {"runpod": World("runpod", scale=600, machines=machines), "vastai": World("vastai", scale=600)}
    with (
        serving(runpod.make(worlds["runpod"]), worlds["runpod"]) as runpod_url,
        serving(vastai.make(worlds["vastai"]), worlds["vastai"]) as vastai_url,
    ):
        environment = {
            **KEYS,
            "RUNPOD_REST_V2_URL": runpod_url + runpod.URL_PATH,
            "VAST_URL": vastai_url + vastai.URL_PATH,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        }
        try:
            yield Awx(folder, environment, worlds)
        finally:
            for path in (folder / "project", folder / "project" / "group_vars"):
                if path.exists():
                    path.chmod(0o755)


def close(project: Path) -> None:
    """From now on it is only read."""
    for path in [*project.rglob("*"), project]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture(scope="module")
def awx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Awx]:
    with serving_jobs(tmp_path_factory.mktemp("awx"), ("plan", "provision", "status", "sweep", "destroy")) as made:
        (made.project / "fleet.yml").write_text(FLEET)
        close(made.project)
        yield made


def test_the_plan_needs_nothing_but_credentials(awx: Awx) -> None:
    shown = awx.play("plan")
    assert [" create " in line for line in shown.splitlines()].count(True) == 2
    assert awx.living() == {"runpod": [], "vastai": []}


def test_every_job_knows_what_the_one_before_rented(awx: Awx) -> None:
    awx.play("provision")
    assert awx.living() == {"runpod": ["web-1"], "vastai": ["vm-1"]}
    assert "changed=0" in awx.play("provision")
    assert awx.living() == {"runpod": ["web-1"], "vastai": ["vm-1"]}
    assert {name: len(world.rentals) for name, world in awx.worlds.items()} == {"runpod": 1, "vastai": 1}


def test_an_inventory_update_sees_the_fleet(awx: Awx) -> None:
    listed = awx.inventory()
    assert sorted(listed["fleet_wanted"]["hosts"]) == ["vm-1", "web-1"]
    assert (listed["fleet_ssh"]["hosts"], listed["fleet_endpoints"]["hosts"]) == (["vm-1"], ["web-1"])
    assert listed["_meta"]["hostvars"]["vm-1"]["fleet_complete"] is True


def test_the_status_says_who_runs(awx: Awx) -> None:
    shown = awx.play("status")
    assert "vm-1" in shown
    assert "web-1" in shown


def test_a_schedule_sweeps_with_the_inventory_of_an_update_and_a_path_in_the_project(awx: Awx) -> None:
    old = leave_behind(awx, "gf--it-awx--old-1--abc123--0000")
    foreign = leave_behind(awx, "gf--it-awx-2--old-1--abc123--0001")
    listed = awx.inventory()
    shown = awx.play("sweep", inventory=listed, fleet_files=["fleet.yml"])
    assert "To end this: -e fleet_confirm=it-awx (old-1)" in shown
    assert old.alive
    shown = awx.play("sweep", inventory=listed, fleet_files="fleet.yml", fleet_confirm="it-awx")
    assert "Ended: old-1" in shown
    assert not old.alive
    assert foreign.alive
    awx.worlds["runpod"].delete(foreign)
    assert awx.living() == {"runpod": ["web-1"], "vastai": ["vm-1"]}


def leave_behind(awx: Awx, marker: str) -> Rental:
    """A pod that somebody rented with this marker, long ago."""
    world = awx.worlds["runpod"]
    with world.lock:
        model = next(rental for rental in world.alive() if "--web-1--" in rental.owner)
        identity = f"pod9{next(world.numbers):010x}"
        wire = {**model.wire, "id": identity, "name": marker, "env": {}, "createdAt": "2026-01-01T00:00:00Z"}
        rental = Rental(identity, "runpod", marker, "RUNNING", 1_767_225_600.0, 0.4, wire)
        world.rent(rental)
        return rental


def test_the_end_is_proven(awx: Awx) -> None:
    ended = awx.play("destroy", fleet_confirm="it-awx")
    assert "nothing that was to be destroyed of deployment it-awx is left" in " ".join(ended.split())
    assert awx.living() == {"runpod": [], "vastai": []}
    assert len(awx.jobs) == 9
    assert len({str(job) for job in awx.jobs}) == 9


def test_a_model_server_is_rented_served_verified_and_ended(tmp_path: Path) -> None:
    """site.yml is one job, and each look another. Behind the rental runs the entry point that was ordered."""
    machines = ProcessMachines(tmp_path / "containers")
    try:
        with serving_jobs(tmp_path, ("site", "verify", "destroy"), machines) as awx:
            example = ROOT / "examples" / "runpod"
            fleet = yaml.safe_load((example / "fleet.yml").read_text())
            proxy = awx.environment["RUNPOD_REST_V2_URL"].removesuffix(runpod.URL_PATH) + "/proxy/{id}/{port}"
            fleet |= {"deployment_id": "it-awx-site", "provider_settings": {"runpod": {"proxy_url": proxy}}}
            (awx.project / "fleet.yml").write_text(yaml.safe_dump(fleet))
            (awx.project / "group_vars").mkdir()
            (awx.project / "group_vars" / "all.yml").write_text((example / "group_vars" / "all.yml").read_text())
            close(awx.project)
            shown = awx.play("site")
            assert "checks, all ok" in shown
            assert awx.living()["runpod"] == ["vllm-1"]
            listed = awx.inventory()
            assert listed["vllm"]["hosts"] == listed["fleet_endpoints"]["hosts"] == ["vllm-1"]
            # Another day: the inventory comes from an update, and nobody remembers what site did.
            assert "checks, all ok" in awx.play("verify", inventory=listed)
            awx.play("destroy", fleet_confirm="it-awx-site")
            assert awx.living()["runpod"] == []
            assert awx.worlds["runpod"].secrets == {}
    finally:
        machines.close()
