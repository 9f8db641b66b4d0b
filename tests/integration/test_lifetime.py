# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who ends a rental, with real Ansible over two emulated providers: extend, status, sweep, destroy."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from emulators import runpod, vastai
from emulators.server import serving
from emulators.world import Fault, Rental, World

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(sys.executable).parent
DEPLOYMENT = "it-life-llm"
FLEET = f"""\
plugin: gpuops.fleet.fleet
deployment_id: {DEPLOYMENT}
defaults:
  runtime: container
  image: vllm/vllm-openai:v0.32.0
  ports: [{{port: 8000, protocol: http}}]
  max_lifetime: 8h
  wait: running
instances:
  - {{name: pod-1, providers: [runpod], gpu: A40}}
  - {{name: box-1, providers: [vastai], gpu: A40}}
"""


@dataclass
class Setting:
    """A fleet file, and the providers behind it."""

    file: pathlib.Path
    pods: World
    boxes: World
    environment: dict[str, str]

    def command(self, name: str, *arguments: str) -> list[str]:
        return [str(BIN / "ansible-playbook"), "-i", str(self.file), f"playbooks/{name}.yml", *arguments]

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        """The exit status, and what was shown, on one line."""
        done = subprocess.run(
            self.command(name, *arguments),
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def play(self, name: str, *arguments: str) -> str:
        status, shown = self.run(name, *arguments)
        assert status == 0, shown[-3000:]
        return shown

    def refused(self, name: str, *arguments: str) -> str:
        before = self.state()
        status, shown = self.run(name, *arguments)
        assert status != 0
        assert self.state() == before, "something was changed"
        return shown

    def state(self) -> list[tuple[str, str]]:
        """What lives, with its marker."""
        return sorted((rental.id, rental.owner) for world in (self.pods, self.boxes) for rental in world.alive())

    def writes(self) -> int:
        """Calls that may change something."""
        calls = [*self.pods.calls, *self.boxes.calls]
        return sum(call["method"] != "GET" and "/bundles/" not in call["path"] for call in calls)

    def expiry(self, name: str) -> int:
        """In epoch hours."""
        (owner,) = (owner for _identity, owner in self.state() if f"--{name}--" in owner)
        marker = _marker.parse(owner)
        assert marker
        return marker.expiry_epoch_hours


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Both instances of the fleet file are rented, and are a day old for everybody who looks."""
    work = tmp_path_factory.mktemp("lifetime")
    file = work / "fleet.yml"
    file.write_text(FLEET)
    pods, boxes = World("runpod", scale=60), World("vastai", scale=60)
    with serving(runpod.make(pods), pods) as pods_url, serving(vastai.make(boxes), boxes) as boxes_url:
        environment = {
            "RUNPOD_API_KEY": "any",
            "RUNPOD_REST_V2_URL": pods_url + runpod.URL_PATH,
            "VAST_API_KEY": "any",
            "VAST_URL": boxes_url + vastai.URL_PATH,
            "GPUFLEET_HOME": str(work / "home"),
            "GPUFLEET_REPORT_DIRECTORY": str(work / "report"),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "1000",
        }
        one = Setting(file, pods, boxes, environment)
        one.play("provision")
        for world in (pods, boxes):
            for rental in world.alive():
                make_old(rental, hours=24)
        yield one


def make_old(rental: Rental, hours: float) -> None:
    began = time.time() - hours * 3600
    rental.created_at = began
    rental.wire["createdAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
    rental.wire["start_date"] = began


def plant(world: World, like: str, marker: Marker | str, hours: float) -> Rental:
    """One more rental at that provider, as old as that, that somebody made by other means."""
    with world.lock:
        model = next(rental for rental in world.alive() if f"--{like}--" in rental.owner)
        identity = f"pod9{next(world.numbers):010x}" if world.provider == "runpod" else str(7000 + len(world.rentals))
        owner = marker if isinstance(marker, str) else _marker.encode(marker)
        env = {"GPUFLEET_OWNER": marker.owner} if isinstance(marker, Marker) and marker.owner != "fleet" else {}
        wire = {**model.wire, "id": identity, "name": owner, "label": owner, "env": env, "_offer": 0}
        if world.provider == "vastai":
            wire |= {"id": int(identity), "extra_env": [list(pair) for pair in env.items()]}
        rental = replace(model, id=identity, owner=owner, wire=wire)
        make_old(rental, hours)
        world.rent(rental)
        return rental


def test_the_plan_and_the_status_say_who_ends_it(setting: Setting) -> None:
    shown = setting.play("plan")
    assert (
        f"box-1, pod-1: no provider ends it by itself. When its max_lifetime is over, gpuops.fleet.sweep with -e \
fleet_confirm={DEPLOYMENT}"
        in " ".join(shown.replace("pod-1, box-1", "box-1, pod-1").split())
    )
    shown = setting.play("status")
    assert "8000.proxy.runpod.net" in shown
    pod, box = (re.search(rf"{name} .*? (sweep|nobody) (\S+) (\S+) (\S+)", shown) for name in ("pod-1", "box-1"))
    assert pod is not None
    assert box is not None
    assert (pod[1], pod[4]) == ("sweep", "bill")
    assert (box[1], box[4]) == ("sweep", "price_and_age")
    assert "incomplete: where no bill says so" in shown


def test_of_several_fleet_files_each_says_how_its_provider_is_asked(setting: Setting, tmp_path: pathlib.Path) -> None:
    common, lines = FLEET.split("instances:\n")
    others = dict(setting.environment)
    for name, provider, variable, line in (
        ("a-fleet.yml", "runpod", "RUNPOD_REST_V2_URL", lines.splitlines()[0]),
        ("b-fleet.yml", "vastai", "VAST_URL", lines.splitlines()[1]),
    ):
        settings = f"provider_settings: {{{provider}: {{api_url: '{others.pop(variable)}'}}}}"
        (tmp_path / name).write_text(f"{common}{settings}\ninstances:\n{line}\n")
    several = replace(setting, file=tmp_path, environment={**others, "GPUFLEET_HOME": str(tmp_path / "home")})
    shown = several.play("status")
    assert "8000.proxy.runpod.net" in shown
    assert re.search(r"box-1 +vastai", shown)
    assert "Not every provider answered" not in shown
    assert "orphans" not in shown


def test_the_report_shows_when_it_ends_and_by_whom(setting: Setting) -> None:
    setting.play("report")
    report = pathlib.Path(setting.environment["GPUFLEET_REPORT_DIRECTORY"])
    assert '"lifetime_enforcer": "sweep"' in (report / "report.json").read_text()
    assert re.search(r"T[0-9:]+Z, by sweep</td>", (report / "report.html").read_text())


def test_what_lives_is_given_more_time_where_the_provider_can(setting: Setting) -> None:
    before = setting.expiry("box-1")
    shown = setting.play("provision", "--limit", "box-1", "-e", "fleet_extend=2d", "--check", "--diff")
    assert "expires_at" in shown
    assert setting.expiry("box-1") == before
    assert "renew" in setting.play("plan", "--limit", "box-1", "-e", "fleet_extend=2d")
    assert "changed=1" in setting.play("provision", "--limit", "box-1", "-e", "fleet_extend=2d")
    assert 39 <= setting.expiry("box-1") - before <= 41
    assert "changed=0" in setting.play("provision", "--limit", "box-1", "-e", "fleet_extend=2d")


def test_more_time_is_refused_before_any_call_where_the_provider_can_not(setting: Setting) -> None:
    before = setting.writes()
    shown = setting.refused("provision", "--limit", "pod-1", "-e", "fleet_extend=2d")
    assert "provider 'runpod' can't change the expiry of what lives" in shown
    assert setting.writes() == before


# Sweep


HOUR = int(time.time() // 3600)


@pytest.fixture(scope="module")
def accident(setting: Setting) -> dict[str, str]:
    """Everything that may lie about in two accounts: why it is there, and its id."""

    def ours(name: str, nonce: str, expiry: int = HOUR + 50, owner: str = "fleet") -> Marker:
        return Marker(DEPLOYMENT, name, nonce, expiry, owner)

    def planted(world: World, marker: Marker | str, hours: float) -> str:
        return plant(world, "pod-1" if world is setting.pods else "box-1", marker, hours).id

    foreign = replace(ours("old-1", "ffffff"), deployment_id=f"{DEPLOYMENT}-2", expiry_epoch_hours=HOUR - 9)
    return {
        "orphan": planted(setting.pods, ours("old-1", "aaaaaa"), 3),
        "orphan at the other provider": planted(setting.boxes, ours("old-2", "aaaaaa"), 3),
        "young orphan": planted(setting.pods, ours("new-1", "aaaaaa"), 0),
        "surplus": planted(setting.pods, ours("pod-1", "zzzzzz"), 3),
        "young surplus": planted(setting.pods, ours("pod-1", "yyyyyy"), 0),
        "expired": planted(setting.boxes, ours("gone-1", "aaaaaa", HOUR - 1), 0.1),
        "job": planted(setting.pods, ours("job-1", "aaaaaa", HOUR + 5, "job:17"), 9),
        "expired job": planted(setting.boxes, ours("job-2", "aaaaaa", HOUR - 1, "job:18"), 9),
        "another deployment's": planted(setting.pods, foreign, 90),
        "nobody's": planted(setting.boxes, "jupyter", 90),
        "almost ours": planted(setting.pods, f"{_marker.encode(ours('old-1', 'bbbbbb', HOUR - 1))} copy", 90),
    }


def test_without_confirmation_it_only_reports(setting: Setting, accident: dict[str, str]) -> None:
    before, writes = setting.state(), setting.writes()
    shown = setting.play("sweep")
    assert "changed=0" in shown
    assert re.search(rf"old-1 runpod \S+ orphan .* {accident['orphan']}", shown)
    for verdict in ("expired", "surplus", "young", "job", "wanted"):
        assert f" {verdict} " in shown
    assert accident["nobody's"] not in shown
    assert f"To end this: -e fleet_confirm={DEPLOYMENT}" in shown
    assert (setting.state(), setting.writes()) == (before, writes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("-e", "fleet_confirm=yes"),
            f"confirm 'yes' is not the deployment_id; to end what is found, write confirm: {DEPLOYMENT}",
        ),
        (("-e", f"fleet_confirm={DEPLOYMENT}", "--limit", "pod-1"), "leave --limit out"),
    ],
)
def test_a_sweep_that_is_not_meant_so_ends_nothing(
    setting: Setting, accident: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    before = setting.writes()
    assert words in setting.refused("sweep", *arguments)
    assert setting.writes() == before


def test_a_second_fleet_file_that_can_not_be_read_ends_nothing(setting: Setting, accident: dict[str, str]) -> None:
    """Ansible itself only warns about it, and what it names would look like orphans."""
    broken = setting.file.with_name("broken.fleet.yml")
    broken.write_text("plugin: gpuops.fleet.fleet\ninstances: 5\n")
    assert "broken.fleet.yml" in setting.refused("sweep", "-i", str(broken), "-e", f"fleet_confirm={DEPLOYMENT}")


def test_one_provider_that_does_not_answer_ends_nothing_anywhere(setting: Setting, accident: dict[str, str]) -> None:
    setting.boxes.faults = [Fault(method="GET", path="/v1/instances/", status=403, body={"error": "no"}, times=None)]
    before = setting.writes()
    assert "vastai" in setting.refused("sweep", "-e", f"fleet_confirm={DEPLOYMENT}")
    setting.boxes.faults = []
    assert setting.writes() == before


def test_check_mode_says_what_would_end(setting: Setting, accident: dict[str, str]) -> None:
    before = setting.state()
    shown = setting.play("sweep", "-e", f"fleet_confirm={DEPLOYMENT}", "--check")
    assert "Would be ended:" in shown
    assert "changed=1" in shown
    assert setting.state() == before


def test_a_confirmed_sweep_ends_what_is_over_there_twice_or_in_no_file_and_nothing_else(
    setting: Setting, accident: dict[str, str]
) -> None:
    pod = next(rental for rental in setting.pods.alive() if f"--{DEPLOYMENT}--pod-1--" in rental.owner)
    box = next(rental for rental in setting.boxes.alive() if f"--{DEPLOYMENT}--box-1--" in rental.owner)
    marker = _marker.parse(box.owner)
    assert marker
    box.wire["label"] = box.owner = _marker.encode(replace(marker, expiry_epoch_hours=HOUR))  # a fleet file names it
    shown = setting.play("sweep", "-e", f"fleet_confirm={DEPLOYMENT}", "-e", "fleet_max_deletions=6")
    ended = ("orphan", "orphan at the other provider", "surplus", "expired", "expired job")
    alive = {identity for identity, _owner in setting.state()}
    assert alive == {pod.id} | {accident[why] for why in accident if why not in ended}
    assert "Ended: box-1, gone-1, job-2, old-1, old-2, pod-1" in shown
    assert "changed=1" in shown
    assert "Nothing has to be ended." in setting.play("sweep", "-e", f"fleet_confirm={DEPLOYMENT}")


def test_also_an_empty_fleet_file_is_swept(setting: Setting, accident: dict[str, str]) -> None:
    empty = setting.file.with_name("empty.fleet.yml")
    empty.write_text(
        f"plugin: gpuops.fleet.fleet\ndeployment_id: {DEPLOYMENT}\ninstances: []\nprovider_settings: {{runpod: {{}}}}\n"
    )
    # Also named by a relative path: from where the user stands, else from the project of an AWX job.
    project = setting.file.parent / "project"
    project.mkdir()
    shutil.copy(empty, project / "ours.fleet.yml")
    of_awx = {"AWX_ISOLATED_DATA_DIR": f"{setting.file.parent}/artifacts/17", "PWD": "/"}
    for named in (os.path.relpath(empty, ROOT), "ours.fleet.yml"):
        shown = replace(setting, environment={**setting.environment, **of_awx}).play(
            "sweep", "-e", f"fleet_files={named}"
        )
        assert re.search(r"pod-1 runpod \S+ orphan", shown)
    shown = replace(setting, file=empty).play("sweep")
    assert re.search(r"pod-1 runpod \S+ orphan", shown)


# Destroy


def at_a_terminal(setting: Setting, answer: str, *arguments: str) -> tuple[int, str]:
    """Runs destroy as somebody who sits there and types the answer when asked."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        setting.command("destroy", *arguments),
        cwd=ROOT,
        env={**os.environ, **setting.environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = ""
    while True:
        ready = select.select([ours], [], [], 1.0)[0]
        try:
            shown += os.read(ours, 65536).decode(errors="replace") if ready else ""
        except OSError:  # the other end is closed
            break
        if not ready and process.poll() is not None:
            break
        # Ansible throws away what was typed before it asked, so a quick answer may have to be typed again.
        if not ready and "write the deployment" in shown:
            os.write(ours, f"{answer}\r".encode())
    os.close(ours)
    return process.wait(timeout=60), " ".join(shown.split())


def test_what_costs_money_is_destroyed_only_when_the_deployment_is_named(setting: Setting) -> None:
    before = setting.writes()
    words = f"Nothing was ended: this ends what deployment {DEPLOYMENT} has at runpod, vastai, so say that you mean it"
    assert words in setting.refused("destroy")
    setting.environment["AWX_ISOLATED_DATA_DIR"] = "/runner/artifacts"
    status, shown = at_a_terminal(setting, DEPLOYMENT)
    del setting.environment["AWX_ISOLATED_DATA_DIR"]
    assert (status != 0, words in shown) == (True, True), "AWX would wait for an answer for ever"
    status, shown = at_a_terminal(setting, "yes")
    assert (status != 0, words in shown) == (True, True)
    assert setting.writes() == before


def test_at_a_terminal_its_id_is_asked_for(setting: Setting) -> None:
    status, shown = at_a_terminal(setting, DEPLOYMENT, "--limit", "box-1")
    assert status == 0, shown[-3000:]


def test_with_the_variable_nobody_is_asked(setting: Setting, accident: dict[str, str]) -> None:
    for rental in setting.pods.alive():
        if rental.id == accident["job"]:  # destroy leaves it to its job, and says that it is left
            setting.pods.delete(rental)
    shown = setting.play("destroy", "-e", f"fleet_confirm={DEPLOYMENT}")
    assert f"nothing that was to be destroyed of deployment {DEPLOYMENT} is left" in shown
    kept = {"another deployment's", "nobody's", "almost ours"}
    assert {identity for identity, _owner in setting.state()} == {accident[why] for why in kept}


def test_where_nothing_is_wanted_any_more_is_looked_as_well(setting: Setting) -> None:
    """What a job rented there stays, as destroy leaves it to its job; but nobody may be told that nothing is left."""
    setting.play("provision")
    job = Marker(DEPLOYMENT, "train-1", "job001", 0, "job:42")
    plant(setting.boxes, "box-1", job, hours=1)
    setting.file.write_text(
        FLEET.replace("  - {name: box-1, providers: [vastai], gpu: A40}\n", "provider_settings: {vastai: {}}\n")
    )
    assert re.search(r"train-1 vastai running", setting.play("status"))
    status, shown = setting.run("destroy", "-e", f"fleet_confirm={DEPLOYMENT}")
    assert (status != 0, "perhaps still paid for: train-1." in shown) == (True, True), shown[-2000:]
    markers = [_marker.parse(owner) for _identity, owner in setting.state()]
    ours = [marker for marker in markers if marker and marker.deployment_id == DEPLOYMENT]
    assert ours == [replace(job, owner="fleet")], "where its owner is written, a label doesn't say"


# Moving to another provider


def test_what_lives_at_a_provider_that_its_instance_does_not_name_any_more_is_found(setting: Setting) -> None:
    """Only the fleet file as a whole still names Vast.ai, and says nothing else about it."""
    file = setting.file.with_name("moving.fleet.yml")
    text = FLEET.replace(DEPLOYMENT, "it-move-llm").replace("  - {name: pod-1, providers: [runpod], gpu: A40}\n", "")
    text = text.replace("A40", "RTX_4090")  # there is one A40 only
    file.write_text(f"{text}provider_settings: {{vastai: , runpod: }}\n")
    moving = replace(setting, file=file)

    def living() -> list[str]:
        return [owner for _identity, owner in moving.state() if "--it-move-llm--" in owner]

    moving.play("provision")
    (before,) = living()
    file.write_text(file.read_text().replace("providers: [vastai]", "providers: [runpod]"))
    shown = moving.refused("provision")
    assert "box-1 lives at vastai, which is not among its providers (runpod)" in shown
    assert "differs from what you want: provider is 'vastai', wanted ['runpod']" in shown
    assert living() == [before]
    moving.play("destroy", "-e", "fleet_confirm=it-move-llm")
    assert living() == []


# Wanting nothing any more


def test_what_a_file_without_instances_has_left_behind_is_shown_and_ended(setting: Setting) -> None:
    file = setting.file.with_name("emptied.fleet.yml")
    text = FLEET.replace(DEPLOYMENT, "it-empty-llm").replace("A40", "RTX_4090")
    file.write_text(f"{text}provider_settings: {{runpod: , vastai: }}\n")
    emptied = replace(setting, file=file)

    def living() -> list[str]:
        return sorted(owner.split("--")[2] for _identity, owner in emptied.state() if "--it-empty-llm--" in owner)

    emptied.play("provision")
    assert living() == ["box-1", "pod-1"]
    before = file.read_text().partition("instances:")[0]
    file.write_text(f"{before}instances: []\n")
    for playbook in ("status", "destroy"):
        shown = emptied.refused(playbook)
        assert "emptied.fleet.yml names no instance and no provider, so nobody knows where something of" in shown
        assert "'provider_settings: {runpod: {}}'" in shown
    file.write_text(f"{file.read_text()}provider_settings: {{runpod: , vastai: }}\n")
    shown = emptied.play("status")
    assert "There, but in no fleet file (orphans): box-1, pod-1" in shown
    assert re.search(r"pod-1 runpod running", shown)
    assert "say that you mean it with -e fleet_confirm=it-empty-llm" in emptied.refused("destroy")
    emptied.play("destroy", "-e", "fleet_confirm=it-empty-llm", "--limit", "box-1")
    assert living() == ["pod-1"]
    shown = emptied.play("destroy", "-e", "fleet_confirm=it-empty-llm")
    assert "runpod, vastai answered completely: nothing that was to be destroyed of deployment it-empty-llm is" in shown
    assert living() == []
    assert "nothing that was to be destroyed" in emptied.play("destroy", "-e", "fleet_confirm=it-empty-llm")
    assert "Nothing of deployment it-empty-llm lives." in emptied.play("status")
    assert "Where it wants none any more" in emptied.refused("provision")
