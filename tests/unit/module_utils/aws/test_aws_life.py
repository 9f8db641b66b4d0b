# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a machine at EC2: listed, stopped, started, given more time, and ended with proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _cached, _clock, _lifetime, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils import _provider as providers
from ansible_collections.gpuops.fleet.plugins.module_utils._lifetime import Enforcer
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    InvalidRequest,
    NoCapacity,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_api, aws_wire
from emulators.world import Fault, World
from support.aws_calls import MARKER, actions, described, refuses, rent, tags
from support.fake_clock import FakeClock
from support.moto_cloud import MotoWorld


def foreign(ec2: Any, marker: str) -> str:
    specification = [{"ResourceType": "instance", "Tags": [{"Key": aws_wire.MARKER_TAG, "Value": marker}]}]
    made = ec2.run_instances(ImageId="ami-785db401", MinCount=1, MaxCount=1, TagSpecifications=specification)
    return str(made["Instances"][0]["InstanceId"])


def machine(world: World, instance_id: str) -> Any:
    return world.rentals[instance_id].wire["machine"]


def in_state(world: World, instance_id: str, name: str, code: int = 0) -> None:
    machine(world, instance_id)._state.name = name
    machine(world, instance_id)._state.code = code


def test_only_what_carries_our_marker_is_listed(provider: aws.AwsProvider, ec2: Any) -> None:
    ours = rent(provider)
    theirs = [foreign(ec2, text) for text in ("jupyter", f"{_marker.encode(MARKER)} copy", "gf--x")]
    assert [one.id for one in provider.list()] == [ours.id]
    for one in theirs:
        for touch in (provider.get, provider.stop, provider.start, provider.delete, lambda id: provider.renew(id, 9)):
            with pytest.raises(InvalidRequest, match="no marker"):
                touch(one)
        assert described(ec2, one)["State"]["Name"] == "running"


def test_all_pages_of_all_regions_are_listed(settings: dict[str, Any], world: World) -> None:
    both = aws.make({**settings, "regions": ["us-east-1", "us-west-2"]})
    ours = [rent(both, marker=replace(MARKER, name=f"a-{number}")) for number in range(3)]
    api, ask = both._api, both._api.call

    def in_pages(service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "describe_instances" and "Filters" in parameters:
            parameters["MaxResults"] = 5  # the least that EC2 takes
        return ask(service, region, operation, **parameters)

    api.call = in_pages  # type: ignore[method-assign]
    more = [rent(both, marker=replace(MARKER, name=f"b-{number}")) for number in range(4)]
    assert {one.id for one in both.list()} == {one.id for one in [*ours, *more]}
    assert actions(world).count("DescribeInstances") > 2


def test_one_region_that_fails_fails_the_list(settings: dict[str, Any], world: World) -> None:
    both = aws.make({**settings, "regions": ["us-east-1", "us-west-2"]})
    world.faults = [refuses("DescribeInstances", "InternalError", 500, 9)]  # so that one of them gets five
    with pytest.raises(ProviderUnavailable):
        both.list()


def test_without_regions_all_of_the_account_are_looked_into(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = aws.make({**settings, "regions": None})
    asked: list[str] = []

    def pages(region: str, *_rest: Any, **_more: Any) -> list[Any]:
        asked.append(region)
        return []

    monkeypatch.setattr(everywhere._api, "pages", pages)
    everywhere.list()
    assert len(asked) > 15
    assert {"us-east-1", "eu-west-1", "ap-southeast-2"} <= set(asked)


def test_a_machine_is_found_in_whatever_region_it_is(settings: dict[str, Any], world: World) -> None:
    regions = ["us-west-2", "us-east-1"]
    made = rent(aws.make({**settings, "regions": regions}))
    another = aws.make({**settings, "regions": regions})  # that has listed nothing yet
    found = another.get(made.id)
    assert found is not None
    assert found.region == "us-east-1"
    assert another.get("i-0123456789abcdef0") is None
    with pytest.raises(InvalidRequest, match="no id of EC2"):
        another.get("42")


def test_stop_and_start(provider: aws.AwsProvider, world: World) -> None:
    made = rent(provider)
    stopped = provider.stop(made.id)
    assert (stopped.status, stopped.price_per_hour_usd, stopped.ssh_endpoints) == (Status.STOPPED, None, ())
    assert provider.stop(made.id).status is Status.STOPPED
    assert actions(world).count("StopInstances") == 1
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    assert actions(world).count("StartInstances") == 1
    with pytest.raises(InvalidRequest, match="no instance"):
        provider.stop("i-0123456789abcdef0")


def test_what_is_on_its_way_to_a_stop_is_waited_for(provider: aws.AwsProvider, world: World, clock: FakeClock) -> None:
    made = rent(provider)
    provider.get(made.id)
    in_state(world, made.id, "stopping", 64)
    clock.on_sleep = lambda: in_state(world, made.id, "stopped", 80)
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    assert clock.slept


def test_a_start_may_find_no_capacity(provider: aws.AwsProvider, world: World) -> None:
    made = rent(provider)
    provider.stop(made.id)
    world.faults = [refuses("StartInstances", "InsufficientInstanceCapacity", 500)]
    with pytest.raises(NoCapacity):
        provider.start(made.id)


def test_what_would_end_itself_is_not_started(provider: aws.AwsProvider, world: World, clock: FakeClock) -> None:
    """Its timer looks two minutes after a boot: what is started again is gone then, and its disk with it."""
    made = rent(provider)
    provider.stop(made.id)
    clock.time = MARKER.expiry_epoch_hours * 3600.0
    with pytest.raises(InvalidRequest, match="is over") as caught:
        provider.start(made.id)
    assert "fleet_extend" in caught.value.fix
    assert "StartInstances" not in actions(world)
    provider.renew(made.id, MARKER.expiry_epoch_hours + 8)
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)


def test_more_time(provider: aws.AwsProvider, ec2: Any) -> None:
    made = rent(provider)
    later = MARKER.expiry_epoch_hours + 8
    renewed = provider.renew(made.id, later)
    assert renewed.marker == replace(made.marker, expiry_epoch_hours=later)
    assert provider.list() == [renewed]
    assert tags(described(ec2, made.id))[aws_wire.MARKER_TAG] == _marker.encode(renewed.marker)


def test_the_machine_ends_itself() -> None:
    assert _lifetime.ends("aws", 500_000, False).enforcer is Enforcer.MACHINE
    assert _lifetime.ends("aws", 0, False).enforcer is Enforcer.NOBODY


def test_the_end_is_proven(provider: aws.AwsProvider, world: World, ec2: Any) -> None:
    made = rent(provider)
    assert provider.delete(made.id) is True
    assert described(ec2, made.id)["State"]["Name"] == "terminated"
    assert provider.get(made.id) is None
    assert provider.list() == []
    assert provider.delete(made.id) is False
    assert provider.delete("i-0123456789abcdef0") is False


def test_shutting_down_is_not_gone(
    provider: aws.AwsProvider, world: World, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large size may take minutes; it is listed as ending for so long."""
    made = rent(provider)
    began = clock.time

    def later() -> None:
        if clock.time - began > 300:
            in_state(world, made.id, "terminated", 48)

    def order(self: Any, instance_ids: list[str]) -> list[Any]:
        in_state(world, made.id, "shutting-down", 32)
        return []

    monkeypatch.setattr("moto.ec2.models.instances.InstanceBackend.terminate_instances", order)
    clock.on_sleep = later
    assert provider.delete(made.id) is True
    assert clock.time - began > 300
    in_state(world, made.id, "shutting-down", 32)
    (listed,) = provider.list()
    assert (listed.status, listed.price_per_hour_usd) == (Status.TERMINATING, None)


def test_an_end_that_does_nothing_is_loud(
    provider: aws.AwsProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rent(provider)
    monkeypatch.setattr(aws, "END_DEADLINE_SECONDS", 60.0)
    monkeypatch.setattr("moto.ec2.models.instances.InstanceBackend.terminate_instances", lambda self, ids: [])
    with pytest.raises(ProviderUnavailable, match=r"still has instance i-.* 0\.805 USD per hour") as caught:
        provider.delete(made.id)
    assert "console.aws.amazon.com" in caught.value.fix
    assert actions(world).count("TerminateInstances") > 2


def test_a_machine_that_is_protected_is_told_of(provider: aws.AwsProvider, world: World) -> None:
    made = rent(provider)
    machine(world, made.id).disable_api_termination = True
    with pytest.raises(InvalidRequest, match="goes on costing"):
        provider.delete(made.id)


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_to_an_end(provider: aws.AwsProvider, world: World, drop: Any) -> None:
    made = rent(provider)
    world.faults = [Fault(path="/TerminateInstances$", drop=drop)]
    assert provider.delete(made.id) is True
    assert world.alive() == []


def test_an_interruption_of_a_spot_machine_is_seen_as_such(provider: aws.AwsProvider, world: World) -> None:
    made = rent(provider)
    machine(world, made.id).lifecycle = "spot"
    machine(world, made.id).state_reason.code = "Server.SpotInstanceTermination"
    in_state(world, made.id, "shutting-down", 32)
    (listed,) = provider.list()
    assert listed.detail == "shutting-down, spot (Server.SpotInstanceTermination)"


def test_who_looks_can_do_without_an_answer(provider: aws.AwsProvider, world: World, clock: FakeClock) -> None:
    world.faults = [refuses("DescribeInstances", "InternalError", 500, None)]
    with _clock.limit(60), pytest.raises(ProviderUnavailable):
        provider.list()
    assert actions(world).count("DescribeInstances") == 3
    with _clock.limit(0), pytest.raises((ProviderUnavailable, RateLimited)):
        provider.list()
    assert actions(world).count("DescribeInstances") == 3


def test_ten_who_wait_ask_once(settings: dict[str, Any], world: MotoWorld) -> None:
    made = rent(aws.make(settings))
    watched = [_cached.watched(providers.load("aws", settings), settings) for _number in range(10)]
    world.calls.clear()
    assert all(_cached.look(one, made.id) for one in watched)
    assert actions(world).count("DescribeInstances") == 1


def test_the_account_is_told_apart_by_its_key_and_its_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    def label(**settings: Any) -> str:
        return _accounts.get("aws", settings).label

    first = label()
    assert label(regions=["us-east-1"]) != first
    assert label(regions=["b", "a"]) == label(regions=["a", "b"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert label() != first
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert _accounts.get("aws", {}).key is None
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert _accounts.get("aws", {}).key == "work"


def test_the_sdk_is_imported_only_for_a_call(settings: dict[str, Any]) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from ansible_collections.gpuops.fleet.plugins.module_utils import _provider; "
        "_provider.load('aws', {}); assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_sdk_is_told_of(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InvalidRequest, match="boto3"):
        aws_api.Api("aws", settings).call("ec2", "us-east-1", "describe_regions")
