# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One name for the model and one for the GPU: who serves, who checks and who rents can't mean different ones."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import Settings, build_arguments
from support.every_task import every_task
from support.local_play import ROOT, run_plays

CHECK = "gpuops.fleet.endpoint_check"
MODEL = "acme/Planted-8B"


def checks_of_endpoints(option: str) -> dict[str, str]:
    """By file and task: what stands there as this option, such as the model that must be served."""
    found = {}
    for path in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]:
        loaded = yaml.safe_load(path.read_text())
        for task in every_task(loaded if isinstance(loaded, list) else []):
            if CHECK in task:
                found[f"{path.relative_to(ROOT)}: {task['name']}"] = str(task[CHECK][option])
    return found


def asked_by_hosts(work: pathlib.Path, expressions: dict[str, str], said: dict[str, Any]) -> dict[str, Any]:
    """What these expressions of checks are for each host, of which this was said."""
    assert len(expressions) >= 2
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": sorted(str(path) for path in ROOT.glob("playbooks/vars/*.yml")),
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ asked | to_json }}",
                    "dest": str(work / "{{ inventory_hostname }}.asked"),
                    "mode": "0600",
                },
                "vars": {"asked": expressions},
            }
        ],
    }
    done = run_plays(work, [play], said)
    assert done.returncode == 0, done.stdout + done.stderr
    return {host: json.loads((work / f"{host}.asked").read_text()) for host in said}


def test_every_check_of_an_endpoint_asks_for_the_model_that_is_served(tmp_path: pathlib.Path) -> None:
    """Of hosts and of container rentals; with nothing said but the model, and with another name for clients."""
    expressions = checks_of_endpoints("model")
    said = {"model": {"vllm_model": MODEL}, "name": {"vllm_model": MODEL, "vllm_served_model_name": "planted-name"}}
    asked = asked_by_hosts(tmp_path, expressions, said)
    for host, values in said.items():
        settings = {name.removeprefix("vllm_"): value for name, value in values.items()}
        arguments = build_arguments(Settings.from_mapping(settings))
        served = arguments[arguments.index("--served-model-name") + 1]
        assert asked[host] == dict.fromkeys(expressions, served)


def test_every_check_of_an_endpoint_asks_for_what_the_server_was_started_for(tmp_path: pathlib.Path) -> None:
    expressions = checks_of_endpoints("task")
    said = {"unsaid": {"vllm_model": MODEL}, "embeds": {"vllm_model": MODEL, "vllm_task": "embed"}}
    asked = asked_by_hosts(tmp_path, expressions, said)
    assert asked == {
        "unsaid": dict.fromkeys(expressions, "generate"),
        "embeds": dict.fromkeys(expressions, "embed"),
    }


def gpus_rented_by(example: pathlib.Path) -> set[str]:
    """The GPUs that its fleet file orders; those of a machine of one's own are as they are."""
    fleet = yaml.safe_load((example / "fleet.yml").read_text())
    wishes = [(fleet.get("defaults") or {}) | instance for instance in fleet["instances"]]
    return {str(wish["gpu"]) for wish in wishes if wish.get("gpu") and wish.get("providers") != ["ssh"]}


def model_of(example: pathlib.Path) -> str:
    model: str = yaml.safe_load((example / "group_vars" / "all.yml").read_text())["vllm_model"]
    return model


def test_examples_that_serve_the_same_model_rent_the_same_gpu() -> None:
    """runpod and who serves its model. A name is one of the table, in the one spelling that all providers take."""
    rented = {path.parent: gpus_rented_by(path.parent) for path in sorted(ROOT.glob("examples/*/fleet.yml"))}
    named = {path.name: gpus for path, gpus in rented.items() if gpus}
    assert {name: {_gpus.resolve(gpu).name for gpu in gpus} for name, gpus in named.items()} == named
    model = model_of(ROOT / "examples" / "runpod")
    same = {path.name: gpus for path, gpus in rented.items() if gpus and model_of(path) == model}
    assert len(same) >= 2
    assert all(gpus == same["runpod"] and len(gpus) == 1 for gpus in same.values()), same
