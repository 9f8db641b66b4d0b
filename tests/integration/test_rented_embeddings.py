# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rented model server that embeds, from one variable to a green verdict and a line for curl that works.

With real Ansible and an emulated RunPod, behind which the ordered entry point runs, with a stand-in for the command
vllm.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from support.rented_models import Setting, rented
from support.served_rental import ProcessMachines

EMBED = ("-e", "vllm_task=embed")
REFUSED = "vllm-1 would serve embeddings (vllm_task: embed), and the producer on producer-1 asks for completions"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    work = tmp_path_factory.mktemp("embeddings")
    with rented(work, {name: ProcessMachines(work / "containers" / name) for name in ("runpod", "vastai")}) as made:
        yield made


def with_producer(file: pathlib.Path) -> pathlib.Path:
    """The fleet file, with a producer on a machine of one's own, which nobody asks here."""
    fleet = yaml.safe_load(file.read_text())
    producer = {"name": "producer-1", "roles": "producer", "providers": ["ssh"], "address": "192.0.2.7"}
    fleet["instances"].append(producer)
    file.write_text(yaml.safe_dump(fleet))
    return file


@pytest.mark.parametrize("playbook", ["plan", "provision", "prepare", "deploy", "site"])
def test_beside_a_producer_it_is_refused_before_anything_changes(setting: Setting, playbook: str) -> None:
    done = setting.run(with_producer(setting.copy("runpod")), playbook, *EMBED)
    assert done.returncode != 0
    assert REFUSED in " ".join(done.stdout.split())
    assert [call for call in setting.worlds["runpod"].calls if call["method"] != "GET"] == []


@pytest.mark.parametrize(
    ("playbook", "arguments"),
    [
        ("status", EMBED),
        ("prepare", ("-e", "vllm_task=generate")),
        ("prepare", (*EMBED, "-e", "producer_vllm_url=https://llm.example.org")),
    ],
)
def test_it_is_looked_at_and_where_nobody_asks_it_for_completions_it_is_no_reason(
    setting: Setting, playbook: str, arguments: tuple[str, ...]
) -> None:
    done = setting.run(with_producer(setting.copy("runpod")), playbook, *arguments)
    assert "asks for completions" not in done.stdout
    # They end for another reason, if they do: nothing was rented.
    assert done.returncode == 0 or "wanted, but not running" in " ".join(done.stdout.split())


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine to paste the line for")
def test_it_is_rented_verified_and_reported_by_its_vectors(setting: Setting) -> None:
    file = setting.copy("runpod")
    setting.play(file, "site", *EMBED)
    (rental,) = setting.alive("runpod")
    command = rental.wire["cmd"]
    assert command[command.index("--runner") + 1] == "pooling"
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    assert verdict["ok"] is True, verdict
    checks = {check["name"].removeprefix("vllm-1: vllm: "): check["detail"] for check in verdict["checks"]}
    assert checks["embedding"].startswith("3 numbers in ")
    assert {"refused_without_key", "refused_with_wrong_key", "latency"} <= set(checks)
    assert {"completion", "streaming"} & set(checks) == set()
    endpoint = json.loads((setting.work / "report" / "report.json").read_text())["endpoint"]
    assert (endpoint["task"], endpoint["curl"].endswith("/v1/embeddings")) == ("embed", True)
    asked = subprocess.run(["bash", "-c", endpoint["curl"]], capture_output=True, text=True, check=False, timeout=120)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["data"][0]["embedding"] == [0.6, -0.8, 0.0]


def test_one_that_is_healthy_and_embeds_nothing_is_a_red_verdict(setting: Setting) -> None:
    machines = setting.worlds["runpod"].machines
    assert isinstance(machines, ProcessMachines)
    broken = machines.containers[setting.alive("runpod")[0].id].broken
    broken.touch()
    done = setting.run(setting.work / "runpod" / "fleet.yml", "verify", *EMBED)
    broken.unlink()
    assert done.returncode != 0
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    failed = {check["name"]: check["detail"] for check in verdict["checks"] if not check["ok"]}
    assert list(failed) == ["vllm-1: vllm: embedding"]
    assert "it answers /health but fails embeddings: status 500" in failed["vllm-1: vllm: embedding"]


def test_a_pod_that_generates_is_another_rental_than_one_that_embeds(setting: Setting) -> None:
    file = setting.work / "runpod" / "fleet.yml"
    changed = setting.run(file, "provision")
    assert changed.returncode != 0
    assert "settings was changed after it was rented" in changed.stdout
    setting.destroy(file)
    assert setting.alive("runpod") == []
