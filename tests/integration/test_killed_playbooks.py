# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real ansible-playbook runs that are killed with SIGKILL at random moments, then run again to the end.

Several deployments live side by side in the same emulated accounts, each run by a controller with an empty home. The
moments follow from KILL_SEED, which a failing run prints.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clouds import KEY, Cloud
from support.emulated_clouds import make_clouds

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
SEED = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
DEPLOYMENTS = 3
KILLS = 10 * int(os.environ.get("TEST_SCALE", "1"))  # of each deployment
NAMES = {"vastai": "a-1", "runpod": "b-1", "tensordock": "c-1", "gcp": "d-1", "aws": "e-1"}
# What is killed, in turns: what was rented is rented once, and what was ended halfway is ended or still known.
PLAYBOOKS = ("provision", "provision", "destroy")
FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: {deployment_id}
defaults: {{max_lifetime: 8h, wait: running}}
provider_settings:
  aws: {{regions: [us-east-1], source_ranges: [203.0.113.7/32]}}
instances:
  - {{name: a-1, providers: [vastai], gpu: A40}}
  - {{name: b-1, providers: [runpod], gpu: A40, runtime: container, image: 'x:1'}}
  - {{name: c-1, providers: [tensordock], gpu: A40, disk_gib: 100, ssh_public_key: "{key}"}}
  - {{name: d-1, providers: [gcp], gpu: T4, max_lifetime: 7d, ssh_public_key: "{key}"}}
  - {{name: e-1, providers: [aws], gpu: A10G, ssh_public_key: "{key}"}}
"""


@pytest.fixture
def clouds() -> Iterator[dict[str, Cloud]]:
    """Fast providers: what takes real time is Ansible and the second look."""
    clouds = make_clouds()
    for cloud in clouds.values():
        cloud.start(scale=60)
    yield clouds
    for cloud in clouds.values():
        cloud.server.stop()


class Deployment:
    """A fleet file, and controllers that come and go."""

    def __init__(self, folder: pathlib.Path, clouds: dict[str, Cloud], number: int) -> None:
        self.clouds = clouds
        self.id = f"it-kill-{number}"
        self.folder = folder / self.id
        self.folder.mkdir()
        self.file = self.folder / "fleet.yml"
        self.file.write_text(FLEET.format(deployment_id=self.id, key=KEY))
        self.chance = random.Random(SEED + number)  # noqa: S311 (no secret)

    def start(self, playbook: str) -> tuple[subprocess.Popen[str], str]:
        """The run, and a word that stands in the environment of each of its processes and of no other."""
        word = uuid.uuid4().hex
        found = {name: value for cloud in self.clouds.values() for name, value in cloud.variables.items()}
        environment = {**os.environ, **found, "GPUFLEET_HOME": str(self.folder / word), "ANSIBLE_NOCOLOR": "1"}
        environment["GPUFLEET_REPORT_DIRECTORY"] = str(self.folder / "report")
        arguments = ["-i", str(self.file), f"playbooks/{playbook}.yml", "-e", f"fleet_confirm={self.id}"]
        run = subprocess.Popen(
            [str(BIN / "ansible-playbook"), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return run, word

    def kill_one(self, playbook: str) -> bool:
        """Whether the run was still going when it was killed."""
        run, word = self.start(playbook)
        try:
            run.wait(timeout=self.chance.uniform(1.0, 16.0))
        except subprocess.TimeoutExpired:
            going = True
        else:
            going = False
        kill_all(word)
        run.communicate(timeout=60)
        for provider, cloud in self.clouds.items():
            assert len(cloud.alive(self.id, NAMES[provider])) <= 1, f"{provider} rented twice"
        return going

    def play(self, playbook: str) -> None:
        run, _word = self.start(playbook)
        output, _none = run.communicate(timeout=300)
        assert run.returncode == 0, output[-4000:]

    def live(self) -> int:
        """A whole life; returns how many runs were killed in their middle."""
        killed = sum(self.kill_one(PLAYBOOKS[number % len(PLAYBOOKS)]) for number in range(KILLS))
        self.play("provision")
        for provider, cloud in self.clouds.items():
            assert len(cloud.alive(self.id, NAMES[provider])) == 1, provider
        self.play("destroy")
        for provider, cloud in self.clouds.items():
            assert cloud.alive(self.id, NAMES[provider]) == [], provider
        return killed


def kill_all(word: str) -> None:
    """SIGKILL to the run and to all that it started: Ansible's workers have sessions of their own."""
    while True:
        going = [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/environ") if _has(path, word)]
        if not going:
            return
        for identity in going:
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity, signal.SIGKILL)
        time.sleep(0.05)


def _has(path: pathlib.Path, word: str) -> bool:
    try:
        return word.encode() in path.read_bytes()
    except OSError:  # it ended meanwhile, or is not ours
        return False


def test_killed_playbooks_rent_once_and_leave_nothing(clouds: dict[str, Cloud], tmp_path: pathlib.Path) -> None:
    print(f"KILL_SEED={SEED} replays the moments")
    foreign = [cloud.rent_for_somebody_else("gf--it-kill-10--a-1--abc123--0000") for cloud in clouds.values()]
    deployments = [Deployment(tmp_path, clouds, number) for number in range(DEPLOYMENTS)]
    with ThreadPoolExecutor(DEPLOYMENTS) as pool:
        killed = sum(pool.map(Deployment.live, deployments))
    assert killed >= DEPLOYMENTS * KILLS / 2  # else the moments are too late to prove anything
    assert [one.alive for one in foreign] == [True] * len(foreign)
    for cloud in clouds.values():
        assert [rental.owner for rental in cloud.world.alive() if rental not in foreign] == []
