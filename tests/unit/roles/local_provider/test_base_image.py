"""The base image of the hosts is pulled where a container registry can be reached, else made with debootstrap."""

from __future__ import annotations

import pathlib

import pytest
from support import local_provider_role
from support.fake_commands import Commands

PULLED = "registry.example:5000/debian:trixie-slim"
BASE = "gpufleet/base:trixie"
LOOK, PULL = f"docker image inspect {BASE}", f"docker pull {PULLED}"


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Commands:
    return Commands(tmp_path / "commands")


def provide(work: pathlib.Path, commands: Commands, pull: str) -> str:
    """Run that part of the role with a docker whose engine has the base image only after a tag or an import."""
    commands.fake(
        "docker",
        f"""
case "$1" in
image) [ -e '{work}/base-image' ] || exit 1 ;;
pull) {pull} ;;
tag | import) touch '{work}/base-image' ;;
esac""",
    )
    commands.fake("touch", ': >"$1"')
    cache = work / "cache"
    cache.mkdir(exist_ok=True)
    # What debootstrap made before: this test installs no Debian.
    (cache / "base-trixie.tar").touch()
    variables: dict[str, object] = {
        "local_provider_cache_directory": str(cache),
        "local_provider_registry_image": PULLED,
        "local_provider_pull_timeout_seconds": 1,
    }
    return local_provider_role.play(work, commands, "base_image", variables)


def docker_calls(commands: Commands) -> list[str]:
    return [call for call in commands.called() if call.startswith("docker ")]


def test_it_is_pulled_where_a_registry_can_be_reached(tmp_path: pathlib.Path, commands: Commands) -> None:
    output = provide(tmp_path, commands, "exit 0")
    assert docker_calls(commands) == [LOOK, PULL, f"docker tag {PULLED} {BASE}"]
    assert "changed=2" in output
    assert "Debootstrap" not in output


@pytest.mark.parametrize(
    "pull", ["echo 'dial tcp: lookup registry.example: no such host' >&2; exit 1", "exec sleep 60"]
)
def test_it_is_made_with_debootstrap_where_none_answers(tmp_path: pathlib.Path, commands: Commands, pull: str) -> None:
    provide(tmp_path, commands, pull)
    made = f"docker import --message debootstrap trixie {tmp_path}/cache/base-trixie.tar {BASE}"
    assert docker_calls(commands) == [LOOK, PULL, made]


def test_one_that_is_there_is_left_as_it_is(tmp_path: pathlib.Path, commands: Commands) -> None:
    (tmp_path / "base-image").touch()
    output = provide(tmp_path, commands, "exit 0")
    assert docker_calls(commands) == [LOOK]
    assert "changed=0" in output
