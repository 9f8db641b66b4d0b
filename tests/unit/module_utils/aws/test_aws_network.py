# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine at EC2 needs beside itself: who may reach it, and with which key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws
from emulators.world import World
from support.aws_calls import MARKER, actions, described, rent
from support.fake_clock import FakeClock


def test_who_may_reach_it_has_to_be_said(settings: dict[str, Any], world: World) -> None:
    silent = aws.make({**settings, "source_ranges": []})
    for work in (lambda: rent(silent), lambda: silent.offers({"gpu": "L4"})):
        with pytest.raises(InvalidRequest, match="who may reach") as caught:
            work()
        assert "source_ranges" in caught.value.fix
    assert "RunInstances" not in actions(world)
    with pytest.raises(InvalidRequest, match=r"'203.0.113.7/32' for that address, or '203.0.113.0/24'"):
        rent(aws.make({**settings, "source_ranges": ["203.0.113.7/24"]}))


def rules(ec2: Any, group_id: str) -> list[tuple[Any, ...]]:
    (group,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    found = []
    for one in group["IpPermissions"]:
        sources = [two["CidrIp"] for two in one["IpRanges"]] + [two["CidrIpv6"] for two in one["Ipv6Ranges"]]
        sources += [two["GroupId"] for two in one["UserIdGroupPairs"]]
        found += [(one["IpProtocol"], one.get("FromPort"), one.get("ToPort"), source) for source in sources]
    return sorted(found, key=str)


def permissions(ec2: Any, group_id: str) -> list[str]:
    """All of what it lets in, in one order."""
    (group,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return sorted(str({key: value for key, value in one.items() if value}) for one in group["IpPermissions"])


def groups_of(ec2: Any, made: Instance) -> dict[str, str]:
    return {one["GroupName"]: one["GroupId"] for one in described(ec2, made.id)["SecurityGroups"]}


def test_the_security_groups_let_in_who_is_named(settings: dict[str, Any], ec2: Any) -> None:
    provider = aws.make({**settings, "source_ranges": ["203.0.113.7/32", "2001:db8::/64"]})
    made = rent(provider, ports=((8000, "http"), (22, "tcp")))
    groups = groups_of(ec2, made)
    assert sorted(groups) == ["gf--acme-llm", "gf--acme-llm--vllm-1"]
    of_all, own = groups["gf--acme-llm"], groups["gf--acme-llm--vllm-1"]
    assert rules(ec2, of_all) == sorted(
        [("-1", None, None, of_all), ("tcp", 22, 22, "203.0.113.7/32"), ("tcp", 22, 22, "2001:db8::/64")], key=str
    )
    assert rules(ec2, own) == sorted(
        [("tcp", 8000, 8000, "203.0.113.7/32"), ("tcp", 8000, 8000, "2001:db8::/64")], key=str
    )


def test_what_a_former_fleet_file_let_in_is_closed_again(settings: dict[str, Any], ec2: Any) -> None:
    wide = rent(aws.make({**settings, "source_ranges": ["203.0.113.0/24"]}), ports=((8000, "tcp"),))
    groups = groups_of(ec2, wide)
    narrow = aws.make(settings)
    narrow.delete(wide.id)
    again = rent(narrow, ports=((9000, "tcp"),))
    assert groups_of(ec2, again) == groups
    assert ("tcp", 22, 22, "203.0.113.0/24") not in rules(ec2, groups["gf--acme-llm"])
    assert rules(ec2, groups["gf--acme-llm--vllm-1"]) == [("tcp", 9000, 9000, "203.0.113.7/32")]


ANYBODY = {"IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "quick fix"}]}


@pytest.mark.parametrize(
    "rule",
    [
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 9000, **ANYBODY},
        {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, **ANYBODY},
        {"IpProtocol": "-1", **ANYBODY},
        {"IpProtocol": "udp", "FromPort": 22, "ToPort": 22, **ANYBODY},
        {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, **ANYBODY},
        # From who may come, but to more than they may reach: it begins at the same port as ours.
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 9000, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]},
        {"IpProtocol": "tcp", "FromPort": 8000, "ToPort": 65535, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]},
        {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": "pl-01234567"}]},
    ],
)
def test_a_wide_rule_that_somebody_added_is_closed_by_the_next_rental(
    provider: aws.AwsProvider, ec2: Any, rule: dict[str, Any]
) -> None:
    first = rent(provider, ports=((8000, "tcp"),))
    groups = groups_of(ec2, first)
    right = {one: permissions(ec2, one) for one in groups.values()}
    assert len(right) == 2
    for group, was in right.items():
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        assert permissions(ec2, group) != was
    provider.delete(first.id)
    rent(provider, ports=((8000, "tcp"),))
    assert {one: permissions(ec2, one) for one in groups.values()} == right


def test_every_port_for_the_group_itself_is_only_what_says_so(provider: aws.AwsProvider, ec2: Any) -> None:
    """All TCP ports from its own machines is less than everything from them, and no word for it."""
    first = rent(provider)
    (group,) = groups_of(ec2, first).values()
    itself = [{"GroupId": group}]
    every_port = {"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": itself}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[every_port])
    everything = {"IpProtocol": "-1", "UserIdGroupPairs": itself}
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[everything])
    provider.delete(first.id)
    rent(provider)
    assert rules(ec2, group) == sorted([("-1", None, None, group), ("tcp", 22, 22, "203.0.113.7/32")], key=str)


def test_security_groups_of_ones_own(settings: dict[str, Any], world: World, ec2: Any) -> None:
    own = ec2.create_security_group(GroupName="mine", Description="x")["GroupId"]
    made = rent(aws.make({**settings, "source_ranges": None, "security_group_ids": [own]}))
    assert groups_of(ec2, made) == {"mine": own}
    assert actions(world).count("CreateSecurityGroup") == 1


def test_a_group_that_only_has_our_name_is_not_ours(provider: aws.AwsProvider, ec2: Any, world: World) -> None:
    ec2.create_security_group(GroupName="gf--acme-llm", Description="x")
    with pytest.raises(InvalidRequest, match="no tag of this collection"):
        rent(provider)
    assert "AuthorizeSecurityGroupIngress" not in actions(world)


def test_what_is_left_beside_goes_with_the_last_machine(provider: aws.AwsProvider, ec2: Any) -> None:
    def left() -> tuple[int, int]:
        groups = [one for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"] != "default"]
        return len(groups), len(ec2.describe_key_pairs()["KeyPairs"])

    first = rent(provider, ports=((8000, "tcp"),))
    second = rent(provider, marker=replace(MARKER, name="other"))
    near = rent(provider, marker=replace(MARKER, deployment_id="acme-llm-2"))
    assert left() == (3, 2)
    provider.delete(first.id)
    assert provider.clean_up("acme-llm") is False
    provider.delete(second.id)
    assert provider.clean_up("acme-llm") is True
    assert left() == (1, 1)
    assert provider.clean_up("acme-llm") is False
    assert provider.get(near.id) is not None


def test_a_group_in_use_stays(provider: aws.AwsProvider, ec2: Any, clock: FakeClock) -> None:
    made = rent(provider)
    (group,) = groups_of(ec2, made).values()
    provider.delete(made.id)
    ec2.run_instances(ImageId="ami-785db401", MinCount=1, MaxCount=1, SecurityGroupIds=[group])
    assert provider.clean_up("acme-llm") is True  # its key pair
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert sum(clock.slept) >= 30


def test_the_key_pair_holds_no_name_of_a_person(provider: aws.AwsProvider, ec2: Any) -> None:
    rent(provider)
    (pair,) = ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert "nobody@nowhere" not in pair["PublicKey"]
    assert pair["KeyName"].startswith("gf--acme-llm--")
