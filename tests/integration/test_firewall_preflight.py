# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role firewall refuses, before anything on the host changes. With real Ansible."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
from support.fake_commands import Commands
from support.refusals import refusals, said

KAFKA = {"name": "kafka", "ports": [9092], "from_groups": ["processor"]}
GROUPS = {"processor": ["processor-1.acme-llm.internal"]}
# The variables, and what is said about them.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "cidr": (
        {"firewall_services": [{"name": "web", "ports": [80], "from_cidrs": ["10.0.0.1/8"]}]},
        "from_cidrs of web in firewall_services: '10.0.0.1/8' is no range of addresses; write '10.0.0.1/32'",
    ),
    "group": (
        {"firewall_services": [{**KAFKA, "from_groups": ["procesor"]}]},
        "kafka in firewall_services is for the group 'procesor', which firewall_groups doesn't have (it has:",
    ),
    "port": (
        {"firewall_services": [{**KAFKA, "ports": [70000]}]},
        "kafka in firewall_services: 70000 is no port; write a number from 1 to 65535, or a range such as 9000-9010.",
    ),
    "port-text": (
        {"firewall_services": [{**KAFKA, "ports": ["kafka"]}]},
        "kafka in firewall_services: 'kafka' is no port;",
    ),
    "ssh": ({"firewall_ssh_ports": [0]}, "firewall_ssh_ports: 0 is no port; write a number from 1 to 65535."),
    # Ansible comes with its environment, as over SSH.
    "locked-out": (
        {"firewall_ssh_cidrs": ["203.0.113.0/24"]},
        "firewall_ssh_cidrs leaves out 198.51.100.7, from which Ansible comes: it would lock itself out.",
    ),
    "rollback": ({"firewall_rollback_seconds": 5}, "firewall_rollback_seconds at least 10; they are 15 and 5."),
    "protocol": ({"firewall_services": [{**KAFKA, "protocol": "icmp"}]}, "icmp"),
    "no-name": ({"firewall_services": [{"ports": [80]}]}, "missing required arguments: name"),
}
# What stands in ufw's settings (None: none), whether its program is there, whether firewalld runs; who is in the way.
GUARDED: dict[str, tuple[str | None, bool, bool, str]] = {
    "by-ufw": ("# on at boot\nENABLED=yes\nLOGLEVEL=low\n", True, False, "ufw"),
    "by-firewalld": (None, False, True, "firewalld"),
    "by-both": ('ENABLED="yes"\n', True, True, "ufw and firewalld"),
    # As on every Ubuntu, where ufw.service is active all the same.
    "by-none": ("ENABLED=no\n", True, False, ""),
    # What a package leaves that was removed.
    "by-none-any-more": ("ENABLED=yes\n", False, False, ""),
    "by-nothing": (None, False, False, ""),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    hosts = {name: ("firewall", {"firewall_groups": GROUPS, **values}) for name, (values, _said) in CASES.items()}
    return refusals(tmp_path_factory.mktemp("firewall"), hosts, SSH_CONNECTION="198.51.100.7 40000 10.0.0.5 22")


@pytest.mark.parametrize("case", CASES)
def test_what_can_not_work_is_refused_with_a_sentence(refused: pathlib.Path, case: str) -> None:
    assert CASES[case][1] in said(refused, case)


def test_who_becomes_root_is_seen_to_come_by_ssh_as_well(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guide says for another user than root: ansible_become in the inventory wins over a task's become."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec env -u SSH_CONNECTION "$@"\n')
    sudo.chmod(0o755)
    # The tests may run as root, who needs no becoming.
    monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "true")
    monkeypatch.setenv("SSH_CONNECTION", "198.51.100.7 40000 10.0.0.5 22")
    variables = {"firewall_ssh_cidrs": ["203.0.113.0/24"], "ansible_become": True, "ansible_become_exe": str(sudo)}
    refused = refusals(tmp_path, {"debian": ("firewall", variables)})
    assert "firewall_ssh_cidrs leaves out 198.51.100.7" in said(refused, "debian")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """One run over hosts that are guarded by another firewall, or by none; each has its own programs and files."""
    work = tmp_path_factory.mktemp("guarded")
    hosts = {}
    for name, (settings, ufw, firewalld, _who) in GUARDED.items():
        commands = Commands(work / f"of-{name}")
        commands.fake("systemctl", f'case "$*" in *firewalld*) exit {0 if firewalld else 3};; esac; exit 0')
        if settings is not None:
            (commands.directory / "ufw.conf").write_text(settings)
        if ufw:
            commands.fake("ufw", "exit 1")
        hosts[name] = ("firewall", {"guarded_by": str(commands.directory), "tried_as_if_systemd_ran": True})
    places = {
        "__firewall_ufw": "{{ guarded_by }}/bin/ufw",
        "__firewall_ufw_settings": "{{ guarded_by }}/ufw.conf",
        "__firewall_program": str(work / "firewall.py"),
    }
    return refusals(work, hosts, places, PATH=f"{{{{ guarded_by }}}}/bin:{os.environ['PATH']}")


@pytest.mark.parametrize("name", [name for name, (*_how, who) in GUARDED.items() if who])
def test_a_host_where_another_firewall_is_active_is_refused(guarded: pathlib.Path, name: str) -> None:
    who = GUARDED[name][-1]
    sentence = said(guarded, name)
    assert f"{who} is active on {name}, and drops what the rules of this role let in" in sentence
    assert ("`ufw disable`" in sentence) == ("ufw" in who)
    assert ("`systemctl disable --now firewalld`" in sentence) == ("firewalld" in who)


@pytest.mark.parametrize("name", [name for name, (*_how, who) in GUARDED.items() if not who])
def test_a_firewall_that_is_not_active_is_in_nobodys_way(guarded: pathlib.Path, name: str) -> None:
    refusal = guarded / f"{name}.refused"
    assert "is active on" not in (refusal.read_text() if refusal.exists() else "")
