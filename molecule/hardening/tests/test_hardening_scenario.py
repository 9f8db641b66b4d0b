# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hardened host that is a container: who gets in, what is taken back, and what of the kernel is left alone."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from support import molecule_hosts

Host = Any

PROGRAM = "/usr/bin/python3 /usr/local/libexec/gpuops-fleet/hardening.py"
DROP_IN = "/etc/ssh/sshd_config.d/00-gpuops-fleet.conf"
WANTED = "/etc/gpuops-fleet/hardening/sshd.conf"
LOCKED_OUT = "~/locked-out.conf"


def address_of(host: Host) -> str:
    return str(json.loads(host.check_output("ip -4 -json route get 192.0.2.1"))[0]["prefsrc"])


def login(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A login that shares nothing with Ansible's connections."""
    common = ("BatchMode=yes", "ControlPath=none", "ConnectTimeout=5", "StrictHostKeyChecking=no", "LogLevel=ERROR")
    return subprocess.run(
        [
            *("ssh", "-F", "none", "-i", molecule_hosts.key_file(), "-o", "UserKnownHostsFile=/dev/null"),
            *(word for option in (*common, *options) for word in ("-o", option)),
            *(f"root@{address}", "true"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_new_login_by_key_gets_in(host: Host) -> None:
    done = login(address_of(host))
    assert done.returncode == 0, done.stderr


def test_nothing_but_a_key_is_asked_for(host: Host) -> None:
    done = login(address_of(host), "PubkeyAuthentication=no", "PreferredAuthentications=password,keyboard-interactive")
    assert done.returncode == 255
    assert "Permission denied (publickey)." in done.stderr, "the other ways are not even offered"


def test_root_has_no_password(host: Host) -> None:
    assert host.check_output("getent shadow root").split(":")[1] == "!$6$planted$planted"


def test_what_was_stricter_before_stays(host: Host) -> None:
    assert "logingracetime 45" in host.check_output("sshd -T").splitlines()


def test_the_trial_is_over(host: Host) -> None:
    assert host.file(DROP_IN).content_string == host.file(WANTED).content_string
    assert not host.service("gpuops-fleet-hardening-rollback.timer").is_running
    assert not host.file("/var/lib/gpuops-fleet/hardening/ssh-before.json").exists


def test_sandbox(host: Host) -> None:
    unit = "gpuops-fleet-hardening-rollback.service"
    score = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -1").split(":")[1].split()[0]
    assert float(score) <= 3.0


def test_upgrades(host: Host) -> None:
    said = host.check_output("unattended-upgrade --dry-run --verbose 2>&1")
    allowed = next(line for line in said.splitlines() if "Allowed origins" in line)
    assert "label=Debian-Security" in allowed
    excluded = next(line for line in said.splitlines() if "Initial blacklist" in line).partition("blacklist:")[2]
    assert {"nvidia", "cuda", "docker", "containerd"} <= set(excluded.split())


def test_the_kernel_below_is_left_alone(host: Host) -> None:
    assert host.run("grep --recursive --files-with-matches gpuops /etc/sysctl.d /etc/sysctl.conf").stdout == ""
    assert "net.ipv4.ip_forward = 1" in host.file("/etc/gpuops-fleet/hardening/sysctl.conf").content_string
    assert host.check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"
    for unit in ("auditd.service", "audit-rules.service"):
        assert host.run(f"systemctl is-enabled {unit}").stdout.strip() == "masked"
    assert "No change" in host.check_output("augenrules --check")
    assert "-F path=/run/docker.sock" in host.file("/etc/audit/audit.rules").content_string


@pytest.fixture
def locked_out(host: Host) -> str:
    """Options that sshd takes, and that let nobody in."""
    host.check_output(f"(cat {WANTED}; echo AllowUsers nobody) >{LOCKED_OUT}")
    return address_of(host)


def test_options_that_lock_us_out_are_taken_back(host: Host, locked_out: str) -> None:
    host.check_output(f"{PROGRAM} apply {LOCKED_OUT}")
    assert login(locked_out).returncode == 255
    molecule_hosts.wait_until(lambda: login(locked_out).returncode == 0, 120, "A login")
    assert host.file(DROP_IN).content_string == host.file(WANTED).content_string


def test_a_reboot_takes_them_back_before_anybody_comes(host: Host, locked_out: str) -> None:
    before = molecule_hosts.boot_id(host)
    # Without the timer: only the boot can do it. Once it is applied, nobody comes to ask for the boot.
    stop = "systemctl stop gpuops-fleet-hardening-rollback.timer"
    host.check_output(f"{PROGRAM} apply {LOCKED_OUT} && {stop} && systemd-run --on-active=5 systemctl reboot")
    assert login(locked_out).returncode == 255
    molecule_hosts.wait_until(lambda: molecule_hosts.boot_id(host) != before, 120, "The reboot")
    assert login(address_of(host)).returncode == 0
    assert host.file(DROP_IN).content_string == host.file(WANTED).content_string
