# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a caller wants done before what runs is restarted: the role's step, a false engine and a false systemd."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support.tiny_service import BAD, GOOD, Tiny, tiny

# Fixtures are used by their names.
__all__ = ["tiny"]


def run_step(tiny: Tiny, task: dict[str, Any], *, active: str = "active") -> subprocess.CompletedProcess[str]:
    (tiny.work / "active").write_text(f"{active}\n")
    tasks = tiny.work / "tasks.yml"
    tasks.write_text(json.dumps([{"name": "Do it before", **task}]))
    return tiny.run("run", service_before_restart_tasks=str(tasks), __service_written={"changed_paths": []})


def note(tiny: Tiny) -> dict[str, Any]:
    """Notes what runs at that moment."""
    return {"ansible.builtin.command": f"cp {tiny.work}/running {tiny.work}/ran-before"}


def test_it_is_done_before_what_runs_is_restarted_and_only_then(tiny: Tiny) -> None:
    noted = tiny.work / "ran-before"
    unchanged = run_step(tiny, note(tiny))
    assert unchanged.returncode == 0, unchanged.stdout
    assert not noted.exists(), "nothing was to be restarted"
    tiny.configure(BAD)
    changed = run_step(tiny, note(tiny))
    assert changed.returncode == 0, changed.stdout
    assert noted.read_text().strip() == f"image: {GOOD}"
    assert tiny.runs() == f"image: {BAD}"


def test_it_is_not_done_where_nothing_runs(tiny: Tiny) -> None:
    tiny.configure(BAD)
    done = run_step(tiny, note(tiny), active="inactive")
    assert done.returncode == 0, done.stdout
    assert not (tiny.work / "ran-before").exists()
    assert tiny.runs() == f"image: {BAD}"


def test_nothing_is_restarted_where_it_fails(tiny: Tiny) -> None:
    tiny.configure(BAD)
    done = run_step(tiny, {"ansible.builtin.fail": {"msg": "2 requests still run."}})
    assert done.returncode != 0
    assert "2 requests still run." in done.stdout
    assert tiny.runs() == f"image: {GOOD}"
    again = run_step(tiny, note(tiny))
    assert again.returncode == 0, again.stdout
    assert tiny.runs() == f"image: {BAD}", "the next run tries it again"
