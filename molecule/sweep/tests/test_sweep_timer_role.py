# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sweep_timer role's promise: it sweeps by itself, as nobody in particular, and a key is seen by root alone."""

from __future__ import annotations

from typing import Any

import pytest

Host = Any  # testinfra has no types

UNIT = "gpuops-fleet-sweep-acme-llm"
STATE = f"/var/lib/{UNIT}/state"
KEY = 'planted "key" $HOME 6f02'


@pytest.fixture(scope="module")
def swept(host: Host) -> None:
    host.check_output(f"systemctl start {UNIT}.service")


def test_the_timer_waits_for_its_hour_and_for_the_next_boot(host: Host) -> None:
    assert host.check_output(f"systemctl is-enabled {UNIT}.timer") == "enabled"
    assert host.check_output(f"systemctl is-active {UNIT}.timer") == "active"
    assert host.check_output(f"systemctl show --property=NextElapseUSecRealtime --value {UNIT}.timer")


@pytest.mark.usefixtures("swept")
def test_it_sweeps_its_own_deployment_with_confirmation(host: Host) -> None:
    arguments = host.file(f"{STATE}/arguments").content_string.strip()
    assert arguments == "-i /srv/fleet/fleet.yml gpuops.fleet.sweep -e fleet_confirm=acme-llm -e fleet_max_deletions=5"


@pytest.mark.usefixtures("swept")
def test_it_is_nobody_in_particular_and_writes_nowhere_else(host: Host) -> None:
    assert int(host.file(f"{STATE}/uid").content_string) >= 61184  # of systemd's dynamic users
    assert host.file(f"{STATE}/place").content_string.strip() == "closed"


@pytest.mark.usefixtures("swept")
def test_the_key_arrives_as_it_is_and_is_seen_by_root_alone(host: Host) -> None:
    assert host.file(f"{STATE}/key").content_string.rstrip("\n") == KEY
    (path,) = host.check_output("grep --recursive --files-with-matches 6f02 /etc").splitlines()
    assert (host.file(path).uid, host.file(path).mode) == (0, 0o600)
    assert host.run(f"systemctl show {UNIT}.service | grep --quiet 6f02").rc == 1
    assert host.run("journalctl --all | grep --quiet 6f02").rc == 1


def test_a_sweep_that_fails_is_told(host: Host) -> None:
    host.check_output("touch /srv/fleet/broken")
    assert host.run(f"systemctl start {UNIT}.service").rc != 0
    assert host.check_output(f"systemctl is-failed {UNIT}.service") == "failed"
    assert host.run("timeout 20 sh -c 'until [ -e /run/told ]; do sleep 0.2; done'").rc == 0
    host.check_output("rm /srv/fleet/broken")
    host.check_output(f"systemctl start {UNIT}.service")
