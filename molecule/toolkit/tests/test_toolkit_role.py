"""The toolkit beside an engine: one version of everything, and options that are merged."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

import pytest
from support import molecule_hosts

Host = Any
VERSION = "1.17.8-1"
PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


def play(*extra: str) -> subprocess.CompletedProcess[str]:
    """Play both roles on the host."""
    return molecule_hosts.play(pathlib.Path(__file__).parents[1] / "files/both.yml", *extra)


def options(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file("/etc/docker/daemon.json").content_string)
    return found


@pytest.mark.parametrize("name", PACKAGES)
def test_all_packages_have_the_pinned_version_and_would_keep_it(host: Host, name: str) -> None:
    assert host.package(name).version == VERSION
    policy = host.check_output(f"apt-cache policy {name}")
    assert f"Candidate: {VERSION}" in policy, policy
    assert "1.99.0-1" in policy, "there is a newer one"


def test_source_is_in_deb822_form_with_a_key_of_its_own(host: Host) -> None:
    text = host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").content_string
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert (fields["Types"], fields["Suites"]) == ("deb", "/")
    assert fields["URIs"] == "http://127.0.0.1:8932/stable/deb/amd64"
    assert host.file(fields["Signed-By"]).content_string.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_list_of_an_older_instruction_is_gone_and_apt_reads_its_lists(host: Host) -> None:
    assert not host.file("/etc/apt/sources.list.d/nvidia-docker.list").exists
    assert host.run("apt-get update --error-on=any").rc == 0


def test_runtime_is_merged_with_what_others_wrote(host: Host) -> None:
    found = options(host)
    assert found["runtimes"]["nvidia"] == {"args": [], "path": "nvidia-container-runtime"}
    assert found["runtimes"]["theirs"] == {"path": "/usr/bin/theirs"}
    assert found["max-concurrent-downloads"] == 2
    assert (found["log-driver"], found["live-restore"], found["no-new-privileges"]) == ("json-file", True, True)
    assert "default-runtime" not in found


def test_containers_get_gpus_by_cdi(host: Host) -> None:
    """The engine is 26.1: the first that reads the specifications of today's toolkit."""
    assert options(host)["features"] == {"cdi": True}
    assert "exec-opts" not in options(host)


def test_engine_runs_with_these_options(host: Host) -> None:
    runtimes = json.loads(host.check_output("docker info --format '{{json .Runtimes}}'"))
    assert {"nvidia", "theirs", "runc"} <= set(runtimes)
    assert json.loads(host.check_output("docker info --format '{{json .CDISpecDirs}}'")) == ["/etc/cdi", "/var/run/cdi"]


def test_role_docker_and_this_one_do_not_undo_each_other(host: Host) -> None:
    before = options(host)
    done = play()
    assert "changed=0" in done.stdout, done.stdout
    assert options(host) == before


def test_a_container_asks_the_engine_for_a_device_by_cdi(host: Host) -> None:
    """A device of a description that a test wrote: the engine finds it, and not one that is not described."""
    host.check_output(
        "mkdir -p /etc/cdi && printf 'cdiVersion: 0.6.0\nkind: example.com/gpu\ndevices:\n- name: all\n"
        "  containerEdits: {env: [GIVEN=yes]}\n' > /etc/cdi/example.yaml"
    )
    host.check_output(
        "mkdir -p /var/tmp/try && cp /usr/bin/env /var/tmp/try/"
        " && cp -L --parents $(ldd /usr/bin/env | grep -o '/[^ ]*') /var/tmp/try/"
        " && printf 'FROM scratch\nCOPY . /\nENTRYPOINT [\"/env\"]\n' > /var/tmp/try/Dockerfile"
        " && docker build --quiet --tag try /var/tmp/try"
    )
    assert "GIVEN=yes" in host.check_output("docker run --rm --device example.com/gpu=all try").splitlines()
    missing = host.run("docker run --rm --device nvidia.com/gpu=all try")
    assert missing.rc != 0
    assert "unresolvable CDI devices nvidia.com/gpu=all" in missing.stderr


def test_gpus_that_were_rented_must_be_describable(host: Host) -> None:
    done = play("--extra-vars", "nvidia_container_toolkit_gpu_count=1")
    assert done.returncode != 0
    assert "1 GPUs were rented. Look at `nvidia-smi`" in " ".join((done.stdout + done.stderr).split())


def test_a_version_that_names_no_package_is_refused(host: Host) -> None:
    done = play("--extra-vars", "nvidia_container_toolkit_version=latest")
    said = " ".join((done.stdout + done.stderr).split())
    assert "nvidia_container_toolkit_version is latest, and all packages are pinned to one full version" in said
    assert "changed=0" in said
