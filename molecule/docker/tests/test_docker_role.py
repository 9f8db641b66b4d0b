"""The engine that the role brought: its options, and that containers get them."""

from __future__ import annotations

import json
from typing import Any

Host = Any


def test_engine_and_compose_answer(host: Host) -> None:
    assert host.service("docker").is_enabled
    assert host.check_output("docker version --format '{{.Server.Version}}'")
    assert host.check_output("docker compose version --short").startswith("2.")
    assert host.check_output("docker buildx version")


def test_options_are_merged(host: Host) -> None:
    options = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert options["log-driver"] == "json-file"
    assert options["log-opts"] == {"max-size": "10m", "max-file": "5"}, "the scenario's max-file, our max-size"
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
