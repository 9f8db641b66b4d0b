# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's hosts are closed to all but those who need them, by connections from here and from others."""

from __future__ import annotations

import pytest
from demo import Fleet, reached

HERE = "this machine"  # no part of the fleet
ASKERS = (HERE, "processor", "producer", "mongodb")
# (role of the host, port) → who gets in.
OPEN_TO = {
    ("vllm", 8000): set(),  # loopback alone, where the gateway is
    ("gateway", 443): set(ASKERS),
    ("gateway", 8404): set(),
    ("kafka", 9100): {"processor"},  # which has the role monitoring besides
    ("kafka", 9092): {"processor", "producer"},
    ("mongodb", 27017): {"processor"},
    ("processor", 8080): set(ASKERS),  # group_vars/processor.yml of the example says so
    ("producer", 111): set(),
}


@pytest.mark.parametrize(("role", "port"), OPEN_TO)
def test_who_gets_in(fleet: Fleet, role: str, port: int) -> None:
    address = fleet.machine(role).address
    found = {
        asker for asker in ASKERS if asker != role and reached(fleet, address, port, None if asker == HERE else asker)
    }
    assert found == OPEN_TO[role, port] - {role}


@pytest.mark.parametrize("role", ["vllm", "kafka", "mongodb"])
def test_what_is_closed_is_there(fleet: Fleet, role: str) -> None:
    """The refusals above are the firewall's: on its own host each service is reached."""
    port = next(port for (other, port) in OPEN_TO if other == role)
    assert reached(fleet, "127.0.0.1" if role == "vllm" else fleet.machine(role).address, port, role)
