"""The role over a Debian that says it has a GPU: what comes from NVIDIA's repository, and stays in its branch."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

from support import molecule_hosts

Host = Any
testinfra_hosts = ["ansible://debian-1"]
AGAIN = pathlib.Path(__file__).parents[1] / "files/again.yml"
SOURCES = "/etc/apt/sources.list.d"
KERNEL = "6.12.990+deb13-amd64"
# What NVIDIA versions as the driver, and what belongs to it besides.
DRIVER = ("libcuda1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms")
BESIDES = {"nvidia-driver-pinning-595", "nvidia-support"}


def play(*options: str) -> subprocess.CompletedProcess[str]:
    """Play the role once more."""
    return molecule_hosts.play(AGAIN, "--limit", "debian-1", *options)


def replaced(host: Host, **wishes: Any) -> None:
    """The role replaces a driver that works, with one reboot, and then has nothing more to do."""
    variables = json.dumps({f"nvidia_driver_{name}": value for name, value in wishes.items()})
    boot = molecule_hosts.boot_id(host)
    done = play("--extra-vars", variables, "--extra-vars", "nvidia_driver_replace=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert molecule_hosts.boot_id(host) != boot
    again = play("--extra-vars", variables)
    assert "changed=0" in again.stdout, again.stdout


def versions(host: Host) -> set[str]:
    return {host.package(name).version for name in DRIVER}


def held(host: Host) -> set[str]:
    return set(host.check_output("apt-mark showhold").split())


def source(host: Host) -> dict[str, str]:
    text = host.file(f"{SOURCES}/nvidia-cuda.sources").content_string
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_repository_has_a_key_of_its_own_and_apt_takes_it(host: Host) -> None:
    fields = source(host)
    assert (fields["Types"], fields["Suites"]) == ("deb", "/")
    assert fields["URIs"].startswith("http://127.0.0.1:8933/debian13/")
    assert "Trusted" not in fields
    assert host.file(fields["Signed-By"]).content_string.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert host.run("apt-get update --error-on=any").rc == 0


def test_apt_takes_it_with_no_other_key(host: Host) -> None:
    host.check_output(
        "mkdir -p /srv/other/partial && echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        f"{source(host)['URIs']} /' >/srv/other.list"
    )
    said = host.run(
        "apt-get update --error-on=any -o Dir::Etc::SourceList=/srv/other.list -o Dir::Etc::SourceParts=/dev/null"
        " -o Dir::State::Lists=/srv/other"
    )
    assert said.rc != 0
    assert "is not signed" in said.stdout + said.stderr


def test_contrib_came_from_the_mirror_of_main(host: Host) -> None:
    """The driver needs a package of it."""
    assert len(host.check_output(f"ls {SOURCES}/debian-contrib.*").split()) == 1
    targets = host.check_output(
        "apt-get indextargets --format '$(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 'Codename: trixie'"
    )
    mirrors: dict[str, set[str]] = {}
    for component, mirror in (line.split() for line in targets.splitlines()):
        mirrors.setdefault(component, set()).add(mirror)
    assert mirrors["contrib"] == mirrors["main"]
    assert host.package("nvidia-support").is_installed


def test_pin_keeps_the_branch_although_there_is_a_newer_one(host: Host) -> None:
    assert versions(host) == {"595.71.05-1"}
    for name in DRIVER:
        policy = host.check_output(f"apt-cache policy {name}")
        assert "Candidate: 595.71.05-1" in policy, policy
        assert "610.57.04-1" in policy


def test_dkms_gets_the_headers_of_this_kernel_and_of_the_next(host: Host) -> None:
    assert host.package(f"linux-headers-{KERNEL}").is_installed
    assert host.package("linux-headers-amd64").is_installed


def test_driver_is_held_and_the_kernel_is_not(host: Host) -> None:
    """DKMS builds the module for the next kernel."""
    assert held(host) == {*DRIVER, *BESIDES}


def test_an_older_driver_of_the_branch_is_replaced_although_it_is_held(host: Host) -> None:
    older = " ".join(f"{name}=595.58.03-1" for name in DRIVER)
    host.check_output(f"apt-get install --yes --allow-downgrades --allow-change-held-packages {older}")
    host.check_output(f"apt-mark hold {' '.join(DRIVER)}")
    assert "595.58.03" in host.check_output("nvidia-smi --query-gpu=name,driver_version")
    replaced(host, minimum_version="595.71")
    assert versions(host) == {"595.71.05-1"}
    assert held(host) == {*DRIVER, *BESIDES}


def test_where_the_branch_has_nothing_newer_there_is_no_reboot(host: Host) -> None:
    """Else each run would end with one."""
    boot = molecule_hosts.boot_id(host)
    done = play("--extra-vars", "nvidia_driver_replace=true nvidia_driver_minimum_version=595.99")
    assert done.returncode != 0
    assert "is the newest that apt finds in it" in " ".join((done.stdout + done.stderr).split())
    assert molecule_hosts.boot_id(host) == boot
    assert held(host) == {*DRIVER, *BESIDES}


def test_another_branch_comes_from_the_list_of_nvidias_own_package(host: Host) -> None:
    """Of cuda-keyring: apt refuses one source with two keys."""
    fields = source(host)
    key = "/usr/share/keyrings/cuda-archive-keyring.asc"
    host.check_output(
        f"mv {fields['Signed-By']} {key} && rm {SOURCES}/nvidia-cuda.sources"
        f" && echo 'deb [signed-by={key}] {fields['URIs']}/ /' >{SOURCES}/cuda-debian13-x86_64.list"
    )
    replaced(host, branch="610", minimum_version="610.57")
    assert versions(host) == {"610.57.04-1"}
    assert held(host) == {*DRIVER, "nvidia-driver-pinning-610", "nvidia-support"}
    assert not host.file(f"{SOURCES}/nvidia-cuda.sources").exists
    assert host.run("apt-get update --error-on=any").rc == 0


def test_a_kernel_without_headers_gives_way_to_the_next(host: Host) -> None:
    """The last one: it takes the driver away first."""
    planted = {
        "container": "none",
        "distribution": "Debian 13",
        "kernel": "6.12.900+deb13-amd64",
        "pci": "0000:00:04.0 0x10de 0x20b0 0x030200",
    }
    host.check_output(
        f"apt-get purge --yes --allow-change-held-packages {' '.join(DRIVER)} 'nvidia-*' 'linux-headers-*'"
    )
    host.check_output("apt-get install --yes --allow-downgrades linux-image-amd64=6.12.900-1")
    boot = molecule_hosts.boot_id(host)
    done = play("--extra-vars", json.dumps({"nvidia_driver_planted_facts": planted}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.package("linux-image-amd64").version == "6.12.990-1"
    assert host.package(f"linux-headers-{KERNEL}").is_installed
    assert molecule_hosts.boot_id(host) != boot
    assert versions(host) == {"595.71.05-1"}
