# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples with rented model servers, with real Ansible and emulated providers.

Behind each rental runs the very entry point that was ordered, as a process of this machine, with a stand-in for the
command vllm: from the plan to a green verdict, over the provider's proxy (RunPod) and over TLS of the server's own
(Vast.ai).
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from emulators import runpod, vastai
from emulators.server import serving
from emulators.world import Rental, World
from support.served_rental import ProcessMachines

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
            timeout=300,
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


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    work = tmp_path_factory.mktemp("models")
    machines = {name: ProcessMachines(work / "containers" / name) for name in ("runpod", "vastai")}
    worlds = {name: World(name, scale=600, machines=behind) for name, behind in machines.items()}
    with (
        serving(runpod.make(worlds["runpod"]), worlds["runpod"]) as runpod_url,
        serving(vastai.make(worlds["vastai"]), worlds["vastai"]) as vastai_url,
    ):
        environment = {
            "RUNPOD_API_KEY": "any",
            "RUNPOD_REST_V2_URL": runpod_url + runpod.URL_PATH,
            "VAST_API_KEY": "any",
            "VAST_URL": vastai_url,
            "VLLM_API_KEY": KEY,
            "GPUFLEET_HOME": str(work / "home"),
            "GPUFLEET_REPORT_DIRECTORY": str(work / "report"),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        try:
            yield Setting(work, worlds, environment)
        finally:
            for behind in machines.values():
                behind.close()


def wanted(example: str) -> dict[str, Any]:
    """What must be rented, from the example's own variables and the role's defaults."""
    variables = yaml.safe_load((ROOT / "examples" / example / "group_vars" / "all.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles" / "vllm" / "defaults" / "main.yml").read_text())
    settings = {"model": variables["vllm_model"], "max_model_len": variables["vllm_max_model_len"], "gpu": True}
    result = vllm_rental(settings, defaults["vllm_image"], KEY)
    assert result["problem"] == ""
    return dict(result["request"])


@pytest.mark.parametrize("example", ["runpod", "vastai", "mixed"])
def test_every_example_has_a_price_and_a_lifetime(example: str) -> None:
    fleet = yaml.safe_load((ROOT / "examples" / example / "fleet.yml").read_text())
    rented = [one for one in fleet["instances"] if "gpu" in one]
    assert rented
    for one in rented:
        assert one["max_price_per_hour_usd"] < 2
        assert one["max_lifetime"] == "8h"


def test_without_a_key_nothing_is_rented_and_one_sentence_says_why(setting: Setting) -> None:
    file = setting.copy("runpod")
    for playbook in ("plan", "provision"):
        done = setting.run(file, playbook, VLLM_API_KEY="")
        assert done.returncode != 0
        words = " ".join((done.stdout + done.stderr).split())
        assert "vllm-1: vllm_api_key is missing: a rented container has no host that could make and keep one" in words
    assert not setting.worlds["runpod"].rentals
    assert not setting.worlds["runpod"].secrets


def verified(setting: Setting) -> dict[str, Any]:
    """The report, after a look at the verdict: all is green, and the endpoint was really asked."""
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    assert verdict["ok"] is True, verdict
    names = {check["name"] for check in verdict["checks"]}
    asked = ("health", "refused_without_key", "forbidden_routes", "model", "completion")
    assert {f"vllm-1: vllm: {name}" for name in asked} <= names
    header = setting.work / "report" / "vllm-api-key.header"
    assert header.read_text() == f"Authorization: Bearer {KEY}\n"
    assert header.stat().st_mode & 0o777 == 0o600
    return dict(json.loads((setting.work / "report" / "report.json").read_text()))


def test_a_pod_serves_exactly_what_was_computed(setting: Setting) -> None:
    file, request = setting.copy("runpod"), wanted("runpod")
    plan = next(line.split() for line in setting.play(file, "plan").splitlines() if " create " in line)
    assert plan == [
        "vllm-1",
        "create",
        "runpod",
        "A100_80GB",
        "1",
        "container",
        "-",
        "-",
        "1.19",
        "8h",
        "9.52",
        "sweep",
    ]
    assert not setting.worlds["runpod"].secrets, "the plan changes nothing"
    setting.play(file, "site")
    (rental,) = setting.alive("runpod")
    wire = rental.wire
    assert (wire["image"], wire["entrypoint"], wire["cmd"]) == (
        request["image"],
        request["entrypoint"],
        request["args"],
    )
    assert (wire["ports"], wire["disk"]) == (["8000/http"], 80)
    assert request["public_env"].items() <= wire["env"].items()
    assert KEY not in str(wire)
    assert [one["value"] for one in setting.worlds["runpod"].secrets.values()] == [KEY]
    report = verified(setting)
    assert report["endpoint"]["url"].endswith(f"/proxy/{rental.id}/8000")
    assert (report["endpoint"]["model"], report["endpoint"]["tls_fingerprint"]) == ("Qwen/Qwen3-8B", None)
    assert [service["service"] for service in report["services"]] == ["vllm"]
    home = "".join(path.read_text() for path in (setting.work / "home").rglob("*") if path.is_file())
    assert KEY not in home, "neither the journal nor a cache holds it"
    assert "changed=0" in setting.play(file, "provision")
    setting.destroy(file)
    assert setting.alive("runpod") == []
    assert setting.worlds["runpod"].secrets == {}, "they end with what needed them"


def test_a_container_at_vastai_serves_over_its_own_pinned_tls(setting: Setting) -> None:
    file, request = setting.copy("vastai"), wanted("vastai")
    setting.play(file, "site")
    (rental,) = setting.alive("vastai")
    wire = rental.wire
    start = [*request["entrypoint"], *request["args"], *request["tls_args"]]
    assert (wire["image_uuid"], [wire["onstart"], *wire["image_args"]]) == (request["image"], start)
    environment = dict(wire["extra_env"])
    assert request["public_env"].items() <= environment.items()
    assert (environment["VLLM_API_KEY"], environment["-p 8000:8000"], environment["GPUFLEET_TLS"]) == (KEY, "1", "1")
    report = verified(setting)
    printed = setting.worlds["vastai"].machines.log(rental.id).split()[1]
    assert report["endpoint"]["tls_fingerprint"] == printed
    assert report["endpoint"]["url"].startswith("https://127.0.0.1:")
    # Another controller, with an empty home, reads it from the log again.
    done = setting.run(file, "verify", GPUFLEET_HOME=str(setting.work / "other"))
    assert done.returncode == 0, done.stdout[-3000:]
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    pinned = next(check for check in verdict["checks"] if check["name"].endswith("its certificate is pinned"))
    assert pinned["detail"] == f"{printed} (its log says that its certificate is {printed})"


def test_somebody_else_with_another_certificate_is_a_red_verdict_and_gets_no_key(setting: Setting) -> None:
    """The same rental, which has lost its certificate: to this controller it is somebody else now."""
    file = setting.work / "vastai" / "fleet.yml"
    machines = setting.worlds["vastai"].machines
    assert isinstance(machines, ProcessMachines)
    container = machines.containers[setting.alive("vastai")[0].id]
    container.end()
    shutil.rmtree(container.cache)
    container.start()
    done = setting.run(file, "provision")
    assert done.returncode != 0
    assert "endpoint_other_certificate" in done.stdout
    assert len(setting.alive("vastai")) == 1, "kept: whoever answers decides nothing"
    assert setting.run(file, "verify").returncode != 0
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    failed = {check["name"]: check["detail"] for check in verdict["checks"] if not check["ok"]}
    assert "is pinned" in failed["vllm-1: vllm: health"]
    setting.destroy(file)
    assert setting.alive("vastai") == []


def test_a_list_of_providers_takes_the_cheapest_container_of_both(setting: Setting) -> None:
    file = setting.copy("mixed", only="vllm-1")
    shown = setting.play(file, "plan")
    line = next(line.split() for line in shown.splitlines() if " create " in line)
    assert line[1:6] == ["create", "runpod", "A100_80GB", "1", "container"]
