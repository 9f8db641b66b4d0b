# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody who looks after a fleet calls by hand."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from demo import BIN, ROOT, SERVICES, Fleet


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_exec_runs_a_command_inside_the_container(fleet: Fleet) -> None:
    done = make("exec", f"HOST={fleet.machine('processor').name}", "SERVICE=processor", "CMD=id --user")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10001" in done.stdout


def test_exec_hands_the_command_over_as_it_was_written(fleet: Fleet) -> None:
    """Neither make nor the shell of this machine reads it."""
    command = """x=in; printf '%s|' "$x" 'a  b' $(id --user) `echo c`"""
    done = make("exec", f"HOST={fleet.machine('processor').name}", "SERVICE=processor", f"CMD={command}")
    assert "in|a  b|10001|c|" in done.stdout, done.stdout + done.stderr


def test_exec_says_what_it_needs() -> None:
    done = make("exec", "HOST=nowhere-1", "SERVICE=kafka", "CMD=true")
    assert done.returncode != 0
    words = " ".join((done.stdout + done.stderr).split())
    assert "Say where and what: HOST (running now: kafka-1" in words


def test_status_shows_every_host(fleet: Fleet) -> None:
    run = fleet.playbook("status")
    assert run.status == 0, run.output[-2000:]
    assert run.changed == {}
    lines = run.output.splitlines()
    for role in SERVICES:
        name = fleet.machine(role).name
        assert any(name in line and "running" in line for line in lines), run.output


def test_clean_refuses_while_hosts_need_their_key(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    """In a copy of the checkout's folders, because without its refusal the script would remove this one's."""
    assert fleet.machine("kafka").address
    key = tmp_path / "build" / "ssh" / "id_ed25519"
    key.parent.mkdir(parents=True)
    key.touch()
    script = tmp_path / "scripts" / "clean"
    script.parent.mkdir()
    for name in ("clean", "has-engine"):
        shutil.copy(ROOT / "scripts" / name, script.parent)
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "make destroy" in done.stderr
    assert key.exists()
