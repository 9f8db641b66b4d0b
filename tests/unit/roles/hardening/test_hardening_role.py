# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role writes and runs on a machine and on a container, and refuses; over hosts whose answers are planted."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import hardening_role
from support.fake_commands import Commands
from support.local_play import ROOT

# Says that a unit is installed, and does not run.
SYSTEMCTL = """case "$1" in
show) printf 'LoadState=loaded\\nActiveState=inactive\\n' ;;
is-enabled) echo disabled; exit 1 ;;
esac"""
# Each has one in the archives of NVIDIA, Docker, Debian or Ubuntu.
NEVER = [
    *("nvidia-driver-580-server-open", "nvidia-utils-580-server", "libnvidia-compute-580-server"),
    *("nvidia-container-toolkit", "libnvidia-container1"),
    *("linux-modules-nvidia-580-server-open-6.8.0-1015-gcp", "nvidia-fabricmanager-580", "nvlsm"),
    *("cuda-drivers", "cuda-toolkit-13-0", "libcudnn9-cuda-13", "libnccl2", "libcublas-13-0"),
    *("datacenter-gpu-manager-4-core", "docker.io", "docker-ce", "docker-ce-cli", "docker-compose-plugin"),
    *("docker-buildx-plugin", "containerd", "containerd.io", "slurm-smd", "slurm-smd-client"),
]
ALWAYS = [
    *("openssl", "libssl3t64", "openssh-server", "linux-image-generic", "systemd", "libc6", "runc"),
    *("python3-docker", "sudo"),
]
# What services need of the kernel, and what would take the network from containers.
NOT_OURS = re.compile(
    r"vm\.|fs\.(file-max|nr_open|inotify|aio)|net\.core\.|kernel\.(pid_max|threads-max|shm|sem)|user\."
    r"|.*forwarding|.*disable_ipv6|kernel\.unprivileged_userns|net\.bridge"
)


@dataclass
class Played:
    work: Path
    output: str
    called: list[str]

    def text(self, pattern: str) -> str:
        (path,) = self.work.glob(pattern)
        return path.read_text()


def play(work: Path, container: str) -> Played:
    """Write everything and make it effective, where nothing is as it should be."""
    commands = Commands(work / "commands")
    for name in ("augenrules", "systemd-sysctl"):
        commands.fake(name, "")
    commands.fake("systemctl", SYSTEMCTL)
    places = hardening_role.places(work)
    files = [path for name, path in places.items() if name.endswith("_file")] + [
        f"{places['__hardening_directory']}/sysctl.conf"
    ]
    seen = hardening_role.host(
        container=container,
        stale=files,
        directories=[str(work / name) for name in ("apt", "sysctl", "audit")],
        sysctl_differs=["kernel.kptr_restrict is 0"],
        units=hardening_role.units(chrony="inactive", apt_daily="masked", apt_daily_upgrade="inactive"),
        audit_merged=False,
        audit_loaded=0,
    )
    done = hardening_role.play(
        work,
        ["configure", "run"],
        seen,
        programs=str(commands.bin),
        hardening_upgrades_excluded=["slurm-smd"],
        hardening_sysctl={"kernel.sysrq": 0, "kernel.kptr_restrict": 2},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Played(work, done.stdout, commands.called())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(tmp_path_factory.mktemp("machine"), "none")


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(tmp_path_factory.mktemp("container"), "docker")


def settings(text: str) -> dict[str, str]:
    pairs = [line.split(" = ") for line in text.splitlines() if not line.startswith("#")]
    return dict(pairs)


# Upgrades -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="this machine has no apt, which reads the file")
def test_upgrades_leave_drivers_and_engines_alone(machine: Played) -> None:
    said = subprocess.run(
        ["apt-config", f"--config-file={machine.work / 'apt/52gpuops-fleet'}", "dump"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words: dict[str, list[str]] = {}
    for name, value in re.findall(r'^(\S+) "(.*)";$', said, flags=re.MULTILINE):
        words.setdefault(name.rstrip(":"), []).append(value)
    excluded = words["Unattended-Upgrade::Package-Blacklist"]
    # As unattended-upgrades looks for them.
    assert [name for name in NEVER if not any(re.match(entry, name) for entry in excluded if entry)] == []
    assert [name for name in ALWAYS if any(re.match(entry, name) for entry in excluded if entry)] == []
    assert words["APT::Periodic::Unattended-Upgrade"][-1] == words["APT::Periodic::Update-Package-Lists"][-1] == "1"
    assert words["Unattended-Upgrade::Automatic-Reboot"] == ["false"]
    assert (
        "origin=Ubuntu,archive=${distro_codename}-security,label=Ubuntu" in words["Unattended-Upgrade::Origins-Pattern"]
    )


# needrestart ----------------------------------------------------------------------------------------------------


def test_needrestart_leaves_docker_and_our_units_alone(machine: Played) -> None:
    for name, line in (
        ("kafka.service", "# Written by the role gpuops.fleet.service.\n"),
        ("my.app.service", "# Written by the role gpuops.fleet.service.\n"),
        ("theirs.service", "[Unit]\n# Written by the role gpuops.fleet.service.\n"),
        ("empty.service", ""),
    ):
        (machine.work / "units" / name).write_text(line)
    asked = ["docker.service", "docker.socket", "containerd.service", "nvidia-persistenced.service", "kafka.service"]
    asked += ["my.app.service", "my-app.service", "theirs.service", "empty.service", "ssh.service", "not-kafka.service"]
    # As needrestart itself reads its snippets and asks them.
    program = """
use strict; use warnings; our %nrconf = (override_rc => {});
eval do { local(@ARGV, $/) = shift @ARGV; <> }; die $@ if $@;
foreach my $rc (@ARGV) {
    foreach my $re (keys %{$nrconf{override_rc}}) {
        if ($rc =~ /$re/) { print "$rc\\n" unless $nrconf{override_rc}->{$re}; last; }
    }
}"""
    file = machine.work / "needrestart/conf.d/50-gpuops-fleet.conf"
    program = program.replace("shift @ARGV", f"('{file}')")
    said = subprocess.run(["perl", "-e", program, *asked], capture_output=True, text=True, check=True).stdout
    assert said.split() == asked[:6]


# The kernel -----------------------------------------------------------------------------------------------------


def test_kernel_settings_fit_a_host_of_containers(machine: Played) -> None:
    found = settings(machine.text("sysctl/99-zz-gpuops-fleet.conf"))
    assert next(iter(found.items())) == ("net.ipv4.ip_forward", "1"), "its change resets others, so it comes first"
    assert found["net.ipv4.conf.all.rp_filter"] == found["net.ipv4.conf.default.rp_filter"] == "2"
    assert (found["kernel.sysrq"], found["kernel.kptr_restrict"]) == ("0", "2"), "what the user says wins"
    assert [name for name in found if NOT_OURS.fullmatch(name) or NOT_OURS.match(name)] == []


def test_settings_of_a_stricter_kernel_stay_but_for_what_the_user_says(tmp_path: Path) -> None:
    """Twice through the role's own program, over a kernel of this test's: the second time there is nothing to do."""
    kernel = {"kernel/kptr_restrict": "2", "kernel/yama/ptrace_scope": "3", "fs/protected_fifos": "2"}
    for name, value in kernel.items():
        (tmp_path / "proc/sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/sys" / name).write_text(f"{value}\n")
    (tmp_path / "shadow").write_text("root:*:1::::::\n")
    commands = Commands(tmp_path / "commands")
    for name in ("augenrules", "auditctl", "systemctl", "systemd-detect-virt"):
        commands.fake(name, "")
    program = (ROOT / "roles/hardening/files/hardening.py").read_text()
    for place in ("proc", "shadow"):
        program = re.sub(rf'Path\("/(etc/)?{place}"\)', f'Path("{tmp_path / place}")', program)
    done = [
        hardening_role.play(
            tmp_path,
            ["look", "configure"],
            {},
            programs=str(commands.bin),
            __hardening_program_text=program,
            __hardening_seen="{{ __hardening_look.stdout | from_json }}",
            hardening_ssh=False,
            hardening_sysctl={"fs.protected_fifos": 1},
        )
        for _time in range(2)
    ]
    assert [run.returncode for run in done] == [0, 0], done[0].stdout + done[0].stderr
    found = settings((tmp_path / "sysctl/99-zz-gpuops-fleet.conf").read_text())
    assert (found["kernel.kptr_restrict"], found["kernel.yama.ptrace_scope"]) == ("2", "3")
    assert found["fs.protected_fifos"] == "1", "what the user says wins"
    assert "changed=0" in done[1].stdout


def test_audit_rules_load_at_boot_before_docker_is_there(machine: Played) -> None:
    """The kernel refuses a rule whose file's directory is missing, and auditctl then leaves out all that follow."""
    lines = [line for line in machine.text("audit/*.rules").splitlines() if not line.startswith("#")]
    rule = re.compile(r"-a always,exit -F arch=b64 -F (path|dir)=(\S+) -F perm=wa -F key=(gpuops-docker|gpuops-units)")
    found = [rule.fullmatch(line) for line in lines]
    assert all(found)
    paths = {match[2] for match in found if match}
    always = {
        "/etc",
        "/etc/docker",
        "/etc/default",
        "/run",
        "/var/lib",
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib/systemd/system",
    }
    assert {str(Path(path).parent) for path in paths} - always == {"/etc/systemd"}
    assert {"/run/docker.sock", "/etc/docker/daemon.json", "/usr/lib/systemd/system/docker.service"} <= paths
    assert [match[2] for match in found if match and match[1] == "dir"] == ["/etc/systemd/system"]


def test_a_machine_gets_all_of_it(machine: Played) -> None:
    assert f"systemd-sysctl {machine.work}/sysctl/99-zz-gpuops-fleet.conf" in machine.called
    assert "augenrules --load" in machine.called
    assert "systemctl start chrony.service" in machine.called
    assert "systemctl start apt-daily-upgrade.timer" in machine.called
    assert not (machine.work / "not-applied").exists()


def test_a_container_leaves_the_kernel_below_alone(container: Played, machine: Played) -> None:
    """Also at its next boot, at which systemd would apply what lies in sysctl.d."""
    assert list((container.work / "sysctl").iterdir()) == []
    written = (container.work / "not-applied/sysctl.conf").read_text()
    assert written == machine.text("sysctl/99-zz-gpuops-fleet.conf")
    ran = [call.strip() for call in container.called if not call.startswith("systemctl")]
    assert ran == ["augenrules"], "made one file, and loaded nothing"
    assert not any("chrony" in call or "timesyncd" in call for call in container.called)


def test_timers_that_somebody_masked_stay_so(machine: Played, container: Played) -> None:
    assert not any("apt-daily.timer" in call for call in machine.called + container.called)


def test_check_mode_on_a_bare_host_says_what_it_would_do(tmp_path: Path) -> None:
    places = hardening_role.places(tmp_path)
    files = [path for name, path in places.items() if name.endswith("_file")]
    seen = hardening_role.host(
        stale=files,
        # No package brought the others yet.
        directories=[str(tmp_path / "apt")],
        programs={"unattended-upgrade": False, "augenrules": False},
        units=hardening_role.units(chrony="not-found", auditd="not-found"),
        sysctl_differs=["kernel.kptr_restrict is 0"],
        ssh_pending=True,
        login_method="publickey",
        audit_possible=False,
        audit_merged=False,
    )
    done = hardening_role.play(tmp_path, ["main"], seen, check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Would install unattended-upgrades, auditd, systemd-timesyncd." in done.stdout
    assert "Would let SSH in by keys only." in done.stdout
    assert "+APT::Periodic::Unattended-Upgrade" in done.stdout
    assert [path for path in files if Path(path).exists()] == []


# What is refused ------------------------------------------------------------------------------------------------


def test_wishes_that_cannot_work(tmp_path: Path) -> None:
    done = hardening_role.play(
        tmp_path,
        ["main"],
        hardening_role.host(),
        hardening_ssh_rollback_seconds=5,
        hardening_upgrades_excluded=["slurm*", "libfoo++"],
        hardening_sysctl={
            "net.ipv4.ip_forward": 0,
            "net.ipv4.conf.all.forwarding": "0",
            "kernel.sysrq": False,
            "vm swappiness": 1,
            "kernel.x": "1\nkernel.y = 2",
            "net.ipv4.conf.eth0.forwarding": 1,
        },
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert "hardening_ssh_rollback_seconds must be at least 10; it is 5." in said
    assert "hardening_upgrades_excluded has slurm*, and beginnings of package names are made of" in said
    assert "hardening_sysctl has vm swappiness, kernel.sysrq, kernel.x, and a setting" in said
    assert (
        "hardening_sysctl switches net.ipv4.ip_forward, net.ipv4.conf.all.forwarding off, and without forwarding"
        in said
    )
    assert "changed=0" in said


@pytest.mark.parametrize("how", ["journal", "variable"])
def test_a_login_by_password_is_refused_before_anything_changes(tmp_path: Path, how: str) -> None:
    given = "S3cr3t-w0rd"
    if how == "journal":
        seen = hardening_role.host(ssh_pending=True, login_method="password")
        done = hardening_role.play(tmp_path, ["main"], seen)
        reason = "password"
    else:
        seen = hardening_role.host(ssh_pending=True, docker=False, units=hardening_role.units(ssh="not-found"))
        done = hardening_role.play(tmp_path, ["main"], seen, ansible_password=given)
        reason = "ansible_password is set"
        assert "has no ssh.service" in done.stdout + done.stderr
        assert "has no /etc/docker to watch" in done.stdout + done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert f"Ansible comes to localhost by password ({reason}), and would not get in any more." in said
    assert "changed=0" in said
    assert given not in said


def test_what_would_lock_ansible_out_is_refused_before_anything_changes(tmp_path: Path) -> None:
    seen = hardening_role.host(
        ssh_pending=True, login_method="publickey", ssh_demands="publickey,password publickey,hostbased"
    )
    done = hardening_role.play(tmp_path, ["main"], seen)
    said = " ".join((done.stdout + done.stderr).split())
    assert "the SSH server of localhost demands publickey,password publickey,hostbased of Ansible too" in said
    assert "changed=0" in said


def test_what_is_not_effective_is_said(tmp_path: Path) -> None:
    seen = hardening_role.host(
        sshd_differs=["passwordauthentication is yes"], sysctl_differs=["net.ipv4.ip_forward is 0"], audit_loaded=3
    )
    done = hardening_role.play(tmp_path, ["verify"], seen)
    said = " ".join((done.stdout + done.stderr).split())
    assert "Of the SSH server of localhost, passwordauthentication is yes, although" in said
    assert "Of the kernel of localhost, net.ipv4.ip_forward is 0, although" in said
    assert "3 of 19 audit rules are loaded" in said


def test_a_run_on_a_host_as_it_should_be_asks_once_and_changes_nothing(tmp_path: Path) -> None:
    done = hardening_role.play(tmp_path, ["main"], hardening_role.host())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert done.stdout.count("Look how far the host is") == 1
