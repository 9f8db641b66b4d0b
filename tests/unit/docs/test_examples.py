# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/gcp and examples/runpod serve the same model on the same GPU, and it fits. No example names what is gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_preflight import examine
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import REFUSED, Wish

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
ROOT = EXAMPLES.parent
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/fleet.yml"))
PAIR = ("gcp", "runpod")


def of(example: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one instance of an example, and its role variables."""
    folder = EXAMPLES / example
    (instance,) = yaml.safe_load((folder / "fleet.yml").read_text())["instances"]
    return instance, yaml.safe_load((folder / "group_vars" / "all.yml").read_text())


def test_both_name_one_gpu_and_one_model() -> None:
    instances, variables = zip(*(of(example) for example in PAIR), strict=True)
    assert {instance["gpu"] for instance in instances} == {_gpus.resolve(instances[0]["gpu"]).name} == {"A100_80GB"}
    for name in ("vllm_model", "vllm_max_model_len"):
        assert len({values[name] for values in variables}) == 1, name


@pytest.mark.parametrize("example", PAIR)
def test_the_model_fits(example: str) -> None:
    instance, variables = of(example)
    model = _model_table.find(variables["vllm_model"])
    assert model is not None, "its size is known, so that this says something"
    wish = Wish(
        variables["vllm_model"],
        instance["gpu"],
        max_model_len=variables["vllm_max_model_len"],
        disk_gib=instance["disk_gib"],
    )
    assert examine(wish, model).of(REFUSED) == []


def test_nobody_but_named_clients_reaches_the_gateway_at_google() -> None:
    instance, variables = of("gcp")
    (play,) = yaml.safe_load((EXAMPLES / "gcp" / "firewall.yml").read_text())
    rules = {task["gpuops.fleet.gcp_firewall"]["name"]: task["gpuops.fleet.gcp_firewall"] for task in play["tasks"]}
    assert rules.keys() == {"ssh", "gateway"}
    assert rules["gateway"]["source_ranges"] == "{{ gateway_allowed_cidrs }}"
    assert variables["gateway_allowed_cidrs"]
    assert instance["roles"] == ["vllm", "gateway"]
    assert not [rule for rule in rules.values() if rule.get("allow_everybody")]


@pytest.mark.parametrize("example", NAMES)
def test_every_variable_is_one_of_a_role(example: str) -> None:
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    entries = [entry for spec in specs for entry in spec["argument_specs"].values()]
    known = {option for entry in entries for option in entry.get("options") or {}}
    files = sorted((EXAMPLES / example / "group_vars").glob("*.yml"))
    assert files
    for file in files:
        given = yaml.safe_load(file.read_text())
        assert [name for name in given if name not in known and not name.startswith("fleet_")] == [], file


@pytest.mark.parametrize("example", NAMES)
def test_every_command_plays_what_is_there(example: str) -> None:
    text = (EXAMPLES / example / "fleet.yml").read_text()
    commands = re.findall(r"^# +ansible-playbook +-i (\S+) (\S+)", text, re.MULTILINE)
    assert any("site" in played for _fleet, played in commands)
    for fleet, played in commands:
        start = ROOT if "/" in fleet else EXAMPLES / example
        ours = re.fullmatch(r"gpuops\.fleet\.(\w+)", played)
        assert (start / fleet).is_file()
        assert (ROOT / "playbooks" / f"{ours[1]}.yml" if ours else start / played).is_file(), played


def test_the_fleet_of_the_readme_is_that_of_the_demo() -> None:
    """Without the sizes of the demo every host has 2 GiB, on which no model server is deployed."""
    (block,) = re.findall(r"```yaml\n# fleet.yml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    told, demo = (yaml.safe_load(fleet) for fleet in (block, (EXAMPLES / "local" / "fleet.yml").read_text()))
    assert told["instances"] == demo["instances"]
    assert told["defaults"].keys() == demo["defaults"].keys()
