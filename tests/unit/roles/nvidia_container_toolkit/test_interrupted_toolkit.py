# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run interrupted between Docker's options and its restart is ended by the next one; nothing real is asked."""

from __future__ import annotations

import json
import os
import pathlib
import pwd

import pytest
from support.fake_commands import Commands
from support.local_play import run_here, step

RUNTIME = {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
# As systemd_service asks.
SYSTEMCTL = 'case "$1" in show) echo LoadState=loaded; echo ActiveState=active ;; esac'


def restarts(work: pathlib.Path, known: str) -> int:
    """How often the role restarts an engine that knows these runtimes; its file is right already."""
    commands = Commands(work / "commands")
    printed = json.dumps({"runtimes": RUNTIME})
    commands.fake("nvidia-ctk", f"echo '{printed}'")
    commands.fake("dockerd", "echo Usage")
    commands.fake("docker", f"echo '{known}'")
    commands.fake("systemctl", SYSTEMCTL)
    daemon = work / "daemon.json"
    daemon.write_text(json.dumps({"features": {"cdi": True}, "runtimes": RUNTIME}, indent=2, sort_keys=True) + "\n")
    daemon.chmod(0o644)
    was = daemon.read_text()
    values = {
        "__nvidia_container_toolkit_daemon_file": str(daemon),
        "__nvidia_container_toolkit_engine": {"stdout": "28.5.1"},
        "__nvidia_container_toolkit_owner": pwd.getpwuid(os.getuid()).pw_name,
    }
    done = run_here(work, [step("nvidia_container_toolkit", "configure")], values, programs=str(commands.bin))
    assert done.returncode == 0, done.stdout + done.stderr
    assert daemon.read_text() == was
    return len([call for call in commands.called() if call.startswith("systemctl restart docker")])


@pytest.mark.parametrize(
    ("known", "times"), [({"runc": {}}, 1), ({"io.containerd.runc.v2": {}, "nvidia": {}, "runc": {}}, 0)]
)
def test_an_engine_without_its_options_is_restarted(
    tmp_path: pathlib.Path, known: dict[str, object], times: int
) -> None:
    assert restarts(tmp_path, json.dumps(known)) == times
