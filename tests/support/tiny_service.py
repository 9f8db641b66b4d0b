# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service for the steps of the role `service`, with a false engine and a false systemd."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest
from support.local_play import ROOT, run_here, step

GOOD, BAD = "acme/tiny:1.0.0", "acme/tiny:2.0.0"
# What was started is what the Compose file said then; the image 1.0.0 gets healthy, others don't.
ENGINE = """\
#!/bin/sh
image() { sed -n 's/^image: //p' "$1"; }
case "$*" in
    *"config --format json"*)
        printf '{"services": {"tiny": {"image": "%s", "healthcheck": {}}}}\\n' "$(image DIR/compose.yaml)" ;;
    *" ps --all --format json"*)
        case $(image DIR/running) in *:1.*) health=healthy ;; *) health=unhealthy ;; esac
        printf '{"Service": "tiny", "State": "running", "Health": "%s"}\\n' $health ;;
esac
"""
SYSTEMCTL = """\
#!/bin/sh
case "$*" in
    *is-active*) cat DIR/active ;;
    *restart*)
        echo "$*" >>DIR/restarts
        cp DIR/compose.yaml DIR/running
        PYTHON DIR/tools/compose_service.py prepare DIR ;;
    *show*) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\nUnitFileState=enabled\\n' ;;
esac
"""


class Tiny:
    """A service in a directory of the test's, which runs what stood in its Compose file when it was started."""

    def __init__(self, work: pathlib.Path) -> None:
        self.work = work
        for name in ("bin", "tools", "run/tiny"):
            (work / name).mkdir(parents=True)
        source = (ROOT / "roles/service/files/compose_service.py").read_text()
        moved = source.replace('"/run/gpuops-fleet"', repr(str(work / "run")))
        assert moved != source
        (work / "tools/compose_service.py").write_text(moved)
        # journalctl only has to be there.
        for name, script in (("docker", ENGINE), ("systemctl", SYSTEMCTL), ("journalctl", "#!/bin/sh\necho a line\n")):
            text = script.replace("DIR", str(work)).replace("PYTHON", "/usr/bin/python3")
            (work / "bin" / name).write_text(text)
            (work / "bin" / name).chmod(0o755)
        (work / "service.json").write_text(json.dumps({"name": "tiny", "files": [], "secrets": []}))
        (work / ".env").write_text("")
        (work / "active").write_text("active\n")
        (work / "address.env").write_text("HOST_ADDRESS=192.0.2.1\n")

    def configure(self, image: str) -> None:
        (self.work / "compose.yaml").write_text(f"image: {image}\n")

    def start(self) -> None:
        path = f"{self.work / 'bin'}:{os.environ['PATH']}"
        subprocess.run([self.work / "bin/systemctl", "restart"], env={**os.environ, "PATH": path}, check=True)
        (self.work / "restarts").unlink()

    def run(self, name: str, role: str = "service", **more: Any) -> subprocess.CompletedProcess[str]:
        values = {
            "service_name": "tiny",
            "service_compose_template": "tiny.j2",
            "service_healthy_timeout_seconds": 1,
            "service_return_to_last_good": True,
            "__service_tools": str(self.work / "tools"),
            "__service_directory": str(self.work),
            **more,
        }
        return run_here(self.work, [step(role, name)], values, programs=self.work / "bin")

    def runs(self) -> str:
        return (self.work / "running").read_text().strip()


@pytest.fixture
def tiny(tmp_path: pathlib.Path) -> Tiny:
    service = Tiny(tmp_path)
    service.configure(GOOD)
    service.start()
    return service
