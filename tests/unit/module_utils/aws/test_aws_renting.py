# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting at EC2, and what can go wrong with it."""

from __future__ import annotations

import datetime
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NameTaken,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_api, aws_wire
from emulators.world import Fault, World
from support.aws_calls import KEY, MARKER, OFFER, actions, cloud_config, described, refuses, rent, request, tags
from support.fake_clock import FakeClock

LONGEST = replace(MARKER, deployment_id="a" * 24, name="b" * 16, nonce="zzzzzz", expiry_epoch_hours=36**4 - 1)


def test_the_marker_stands_in_tags_from_the_first_moment(provider: aws.AwsProvider, world: World, ec2: Any) -> None:
    made = rent(provider, marker=LONGEST)
    (listed,) = provider.list()
    got = provider.get(made.id)
    assert got is not None
    assert made.marker == listed.marker == got.marker
    assert replace(made.marker, nonce=LONGEST.nonce) == LONGEST
    told = tags(described(ec2, made.id))
    assert told[aws_wire.MARKER_TAG] == _marker.encode(made.marker)
    assert told["Name"] == f"{'a' * 24} {'b' * 16}"
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [made.id]}])["Volumes"]
    assert tags(volume) == told
    assert "CreateTags" not in actions(world)


def test_what_is_asked_of_ec2(provider: aws.AwsProvider) -> None:
    order = aws_wire.order(request(disk_gib=77), {"ImageId": "ami-1"}, "key", ["sg-1"], None)
    assert order["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "InstanceMetadataTags": "enabled",
    }
    assert order["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert order["ClientToken"] == "gf--acme-llm--vllm-1--abc123"
    assert [one["ResourceType"] for one in order["TagSpecifications"]] == ["instance", "volume", "network-interface"]
    (disk,) = order["BlockDeviceMappings"]
    assert disk["Ebs"] == {"VolumeSize": 77, "VolumeType": "gp3", "DeleteOnTermination": True}
    assert "SubnetId" not in order  # then a token holds for the whole region
    assert "InstanceMarketOptions" not in order


def test_a_size_with_credits_never_costs_more_than_was_said() -> None:
    def credits(kind: str) -> Any:
        offer = replace(OFFER, id=f"us-east-1/{kind}")
        return aws_wire.order(request(offer=offer), {"ImageId": "ami-1"}, "key", [], None).get("CreditSpecification")

    for kind in ("t3.medium", "t3a.2xlarge"):
        assert credits(kind) == {"CpuCredits": "standard"}
    for kind in ("m7i.large", "g4dn.xlarge", "trn1.2xlarge"):
        assert credits(kind) is None  # EC2 refuses it there


def test_no_disk_of_an_image_outlives_its_machine() -> None:
    image = {
        "ImageId": "ami-1",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 500, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
        ],
    }
    assert aws_wire.order(request(disk_gib=77), image, "key", ["sg-1"], None)["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 77, "VolumeType": "gp3", "DeleteOnTermination": True}},
        {"DeviceName": "/dev/sdb", "Ebs": {"DeleteOnTermination": True}},
    ]


def test_moto_has_it_so(provider: aws.AwsProvider, ec2: Any) -> None:
    made = rent(provider)
    row = described(ec2, made.id)
    assert row["MetadataOptions"]["HttpTokens"] == "required"
    behavior = ec2.describe_instance_attribute(InstanceId=made.id, Attribute="instanceInitiatedShutdownBehavior")
    assert behavior["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert (row["InstanceType"], row["ImageId"]) == ("g6.xlarge", "ami-dca37ea5")  # the one with a driver
    assert made.price_per_hour_usd == 0.8048
    assert (made.gpu, made.gpu_count, made.region) == ("L4", 1, "us-east-1")
    assert made.ssh_endpoints[0].host == row["PublicIpAddress"]
    assert made.address == row["PrivateIpAddress"]
    assert [file["path"] for file in cloud_config(ec2, made.id)["write_files"]] == [
        "/usr/local/sbin/gpuops-fleet-expiry",
        "/etc/systemd/system/gpuops-fleet-expiry.service",
        "/etc/systemd/system/gpuops-fleet-expiry.timer",
    ]


def test_without_an_end_a_power_off_destroys_nothing(provider: aws.AwsProvider, ec2: Any) -> None:
    made = rent(provider, marker=replace(MARKER, expiry_epoch_hours=0))
    behavior = ec2.describe_instance_attribute(InstanceId=made.id, Attribute="instanceInitiatedShutdownBehavior")
    assert behavior["InstanceInitiatedShutdownBehavior"]["Value"] == "stop"
    assert cloud_config(ec2, made.id) == {"disable_root": False, "write_files": [], "runcmd": []}


def test_a_machine_without_gpus_has_plain_ubuntu(provider: aws.AwsProvider, ec2: Any) -> None:
    made = rent(provider, offer=Offer("aws", "us-east-1/m7i.large", region="us-east-1"))
    assert described(ec2, made.id)["ImageId"] == "ami-785db401"
    assert made.price_per_hour_usd == 0.1008  # nothing was said at the offer, so it is the table's


def test_spot(provider: aws.AwsProvider, ec2: Any) -> None:
    offer = replace(OFFER, id="us-east-1/g6.xlarge/spot", interruptible=True, price_per_hour_usd=0.3)
    order = aws_wire.order(request(offer=offer), {"ImageId": "ami-1"}, "key", ["sg-1"], None)
    assert order["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
            "MaxPrice": "0.300000",
        },
    }
    made = rent(provider, offer=offer)
    assert made.price_per_hour_usd == 0.3
    assert "spot" in made.detail
    assert "/usr/local/sbin/gpuops-fleet-drain" in [one["path"] for one in cloud_config(ec2, made.id)["write_files"]]
    with pytest.raises(InvalidRequest, match="can't stop"):
        provider.stop(made.id)


def test_two_controllers_at_once_get_one_machine(settings: dict[str, Any], world: World) -> None:
    providers = [aws.make(settings) for _number in range(4)]
    nonces = ["aaaaaa", "bbbbbb", "cccccc", "dddddd"]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one, nonce: rent(one, marker=replace(MARKER, nonce=nonce)), providers, nonces))
    assert len({one.id for one in made}) == 1
    assert len(world.rentals) == 1


def test_the_token_follows_from_the_last_machine_of_that_name(provider: aws.AwsProvider, world: World) -> None:
    made: list[Instance] = []
    for _number in range(3):
        made.append(rent(provider))
        assert provider.delete(made[-1].id)
    chain = aws_wire.nonces_after("acme-llm", "vllm-1", "us-east-1", "", 3)
    assert [one.marker.nonce for one in made] == chain
    assert len({one.id for one in made}) == 3
    assert rent(provider, marker=replace(MARKER, name="other")).marker.nonce not in chain


def test_a_token_that_is_spent_is_passed_over(
    provider: aws.AwsProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour after its end EC2 shows a machine no more, but may remember its token."""
    first = rent(provider)
    provider.delete(first.id)
    monkeypatch.setattr(provider, "_rows_in", lambda region: [])
    second = rent(provider)
    assert second.marker.nonce == aws_wire.nonces_after("acme-llm", "vllm-1", "us-east-1", first.marker.nonce, 1)[0]


def test_when_all_are_spent_chance_decides(provider: aws.AwsProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "_NONCES", 1)
    provider.delete(rent(provider).id)
    monkeypatch.setattr(provider, "_rows_in", lambda region: [])
    assert rent(provider).marker == MARKER


def test_a_token_that_somebody_used_for_something_else_is_a_name_taken(
    provider: aws.AwsProvider, settings: dict[str, Any], world: World
) -> None:
    first = rent(aws.make(settings))
    with pytest.raises(NameTaken):
        rent(provider, disk_gib=60)
    # Who asks again has looked for it in vain since: what has the token is something else, such as a job's.
    second = rent(provider, disk_gib=60)
    assert second.id != first.id
    assert second.marker.nonce == aws_wire.nonces_after("acme-llm", "vllm-1", "us-east-1", "", 2)[1]


def test_after_two_tokens_that_nothing_carries_chance_decides(
    provider: aws.AwsProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC2 remembers tokens longer than the machines, and may say of them that somebody uses them for something else."""
    spent: list[Any] = []
    for _number in range(3):
        spent.append(rent(provider))
        provider.delete(spent[-1].id)
    rows_in, launch = provider._rows_in, provider._launch

    def without_what_ended(region: str) -> list[dict[str, Any]]:
        return [row for row in rows_in(region) if aws_wire.state_of(row) not in aws_wire.ENDED]

    def mismatch(region: str, order: Any) -> Instance:
        if order["ClientToken"] in [_marker.identity(one.marker) for one in spent]:
            world.faults = [refuses("RunInstances", "IdempotentParameterMismatch")]
        return launch(region, order)

    monkeypatch.setattr(provider, "_rows_in", without_what_ended)
    monkeypatch.setattr(provider, "_launch", mismatch)
    wish = Wish("acme-llm", "vllm-1", providers=("aws",), ssh_public_key=KEY, lifetime_seconds=8 * 3600)
    made, _offer = _rent.rent({"aws": provider}, wish, [OFFER])
    assert [one.id for one in world.alive()] == [made.id]
    assert made.marker.nonce not in aws_wire.nonces_after("acme-llm", "vllm-1", "us-east-1", "", aws._NONCES)


def test_a_lost_answer_is_asked_for_again_with_the_same_token(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [Fault(path="/RunInstances$", drop="after")]
    with pytest.raises(Ambiguous):
        rent(provider)
    (there,) = provider.list()
    assert rent(provider).id == there.id
    assert len(world.rentals) == 1


def test_the_engine_rents_once_through_a_lost_answer(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [Fault(path="/RunInstances$", drop="after")]
    wish = Wish("acme-llm", "vllm-1", providers=("aws",), ssh_public_key=KEY, lifetime_seconds=8 * 3600)
    made, _offer = _rent.rent({"aws": provider}, wish, [OFFER])
    assert [one.id for one in world.alive()] == [made.id]


def test_of_two_regions_the_oldest_stays_and_ours_is_given_back(settings: dict[str, Any], world: World) -> None:
    """A token holds for one region; the nonce is EC2's to choose, and what carries it is still ours."""
    both = aws.make({**settings, "regions": ["us-east-1", "us-west-2"]})
    there = rent(both, offer=replace(OFFER, id="us-west-2/g6.xlarge", region="us-west-2"))
    world.skip(60)
    wish = Wish("acme-llm", "vllm-1", providers=("aws",), ssh_public_key=KEY, lifetime_seconds=8 * 3600)
    kept, _offer = _rent.rent({"aws": both}, wish, [OFFER])
    assert kept.id == there.id
    assert [one.id for one in world.alive()] == [there.id]
    assert len(world.rentals) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (refuses("RunInstances", "InsufficientInstanceCapacity", 500), NoCapacity),
        (refuses("RunInstances", "Server.InsufficientInstanceCapacity", 503), NoCapacity),
        (refuses("RunInstances", "Unsupported"), NoCapacity),
        (refuses("RunInstances", "SpotMaxPriceTooLow"), NoCapacity),
        (refuses("RunInstances", "VcpuLimitExceeded"), QuotaError),
        (refuses("RunInstances", "MaxSpotInstanceCountExceeded"), QuotaError),
        (refuses("RunInstances", "UnauthorizedOperation", 403), AuthError),
        (refuses("RunInstances", "InternalError", 500), Ambiguous),
        (refuses("RunInstances", "Unavailable", 503), Ambiguous),
        (Fault(path="/RunInstances$", drop="before"), Ambiguous),
        (Fault(path="/RunInstances$", status=200, body="no XML"), Ambiguous),
        (refuses("RunInstances", "InvalidParameterValue"), InvalidRequest),
        (refuses("RunInstances", "RequestLimitExceeded", 503, None), RateLimited),
        (refuses("DescribeImages", "InternalError", 500, None), ProviderUnavailable),
        (refuses("GetCallerIdentity", "InvalidClientTokenId", 403), AuthError),
    ],
    ids=str,
)
def test_what_a_refusal_means(
    provider: aws.AwsProvider, world: World, fault: Fault, error: type[ProviderError]
) -> None:
    world.faults = [fault]
    with pytest.raises(error) as caught:
        rent(provider)
    assert caught.value.provider == "aws"
    assert caught.value.fix
    assert world.alive() == []


def test_a_quota_holds_for_its_region(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [refuses("RunInstances", "VcpuLimitExceeded")]
    with pytest.raises(QuotaError) as caught:
        rent(provider)
    assert caught.value.scope == "region"


def test_after_throttling_an_order_is_sent_again(provider: aws.AwsProvider, world: World, clock: FakeClock) -> None:
    world.faults = [refuses("RunInstances", "RequestLimitExceeded", 503, 2)]
    assert rent(provider).id in world.rentals
    assert actions(world).count("RunInstances") == 3
    assert len(clock.slept) >= 2


def test_a_question_is_repeated_and_an_order_is_not(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [refuses("DescribeImages", "InternalError", 500, 2), refuses("RunInstances", "InternalError", 500)]
    with pytest.raises(Ambiguous):
        rent(provider)
    assert actions(world).count("DescribeImages") == 3
    assert actions(world).count("RunInstances") == 1


def test_the_subnets_are_tried_in_their_order(settings: dict[str, Any], world: World, ec2: Any) -> None:
    subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]][:2]
    world.faults = [refuses("RunInstances", "InsufficientInstanceCapacity", 500)]
    made = rent(aws.make({**settings, "subnet_ids": subnets}))
    assert described(ec2, made.id)["SubnetId"] == subnets[1]
    world.faults = [refuses("RunInstances", "InsufficientInstanceCapacity", 500, 2)]
    with pytest.raises(NoCapacity):
        rent(aws.make({**settings, "subnet_ids": subnets}), marker=replace(MARKER, name="other"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ssh_public_key": None}, "ssh-ed25519 and ssh-rsa"),
        ({"ssh_public_key": "ecdsa-sha2-nistp256 AAAA"}, "ssh-ed25519 and ssh-rsa"),
        ({"offer": replace(OFFER, id="us-east-1")}, "no offer"),
        ({"args": ("a",)}, "args"),
        ({"env": {"A": "1"}}, "env"),
        ({"image": "ubuntu"}, "no image of EC2"),
        ({"disk_gib": 14}, "which has 15 GiB"),
        ({"image": "ami-00000000"}, "ami-00000000"),
        ({"offer": replace(OFFER, id="us-west-2/g6.xlarge")}, "not among those that are looked into"),
    ],
)
def test_what_can_not_be_rented_is_refused_before_it_costs(
    provider: aws.AwsProvider, world: World, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        rent(provider, **changes)
    assert caught.value.fix
    assert "RunInstances" not in actions(world)


def test_an_image_of_ones_own(provider: aws.AwsProvider, ec2: Any) -> None:
    assert described(ec2, rent(provider, image="ami-1e749f67").id)["ImageId"] == "ami-1e749f67"
    named = rent(provider, image=aws_wire.UBUNTU_IMAGE, marker=replace(MARKER, name="other"))
    assert described(ec2, named.id)["ImageId"] == "ami-785db401"


def test_root_is_refused(provider: aws.AwsProvider, world: World) -> None:
    arn = "arn:aws:iam::123456789012:root"
    body = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        f"<Arn>{arn}</Arn><Account>123456789012</Account><UserId>123456789012</UserId></GetCallerIdentityResult>"
        "<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    world.faults = [Fault(path="/GetCallerIdentity$", status=200, body=body, times=None)]
    for work in (provider.list, lambda: rent(provider), lambda: provider.offers({"gpu": "L4"})):
        with pytest.raises(AuthError, match="root user") as caught:
            work()
        assert "docs/providers/aws.md" in caught.value.fix
    assert set(actions(world)) == {"GetCallerIdentity"}


def test_without_credentials_nothing_is_asked(
    settings: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AuthError, match="no credentials") as caught:
        aws.make(settings).list()
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix
    assert world.calls == []


def test_a_profile_that_does_not_exist(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    with pytest.raises(AuthError):
        aws.make(settings).list()


def test_no_credential_is_on_the_machine(provider: aws.AwsProvider, ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-5c1f")
    made = rent(provider)
    assert "planted" not in str(cloud_config(ec2, made.id)) + str(described(ec2, made.id))
    assert "IamInstanceProfile" not in described(ec2, made.id)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].startswith("planted")


def test_it_counts_as_old_as_it_was_rented(provider: aws.AwsProvider, ec2: Any, world: World) -> None:
    """EC2's LaunchTime is that of the last start: else a restarted machine would look younger than its surplus."""
    made = rent(provider)
    row = described(ec2, made.id)
    assert aws_wire.created_at(row) == made.created_at
    started_again = {**row, "LaunchTime": row["LaunchTime"] + datetime.timedelta(days=3)}
    assert aws_wire.created_at(started_again) == pytest.approx(made.created_at, abs=5)  # in whole seconds
    for thing in ("NetworkInterfaces", "BlockDeviceMappings"):
        assert aws_wire.created_at({**started_again, thing: []}) == pytest.approx(made.created_at, abs=5)
    assert aws_wire.created_at({"InstanceId": made.id}) is None


def test_an_order_that_was_never_sent_is_not_sent_again(provider: aws.AwsProvider, clock: FakeClock) -> None:
    """The same rule as for every other provider; a question is worth more than one attempt."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    api = aws_api.Api("aws", {"api_url": url, "regions": ["us-east-1"]})
    api._known_caller = True
    with pytest.raises(ProviderUnavailable, match="EndpointConnectionError"):
        api.call("ec2", "us-east-1", "terminate_instances", InstanceIds=["i-0123456789abcdef0"])
    assert clock.slept == []
    with pytest.raises(ProviderUnavailable):
        api.call("ec2", "us-east-1", "describe_instances")
    assert len(clock.slept) == 4
