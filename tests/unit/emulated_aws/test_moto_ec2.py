# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""moto still differs from EC2 where it is corrected, and differs no more when it is.

Where the first half of a test fails, moto has learnt it: remove the correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire
from botocore.exceptions import ClientError
from moto import mock_aws
from support import moto_ec2

REGION = "us-east-1"


@pytest.fixture(autouse=True)
def _an_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def ec2() -> Any:
    return boto3.client("ec2", region_name=REGION)


def run(ec2: Any, **more: Any) -> str:
    order = {"ImageId": "ami-785db401", "InstanceType": "m7i.large", "MinCount": 1, "MaxCount": 1}
    return str(ec2.run_instances(**order, **more)["Instances"][0]["InstanceId"])


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize("name", sorted(moto_ec2.IMAGES))
def test_names_of_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ssm = boto3.client("ssm", region_name=REGION)
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name=name)
    moto_ec2.names_of_images(monkeypatch)
    image = ssm.get_parameter(Name=name)["Parameter"]["Value"]
    assert boto3.client("ec2", region_name=REGION).describe_images(ImageIds=[image])["Images"]
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name="/aws/service/other")


def test_client_tokens(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(ec2, ClientToken="a") != run(ec2, ClientToken="a")
    moto_ec2.client_tokens(monkeypatch)
    first = run(ec2, ClientToken="b")
    assert run(ec2, ClientToken="b") == first
    assert run(ec2, ClientToken="c") != first
    assert run(ec2) != run(ec2)
    with pytest.raises(ClientError) as caught:
        run(ec2, ClientToken="b", UserData="other")
    assert code_of(caught) == aws_wire.IDEMPOTENT_MISMATCH
    ec2.terminate_instances(InstanceIds=[first])
    with pytest.raises(ClientError) as caught:
        run(ec2, ClientToken="b")
    assert code_of(caught) == aws_wire.INSTANCE_TERMINATED


def test_a_token_holds_for_the_zone_of_a_subnet(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_ec2.client_tokens(monkeypatch)
    first, second = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:2]
    assert run(ec2, ClientToken="a", SubnetId=first) == run(ec2, ClientToken="a", SubnetId=first)
    assert run(ec2, ClientToken="a", SubnetId=first) != run(ec2, ClientToken="a", SubnetId=second)


def make_both(ec2: Any, name: str) -> tuple[str, str]:
    def tagged(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": name}]}]

    key = ec2.create_key_pair(KeyName=name, TagSpecifications=tagged("key-pair"))["KeyPairId"]
    group = ec2.create_security_group(GroupName=name, Description="x", TagSpecifications=tagged("security-group"))
    return str(key), str(group["GroupId"])


def tagged_as(ec2: Any, name: str) -> list[str]:
    filters = [{"Name": "key", "Values": ["of"]}, {"Name": "value", "Values": [name]}]
    return sorted(one["ResourceId"] for one in ec2.describe_tags(Filters=filters)["Tags"])


def test_tags_of_what_is_gone(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def left(name: str) -> tuple[list[str], list[str]]:
        key, group = make_both(ec2, name)
        ec2.delete_key_pair(KeyName=name)
        ec2.delete_security_group(GroupId=group)
        return tagged_as(ec2, name), sorted([key, group])

    now, before = left("a")
    assert now == before
    moto_ec2.tags_of_what_is_gone(monkeypatch)
    now, before = left("b")
    assert now == []


def test_key_pairs_by_id(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _group = make_both(ec2, "a")
    other, _group = make_both(ec2, "b")

    def keys() -> list[str]:
        return sorted(one["KeyPairId"] for one in ec2.describe_key_pairs()["KeyPairs"])

    ec2.delete_key_pair(KeyPairId=key)
    assert keys() == sorted([key, other])
    moto_ec2.key_pairs_by_id(monkeypatch)
    ec2.delete_key_pair(KeyPairId=key)
    assert keys() == [other]
    ec2.delete_key_pair(KeyPairId=key)  # EC2 says yes, too


def test_groups_in_use(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _key, group = make_both(ec2, "a")
    run(ec2, SecurityGroupIds=[group])
    ec2.delete_security_group(GroupId=group)
    moto_ec2.groups_in_use(monkeypatch)
    _key, group = make_both(ec2, "b")
    machine = run(ec2, SecurityGroupIds=[group])
    with pytest.raises(ClientError) as caught:
        ec2.delete_security_group(GroupId=group)
    assert code_of(caught) == "DependencyViolation"
    ec2.terminate_instances(InstanceIds=[machine])
    ec2.delete_security_group(GroupId=group)


def test_every_correction_is_tested() -> None:
    assert {f"test_{one.__name__}" for one in moto_ec2.CORRECTIONS} <= set(globals())
