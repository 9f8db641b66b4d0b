# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a unit of ours could do if what it runs were taken over: `systemd-analyze security` says at most 3.0 of 10."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.role_templates import ROLES, render

MOST_TENTHS = 30
UNITS = sorted(ROLES.glob("*/templates/*.service.j2"))
# 252 is the oldest that a host may have; there a rule for restarts is missing, which says nothing about the sandbox.
SYSTEMD_VERSION = 252


def _judges() -> bool:
    """Whether this machine's systemd-analyze judges a file (250 and newer), also where systemd doesn't run."""
    if shutil.which("systemd-analyze") is None:
        return False
    told = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"systemd (\d+)", told)
    return found is not None and int(found[1]) >= 250


pytestmark = pytest.mark.skipif(not _judges(), reason="no systemd-analyze of version 250 or newer is on this machine")


def judged(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_TENTHS}", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_there_are_units() -> None:
    named = {unit.parents[1].name for unit in UNITS}
    assert {"service", "firewall", "gateway", "sweep_timer"} <= named


@pytest.mark.parametrize("template", UNITS, ids=lambda unit: f"{unit.parents[1].name}-{unit.name.partition('.')[0]}")
def test_exposure(tmp_path: Path, template: Path) -> None:
    unit = tmp_path / f"{template.parents[1].name}-{template.name.removesuffix('.j2')}"
    unit.write_text(render(template, __service_systemd_version=SYSTEMD_VERSION))
    done = judged(unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    worst = [line for line in done.stdout.splitlines() if line.startswith(("✗", "?"))]
    assert done.returncode == 0, f"{found[1]}\n" + "\n".join(worst)
    assert float(found[1]) <= MOST_TENTHS / 10


def test_a_unit_without_a_sandbox_is_refused(tmp_path: Path) -> None:
    template = next(unit for unit in UNITS if unit.name == "compose.service.j2")
    text = render(template, __service_systemd_version=SYSTEMD_VERSION)
    loose = re.sub(r"(?m)^(Protect|Private|Restrict|SystemCall|Capability|NoNewPriv)\w*=.*\n", "", text)
    (tmp_path / "loose.service").write_text(loose)
    assert judged(tmp_path / "loose.service").returncode != 0
