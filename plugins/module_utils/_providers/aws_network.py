# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a machine at EC2 needs beside itself: a key pair and security groups. They cost nothing, and carry our tag.

They are named after the deployment, so every controller finds the same ones, and gone when its last machine is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _source_ranges
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_api import Api

SSH_PORT = 22
# A machine that is gone can hold on to its groups for some more seconds.
_IN_USE_SECONDS = 30.0
_POLL_SECONDS = 2.0


_ALL = "-1"  # every protocol, and with it every port
# How EC2 lists who may come in, and what it calls each of them there.
_SOURCES = (
    ("IpRanges", "CidrIp"),
    ("Ipv6Ranges", "CidrIpv6"),
    ("UserIdGroupPairs", "GroupId"),
    ("PrefixListIds", "PrefixListId"),
)


class Way(NamedTuple):
    """One thing that a security group lets in: from a range of addresses or a group, by one protocol to these ports.

    The ports are None for every one of them, as EC2 has it for all protocols.
    """

    source: str
    protocol: str = _ALL
    first_port: int | None = None
    last_port: int | None = None


def key_pair(api: Api, region: str, marker: Marker, public_key: str) -> str:
    """The name of the key pair that holds this key; made where it is missing."""
    plain = " ".join(public_key.split()[:2])  # the comment may say who somebody is
    name = f"gf--{marker.deployment_id}--{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    try:
        api.call(
            "ec2",
            region,
            "import_key_pair",
            KeyName=name,
            PublicKeyMaterial=plain.encode(),
            TagSpecifications=[_specification("key-pair", marker.deployment_id)],
        )
    except InvalidRequest as error:
        if wire.code_of(error) != "InvalidKeyPair.Duplicate":
            raise
    return name


def network_of(api: Api, region: str, subnet: str | None) -> str:
    """The VPC in which a machine will be."""
    if subnet:
        rows = api.pages(region, "describe_subnets", "Subnets", SubnetIds=[subnet])
        return str(rows[0]["VpcId"])
    rows = api.pages(region, "describe_vpcs", "Vpcs", Filters=_filters({"is-default": "true"}))
    if not rows:
        raise InvalidRequest(
            f"Your account has no default VPC in {region}.",
            provider=wire.PROVIDER,
            fix="Give provider_settings.aws.subnet_ids, or make one: aws ec2 create-default-vpc",
        )
    return str(rows[0]["VpcId"])


def groups(
    api: Api, region: str, vpc: str, marker: Marker, ports: Iterable[int], source_ranges: Iterable[str]
) -> tuple[str, ...]:
    """The groups of a machine: one of its deployment, for SSH and its peers, and one of its own, for its ports."""
    ranges = [_source_ranges.check(one) for one in source_ranges]
    of_all = _group(api, region, vpc, marker.deployment_id, f"gf--{marker.deployment_id}")
    ways = {_to_port(SSH_PORT, one) for one in ranges} | {Way(str(of_all["GroupId"]))}
    _align(api, region, of_all, ways)
    found = [str(of_all["GroupId"])]
    wanted = {_to_port(port, one) for port in ports if port != SSH_PORT for one in ranges}
    if wanted:
        own = _group(api, region, vpc, marker.deployment_id, f"gf--{marker.deployment_id}--{marker.name}")
        _align(api, region, own, wanted)
        found.append(str(own["GroupId"]))
    return tuple(found)


def clear_up(api: Api, deployment_id: str, alive: Mapping[str, bool]) -> bool:
    """Remove what no machine of the deployment needs any more; alive says in which regions it still has some."""

    def in_region(region: str) -> bool:
        if alive.get(region):
            return False
        filters = _filters({"key": wire.DEPLOYMENT_TAG, "value": deployment_id})
        rows = api.pages(region, "describe_tags", "Tags", Filters=filters)
        keys = [str(row["ResourceId"]) for row in rows if row["ResourceType"] == "key-pair"]
        left = [str(row["ResourceId"]) for row in rows if row["ResourceType"] == "security-group"]
        for key in keys:
            api.call("ec2", region, "delete_key_pair", KeyPairId=key)
        removed = [_removed(api, region, group) for group in left]
        return any(removed) or bool(keys)

    return any(api.everywhere(in_region).values())


def _removed(api: Api, region: str, group: str) -> bool:
    """Whether it is gone; what is in use stays, costs nothing, and is removed by a later run."""
    deadline = _clock.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            api.call("ec2", region, "delete_security_group", GroupId=group)
        except InvalidRequest as error:
            if wire.code_of(error) == "InvalidGroup.NotFound":
                return False
            if wire.code_of(error) != "DependencyViolation":
                raise
            if _clock.monotonic() > deadline:
                return False
            _clock.sleep(_POLL_SECONDS)
        else:
            return True


def _group(api: Api, region: str, vpc: str, deployment_id: str, name: str) -> dict[str, Any]:
    found = _find_group(api, region, vpc, name)
    if found is None:
        try:
            api.call(
                "ec2",
                region,
                "create_security_group",
                GroupName=name,
                Description="of gpuops.fleet; removed with the last machine of its deployment",
                VpcId=vpc,
                TagSpecifications=[_specification("security-group", deployment_id)],
            )
        except InvalidRequest as error:
            if wire.code_of(error) != "InvalidGroup.Duplicate":  # another controller was faster
                raise
        found = _find_group(api, region, vpc, name)
    if found is None or wire.tags_of(found).get(wire.DEPLOYMENT_TAG) != deployment_id:
        raise InvalidRequest(
            f"The security group {name} in {region} carries no tag of this collection.",
            provider=wire.PROVIDER,
            fix="It is somebody else's: rename it, or give provider_settings.aws.security_group_ids.",
        )
    return found


def _find_group(api: Api, region: str, vpc: str, name: str) -> dict[str, Any] | None:
    filters = _filters({"group-name": name, "vpc-id": vpc})
    rows = api.pages(region, "describe_security_groups", "SecurityGroups", Filters=filters)
    return rows[0] if rows else None


def _to_port(port: int, source: str) -> Way:
    return Way(source, "tcp", port, port)


def _align(api: Api, region: str, group: Mapping[str, Any], wanted: set[Way]) -> None:
    """Let in what is wanted, and nothing else: what a former fleet file wanted is closed again.

    So is what somebody added by hand, however wide: a rule is right only when it is one of ours to the last port.
    """
    current = _ways_of(group)
    for operation, permissions in (
        ("authorize_security_group_ingress", [_permission(way) for way in sorted(wanted - current.keys(), key=str)]),
        ("revoke_security_group_ingress", [rule for way, rule in current.items() if way not in wanted]),
    ):
        if not permissions:
            continue
        try:
            api.call("ec2", region, operation, GroupId=group["GroupId"], IpPermissions=permissions)
        except InvalidRequest as error:
            # Another controller did the same just now.
            if wire.code_of(error) not in ("InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
                raise


def _ways_of(group: Mapping[str, Any]) -> dict[Way, dict[str, Any]]:
    """What it lets in, each with the rule that says so: one that nobody here would make is revoked as EC2 has it."""
    found = {}
    for permission in group.get("IpPermissions") or ():
        scope = {name: permission[name] for name in ("IpProtocol", "FromPort", "ToPort") if name in permission}
        protocol = str(permission.get("IpProtocol"))
        ports = (None, None) if protocol == _ALL else (permission.get("FromPort"), permission.get("ToPort"))
        for sources, name in _SOURCES:
            for one in permission.get(sources) or ():
                if name in one:
                    who = {key: value for key, value in one.items() if key in (name, "UserId")}
                    found[Way(str(one[name]), protocol, *ports)] = {**scope, sources: [who]}
    return found


def _permission(way: Way) -> dict[str, Any]:
    scope: dict[str, Any] = {"IpProtocol": way.protocol}
    if way.protocol != _ALL:
        scope |= {"FromPort": way.first_port, "ToPort": way.last_port}
    sources, name = _SOURCES[2 if way.source.startswith("sg-") else 1 if ":" in way.source else 0]
    return {**scope, sources: [{name: way.source}]}


def _specification(kind: str, deployment_id: str) -> dict[str, Any]:
    return {"ResourceType": kind, "Tags": [{"Key": wire.DEPLOYMENT_TAG, "Value": deployment_id}]}


def _filters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]} for name, value in values.items()]
