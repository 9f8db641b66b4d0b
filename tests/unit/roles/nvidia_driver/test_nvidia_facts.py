"""What a host says about its GPUs and their driver: the script, with the programs and files of a GPU machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import Host, read_host, sections

SCRIPT = Path(__file__).parents[4] / "roles/nvidia_driver/files/nvidia_facts.sh"
NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n"
FILES = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nVERSION_ID="24.04"\n',
    "proc/modules": "nvidia_uvm 4694016 0 - Live 0x0\nnvidia 113958912 12 nvidia_uvm, Live 0x0\n",
    "proc/locks": "",
    "proc/driver/nvidia/version": NVRM + "GCC version:  gcc version 13.3.0\n",
    "sys/bus/pci/devices/0000:00:04.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:00:04.0/device": "0x27b8\n",
    "sys/bus/pci/devices/0000:00:04.0/class": "0x030200\n",
    "sys/bus/pci/devices/0000:00:05.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:00:05.0/device": "0x1237\n",
    "sys/bus/pci/devices/0000:00:05.0/class": "0x060000\n",
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
}
PROGRAMS = {
    "uname": 'case $1 in -r) echo 6.8.0-1015-gcp ;; *) echo x86_64 ;; esac',
    "systemd-detect-virt": "echo none; exit 1",
    "nvidia-smi": "echo 'NVIDIA L4, 580.95.05'; echo a warning >&2",
    "modinfo": '[ "$2" = 6.8.0-1015-gcp ] && case $4 in version) echo 580.95.05 ;; *) echo "Dual MIT/GPL" ;; esac',
    "dpkg-query": "printf '%s\\n' 'ii  nvidia-utils-580-server 580.95.05' 'un  nvidia-smi ' 'iF  nvidia-dkms-580 580'",
    "apt-mark": "echo nvidia-utils-580-server",
    "apt-cache": "echo 'linux-image-gcp - Linux kernel image for Google'",
    "dkms": "printf 'nvidia/580.95.05, 6.8.0-1015-gcp, x86_64: installed\\nzfs/2.2.2: added\\n'",
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with these files, and in bin/ these programs."""
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    for name, text in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return tmp_path


def printed(machine: Path, what: str = "") -> dict[str, str]:
    """As the role runs it: by the input of a shell."""
    done = subprocess.run(
        ["sh", "-s", what, str(machine)],
        input=SCRIPT.read_text(),
        env={**os.environ, "PATH": f"{machine}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sections(done.stdout)


def host(machine: Path, what: str = "") -> Host:
    return read_host(printed(machine, what))


def test_a_gpu_machine_is_understood(machine: Path) -> None:
    found = host(machine)
    assert (found.distribution, found.architecture, found.kernel) == ("Ubuntu 24.04", "x86_64", "6.8.0-1015-gcp")
    assert found.generations == ("Ada",)
    assert (found.container, found.secure_boot, found.nouveau, found.runfile) == (False, True, False, False)
    assert (found.works, found.smi_versions) == (True, ("580.95.05",))
    assert (found.loaded_version, found.loaded_kind) == ("580.95.05", "open")
    assert (found.disk_version, found.disk_kind) == ("580.95.05", "open")
    assert found.driver_packages() == ["nvidia-dkms-580", "nvidia-utils-580-server"]
    assert found.states["nvidia-dkms-580"] == "F"
    assert found.held == {"nvidia-utils-580-server"}
    assert [(entry.kernel, entry.state) for entry in found.dkms] == [("6.8.0-1015-gcp", "installed")]


def test_apt_is_asked_only_where_something_may_be_installed(machine: Path) -> None:
    assert host(machine).available == frozenset()
    assert host(machine, "all").available == {"linux-image-gcp"}
    (machine / "bin/nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    found = host(machine)
    assert (found.works, found.smi_exit_status, found.smi_text) == (False, 6, "No devices were found")
    assert found.available == {"linux-image-gcp"}


def test_a_bare_machine_answers_nothing_and_does_not_fail(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(
        'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'
    )
    found = host(tmp_path)
    assert (found.distribution, found.generations, found.works) == ("Debian 12", (), False)
    assert found.smi_exit_status == 127


def test_lists_of_apt_are_counted(machine: Path) -> None:
    assert printed(machine)["lists"] == "0"
    (machine / "var/lib/apt/lists").mkdir(parents=True)
    (machine / "var/lib/apt/lists/archive.ubuntu.com_ubuntu_dists_noble_main_binary-amd64_Packages.lz4").touch()
    assert printed(machine)["lists"] == "1"


def test_traces_of_the_run_file_and_of_nouveau(machine: Path) -> None:
    (machine / "usr/bin").mkdir(parents=True)
    (machine / "usr/bin/nvidia-uninstall").touch()
    (machine / "proc/modules").write_text("nouveau 3096576 0 - Live 0x0\n")
    assert (host(machine).runfile, host(machine).nouveau) == (True, True)


def test_a_lock_is_held_by_who_has_the_file_open_and_locked(machine: Path) -> None:
    lock = machine / "var/lib/dpkg/lock-frontend"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert printed(machine)["busy"] == "", "the file alone is no lock"
    entry = f"1: POSIX  ADVISORY  WRITE 4711 fe:01:{lock.stat().st_ino} 0 EOF\n"
    (machine / "proc/locks").write_text(entry)
    assert printed(machine)["busy"] == "", "the same number on another file system"
    (machine / "proc/4711/fd").mkdir(parents=True)
    (machine / "proc/4711/fd/4").symlink_to(lock)
    assert printed(machine)["busy"] == "/var/lib/dpkg/lock-frontend is held"


@pytest.mark.parametrize("name", ["dkms", "cloud-init", "nvidia-installe", "ubuntu-drivers"])
def test_who_builds_or_sets_up_is_waited_for(machine: Path, name: str) -> None:
    (machine / "proc/4711").mkdir(parents=True)
    (machine / "proc/4711/comm").write_text(f"{name}\n")
    assert printed(machine)["busy"] == f"{name} is at work"


@pytest.mark.parametrize(("state", "busy"), [("activating", True), ("active", False), ("inactive", False)])
def test_a_first_boot_that_sets_up_is_waited_for(machine: Path, state: str, busy: bool) -> None:
    program = machine / "bin/systemctl"
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "is-active google-startup-scripts.service" ] && echo {state}\n')
    program.chmod(0o755)
    assert printed(machine)["busy"] == ("google-startup-scripts.service is at work" if busy else "")


def test_waiting_for_the_machine_to_shut_down_is_no_work(machine: Path) -> None:
    """unattended-upgrade-shutdown has this name all day long."""
    (machine / "proc/4711").mkdir(parents=True)
    (machine / "proc/4711/comm").write_text("unattended-upgr\n")
    assert printed(machine)["busy"] == ""
