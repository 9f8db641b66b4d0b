"""The engine that the role brought: its options, and that containers get them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

Host = Any
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nbm90IGEga2V5\n-----END PGP PUBLIC KEY BLOCK-----\n"


def test_engine_and_compose_answer(host: Host) -> None:
    assert host.service("docker").is_enabled
    assert host.check_output("docker version --format '{{.Server.Version}}'")
    assert host.check_output("docker compose version --short").startswith("2.")
    assert host.check_output("docker buildx version")


def test_options_are_merged(host: Host) -> None:
    options = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert options["log-driver"] == "json-file"
    wanted = {"max-size": "10m", "max-file": "5", "tag": "theirs"}
    assert options["log-opts"] == wanted, "the scenario's max-file, our max-size, and what stood there before"
    assert options["max-concurrent-downloads"] == 2, "what stood there before"
    assert options["live-restore"] is True
    assert options["no-new-privileges"] is True
    assert options["insecure-registries"] == ["registry.molecule-docker.internal:5000"]


def test_engine_runs_with_these_options(host: Host) -> None:
    information = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert information["LiveRestoreEnabled"] is True
    assert "name=no-new-privileges" in information["SecurityOptions"]
    assert information["LoggingDriver"] == "json-file"


def test_limit_of_open_files_is_one_that_the_host_may_use(host: Host) -> None:
    options = json.loads(host.file("/etc/docker/daemon.json").content_string)
    limit = options["default-ulimits"]["nofile"]["Hard"]
    assert limit == min(65536, int(host.check_output("awk '/Max open files/ {print $5}' /proc/1/limits")))


def test_a_container_can_be_built_and_run(host: Host) -> None:
    """FROM scratch with a program of the host: no registry is needed for this proof."""
    host.check_output(
        "mkdir -p /var/tmp/try && cp /usr/bin/true /var/tmp/try/"
        " && cp -L --parents $(ldd /usr/bin/true | grep -o '/[^ ]*') /var/tmp/try/"
        " && printf 'FROM scratch\\nCOPY . /\\nCMD [\"/true\"]\\n' > /var/tmp/try/Dockerfile"
        " && docker build --quiet --tag try /var/tmp/try && docker run --rm try"
    )


def test_user_is_in_the_group(host: Host) -> None:
    assert "docker" in host.user("www-data").groups


@pytest.fixture
def repository(host: Host) -> Iterator[str]:
    """Where Docker's repository would be, with nothing in it but its key; the host itself serves it."""
    host.check_output(f"mkdir -p /srv/repository/debian && printf %s '{KEY}' > /srv/repository/debian/gpg")
    serve = "python3 -m http.server 8931 --bind 127.0.0.1 --directory /srv/repository"
    host.check_output(f"systemd-run --unit=repository {serve}")
    yield "http://127.0.0.1:8931"
    host.check_output("systemctl stop repository && rm /etc/apt/sources.list.d/docker.sources")


def play(name: str) -> str:
    """Play one of the scenario's files on the host."""
    playbook = pathlib.Path(__file__).parents[1] / "files" / name
    done = subprocess.run(
        ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)],
        env={**os.environ, "ANSIBLE_HOST_KEY_CHECKING": "false", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dockers_own_repository_is_described_to_apt(host: Host, repository: str) -> None:
    play("repository.yml")
    text = host.file("/etc/apt/sources.list.d/docker.sources").content_string
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert fields["URIs"] == f"{repository}/debian"
    assert (fields["Types"], fields["Suites"], fields["Components"]) == ("deb", "trixie", "stable")
    assert host.file(fields["Signed-By"]).content_string == KEY


def everything_about_the_engine(host: Host) -> str:
    return str(
        host.check_output(
            "systemctl show docker.service --property=MainPID,ExecMainStartTimestamp,UnitFileState"
            " && find /etc/docker /etc/apt /etc/systemd/system -type f -exec sha256sum {} + && getent group docker"
            " && dpkg-query --show"
        )
    )


def test_an_engine_that_is_to_be_left_alone_is_left_exactly_as_it_is(host: Host) -> None:
    """Although every other variable asks for a change."""
    before = everything_about_the_engine(host)
    assert "changed=0" in play("left-alone.yml")
    assert everything_about_the_engine(host) == before
