# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook `deploy` tells the gateways of a fleet about a model server, where they don't listen."""

from __future__ import annotations

import pathlib
import re

import pytest
from support.local_play import ROOT, run_plays

SERVER, BARE, GONE = "vllm-1", "gateway-1", "gateway-2"


@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "check"])
def test_gateways_that_are_not_there_stop_no_upgrade(tmp_path: pathlib.Path, options: list[str]) -> None:
    """On one of them no HAProxy runs, the other one can't be reached at all."""
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    play = {
        "hosts": SERVER,
        "gather_facts": False,
        "vars": {"__peers_gateway": [GONE, BARE], "__gateway_runtime_directory": str(tmp_path)},
        "tasks": [
            {"ansible.builtin.include_tasks": str(ROOT / "playbooks/tasks/drain.yml")},
            {"ansible.builtin.debug": {"msg": "The restart follows."}},
        ],
    }
    done = run_plays(tmp_path, [play], {SERVER: {}, BARE: {}, GONE: gone}, *options)
    assert done.returncode == 0, done.stdout
    assert "The restart follows." in done.stdout
    assert re.search(rf"{SERVER}\s+: ok=\d+\s+changed=0", done.stdout)
