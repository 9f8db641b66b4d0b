# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall from outside: what is named answers to whom it is for, everything else to nobody, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
import testinfra
from support import molecule_hosts

Host = Any

testinfra_hosts = ["ansible://kafka-1"]

PROGRAM = "/usr/bin/python3 /usr/local/libexec/gpuops-fleet/firewall.py"
# The host's own ports, and 9092 and 8080, which a container publishes.
PORTS = (22, 8080, 8443, 9092, 9101, 9999)
ALLOWED = {"processor-1": {22, 9092, 9101}, "other-1": {22, 8443}}
NAME = "kafka-1.molecule-firewall.internal"


@pytest.fixture
def neighbours() -> dict[str, Host]:
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return {name: testinfra.get_host(f"ansible://{name}", ansible_inventory=inventory) for name in ALLOWED}


def address_of(host: Host) -> str:
    return str(json.loads(host.check_output("ip -4 -json route get 192.0.2.1"))[0]["prefsrc"])


def answering(who: Host, address: str, ports: tuple[int, ...] = PORTS) -> set[int]:
    """The ports to which a connection is made. All at once: what is dropped says nothing, and takes the whole time."""
    attempts = [
        f"(timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && echo {port}) &" for port in ports
    ]
    return {int(port) for port in who.check_output(f"{' '.join(attempts)} wait").split()}


def reaches(neighbour: Host, address: str, port: int) -> bool:
    return bool(answering(neighbour, address, (port,)))


def reached(neighbours: dict[str, Host], address: str = NAME) -> dict[str, set[int]]:
    """The ports that answer, for each neighbour."""
    return {name: answering(neighbour, address) for name, neighbour in neighbours.items()}


def listens(host: Host) -> bool:
    """Whether everything is up that could answer: only then is silence the firewall's work."""
    return answering(host, address_of(host)) == set(PORTS)


def wait_until_all_listens(host: Host) -> None:
    molecule_hosts.wait_until(lambda: listens(host), 120, "A listener at each port")


# What answers -------------------------------------------------------------------------------------------------


def test_exactly_what_is_named_answers(host: Host, neighbours: dict[str, Host]) -> None:
    wait_until_all_listens(host)
    assert reached(neighbours) == ALLOWED


def test_without_the_rules_all_of_it_would_answer(host: Host, neighbours: dict[str, Host]) -> None:
    """Or every other test here would be content with a network that doesn't work."""
    host.check_output("systemctl stop gpuops-fleet-firewall-refresh.timer")
    try:
        host.check_output("nft delete table inet gpuops_fleet")
        assert reached(neighbours) == {name: set(PORTS) for name in neighbours}
    finally:
        host.check_output("systemctl start gpuops-fleet-firewall-refresh.timer")
    # The next look-up closes it again.
    molecule_hosts.wait_until(lambda: reached(neighbours) == ALLOWED, 120, "A closed host")


def test_past_the_published_port_nothing_answers(host: Host, neighbours: dict[str, Host]) -> None:
    inner = host.check_output("docker inspect --format '{{.NetworkSettings.IPAddress}}' listener")
    for neighbour in neighbours.values():
        neighbour.check_output(f"ip route replace {inner}/32 via {address_of(host)}")
        assert not reaches(neighbour, inner, 80)
        neighbour.check_output(f"ip route delete {inner}/32")


def test_ipv6_is_closed_as_well(host: Host, neighbours: dict[str, Host]) -> None:
    every = [host, *neighbours.values()]
    for one in every:
        one.check_output("sysctl --write net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0")
    own = "ip -6 -json address show dev eth0 scope link"
    molecule_hosts.wait_until(
        lambda: all(
            '"local":"fe80' in one.check_output(own) and "tentative" not in one.check_output(own) for one in every
        ),
        30,
        "An address of IPv6",
    )
    local = next(
        str(entry["local"])
        for interface in json.loads(host.check_output(own))
        for entry in interface.get("addr_info", ())
    )
    assert reached(neighbours, f"{local}%eth0") == {name: {22} for name in neighbours}


def test_containers_and_the_host_itself_are_let_in(host: Host) -> None:
    own = address_of(host)
    for port in (8080, 9999):
        assert host.run(f"docker exec listener timeout 5 bash -c 'exec 3<>/dev/tcp/{own}/{port}'").rc == 0


@pytest.mark.parametrize(
    "unit", ["gpuops-fleet-firewall", "gpuops-fleet-firewall-refresh", "gpuops-fleet-firewall-rollback"]
)
def test_sandbox(host: Host, unit: str) -> None:
    score = host.check_output(f"systemd-analyze security --no-pager {unit}.service | tail -1").split(":")[1].split()[0]
    assert float(score) <= 3.0


def test_the_journal_is_not_filled_every_few_seconds(host: Host) -> None:
    ended = "systemctl show --property=InactiveEnterTimestampMonotonic --value gpuops-fleet-firewall-refresh.service"
    molecule_hosts.wait_until(lambda: host.check_output(ended) != "0", 60, "A look-up")
    assert "Finished" not in host.check_output("journalctl --no-pager --unit gpuops-fleet-firewall-refresh.service")


# What it survives ---------------------------------------------------------------------------------------------


def test_engine_restart(host: Host, neighbours: dict[str, Host]) -> None:
    host.check_output("systemctl restart docker")
    wait_until_all_listens(host)
    assert reached(neighbours) == ALLOWED


def test_somebody_flushes_all_rules(host: Host, neighbours: dict[str, Host]) -> None:
    host.check_output("nft flush ruleset")
    host.check_output("systemctl restart docker")
    wait_until_all_listens(host)
    molecule_hosts.wait_until(lambda: reached(neighbours) == ALLOWED, 120, "A closed host")


def test_rules_that_lock_us_out_are_taken_back(host: Host, neighbours: dict[str, Host]) -> None:
    """No port of SSH is open in these; nobody confirms them, as nobody gets in."""
    before = host.check_output("cat /etc/gpuops-fleet/firewall/rules.nft")
    host.check_output("sed -i 's/tcp dport { 22 } accept/tcp dport { 2 } accept/' /etc/gpuops-fleet/firewall/rules.nft")
    try:
        assert '"changed": true' in host.check_output(f"{PROGRAM} apply")
        assert not reaches(neighbours["other-1"], NAME, 22)
        molecule_hosts.wait_until(lambda: reaches(neighbours["other-1"], NAME, 22), 120, "Rules that let SSH in")
    finally:
        host.check_output(
            "sed -i 's/tcp dport { 2 } accept/tcp dport { 22 } accept/' /etc/gpuops-fleet/firewall/rules.nft"
        )
    assert host.check_output("cat /etc/gpuops-fleet/firewall/rules.nft") == before
    assert '"changed": false' in host.check_output(f"{PROGRAM} apply")


def test_reboot(host: Host, neighbours: dict[str, Host]) -> None:
    molecule_hosts.reboot(host)
    # From the first moment on, not only after the first look-up.
    assert "type filter hook input priority filter - 10" in host.check_output("nft list table inet gpuops_fleet")
    wait_until_all_listens(host)
    assert reached(neighbours) == ALLOWED
    assert host.service("gpuops-fleet-firewall").is_enabled


def test_a_peer_with_another_address_gets_in_by_itself(host: Host, neighbours: dict[str, Host]) -> None:
    old = address_of(neighbours["processor-1"])
    processor, new = molecule_hosts.restart_with_another_address("processor-1")
    assert new != old
    molecule_hosts.wait_until(lambda: reaches(processor, NAME, 9092), 120, "The new address in the set")
    assert old not in host.check_output("nft list set inet gpuops_fleet kafka_peers_ipv4")
    assert reached({"processor-1": processor}) == {"processor-1": ALLOWED["processor-1"]}


# The end ------------------------------------------------------------------------------------------------------


def play(*options: str) -> str:
    """The scenario's play once more, with other variables."""
    scenario = os.environ["MOLECULE_SCENARIO_DIRECTORY"]
    done = subprocess.run(
        ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], f"{scenario}/converge.yml", *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_the_role_the_host_is_as_open_as_before(host: Host, neighbours: dict[str, Host]) -> None:
    absent = ("--extra-vars", "firewall_state=absent")
    play(*absent, "--check")
    assert reaches(neighbours["other-1"], NAME, 8443), "check mode takes nothing away"
    assert not reaches(neighbours["other-1"], NAME, 9999)
    play(*absent)
    assert reaches(neighbours["other-1"], NAME, 9999)
    assert "changed=0" in play(*absent)
    left = host.run("find /etc /usr/local /var/lib/gpuops-fleet -name '*firewall*' -not -path '*/ufw/*'").stdout
    assert left == ""
    assert "gpuops-fleet-firewall" not in host.run("systemctl list-unit-files --no-pager 'gpuops-*'").stdout
