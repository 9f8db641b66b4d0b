# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the role local_provider, played on this machine with commands and a role docker that don't change it."""

from __future__ import annotations

import json
import pathlib
import sys

from support.fake_commands import ROOT, Commands

# In place of the role docker, which would change the machine.
INSTEAD = [
    {
        "name": "Note that it was applied",
        "ansible.builtin.copy": {
            "content": "docker_compose={{ docker_compose }}",
            "dest": "{{ applied_note }}",
            "mode": "0600",
        },
    }
]


def play(work: pathlib.Path, commands: Commands, part: str, variables: dict[str, object]) -> str:
    """Run this task file of the role, and return what Ansible printed. A role docker only writes applied_note."""
    collection = work / "collections" / "ansible_collections" / "gpuops" / "fleet"
    (collection / "roles" / "docker" / "tasks").mkdir(parents=True)
    (collection / "roles" / "docker" / "tasks" / "main.yml").write_text(json.dumps(INSTEAD))
    (collection / "roles" / "local_provider").symlink_to(ROOT / "roles" / "local_provider")
    for name in ("meta", "plugins", "galaxy.yml"):
        (collection / name).symlink_to(ROOT / name)
    tasks = [{"ansible.builtin.include_role": {"name": "gpuops.fleet.local_provider", "tasks_from": part}}]
    plays = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    (work / "play.json").write_text(json.dumps(plays))
    done = commands.run(
        pathlib.Path(sys.executable).parent / "ansible-playbook",
        *(str(work / "play.json"), "--extra-vars", json.dumps(variables)),
        *("--extra-vars", f"ansible_python_interpreter={sys.executable}"),
        directory=work,
        ANSIBLE_COLLECTIONS_PATH=str(work / "collections"),
        PYTHONPATH=str(work / "collections"),
        ANSIBLE_NOCOLOR="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
