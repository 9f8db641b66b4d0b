# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of the role hardening over a host whose answers are planted, below a directory of the test's."""

from __future__ import annotations

import os
import pathlib
import pwd
import subprocess
from typing import Any

from support.local_play import run_here, step

# A rented machine on which everything is as it should be.
MACHINE: dict[str, Any] = {
    "container": "none",
    "stale": [],
    "texts": {},
    "directories": [],
    "docker": True,
    "sysctl_differs": [],
    "sysctl_unknown": [],
    "units": {},
    "programs": {"unattended-upgrade": True, "augenrules": True},
    "login_method": "",
    "ssh_pending": False,
    "ssh_text": "",
    "ssh_demands": "",
    "root_password": "none",
    "sshd_differs": [],
    "audit_possible": True,
    "audit_merged": True,
    "audit_loaded": 1000,
}
UNITS = [
    *("ssh.service", "auditd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "chrony.service"),
    *("chronyd.service", "systemd-timesyncd.service", "ntpsec.service", "ntp.service", "openntpd.service"),
]
PRESENT = {"ssh.service", "auditd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "chrony.service"}


def units(**states: str) -> dict[str, dict[str, str]]:
    """What systemd says: all of a usual machine is active, but for what is named (apt_daily="masked")."""
    found = {}
    for name in UNITS:
        word = states.get(name.partition(".")[0].replace("-", "_"), "active" if name in PRESENT else "not-found")
        found[name] = {
            "load": word if word in ("masked", "not-found") else "loaded",
            "active": "active" if word == "active" else "inactive",
        }
    return found


def host(**answers: Any) -> dict[str, Any]:
    return {**MACHINE, "units": units(), **answers}


def places(work: pathlib.Path) -> dict[str, str]:
    """The role's paths, all of them below work."""
    for name in ("apt", "needrestart", "sysctl", "audit", "units"):
        (work / name).mkdir(exist_ok=True)
    return {
        "__hardening_upgrades_file": str(work / "apt/52gpuops-fleet"),
        "__hardening_needrestart_file": str(work / "needrestart/conf.d/50-gpuops-fleet.conf"),
        "__hardening_sysctl_file": str(work / "sysctl/99-zz-gpuops-fleet.conf"),
        "__hardening_audit_file": str(work / "audit/50-gpuops-fleet.rules"),
        "__hardening_directory": str(work / "not-applied"),
        "__hardening_unit_directory": str(work / "units"),
        "__hardening_sysctl_program": "systemd-sysctl",
        "__hardening_owner": pwd.getpwuid(os.getuid()).pw_name,
    }


def play(
    work: pathlib.Path,
    steps: list[str],
    seen: dict[str, Any],
    *,
    programs: str = "",
    check: bool = False,
    **variables: Any,
) -> subprocess.CompletedProcess[str]:
    """These files of the role's tasks over a host with these answers; programs comes before PATH."""
    values = {
        **places(work),
        # Nothing is asked of this machine.
        "__hardening_program_text": "",
        "__hardening_seen": seen,
        **variables,
    }
    facts = {"distribution": "Ubuntu", "service_mgr": "systemd", "user_uid": 0, "user_id": "root"}
    tasks: list[dict[str, Any]] = [{"ansible.builtin.set_fact": {**facts, "cacheable": True}}]
    tasks += [step("hardening", name) for name in steps]
    return run_here(work, tasks, values, *(["--check"] if check else []), programs=programs)
