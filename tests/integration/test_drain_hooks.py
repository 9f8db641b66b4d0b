# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hooks of services, as the role writes and removes them, with real Ansible in a directory of the test's own."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
from support.local_play import run_here

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the hooks belong to root, and only root can make that so")
STRANGERS = ["60-kafka-mine", "60-mongodb", "README"]


def step(order: int, wanted: bool = True, check: bool = False) -> list[dict[str, Any]]:
    """What the role does for one service, and a look at what is there afterwards: names, and which can be run."""
    look = "cd drain.d 2> /dev/null && for name in *; do test -x $name && echo $name+ || echo $name; done || true"
    return [
        {
            "ansible.builtin.include_role": {
                "name": "gpuops.fleet.service",
                "tasks_from": "drain_hooks",
                "apply": {"check_mode": check},
            },
            "vars": {
                "service_name": "kafka",
                "service_drain_order": order,
                "__service_drain_hooks": ["{{ __service_drain_hook }}"] if wanted else [],
            },
        },
        {"ansible.builtin.shell": {"cmd": f"({look}) >> seen; echo . >> seen", "chdir": "{{ playbook_dir }}"}},
    ]


def test_one_hook_of_a_service_stands_there_until_the_service_goes(tmp_path: pathlib.Path) -> None:
    plant = {"cmd": f"touch {' '.join(STRANGERS)}", "chdir": "{{ playbook_dir }}/drain.d"}
    tasks = [
        *step(60, wanted=False),
        *step(60, check=True),
        *step(60),
        {"ansible.builtin.command": plant},
        *step(5, check=True),
        *step(5),
        *step(5, wanted=False, check=True),
        *step(5, wanted=False),
    ]
    done = run_here(tmp_path, tasks, {"__service_drain_directory": str(tmp_path / "drain.d")})
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [text.split() for text in (tmp_path / "seen").read_text().split(".\n")]
    assert seen == [
        [],
        [],
        ["60-kafka+"],
        ["60-kafka+", *STRANGERS],
        ["05-kafka+", *STRANGERS],
        ["05-kafka+", *STRANGERS],
        STRANGERS,
        [],
    ]
