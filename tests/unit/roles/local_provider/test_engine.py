"""The role local_provider brings an engine where none answers, and leaves one that does alone."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import pytest
from support import local_provider_role
from support.fake_commands import ANSWERS, NONE_RUNS, Commands


class Outcome(NamedTuple):
    output: str
    docker_role: pathlib.Path
    engine_note: pathlib.Path


def provide_engine(work: pathlib.Path, commands: Commands) -> Outcome:
    """Run that part of the role on this machine, with a role docker that only notes that it was applied."""
    outcome = Outcome("", work / "docker-role-applied", work / "engine-note")
    # A role's own variable, so that the note of this machine's real engine is out of reach.
    given: dict[str, object] = {
        "applied_note": str(outcome.docker_role),
        "__local_provider_engine_note": str(outcome.engine_note),
    }
    return outcome._replace(output=local_provider_role.play(work, commands, "engine", given))


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Commands:
    return Commands(tmp_path / "commands")


def test_an_engine_that_answers_is_asked_for_its_version_and_nothing_else(
    tmp_path: pathlib.Path, commands: Commands
) -> None:
    commands.fake("docker", ANSWERS)
    outcome = provide_engine(tmp_path, commands)
    assert "changed=0" in outcome.output
    assert commands.called() == ["docker version --format {{.Server.Version}}"]
    assert not outcome.docker_role.exists()
    assert not outcome.engine_note.exists(), "it is not ours to stop"


def test_where_none_answers_the_role_docker_brings_one_and_it_is_ours(
    tmp_path: pathlib.Path, commands: Commands
) -> None:
    commands.fake("docker", NONE_RUNS)
    outcome = provide_engine(tmp_path, commands)
    assert outcome.docker_role.read_text() == "docker_compose=False"
    assert "local_provider_state: absent" in outcome.engine_note.read_text()
