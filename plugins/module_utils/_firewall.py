# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The rules of a host's firewall, made from the services that may be reached and from whom.

Pure: nothing here looks at a host. What is returned is text for `nft --file`, or sentences about what is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _source_ranges

TABLE = "gpuops_fleet"
FAMILIES = ("ipv4", "ipv6")
PROTOCOLS = ("tcp", "udp")

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME_LENGTH = 32
_PEER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,251}[A-Za-z0-9])?")
# An interface's name, or its beginning and an asterisk. 15 characters is what the kernel takes.
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}|[A-Za-z0-9_.-]{1,14}[*]")
_MATCH = {"ipv4": "ip saddr", "ipv6": "ip6 saddr"}

# Without these a host can't say "too big" or find its neighbours. A redirect is nothing that a server needs.
_ICMP = ("echo-request", "destination-unreachable", "time-exceeded", "parameter-problem")
_ICMPV6 = (
    *("echo-request", "destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem"),
    *("nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"),
    *("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"),
)


def port_range(value: Any) -> tuple[int, int]:
    """First and last port of a number or of a range such as 9000-9010; ValueError for what is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is no port")
    match = re.fullmatch(r"\s*([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?\s*", str(value))
    if match is None:
        raise ValueError(f"{value!r} is no port")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{value!r} is no port")
    return first, last


def _ports(values: Sequence[Any]) -> str:
    """The ports as elements of an nftables set, sorted, each once: {22, 9000-9010}."""
    ranges = sorted({port_range(value) for value in values})
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _list(service: Mapping[str, Any], key: str) -> list[Any]:
    value = service.get(key) or []
    return [value] if isinstance(value, (str, int)) else list(value)


def _mistakes_of(service: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[str]:
    name = service.get("name")
    if service.get("protocol", "tcp") not in PROTOCOLS:
        yield (
            f"The protocol of {name} in firewall_services is {service.get('protocol')!r}; it must be tcp or udp (for"
            " both, write two entries)."
        )
    if not _list(service, "ports"):
        yield f"{name} in firewall_services has no ports; name at least one, such as 9092."
    for port in _list(service, "ports"):
        try:
            port_range(port)
        except ValueError as mistake:
            yield (
                f"{name} in firewall_services: {mistake}; write a number from 1 to 65535, or a range such as 9000-9010."
            )
    for network in _list(service, "from_cidrs"):
        try:
            _source_ranges.check(str(network))
        except ValueError as mistake:
            yield f"from_cidrs of {name} in firewall_services: {mistake}"
    for group in _list(service, "from_groups"):
        if group not in groups:
            known = ", ".join(sorted(map(str, groups))) or "none"
            yield (
                f"{name} in firewall_services is for the group {group!r}, which firewall_groups doesn't have"
                f" (it has: {known}). Mend the name, or give the group's peers there."
            )
    if not _list(service, "from_cidrs") and not _list(service, "from_groups"):
        yield (
            f"{name} in firewall_services says from nobody: give from_cidrs (0.0.0.0/0 and ::/0 are everybody) or"
            " from_groups, or leave the service out."
        )


def _ssh_mistakes(cidrs: Sequence[Any], client: str) -> Iterator[str]:
    networks = []
    for cidr in cidrs:
        try:
            networks.append(ipaddress.ip_network(_source_ranges.check(str(cidr))))
        except ValueError as mistake:
            yield f"firewall_ssh_cidrs: {mistake}"
    if not client or not networks or len(networks) < len(cidrs):
        return
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        yield (
            f"firewall_ssh_cidrs could lock Ansible out: the host says that it comes from {client!r}, which is no"
            " address. Leave the list empty there."
        )
        return
    if not any(address in network for network in networks):
        yield (
            f"firewall_ssh_cidrs leaves out {address}, from which Ansible comes: it would lock itself out. Add the"
            f" network of {address}."
        )


def mistakes(
    services: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[Any]],
    ssh_ports: Sequence[Any] = (22,),
    container_interfaces: Sequence[Any] = (),
    outside_interfaces: Sequence[Any] = (),
    *,
    ssh_cidrs: Sequence[Any] = (),
    ssh_client: str = "",
) -> list[str]:
    """One sentence for each thing that is wrong, none where rules can be made.

    services: entries of name, ports, protocol, from_cidrs, from_groups. groups: names of peers by group.
    outside_interfaces: those of the default routes. ssh_client: the address from which Ansible came, if by SSH.
    """
    found: list[str] = []
    seen: set[str] = set()
    for number, service in enumerate(services, start=1):
        name = service.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
            found.append(
                f"Entry {number} of firewall_services has the name {name!r}; it must be up to {_NAME_LENGTH} lower-case"
                " letters, digits and single hyphens, beginning with a letter."
            )
        elif name in seen:
            found.append(f"firewall_services has {name} more than once; merge these entries, or name them differently.")
        seen.add(str(name))
        found += _mistakes_of(service, groups)
    found += [
        f"The group {group} in firewall_groups has {peer!r}, which is no name of a host; give names such as"
        f" kafka-1.acme-llm.internal."
        for group, named in groups.items()
        # Of one name its letters would be taken for peers.
        for peer in ([] if isinstance(named, str) else named)
        if not isinstance(peer, str) or not _PEER.fullmatch(peer)
    ]
    found += [
        f"The group {group} in firewall_groups is {named!r}, and no list; write [{named}]."
        for group, named in groups.items()
        if isinstance(named, str)
    ]
    for port in ssh_ports:
        try:
            first, last = port_range(port)
            if first != last:
                raise ValueError(f"{port!r} is a range")
        except ValueError as mistake:
            found.append(f"firewall_ssh_ports: {mistake}; write a number from 1 to 65535.")
    found += _ssh_mistakes(ssh_cidrs, ssh_client)
    for pattern in container_interfaces:
        if not isinstance(pattern, str) or not _INTERFACE.fullmatch(pattern):
            found.append(
                f"firewall_container_interfaces has {pattern!r}; write an interface, such as docker0, or the beginning"
                " of several, such as br-*."
            )
            continue
        found += [
            f"The default route leads through {outside}, which {pattern} of firewall_container_interfaces means too:"
            " nothing would be guarded. Take this entry out, and name the bridges of your containers."
            for outside in outside_interfaces
            if outside == pattern or (pattern.endswith("*") and str(outside).startswith(pattern[:-1]))
        ]
    return found


def set_name(service: str, what: str, family: str = "") -> str:
    """nftables takes no hyphen in a name."""
    return "_".join(part for part in (service.replace("-", "_"), what, family) if part)


def peers(services: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The peers that may reach a service, by the beginning of its sets' names; services without groups are left out.

    {"kafka_peers": ["processor-1.acme.internal"]} fills the sets kafka_peers_ipv4 and kafka_peers_ipv6.
    """
    return {
        set_name(str(service["name"]), "peers"): sorted({str(peer) for group in named for peer in groups[group]})
        for service in services
        if (named := _list(service, "from_groups"))
    }


def _sets(service: Mapping[str, Any]) -> Iterator[str]:
    name = str(service["name"])
    ports = _ports(_list(service, "ports"))
    yield f"set {set_name(name, 'ports')} {{ type inet_service; flags interval; auto-merge; elements = {{ {ports} }} }}"
    networks = [ipaddress.ip_network(str(value)) for value in _list(service, "from_cidrs")]
    for version, family in ((4, "ipv4"), (6, "ipv6")):
        texts = [str(network) for network in _sorted_networks(networks, version)]
        if texts:
            yield (
                f"set {set_name(name, 'networks', family)} {{ type {family}_addr; flags interval; auto-merge;"
                f" elements = {{ {', '.join(texts)} }} }}"
            )
        if _list(service, "from_groups"):
            # Filled and kept right by firewall.py.
            yield f"set {set_name(name, 'peers', family)} {{ type {family}_addr; }}"


def _sorted_networks(
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], version: int
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Those of one version, each once, in the order of their addresses: the same list always gives the same text."""
    own = {network for network in networks if network.version == version}
    return sorted(own, key=lambda network: (int(network.network_address), network.prefixlen))


def _accepts(service: Mapping[str, Any]) -> Iterator[str]:
    name = str(service["name"])
    # The port that the client asked for, which for a published port is not the one of the container.
    port = f"meta l4proto {service.get('protocol', 'tcp')} ct original proto-dst @{set_name(name, 'ports')}"
    versions = {ipaddress.ip_network(str(value)).version for value in _list(service, "from_cidrs")}
    for version, family in ((4, "ipv4"), (6, "ipv6")):
        if version in versions:
            yield f"{port} {_MATCH[family]} @{set_name(name, 'networks', family)} accept"
        if _list(service, "from_groups"):
            yield f"{port} {_MATCH[family]} @{set_name(name, 'peers', family)} accept"


def _ssh_accepts(ports: Sequence[Any], cidrs: Sequence[Any]) -> Iterator[str]:
    if not cidrs:
        yield f"tcp dport {{ {_ports(ports)} }} accept"
    networks = [ipaddress.ip_network(str(value)) for value in cidrs]
    for version, family in ((4, "ipv4"), (6, "ipv6")):
        for network in _sorted_networks(networks, version):
            yield f"{_MATCH[family]} {network} tcp dport {{ {_ports(ports)} }} accept"


def rules(
    services: Sequence[Mapping[str, Any]],
    ssh_ports: Sequence[Any],
    container_interfaces: Sequence[str],
    ssh_cidrs: Sequence[Any] = (),
) -> str:
    """The text for `nft --file`, which replaces our own table in one step and touches no other.

    Expects what `mistakes` found nothing wrong with. Without ssh_cidrs, everybody may reach ssh_ports.
    """
    from_containers = [f'iifname "{name}" accept' for name in container_interfaces]
    chains = {
        "services": [line for service in services for line in _accepts(service)],
        "input": [
            # Before Docker's and everybody's: a packet that is dropped here is gone, whatever they accept.
            "type filter hook input priority filter - 10; policy drop;",
            'iifname "lo" accept',
            *from_containers,
            f"icmp type {{ {', '.join(_ICMP)} }} accept",
            f"icmpv6 type {{ {', '.join(_ICMPV6)} }} accept",
            "ct state established,related accept",
            "ct state invalid drop",
            "meta nfproto ipv4 udp sport 67 udp dport 68 accept",
            "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
            *_ssh_accepts(ssh_ports, ssh_cidrs),
            "jump services",
            "counter drop",
        ],
        "forward": [
            "type filter hook forward priority filter - 10; policy accept;",
            "ct state established,related accept",
            *from_containers,
            # What Docker sent on to a container because its port is published.
            "ct status dnat jump services",
            "ct status dnat counter drop",
            # What a neighbour sends to a container's own address, past the published ports.
            *(f'oifname "{name}" counter drop' for name in container_interfaces),
        ],
    }
    lines = [
        "# Written by the role gpuops.fleet.firewall. Replaces its own table in one step, and touches no other.",
        f"table inet {TABLE}",
        f"delete table inet {TABLE}",
        f"table inet {TABLE} {{",
        *(f"  {line}" for service in services for line in _sets(service)),
    ]
    for name, content in chains.items():
        lines += [f"  chain {name} {{", *(f"    {line}" for line in content), "  }"]
    return "\n".join([*lines, "}", ""])
