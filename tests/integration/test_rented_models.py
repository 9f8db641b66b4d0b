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
import shutil
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from support.planted_hub import PlantedHub
from support.rented_models import KEY, ROOT, Setting, rented
from support.served_rental import ProcessMachines


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    work = tmp_path_factory.mktemp("models")
    with rented(work, {name: ProcessMachines(work / "containers" / name) for name in ("runpod", "vastai")}) as made:
        yield made


def wanted(example: str) -> dict[str, Any]:
    """What must be rented, from the example's own variables and the role's defaults."""
    variables = yaml.safe_load((ROOT / "examples" / example / "group_vars" / "all.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles" / "vllm" / "defaults" / "main.yml").read_text())
    settings = {"model": variables["vllm_model"], "max_model_len": variables["vllm_max_model_len"], "gpu": True}
    result = vllm_rental(settings, defaults["vllm_image"], KEY)
    assert result["problem"] == ""
    return dict(result["request"])


@pytest.mark.parametrize("example", ["runpod", "vastai", "tensordock", "gcp", "mixed"])
def test_every_example_has_a_price_and_a_lifetime(example: str) -> None:
    fleet = yaml.safe_load((ROOT / "examples" / example / "fleet.yml").read_text())
    rented = [one for one in fleet["instances"] if "gpu" in one]
    assert rented
    for one in rented:
        assert one["max_price_per_hour_usd"] < (6 if one["providers"] == ["gcp"] else 2)
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


def test_a_model_that_could_not_run_there_is_refused_before_anything_is_asked(setting: Setting) -> None:
    file = setting.copy("runpod")
    refused = setting.run(file, "provision", "-e", "vllm_model=bartowski/Meta-Llama-3.1-8B-Instruct-GGUF")
    assert refused.returncode != 0
    assert "GGUF" in refused.stdout
    assert setting.alive("runpod") == []
    assert [call for call in setting.worlds["runpod"].calls if call["method"] != "GET"] == []
    planned = setting.run(file, "plan", "-e", "vllm_model=Qwen/Qwen3-235B-A22B")
    assert planned.returncode != 0
    assert "vllm-1: can't be had as wanted now" in " ".join(planned.stdout.split())


def test_the_disk_that_nobody_wrote_counts_and_who_knows_better_is_not_refused(setting: Setting) -> None:
    file = setting.copy("runpod")
    fleet = yaml.safe_load(file.read_text())
    del fleet["instances"][0]["disk_gib"]
    fleet["instances"][0]["gpu_count"] = 4
    fleet["instances"][0]["max_price_per_hour_usd"] = 8.0
    file.write_text(yaml.safe_dump(fleet))
    large = ("-e", json.dumps({"vllm_model": "Qwen/Qwen2.5-72B-Instruct", "vllm_tensor_parallel_size": 4}))
    refused = setting.run(file, "plan", *large)
    assert refused.returncode != 0
    words = " ".join(refused.stdout.split())
    assert "disk_gib is 50; the weights of Qwen/Qwen2.5-72B-Instruct take" in words
    unasked = setting.play(file, "plan", *large, "-e", "vllm_preflight=false")
    assert " create " in unasked


def test_a_model_that_is_not_known_here_is_asked_for_at_the_hub(setting: Setting) -> None:
    file = setting.copy("runpod")
    with closing(PlantedHub()) as hub:
        done = setting.run(file, "plan", "-e", f"vllm_model=acme/nowhere-1b vllm_hub_url={hub.url}")
    assert done.returncode != 0
    assert "127.0.0.1 has no model acme/nowhere-1b of that name and revision" in " ".join(done.stdout.split())


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
    report = setting.verified()
    assert report["endpoint"]["url"].endswith(f"/proxy/{rental.id}/8000")
    assert (report["endpoint"]["model"], report["endpoint"]["tls_fingerprint"]) == ("Qwen/Qwen3-8B", None)
    assert [service["service"] for service in report["services"]] == ["vllm"]
    home = "".join(path.read_text() for path in (setting.work / "home").rglob("*") if path.is_file())
    assert KEY not in home, "neither the journal nor a cache holds it"
    assert "changed=0" in setting.play(file, "provision")
    for arguments in ((), ("--check", "--diff")):
        changed = setting.run(file, "provision", "-e", "vllm_max_model_len=4096", *arguments)
        assert changed.returncode != 0
        assert (
            "settings was changed after it was rented. Change the wish back, or set on_drift: replace" in changed.stdout
        )
    assert [one.id for one in setting.alive("runpod")] == [rental.id], "and nothing is replaced by itself"
    setting.destroy(file)
    assert setting.alive("runpod") == []
    assert setting.worlds["runpod"].secrets == {}, "they end with what needed them"


def test_a_container_at_vastai_serves_over_its_own_pinned_tls(setting: Setting) -> None:
    file, request = setting.copy("vastai"), wanted("vastai")
    planned = " ".join(setting.play(file, "plan").split())
    assert " 8h 2.9 machine " in planned, planned
    assert "vllm-1: ends itself when its max_lifetime is over." in planned
    setting.play(file, "site")
    (rental,) = setting.alive("vastai")
    wire = rental.wire
    start = [*request["entrypoint"], *request["args"], *request["tls_args"]]
    assert (wire["image_uuid"], [wire["onstart"], *wire["image_args"]]) == (request["image"], start)
    environment = dict(wire["extra_env"])
    assert request["public_env"].items() <= environment.items()
    assert (environment["VLLM_API_KEY"], environment["-p 8000:8000"], environment["GPUFLEET_TLS"]) == (KEY, "1", "1")
    report = setting.verified()
    printed = setting.worlds["vastai"].machines.log(rental.id).split()[1]
    assert report["endpoint"]["tls_fingerprint"] == printed
    assert report["endpoint"]["url"].startswith("https://127.0.0.1:")
    (host,) = report["hosts"]
    assert host["lifetime_enforcer"] == "machine"
    status = setting.play(file, "status")
    assert " machine " in next(line for line in status.splitlines() if "vllm-1" in line and "vastai" in line)
    assert "no log shows that it looks at its expiry" not in status
    assert "no log shows" not in status
    # Another controller, with an empty home, reads it from the log again.
    done = setting.run(file, "verify", GPUFLEET_HOME=str(setting.work / "other"))
    assert done.returncode == 0, done.stdout[-3000:]
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    pinned = next(check for check in verdict["checks"] if check["name"].endswith("its certificate is pinned"))
    assert pinned["detail"] == f"{printed} (its log says that its certificate is {printed})"


def test_a_server_that_is_healthy_and_completes_nothing_is_a_red_verdict_and_stands_in_the_report(
    setting: Setting,
) -> None:
    machines = setting.worlds["vastai"].machines
    assert isinstance(machines, ProcessMachines)
    broken = machines.containers[setting.alive("vastai")[0].id].broken
    broken.touch()
    done = setting.run(setting.work / "vastai" / "fleet.yml", "site")
    broken.unlink()
    assert done.returncode != 0
    verdict = json.loads((setting.work / "report" / "verify.json").read_text())
    assert verdict["ok"] is False
    checks = {check["name"].removeprefix("vllm-1: vllm: "): check for check in verdict["checks"]}
    assert (checks["health"]["ok"], checks["model"]["ok"], checks["completion"]["ok"]) == (True, True, False)
    assert "500" in checks["completion"]["detail"]
    assert checks["completion"]["fix"]
    report = json.loads((setting.work / "report" / "report.json").read_text())
    assert "vllm-1: vllm: completion" in str(report["checks_failed"])
    assert "vllm-1: vllm: completion" in (setting.work / "report" / "report.html").read_text()


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
