# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the examples with rented model servers, both emulated providers, and real Ansible between them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml
from emulators import runpod, vastai
from emulators.machines import NoMachines
from emulators.server import serving
from emulators.world import Rental, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
KEY = "planted-key-0c4e-of-the-model"


@dataclass
class Setting:
    """Both providers, and where fleets are copied to."""

    work: pathlib.Path
    worlds: dict[str, World]
    environment: dict[str, str]

    def copy(self, example: str, only: str | None = None) -> pathlib.Path:
        """A copy of an example, or of one of its instances; RunPod's proxy is the emulator's."""
        target = self.work / example
        shutil.copytree(ROOT / "examples" / example, target, dirs_exist_ok=True)
        fleet = yaml.safe_load((target / "fleet.yml").read_text())
        fleet.get("defaults", {}).pop("ssh_private_key_file", None)  # only what needs none is rented here
        fleet["instances"] = [one for one in fleet["instances"] if only in (None, one["name"])]
        proxy = self.environment["RUNPOD_REST_V2_URL"].removesuffix(runpod.URL_PATH) + "/proxy/{id}/{port}"
        fleet["provider_settings"] = {"runpod": {"proxy_url": proxy}}
        (target / "fleet.yml").write_text(yaml.safe_dump(fleet))
        return target / "fleet.yml"

    def run(
        self, file: pathlib.Path, name: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "ansible-playbook"), "-i", str(file), f"playbooks/{name}.yml", *arguments],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def destroy(self, file: pathlib.Path) -> None:
        self.play(file, "destroy", "-e", f"fleet_confirm={yaml.safe_load(file.read_text())['deployment_id']}")

    def play(self, file: pathlib.Path, name: str, *arguments: str) -> str:
        done = self.run(file, name, *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert KEY not in done.stdout + done.stderr
        return done.stdout

    def alive(self, name: str) -> list[Rental]:
        return self.worlds[name].alive()

    def verified(self, name: str = "vllm-1") -> dict[str, Any]:
        """The report, after a look at the verdict: all is green, and the endpoint of that rental was really asked."""
        verdict = json.loads((self.work / "report" / "verify.json").read_text())
        assert verdict["ok"] is True, verdict
        names = {check["name"] for check in verdict["checks"]}
        asked = ("health", "refused_without_key", "forbidden_routes", "model", "completion")
        assert {f"{name}: vllm: {what}" for what in asked} <= names
        header = self.work / "report" / "vllm-api-key.header"
        assert header.read_text() == f"Authorization: Bearer {KEY}\n"
        assert header.stat().st_mode & 0o777 == 0o600
        return dict(json.loads((self.work / "report" / "report.json").read_text()))


@contextmanager
def rented(work: pathlib.Path, machines: Mapping[str, NoMachines], host: str = "127.0.0.1") -> Iterator[Setting]:
    """machines: what stands behind the rentals of each provider; host: the address at which the providers answer."""
    worlds = {name: World(name, scale=600, machines=behind) for name, behind in machines.items()}
    with (
        serving(runpod.make(worlds["runpod"]), worlds["runpod"], host) as runpod_url,
        serving(vastai.make(worlds["vastai"]), worlds["vastai"], host) as vastai_url,
    ):
        environment = {
            "RUNPOD_API_KEY": "any",
            "RUNPOD_REST_V2_URL": runpod_url + runpod.URL_PATH,
            "VAST_API_KEY": "any",
            "VAST_URL": vastai_url,
            "VLLM_API_KEY": KEY,
            "GPUFLEET_HOME": str(work / "home"),
            "GPUFLEET_REPORT_DIRECTORY": str(work / "report"),
            "NO_PROXY": f"127.0.0.1,{host}",
            "no_proxy": f"127.0.0.1,{host}",
        }
        try:
            yield Setting(work, worlds, environment)
        finally:
            for behind in machines.values():
                behind.close()
