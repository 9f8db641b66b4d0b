# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role firewall refuses, before anything on the host changes. With real Ansible."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
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


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    hosts = {name: ("firewall", {"firewall_groups": GROUPS, **values}) for name, (values, _said) in CASES.items()}
    return refusals(tmp_path_factory.mktemp("firewall"), hosts, SSH_CONNECTION="198.51.100.7 40000 10.0.0.5 22")


@pytest.mark.parametrize("case", CASES)
def test_what_can_not_work_is_refused_with_a_sentence(refused: pathlib.Path, case: str) -> None:
    assert CASES[case][1] in said(refused, case)
