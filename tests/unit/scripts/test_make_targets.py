"""What make calls, on machines that are not as one wishes: no engine, no permission, a run that failed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable

import pytest
from support.fake_commands import ANSWERS, DENIED, NONE_RUNS, ROOT, Commands

FLEET = "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\n"


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """The scripts of this checkout in another one, where they may remove what they like."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    shutil.copytree(ROOT / "requirements", copy / "requirements")
    (copy / "build" / "ssh").mkdir(parents=True)
    (copy / "build" / "ssh" / "id_ed25519").write_text("the only key to the hosts\n")
    (copy / "fleet.yml").write_text(FLEET)
    return copy


# Which engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("docker", "status"),
    [
        (ANSWERS, 0),
        (NONE_RUNS, 1),
        (DENIED, 2),
        ("echo 'failed to connect to the docker API at unix:///var/run/docker.sock: no such file' >&2; exit 1", 1),
        ("echo 'Cannot connect to the Docker daemon at tcp://10.0.0.9:2375. Is it running?' >&2; exit 1", 2),
        ("echo 'Error response from daemon: client version 1.51 is too new' >&2; exit 1", 2),
    ],
)
def test_no_engine_and_one_that_is_out_of_reach_are_two_things(
    checkout: pathlib.Path, commands: Commands, docker: str, status: int
) -> None:
    commands.fake("docker", docker)
    done = commands.run(checkout / "scripts/has-engine")
    assert done.returncode == status
    assert bool(done.stderr) == (status == 2)


def test_without_a_client_no_engine_runs(checkout: pathlib.Path, commands: Commands) -> None:
    assert commands.run(checkout / "scripts/has-engine").returncode == 1


# make clean ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("docker", "words"),
    [
        (DENIED, "nobody can say whether hosts of the provider local exist"),
        ('[ "$1" != ps ] || echo 0a1b2c3d', "hosts of the provider local still exist"),
        ('[ "$1" != ps ]', ""),
    ],
)
def test_clean_keeps_the_key_while_it_may_be_needed(
    checkout: pathlib.Path, commands: Commands, docker: str, words: str
) -> None:
    commands.fake("docker", docker)
    done = commands.run(checkout / "scripts/clean")
    assert done.returncode != 0
    assert words in done.stderr
    assert (checkout / "build/ssh/id_ed25519").exists()


@pytest.mark.parametrize("docker", [ANSWERS, NONE_RUNS])
def test_clean_removes_all_where_no_host_is(checkout: pathlib.Path, commands: Commands, docker: str) -> None:
    commands.fake("docker", docker)
    assert commands.run(checkout / "scripts/clean").returncode == 0
    assert not (checkout / "build").exists()


# make destroy --------------------------------------------------------------------------------------------------------


def destroy(checkout: pathlib.Path, commands: Commands, *providers: str) -> tuple[int, str]:
    """The status and the words of `destroy` for a fleet with instances at these providers."""
    hosts = {f"one-{provider}": {"fleet_providers": [provider]} for provider in providers}
    listed = json.dumps({"_meta": {"hostvars": hosts}})
    commands.fake("ansible-inventory", f"cat <<'LISTED'\n{listed}\nLISTED")
    commands.fake("ansible-playbook", "exit 0")
    done = commands.run(checkout / "scripts/destroy", "fleet.yml", DOCKER_ROOT=str(checkout.parent / "docker"))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def played(commands: Commands) -> bool:
    return any("playbooks/destroy.yml" in call for call in commands.called())


def test_destroy_without_an_engine_has_nothing_to_do(checkout: pathlib.Path, commands: Commands) -> None:
    commands.fake("docker", NONE_RUNS)
    status, words = destroy(checkout, commands, "local")
    assert status == 0
    assert words.startswith("No Docker Engine runs on this machine")
    assert words.endswith("there is nothing to destroy.")
    assert not played(commands)


@pytest.mark.parametrize(("deployment", "status"), [("acme-llm", 1), ("acme-llm-2", 0)])
def test_hosts_of_an_engine_that_is_stopped_are_not_nothing(
    checkout: pathlib.Path, commands: Commands, deployment: str, status: int
) -> None:
    commands.fake("docker", NONE_RUNS)
    container = checkout.parent / "docker" / "containers" / "0a1b2c3d"
    container.mkdir(parents=True)
    labels = {"gpuops.fleet": "instance", "gpuops.fleet.deployment": deployment}
    (container / "config.v2.json").write_text(json.dumps({"Config": {"Labels": labels}}, separators=(",", ":")))
    found, words = destroy(checkout, commands, "local")
    assert found == status
    assert ("hosts of acme-llm would come back" in words) == (status == 1)
    assert not played(commands)


@pytest.mark.parametrize("closed", ["docker", "docker/containers"])
def test_who_may_not_look_at_a_stopped_engine_proves_nothing(checkout: pathlib.Path, closed: str) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        place = pathlib.Path(open_to_all)
        shutil.copytree(checkout, place / "checkout")
        (place / "docker" / "containers").mkdir(parents=True)
        commands = Commands(place / "commands")
        commands.fake("docker", NONE_RUNS)
        commands.fake("ansible-inventory", "exit 0")
        commands.fake("python3", "exit 0")  # all of them are at the provider local
        for path in (place, commands.directory):
            path.chmod(0o777)
        (place / closed).chmod(0)
        # Nobody, where root would run this: root may look everywhere.
        user = 65534 if os.getuid() == 0 else None
        root = str(place / "docker")
        done = commands.run(place / "checkout/scripts/destroy", "fleet.yml", user=user, DOCKER_ROOT=root)
        (place / closed).chmod(0o700)
        assert done.returncode == 1
        assert "only root can see whether hosts of acme-llm would come back" in done.stderr


@pytest.mark.parametrize(("docker", "providers"), [(NONE_RUNS, ("local", "runpod")), (DENIED, ("local",))])
def test_what_can_live_elsewhere_or_be_out_of_reach_is_asked_for(
    checkout: pathlib.Path, commands: Commands, docker: str, providers: tuple[str, ...]
) -> None:
    commands.fake("docker", docker)
    destroy(checkout, commands, *providers)
    assert played(commands)


def test_destroy_of_the_demo_without_an_engine_by_the_real_inventory(commands: Commands) -> None:
    (commands.bin / "ansible-inventory").symlink_to(shutil.which("ansible-inventory") or "")
    commands.fake("docker", NONE_RUNS)
    commands.fake("ansible-playbook", "exit 1")
    done = commands.run(
        ROOT / "scripts/destroy",
        "examples/local/fleet.yml",
        DOCKER_ROOT=str(commands.directory / "none"),
        DOCKER_HOST="unix:///nowhere/docker.sock",
    )
    assert done.returncode == 0, done.stderr
    assert "none has hosts of gpuops-demo: there is nothing to destroy." in done.stdout


@pytest.mark.parametrize(("docker", "status"), [(NONE_RUNS, 0), (DENIED, 1)])
def test_leftovers_are_not_denied_where_nobody_could_look(
    checkout: pathlib.Path, commands: Commands, docker: str, status: int
) -> None:
    commands.fake("docker", docker)
    assert commands.run(checkout / "scripts/leftovers").returncode == status


@pytest.mark.parametrize(
    ("engine", "status", "words"),
    [
        ("exit 0", 0, "of the image registry is left."),
        ('case "$*" in ps*=registry*) echo container gpufleet-registry ;; esac', 1, "container gpufleet-registry"),
        ('case "$*" in volume*=registry*) echo volume 0a1b2c ;; esac', 1, "volume 0a1b2c"),
        ('case "$*" in network*=registry*) echo network gpufleet-registry ;; esac', 1, "network gpufleet-registry"),
        ('case "$*" in ps*=instance*) echo 0a1b2c ;; ps*=registry*) echo container it ;; esac', 0, "registry stays."),
        (NONE_RUNS, 0, "nothing runs in one."),
        (DENIED, 1, "proves nothing."),
    ],
)
def test_what_is_left_of_the_registry_is_named(
    checkout: pathlib.Path, commands: Commands, engine: str, status: int, words: str
) -> None:
    commands.fake("docker", engine)
    done = commands.run(checkout / "scripts/leftovers", "registry")
    assert done.returncode == status
    assert words in done.stdout + done.stderr


# make setup ----------------------------------------------------------------------------------------------------------


def test_setup_for_the_demo_needs_an_engine_or_root(checkout: pathlib.Path, commands: Commands) -> None:
    commands.fake("id", "echo 1000")
    commands.fake("docker", DENIED)
    done = commands.run(checkout / "scripts/setup", "runtime")
    assert done.returncode == 1
    assert "As root it installs one: sudo make demo" in done.stderr
    assert commands.called() == ["id -u", "docker version"], "nothing is installed before that"


# make check ----------------------------------------------------------------------------------------------------------

TWO_STEPS = "scripts/timed lint true; scripts/timed unit false"


def timings(output: str) -> list[str]:
    """The steps under the last heading, without their seconds."""
    lines = output.rpartition("\nTimings\n")[2].splitlines()
    return [" ".join(re.sub(r"\d+ s", "", line).split()) for line in lines]


def test_check_ends_with_the_times_of_its_own_steps(checkout: pathlib.Path, commands: Commands) -> None:
    commands.fake("make", TWO_STEPS)
    for _again in range(2):
        done = commands.run(checkout / "scripts/check")
        assert done.returncode == 1, done.stderr
        assert timings(done.stdout) == ["lint ok", "unit failed (1)"]


def test_times_of_check_stand_among_those_of_the_run_that_it_is_part_of(
    checkout: pathlib.Path, commands: Commands
) -> None:
    commands.fake("make", TWO_STEPS)
    whole = checkout / "build" / "timings.txt"
    whole.write_text("local-provider                  10 s  ok\n")
    commands.run(checkout / "scripts/check", TIMINGS=str(whole))
    assert timings("\nTimings\n" + whole.read_text()) == ["local-provider ok", "lint ok", "unit failed (1)"]


def test_a_step_by_itself_says_how_long_it_took(checkout: pathlib.Path, commands: Commands) -> None:
    done = commands.run(checkout / "scripts/timed", "molecule kafka", "true")
    assert re.search(r"^molecule kafka +\d+ s  ok$", done.stdout, re.MULTILINE)


# Without a set-up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("installed", "words"), [(False, "run 'make setup' first."), (True, "it ran")])
@pytest.mark.parametrize("target", ["destroy", "verify", "exec"])
def test_what_needs_a_set_up_says_so_in_a_clone_without_one(
    checkout: pathlib.Path, commands: Commands, target: str, installed: bool, words: str
) -> None:
    shutil.copy(ROOT / "Makefile", checkout)
    commands.fake("docker", NONE_RUNS)
    commands.fake("ansible-inventory", "exit 1")
    if installed:
        commands.fake("ansible-playbook", "echo it ran")
        (checkout / ".venv/bin").mkdir(parents=True)
        (checkout / ".venv/bin/ansible-playbook").symlink_to(commands.bin / "ansible-playbook")
    make = pathlib.Path(shutil.which("make") or "make")
    told = ("HOST=kafka-1", "SERVICE=kafka", "CMD=env", f"FLEET={checkout}/fleet.yml")
    done = commands.run(make, target, *told, directory=checkout)
    assert (done.returncode == 0) == installed, done.stderr
    assert words in done.stdout + done.stderr
    assert "not found" not in done.stderr


# make test -----------------------------------------------------------------------------------------------------------


def test_failures_shows_the_verdicts_of_the_steps_that_failed(checkout: pathlib.Path, commands: Commands) -> None:
    logs = checkout / "build" / "logs"
    logs.mkdir()
    (logs / "unit.log").write_text("collected 9 items\n\x1b[31mFAILED tests/unit/test_a.py::test_b\x1b[0m\n1 failed\n")
    (logs / "demo.log").write_text("TASK [Ping]\nfatal: [kafka-1]: FAILED! => {}\nok: [mongo-1]\n")
    done = commands.run(checkout / "scripts/failures", "unit", "demo")
    assert done.stdout.split("\n") == [
        "",
        "Failed: unit (build/logs/unit.log)",
        "FAILED tests/unit/test_a.py::test_b",
        "",
        "Failed: demo (build/logs/demo.log)",
        "fatal: [kafka-1]: FAILED! => {}",
        "",
    ]


@pytest.fixture
def steps(checkout: pathlib.Path, commands: Commands) -> Callable[[str], tuple[int, dict[str, str]]]:
    """Run the steps of `make test` with commands that do nothing; who failed in the end, and what each step said."""
    for file in (ROOT / "molecule").glob("*/molecule.yml"):
        (checkout / "molecule" / file.parent.name).mkdir(parents=True)
        (checkout / "molecule" / file.parent.name / "molecule.yml").touch()
    (checkout / "scripts" / "molecule").write_text('#!/bin/sh\necho "$MOLECULE_SHARED_DEPLOYMENT: $*"\n')
    (checkout / "Makefile").write_text("check:\n\t@true;\n")
    logs = checkout / "build" / "logs"
    logs.mkdir()
    commands.fake("ansible-playbook", 'echo "$@"')
    commands.fake("pytest", 'echo "$@"')

    def run(scale: str) -> tuple[int, dict[str, str]]:
        make = pathlib.Path(shutil.which("make") or "make")
        asked = ("--file", "scripts/steps.mk", "--jobs=2", "--keep-going")
        done = commands.run(make, *asked, directory=checkout, TEST_SCALE=scale)
        return done.returncode, {file.stem: file.read_text() for file in logs.glob("*.log")}

    return run


def test_steps_of_the_demo_wait_for_each_other_and_for_nothing_else(
    checkout: pathlib.Path, commands: Commands, steps: Callable[[str], tuple[int, dict[str, str]]]
) -> None:
    # All others are slow.
    wait = f"until grep -q 'playbooks/destroy.yml' {commands.directory}/called; do sleep 0.1; done"
    commands.fake("pytest", f'case "$*" in *tests/integration) {wait} ;; esac')
    own_hosts = f'[ -n "$MOLECULE_SHARED_DEPLOYMENT" ] || {wait}'
    (checkout / "scripts" / "molecule").write_text(f"#!/bin/sh\n{own_hosts}\n")
    status, said = steps("1")
    assert status == 0
    demo = {"demo", "e2e", "artifact", "make-room", "molecule", "destroy"}
    assert set(said) == {*demo, "integration", "check", "own-hosts"}
    called = [re.findall(r"(?:tests|playbooks)/[a-z0-9.]+", call)[0] for call in commands.called()]
    called.remove("tests/integration")
    assert called == [
        "playbooks/site.yml",
        "tests/e2e",
        "tests/artifact",
        "playbooks/provision.yml",
        "playbooks/destroy.yml",
    ]
    assert not (checkout / "build" / "failed.txt").exists()


def test_a_step_that_fails_holds_up_only_what_needs_it(
    checkout: pathlib.Path, commands: Commands, steps: Callable[[str], tuple[int, dict[str, str]]]
) -> None:
    commands.fake("ansible-playbook", "exit 2")
    commands.fake("pytest", "exit 1")
    status, said = steps("1")
    assert status != 0
    assert sorted(said) == ["check", "demo", "integration", "own-hosts"]
    assert sorted((checkout / "build" / "failed.txt").read_text().split()) == ["demo", "integration"]


@pytest.mark.parametrize("scale", ["1", "10"])
def test_every_scenario_of_molecule_is_run_at_least_in_the_long_form(
    steps: Callable[[str], tuple[int, dict[str, str]]], scale: str
) -> None:
    status, said = steps(scale)
    assert status == 0
    own, shared = (set(said[name].split(": ")[1].split("\n")[0].split()) for name in ("own-hosts", "molecule"))
    every = {file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml")}
    assert own & shared == set()
    assert (own | shared == every) == (scale == "10")
    assert {"service", "fleet", "kafka"} < own | shared <= every
    assert ("rolling_upgrade" in said["e2e"]) == (scale == "1"), "left out of the short form alone"
