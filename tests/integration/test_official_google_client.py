# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulated Compute v1, proven by Google's own client, as pinned in requirements/official-clients."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from emulators import compute_schema, gcp
from emulators.machines import NoMachines
from emulators.server import serving
from emulators.world import World

ROOT = Path(__file__).resolve().parents[2]
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle"
PYTHON = ROOT / "build" / "clients" / "google" / "bin" / "python"


class WithHostKey(NoMachines):
    """Nothing is behind a rental, but a guest's agent that has written its host key."""

    def host_key(self, rental_id: str) -> str | None:
        return f"{HOST_KEY} root@somewhere"


def installed() -> None:
    done = subprocess.run([ROOT / "scripts" / "clients"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_google_cloud_compute_1_57_rents_changes_stops_starts_and_deletes() -> None:
    installed()
    world = World("gcp", scale=600, machines=WithHostKey())
    with serving(gcp.make(world), world) as url:
        driver = ROOT / "tests" / "support" / "google_client.py"
        command = [str(PYTHON), str(driver), url, gcp.PROJECT]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    zones = ["zones/europe-west4-b", "zones/us-central1-a", "zones/us-central1-b", "zones/us-central1-c"]
    assert seen.pop("zones") == [*zones, "zones/us-east4-a"]
    assert "Instances with guest accelerators do not support live migration." in seen.pop("migrating")
    assert "do not support live migration." in seen.pop("to migrate")
    assert "must be stopped before" in seen.pop("its end while it runs")
    stocked = "us-central1-b,us-central1-c,us-east4-a,europe-west4-b"
    assert seen == {
        "sold out": [503, "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", stocked],
        "error": [],
        "by number": "one",
        "own": ["nvidia-l4", 1],
        "once": True,
        "made": ["one", "somebody", 60, "TERMINATE"],
        "listed": ["one"],
        "everywhere": ["one"],
        "stale": 412,
        "tags": [["ours"], 412],
        "kept on": ["TERMINATE", False, None, ""],
        "told by the guest": [["hostkeys", *HOST_KEY.split()]],
        "its end while it is stopped": ["TERMINATE", True, 3600, "DELETE"],
        "stop": "TERMINATED",
        "start": "RUNNING",
        "left": [],
        "rule": [["198.51.100.7/32"], ["ours"], "22"],
        "rules": [],
    }
    assert [one.wire["name"] for one in world.rentals.values()] == ["two", "one"], "nothing was rented twice"
    assert world.alive() == []


def test_the_extract_is_of_the_document_that_googles_library_ships() -> None:
    """Newer ones change it: then scripts/compute_extract.py is to be run again, and looked at what differs."""
    installed()
    (document,) = (PYTHON.parents[1] / "lib").glob("python*/site-packages/googleapiclient/*/documents/compute.v1.json")
    assert json.loads(document.read_text())["revision"] == compute_schema.REVISION
    before = Path(str(compute_schema.__file__)).with_name("compute_v1.json").read_text()
    done = subprocess.run(
        [PYTHON, "-c", _EXTRACT, ROOT / "scripts", document], capture_output=True, text=True, check=True
    )
    assert done.stdout == before


_EXTRACT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import compute_extract
document = json.load(open(sys.argv[2]))
print(json.dumps(compute_extract.extract(document), indent=1, sort_keys=True))
"""
