# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Ansible against nothing but this machine, for what only Ansible itself can tell: templates, roles, modules."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_plays(
    work: pathlib.Path,
    plays: list[dict[str, Any]],
    hosts: Mapping[str, Mapping[str, Any]],
    *options: str,
    programs: pathlib.Path | str = "",
) -> subprocess.CompletedProcess[str]:
    """These plays, for hosts with these variables.

    The options are those of ansible-playbook; work is a directory; programs is one that comes before PATH.
    """
    connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (work / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": connection}}))
    (work / "play.json").write_text(json.dumps(plays))
    program = pathlib.Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [program, "--inventory", work / "inventory.json", work / "play.json", *options],
        cwd=ROOT,
        env={
            **os.environ,
            **({"PATH": f"{programs}:{os.environ['PATH']}"} if programs else {}),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run_here(
    work: pathlib.Path,
    tasks: list[dict[str, Any]],
    values: Mapping[str, Any],
    *options: str,
    programs: pathlib.Path | str = "",
) -> subprocess.CompletedProcess[str]:
    """These tasks, as talkative as Ansible can be. The values win over the roles' own internal variables."""
    (work / "values.json").write_text(json.dumps(values))
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    talkative = ("--extra-vars", f"@{work / 'values.json'}", "--diff", "-vvv")
    return run_plays(work, [play], {"localhost": {}}, *talkative, *options, programs=programs)


def step(role: str, name: str, **variables: Any) -> dict[str, Any]:
    """One step of a role, as a task."""
    return {
        "ansible.builtin.include_role": {"name": f"gpuops.fleet.{role}", "tasks_from": name},
        "vars": variables,
    }
