# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units and the credentials that the role sweep_timer writes, by the role itself."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import stat
import subprocess
import sys
from typing import Any

import pytest
from support.local_play import run_here

PLANTED = 'planted-"$key`\\7c'
UNIT = "gpuops-fleet-sweep-acme-llm"


def run_role(work: pathlib.Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Write what the role would write to /etc below work instead; nothing is started."""
    fleet = work / "fleet.yml"
    fleet.write_text("plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: []\n")
    values = {
        "__sweep_timer_unit_directory": str(work),
        "__sweep_timer_config_directory": str(work / "config"),
        "sweep_timer_deployment_id": "acme-llm",
        "sweep_timer_fleet_files": [str(fleet)],
        "sweep_timer_credentials": {"VAST_API_KEY": PLANTED, "RUNPOD_API_KEY": "another"},
        "sweep_timer_ansible_playbook": str(pathlib.Path(sys.executable).parent / "ansible-playbook"),
        **variables,
    }
    # Imported: its tags are asked for.
    role = {"ansible.builtin.import_role": {"name": "gpuops.fleet.sweep_timer"}}
    return run_here(work, [role], values, "--tags", "sweep_timer_configure")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("timer")
    done = run_role(work)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "planted" not in done.stdout + done.stderr
    again = run_role(work)
    assert "changed=0" in again.stdout
    return work


def test_the_unit_sweeps_with_confirmation_and_without_a_secret(written: pathlib.Path) -> None:
    unit = (written / f"{UNIT}.service").read_text()
    (command,) = (line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart="))
    assert shlex.split(command)[1:] == [
        *("-i", str(written / "fleet.yml"), "gpuops.fleet.sweep"),
        *("-e", "fleet_confirm=acme-llm", "-e", "fleet_max_deletions=5"),
    ]
    assert "planted" not in unit
    assert f"EnvironmentFile={written}/config/{UNIT}.env" in unit


def test_only_its_owner_can_read_the_credentials_and_they_come_out_as_they_were(written: pathlib.Path) -> None:
    file = written / "config" / f"{UNIT}.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    # systemd takes these quotes as a shell does.
    script = f'. "{file}"; printf "%s|%s" "$VAST_API_KEY" "$RUNPOD_API_KEY"'
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout == f"{PLANTED}|another"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_takes_the_units(written: pathlib.Path) -> None:
    units = [str(written / f"{UNIT}.{kind}") for kind in ("service", "timer")]
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stderr
    assert UNIT not in checked.stderr, checked.stderr
    sandbox = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[0]],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert sandbox.returncode == 0, sandbox.stdout[-2000:]


@pytest.mark.parametrize(
    "variables",
    [
        {"sweep_timer_deployment_id": "acme; rm"},
        {"sweep_timer_fleet_files": ["/home/me/fleet.yml"]},
        {"sweep_timer_fleet_files": ["fleet.yml"]},
        {"sweep_timer_fleet_files": ["/nowhere/fleet.yml"]},
        {"sweep_timer_fleet_files": []},
        {"sweep_timer_credentials": {"VAST_API_KEY": "two\nlines"}},
    ],
)
def test_what_would_break_the_unit_is_refused(tmp_path: pathlib.Path, variables: dict[str, Any]) -> None:
    done = run_role(tmp_path, **variables)
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.service"))
