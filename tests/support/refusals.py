# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles refuse: one real run of Ansible against this machine, a host a case."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from support.local_play import run_plays

AS_IF_SYSTEMD_RAN = {
    "ansible.builtin.set_fact": {"service_mgr": "systemd", "systemd": {"version": 257}, "cacheable": True},
    "when": "tried_as_if_systemd_ran | default(false)",
}
WRITE_DOWN = {
    "ansible.builtin.copy": {
        "content": "{{ ansible_failed_result | to_json }}",
        "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.refused",
        "mode": "0600",
    },
    "check_mode": False,
}


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
    variables = {name: {"tried_entry_point": "main", "tried_role": role, **of} for name, (role, of) in hosts.items()}
    # One task each: of a template, Ansible takes one host's entry point for all.
    tried = [
        {
            "ansible.builtin.include_role": {"name": "gpuops.fleet.{{ tried_role }}", "tasks_from": entry_point},
            "when": f"tried_entry_point == '{entry_point}'",
        }
        for entry_point in sorted({str(of["tried_entry_point"]) for of in variables.values()})
    ]
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": environment,
        "tasks": [{"block": [AS_IF_SYSTEMD_RAN, *tried], "rescue": [WRITE_DOWN]}],
    }
    done = run_plays(work, [play], variables, "--check", "--extra-vars", json.dumps(dict(overrides or {})))
    assert done.returncode == 0, done.stdout + done.stderr
    return work


def said(work: pathlib.Path, name: str) -> str:
    """The sentence with which the role refused this host."""
    path = work / f"{name}.refused"
    assert path.exists(), "the role accepted it"
    text = " ".join(path.read_text().split())
    assert "Traceback" not in text
    return text
