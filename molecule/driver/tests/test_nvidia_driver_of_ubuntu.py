"""The role over an Ubuntu that says it has a GPU: what it installs, holds, waits for, mends and refuses."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

from support import molecule_hosts

Host = Any
testinfra_hosts = ["ansible://ubuntu-1"]
AGAIN = pathlib.Path(__file__).parents[1] / "files/again.yml"
DRIVER = {
    "libnvidia-compute-580-server",
    "linux-modules-nvidia-580-server-open-6.8.0-1015-gcp",
    "linux-modules-nvidia-580-server-open-gcp",
    "nvidia-headless-no-dkms-580-server-open",
    "nvidia-utils-580-server",
}
KERNEL = {"linux-gcp", "linux-image-gcp"}


def play(*options: str) -> subprocess.CompletedProcess[str]:
    """Play the role once more."""
    return molecule_hosts.play(AGAIN, "--limit", "ubuntu-1", *options)


def refused(*options: str) -> str:
    """What the role says, in one line; it must not have changed anything."""
    done = play(*options)
    assert done.returncode != 0, done.stdout
    assert "changed=0" in done.stdout
    return " ".join((done.stdout + done.stderr).split())


def held(host: Host) -> set[str]:
    return set(host.check_output("apt-mark showhold").split())


def states(host: Host) -> str:
    return str(host.check_output("dpkg-query --show --showformat '${db:Status-Abbrev}${Package} ${Version}\n'"))


def test_prebuilt_modules_of_ubuntus_server_branch_came(host: Host) -> None:
    assert {name for name in DRIVER if not host.package(name).is_installed} == set()
    assert not host.package("nvidia-dkms-580-server-open").is_installed


def test_driver_and_kernel_are_held(host: Host) -> None:
    """Nothing builds these modules for another kernel, so the kernel stays too; its own versions need no hold."""
    assert held(host) == DRIVER | KERNEL


def test_nvidia_smi_answered_twice_ten_seconds_apart_and_was_not_asked_again(host: Host) -> None:
    times = [float(line) for line in host.file("/srv/asked").content_string.split()]
    assert len(times) == 2, "the second run of the scenario did not wait once more"
    assert times[1] - times[0] >= 10


def test_a_package_manager_at_work_is_waited_for(host: Host) -> None:
    lock = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); time.sleep(600)"
    host.check_output(f'systemd-run --unit=at-work python3 -c "{lock}"')
    try:
        said = refused("--extra-vars", "nvidia_driver_wait_seconds=5")
    finally:
        host.check_output("systemctl stop at-work")
    assert "After 5 s something still works on the packages or modules of ubuntu-1" in said
    assert "/var/lib/dpkg/lock-frontend is held" in said
    done = play()
    assert "changed=0" in done.stdout, done.stdout


def test_a_machine_with_fewer_gpus_than_rented_is_refused(host: Host) -> None:
    before = states(host)
    assert "1 NVIDIA GPUs are on the PCI bus, and 2 were rented" in refused("--extra-vars", "nvidia_driver_gpu_count=2")
    assert states(host) == before


def test_a_driver_that_works_and_is_too_old_stays(host: Host) -> None:
    said = refused("--extra-vars", "nvidia_driver_minimum_version=590.10")
    assert "Driver 580.95.05 works, and nvidia_driver_minimum_version asks for 590.10." in said


def test_a_driver_that_was_upgraded_under_a_loaded_module_gets_its_one_reboot(host: Host) -> None:
    answers = {
        "container": "none",
        "distribution": "Ubuntu 24.04",
        "kernel": "6.8.0-1015-gcp",
        "pci": "0000:00:03.0 0x10de 0x27b8 0x030200",
        "loaded": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build",
        "module": "580.95.05\nDual MIT/GPL",
    }
    planted = json.dumps({"nvidia_driver_planted_facts": answers})
    host.check_output("touch /run/mismatch && rm /srv/asked")
    boot = molecule_hosts.boot_id(host)
    said = refused("--extra-vars", planted, "--extra-vars", "nvidia_driver_reboot=false")
    assert (
        "The module 580.82.07 is loaded and 580.95.05 is installed: a reboot mends it. It needs a reboot, and" in said
    )
    assert molecule_hosts.boot_id(host) == boot
    done = play("--extra-vars", planted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1 " in done.stdout, "the reboot, and nothing else"
    assert molecule_hosts.boot_id(host) != boot
    assert len(host.file("/srv/asked").content_string.split()) == 2, "asked twice after this boot too"
    assert "changed=0" in play("--extra-vars", planted).stdout


def test_dkms_that_was_half_installed_is_finished(host: Host) -> None:
    """The last one: it leaves another driver behind."""
    package = host.check_output("ls /srv/dummies/nvidia-dkms-580-server-open_*.deb")
    assert host.run(f"dpkg --install {package}").rc != 0
    assert host.run("nvidia-smi --list-gpus").rc == 9
    assert "iF nvidia-dkms-580-server-open" in states(host)
    done = play()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hi nvidia-dkms-580-server-open" in states(host), "installed, and held from now on"
    assert host.package("linux-headers-6.8.0-1015-gcp").is_installed
    again = play()
    assert "changed=0" in again.stdout, again.stdout
