# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rules follow from a list of services, and what is said about a list that no rules can follow from."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter import firewall_mistakes, firewall_peers, firewall_rules

mistakes = firewall_mistakes.FilterModule().filters()["firewall_mistakes"]
peers = firewall_peers.FilterModule().filters()["firewall_peers"]
rules = firewall_rules.FilterModule().filters()["firewall_rules"]

GROUPS = {"processor": ["processor-1.acme.internal"], "producer": ["producer-1.acme.internal"], "empty": []}
KAFKA = {"name": "kafka", "ports": [9092, "9100-9110"], "from_groups": ["processor", "producer"]}
BRIDGES = ["docker0", "br-*"]


def lines(services: list[dict[str, Any]], ssh_ports: tuple[int, ...] = (22,)) -> list[str]:
    return [line.strip() for line in rules(services, ssh_ports, BRIDGES).splitlines()]


def chain(name: str, services: list[dict[str, Any]] | None = None) -> list[str]:
    text = lines(services or [])
    start = text.index(f"chain {name} {{")
    return text[start + 1 : text.index("}", start)]


# Rules --------------------------------------------------------------------------------------------------------


def test_only_our_own_table_is_replaced_and_in_one_step() -> None:
    text = lines([KAFKA])
    assert text[1:4] == ["table inet gpuops_fleet", "delete table inet gpuops_fleet", "table inet gpuops_fleet {"]
    assert not [line for line in text if "flush ruleset" in line]


def test_a_host_without_services_lets_in_ssh_and_what_the_network_needs() -> None:
    assert chain("services") == []
    entrance = chain("input")
    assert entrance[0].endswith("policy drop;")
    assert entrance[-1] == "counter drop"
    assert "tcp dport { 22 } accept" in entrance
    assert [line for line in entrance if "packet-too-big" in line and "nd-neighbor-solicit" in line]


def test_every_port_of_ssh_is_open() -> None:
    assert "tcp dport { 22, 2222 } accept" in lines([], (2222, 22))


def test_ssh_can_be_for_some_networks_alone() -> None:
    text = rules([], [2222, 22], BRIDGES, ["203.0.113.0/24", "2001:db8::/32", "10.0.0.0/8"])
    assert [line.strip() for line in text.splitlines() if "tcp dport" in line] == [
        "ip saddr 10.0.0.0/8 tcp dport { 22, 2222 } accept",
        "ip saddr 203.0.113.0/24 tcp dport { 22, 2222 } accept",
        "ip6 saddr 2001:db8::/32 tcp dport { 22, 2222 } accept",
    ]


def test_published_ports_are_dropped_unless_a_service_names_them() -> None:
    way = chain("forward", [KAFKA])
    assert way.index("ct status dnat jump services") + 1 == way.index("ct status dnat counter drop")
    assert way.index('iifname "br-*" accept') < way.index("ct status dnat jump services")
    assert way[-2:] == ['oifname "docker0" counter drop', 'oifname "br-*" counter drop']


def test_our_chains_come_before_dockers() -> None:
    assert "type filter hook forward priority filter - 10; policy accept;" in chain("forward")


def test_groups_are_sets_of_both_families_that_the_host_fills() -> None:
    text = lines([KAFKA])
    assert "set kafka_peers_ipv4 { type ipv4_addr; }" in text
    assert "set kafka_peers_ipv6 { type ipv6_addr; }" in text
    port = "meta l4proto tcp ct original proto-dst @kafka_ports"
    assert chain("services", [KAFKA]) == [
        f"{port} ip saddr @kafka_peers_ipv4 accept",
        f"{port} ip6 saddr @kafka_peers_ipv6 accept",
    ]


def test_networks_and_ports_are_elements_in_an_order_of_their_own() -> None:
    one = {"name": "gateway", "ports": ["443", 80], "from_cidrs": ["2001:db8::/32", "203.0.113.0/24", "10.0.0.0/8"]}
    other = {**one, "ports": [80, "443"], "from_cidrs": list(reversed(one["from_cidrs"]))}
    assert lines([one]) == lines([other])
    text = "\n".join(lines([one]))
    assert "elements = { 10.0.0.0/8, 203.0.113.0/24 }" in text
    assert "elements = { 80, 443 }" in text


def test_a_service_of_one_family_has_no_rule_for_the_other() -> None:
    service = {"name": "dns-server", "ports": [53], "protocol": "udp", "from_cidrs": ["0.0.0.0/0"]}
    assert chain("services", [service]) == [
        "meta l4proto udp ct original proto-dst @dns_server_ports ip saddr @dns_server_networks_ipv4 accept"
    ]


# Peers --------------------------------------------------------------------------------------------------------


def test_peers_of_several_groups_are_named_once() -> None:
    groups = {**GROUPS, "producer": ["producer-1.acme.internal", "processor-1.acme.internal"]}
    assert peers([KAFKA], groups) == {"kafka_peers": ["processor-1.acme.internal", "producer-1.acme.internal"]}


def test_an_empty_group_is_nobody_and_still_has_its_sets() -> None:
    assert peers([{"name": "kafka", "ports": [1], "from_groups": ["empty"]}], GROUPS) == {"kafka_peers": []}


def test_a_service_for_networks_alone_has_no_peers() -> None:
    assert peers([{"name": "web", "ports": [1], "from_cidrs": ["10.0.0.0/8"]}], GROUPS) == {}


# Mistakes -----------------------------------------------------------------------------------------------------


def test_nothing_is_said_about_what_works() -> None:
    web = {"name": "web", "ports": ["80", 443], "protocol": "tcp", "from_cidrs": ["0.0.0.0/0", "::/0"]}
    empty = {"name": "later", "ports": [1], "from_groups": ["empty"]}
    assert mistakes([KAFKA, web, empty], GROUPS, [22, "2222"], BRIDGES, ["eth0"]) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "Kafka!"}, "Entry 1 of firewall_services has the name 'Kafka!'; it must be up to 32 lower-case"),
        ({"name": None}, "Entry 1 of firewall_services has the name None"),
        ({"name": "k" * 33}, "it must be up to 32"),
        ({"ports": []}, "kafka in firewall_services has no ports"),
        ({"ports": [70000]}, "kafka in firewall_services: 70000 is no port; write a number from 1 to 65535"),
        ({"ports": [0]}, "0 is no port"),
        ({"ports": ["-1"]}, "'-1' is no port"),
        ({"ports": ["9010-9000"]}, "'9010-9000' is no port"),
        ({"ports": ["http"]}, "'http' is no port"),
        ({"ports": [True]}, "True is no port"),
        ({"ports": ["22 } accept"]}, "is no port"),
        ({"protocol": "icmp"}, "The protocol of kafka in firewall_services is 'icmp'; it must be tcp or udp"),
        ({"from_cidrs": ["10.0.0.1/8"]}, "from_cidrs of kafka in firewall_services: '10.0.0.1/8' is no range"),
        ({"from_cidrs": ["10.0.0.1/8"]}, "write '10.0.0.1/32' for that address, or '10.0.0.0/8'"),
        ({"from_cidrs": ["10.0.0.0/33"]}, "'10.0.0.0/33' is no range of addresses"),
        ({"from_cidrs": ["everybody"]}, "'everybody' is no range of addresses"),
        ({"from_cidrs": ["fe80::1%eth0"]}, "'fe80::1%eth0' names an interface"),
        (
            {"from_groups": ["procesor"]},
            "is for the group 'procesor', which firewall_groups doesn't have (it has: empty,",
        ),
        ({"from_groups": []}, "kafka in firewall_services says from nobody"),
    ],
)
def test_one_sentence_for_each_mistake(change: dict[str, Any], sentence: str) -> None:
    said = mistakes([{**KAFKA, **change}], GROUPS)
    assert len(said) == 1
    assert sentence in said[0]


def test_a_name_twice() -> None:
    assert mistakes([KAFKA, KAFKA], GROUPS) == [
        "firewall_services has kafka more than once; merge these entries, or name them differently."
    ]


def test_a_peer_that_is_no_name_of_a_host() -> None:
    said = mistakes([], {"processor": ["processor-1.acme.internal", "a b"]})
    assert said == [
        "The group processor in firewall_groups has 'a b', which is no name of a host; give names such as"
        " kafka-1.acme-llm.internal."
    ]


def test_a_group_that_is_one_name_and_no_list() -> None:
    """Its letters would be looked up as peers."""
    assert mistakes([], {"processor": "processor-1.acme.internal"}) == [
        "The group processor in firewall_groups is 'processor-1.acme.internal', and no list; write"
        " [processor-1.acme.internal]."
    ]


@pytest.mark.parametrize("port", ["22-23", 0, "ssh"])
def test_a_port_of_ssh_that_is_none(port: Any) -> None:
    assert "firewall_ssh_ports: " in mistakes([], {}, [port])[0]


@pytest.mark.parametrize("client", ["", "203.0.113.7", "2001:db8::7"])
def test_networks_of_ssh_in_which_ansible_is(client: str) -> None:
    assert mistakes([], {}, ssh_cidrs=["203.0.113.0/24", "2001:db8::/32"], ssh_client=client) == []
    assert mistakes([], {}, ssh_client=client) == []


@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db9::7", "fe80::1%eth0"])
def test_networks_of_ssh_that_would_lock_ansible_out(client: str) -> None:
    (said,) = mistakes([], {}, ssh_cidrs=["203.0.113.0/24", "2001:db8::/32"], ssh_client=client)
    assert said.startswith(f"firewall_ssh_cidrs leaves out {client.partition('%')[0]}, from which Ansible comes")


def test_a_client_of_ssh_that_nobody_knows() -> None:
    (said,) = mistakes([], {}, ssh_cidrs=["203.0.113.0/24"], ssh_client="UNKNOWN")
    assert "it comes from 'UNKNOWN', which is no address" in said


def test_a_network_of_ssh_that_is_none() -> None:
    (said,) = mistakes([], {}, ssh_cidrs=["10.0.0.1/8"], ssh_client="198.51.100.7")
    assert said.startswith("firewall_ssh_cidrs: '10.0.0.1/8' is no range of addresses; write '10.0.0.1/32'")


def test_a_bridge_that_could_not_be_an_interface() -> None:
    assert "firewall_container_interfaces has 'br-\" accept'" in mistakes([], {}, [22], ['br-" accept'])[0]


def test_bridges_among_which_the_way_out_is_would_open_everything() -> None:
    said = mistakes([], {}, [22], BRIDGES, ["br-ex", "eth0"])
    assert said == [
        "The default route leads through br-ex, which br-* of firewall_container_interfaces means too: nothing would be"
        " guarded. Take this entry out, and name the bridges of your containers."
    ]
