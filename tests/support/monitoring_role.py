# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that the role monitoring writes, by the role itself, below a directory of the test's, and the programs that
judge and run them: those of this machine, else of Debian's packages, unpacked and not installed."""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
import shutil
import subprocess
from typing import Any

from support.local_play import run_here, step

PACKAGES = {
    "prometheus": ("prometheus", "promtool"),
    "prometheus-alertmanager": ("prometheus-alertmanager", "amtool"),
    "prometheus-node-exporter": ("prometheus-node-exporter",),
}
PROGRAMS = tuple(name for names in PACKAGES.values() for name in names)


def find_programs(work: pathlib.Path) -> tuple[pathlib.Path | None, str]:
    """The directory with all programs, or None and why there is none."""
    places = {pathlib.Path(found).parent for name in PROGRAMS if (found := shutil.which(name))}
    if len(places) == 1 and all((next(iter(places)) / name).exists() for name in PROGRAMS):
        return next(iter(places)), ""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return None, "Prometheus is not installed, and this machine has no apt-get that could bring its packages"
    # Debian 13 and Ubuntu have promtool in a package of its own.
    apart = subprocess.run(["apt-cache", "show", "promtool"], capture_output=True, check=False).returncode == 0
    wanted = [*PACKAGES, *(["promtool"] if apart else [])]
    done = subprocess.run(
        ["apt-get", "download", "--quiet", *wanted], cwd=work, capture_output=True, text=True, check=False, timeout=300
    )
    for package in sorted(work.glob("*.deb")):
        subprocess.run(["dpkg", "--extract", str(package), str(work / "root")], check=True)
        package.unlink()
    directory = work / "root/usr/bin"
    if done.returncode == 0 and all((directory / name).exists() for name in PROGRAMS):
        return directory, ""
    return None, f"the packages of Prometheus can't be downloaded here: {done.stderr.strip()[-200:]}"


SERVER = ["prometheus", "prometheus-alertmanager"]
EXPORTER = ["prometheus-node-exporter"]
# What both entry points write, as steps of the role and the packages that each is about.
ALL_STEPS = [("install", SERVER), ("configure", SERVER), ("install", EXPORTER), ("exporter_configure", EXPORTER)]


def run_steps(
    work: pathlib.Path, programs: pathlib.Path, steps: list[tuple[str, list[str]]] | None = None, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Only these steps of the role, as talkative as Ansible can be; nothing is installed or started.

    Its files lie in work/monitoring, its units in work/units.
    """
    (work / "data").mkdir(exist_ok=True)
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    values = {
        "__monitoring_directory": str(work / "monitoring"),
        "__monitoring_runtime_directory": str(work / "run"),
        "__monitoring_unit_directory": str(work / "units"),
        "__monitoring_tools": str(work / "tools"),
        "__monitoring_data_directory": str(work / "data"),
        "__monitoring_binaries": str(programs),
        # As if they were there already, so that none is installed.
        "__monitoring_programs": {"results": [{"stat": {"exists": True}}]},
        "__monitoring_owner": user,
        "__monitoring_user": user,
        "__monitoring_group": group,
        **variables,
    }
    tasks = [step("monitoring", name, __monitoring_packages=packages) for name, packages in steps or ALL_STEPS]
    return run_here(work, tasks, values)
