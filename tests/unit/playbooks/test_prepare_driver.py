# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""prepare asks for a driver that runs vLLM's image, before that is pulled and a model is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.nvidia_driver_decision import nvidia_driver_decision
from support.local_play import ROOT, run_plays

ROLE = "gpuops.fleet.nvidia_driver"
IMAGE = "vllm/vllm-openai:v0.32.0"
# The variables of hosts, and which version their driver must have at least. The first serve vLLM.
SERVES: dict[str, tuple[dict[str, Any], str]] = {
    "role-default": ({}, "580"),
    "newer-cuda": ({"vllm_image": IMAGE}, "580"),
    "older-cuda": ({"vllm_image": f"{IMAGE}-cu129"}, "525"),
    "unknown-image": ({"vllm_image": "acme/server:1.2.3"}, ""),
    "built-for-the-cpu": ({"vllm_image_build": True}, ""),
    "no-gpu-wanted": ({"vllm_gpu": False}, ""),
    "said-by-the-user": ({"nvidia_driver_minimum_version": "570.86"}, "570.86"),
    "any-by-the-user": ({"nvidia_driver_minimum_version": ""}, ""),
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "serves-nothing": ({"vllm_image": IMAGE}, ""),
    "serves-nothing-and-says": ({"nvidia_driver_minimum_version": "570.86"}, "570.86"),
}
CASES = {**SERVES, **OTHERS}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What prepare gives the role on each host: its own play, with the role replaced by a look at the variables."""
    work = tmp_path_factory.mktemp("prepare")
    play = next(one for one in yaml.safe_load((ROOT / "playbooks/prepare.yml").read_text()) if "tasks" in one)
    task = next(one for one in play["tasks"] if one.get("ansible.builtin.include_role", {}).get("name") == ROLE)
    looks = {
        "ansible.builtin.copy": {
            "content": "{{ __seen | to_json }}",
            "dest": f"{work}/{{{{ inventory_hostname }}}}.json",
            "mode": "0600",
        },
        "vars": {**task["vars"], "__seen": {name: f"{{{{ {name} }}}}" for name in task["vars"]}},
        "when": task["when"],
    }
    group = {"ansible.builtin.group_by": {"key": "vllm"}, "when": f"inventory_hostname in {list(SERVES)}"}
    plays = [{"hosts": "all", "gather_facts": False, "vars": play["vars"], "tasks": [group, looks]}]
    gpu = {"fleet_gpu_count": 1, "fleet_provider": "gcp"}
    done = run_plays(work, plays, {case: {**gpu, **values} for case, (values, _version) in CASES.items()})
    assert done.returncode == 0, done.stdout + done.stderr
    return {case: json.loads((work / f"{case}.json").read_text()) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_the_driver_that_vllm_needs_is_asked_for(given: dict[str, dict[str, str]], case: str) -> None:
    seen = given[case]
    assert seen["nvidia_driver_minimum_version"] == CASES[case][1]
    by_us = CASES[case][1] and "nvidia_driver_minimum_version" not in CASES[case][0]
    assert bool(seen["nvidia_driver_minimum_reason"]) is bool(by_us)


def test_a_driver_that_works_and_is_too_old_is_told_with_the_image_that_needs_more(
    given: dict[str, dict[str, str]],
) -> None:
    wishes = {name.removeprefix("nvidia_driver_"): value for name, value in given["newer-cuda"].items()}
    facts = "@@ pci\n0000:00:03.0 0x10de 0x27b8 0x030200\n@@ smi\n0\nNVIDIA L4, 570.86.15\n@@ container\nnone\n"
    decision = nvidia_driver_decision(facts, **wishes)  # type: ignore[arg-type]
    assert (decision["action"], decision["hold"]) == ("refuse", [])
    assert decision["reason"] == (
        f"Driver 570.86.15 works, and nvidia_driver_minimum_version asks for 580 (vllm_image {IMAGE} is built for CUDA "
        "13.0; v0.32.0-cu129 runs with 525). A driver that works is not replaced under running containers: set "
        "nvidia_driver_replace to true, which reboots the host, or rent it with another image."
    )
    again = nvidia_driver_decision(facts.replace("570.86.15", "580.65.06"), **wishes)  # type: ignore[arg-type]
    assert again["action"] == "leave"


def test_a_branch_that_is_too_old_is_told_with_the_image_that_needs_more(given: dict[str, dict[str, str]]) -> None:
    wishes = {name.removeprefix("nvidia_driver_"): value for name, value in given["newer-cuda"].items()}
    facts = (
        "@@ pci\n0000:00:03.0 0x10de 0x27b8 0x030200\n@@ container\nnone\n@@ distribution\nDebian 12\n@@ architecture\n"
        "x86_64\n@@ kernel\n6.1.0-37-cloud-amd64\n@@ available\nlinux-headers-6.1.0-37-cloud-amd64\n"
    )
    decision = nvidia_driver_decision(facts, branch="570", **wishes)  # type: ignore[arg-type]
    assert decision["reason"].startswith(
        f"Driver branch 570 is below nvidia_driver_minimum_version 580 (vllm_image {IMAGE} is built for CUDA 13.0;"
    )
