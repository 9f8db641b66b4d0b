# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles refuse: one real run of Ansible against this machine, a host a case."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]

PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "block": [
                    {
                        "ansible.builtin.set_fact": {
                            "service_mgr": "systemd",
                            "systemd": {"version": 257},
                            "cacheable": True,
                        },
                        "when": "tried_as_if_systemd_ran | default(false)",
                    },
                    {
                        "ansible.builtin.include_role": {
                            "name": "gpuops.fleet.{{ tried_role }}",
                            "tasks_from": "{{ tried_entry_point | default('main') }}",
                        }
                    },
                ],
                "rescue": [
                    {
                        "ansible.builtin.copy": {
                            "content": "{{ ansible_failed_result | to_json }}",
                            "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.refused",
                            "mode": "0600",
                        },
                        "check_mode": False,
                    }
                ],
            }
        ],
    }
]


def refusals(
    work: pathlib.Path,
    hosts: Mapping[str, tuple[str, Mapping[str, Any]]],
    overrides: Mapping[str, Any] | None = None,
    **environment: str,
) -> pathlib.Path:
    """Tries each host's role with its variables, and returns where `said` reads from.

    In check mode: what isn't refused must not deploy here. The environment is that of the tasks. The overrides win over
    the roles' own internal variables, such as a path on the host.
    """
    variables = {name: {"tried_role": role, **values} for name, (role, values) in hosts.items()}
    connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (work / "inventory.json").write_text(json.dumps({"all": {"hosts": variables, "vars": connection}}))
    (work / "play.json").write_text(json.dumps([{**PLAY[0], "environment": environment}]))
    done = subprocess.run(
        [
            *(pathlib.Path(sys.executable).parent / "ansible-playbook", "--check"),
            *("--extra-vars", json.dumps(dict(overrides or {}))),
            *("--inventory", work / "inventory.json", work / "play.json"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return work


def said(work: pathlib.Path, name: str) -> str:
    """The sentence with which the role refused this host."""
    path = work / f"{name}.refused"
    assert path.exists(), "the role accepted it"
    text = " ".join(path.read_text().split())
    assert "Traceback" not in text
    return text
