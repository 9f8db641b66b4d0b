# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine at EC2 says of its order: a changed wish is seen by every controller, and nothing else is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _plan, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_wire
from emulators.world import World
from support import moto_ec2
from support.aws_calls import KEY, MARKER, OFFER, refuses, rent
from support.fake_clock import FakeClock

WISH = Wish("acme-llm", "vllm-1", providers=("aws",), gpu="L4", gpu_count=1, ssh_public_key=KEY)


def drift(provider: aws.AwsProvider, wish: Wish, made: Instance) -> list[str]:
    """As a controller sees it that knows nothing but the list."""
    (listed,) = [one for one in provider.list() if one.id == made.id]
    return [one.field for one in _plan.find_differences(listed, wish)]


def test_the_same_wish_is_no_drift_and_another_one_is(provider: aws.AwsProvider) -> None:
    made = rent(provider, disk_gib=50, ports=((8000, "tcp"), (9000, "http")))
    wish = replace(WISH, ports=((9000, "http"), (8000, "tcp")), max_price_per_hour_usd=0.81)
    assert drift(provider, wish, made) == []
    assert drift(provider, replace(wish, disk_gib=60), made) == ["disk_gib"]
    assert drift(provider, replace(wish, ports=((8000, "tcp"),)), made) == ["ports"]
    assert drift(provider, replace(wish, ports=()), made) == []  # nobody says any
    assert drift(provider, replace(wish, interruptible=True), made) == ["interruptible"]
    assert drift(provider, replace(wish, max_price_per_hour_usd=0.5), made) == ["price_per_hour_usd"]
    assert drift(provider, replace(wish, image="ami-1e749f67"), made) == ["image"]
    assert drift(provider, replace(wish, image=made.image), made) == []


def test_a_newer_image_behind_the_same_name_is_no_drift(
    provider: aws.AwsProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rent(provider, image=aws_wire.UBUNTU_IMAGE)
    wish = replace(WISH, image=aws_wire.UBUNTU_IMAGE)
    monkeypatch.setitem(moto_ec2.IMAGES, aws_wire.UBUNTU_IMAGE, "ami-1e749f67")
    assert drift(provider, wish, made) == []
    assert drift(provider, replace(wish, image=aws_wire.GPU_IMAGE), made) == ["image"]


def test_the_gpus_of_a_size_that_is_in_no_table_of_ours(provider: aws.AwsProvider) -> None:
    wish = replace(WISH, instance_type="p3dn.24xlarge", gpu="V100_32GB", gpu_count=8)
    (offer,) = provider.offers({"instance_type": "p3dn.24xlarge", "gpu": "V100_32GB", "gpu_count": 8})
    made = rent(provider, offer=offer)
    assert (made.gpu, made.gpu_count) == ("V100_32GB", 8)
    assert drift(provider, wish, made) == []
    assert drift(provider, replace(wish, gpu_count=4), made) == ["gpu_count"]
    assert drift(provider, replace(wish, gpu="L4"), made) == ["gpu"]


@pytest.mark.parametrize("text", ["", "V100_32GB:8", "v1.v100_32gb:many.end", "v1.end"])
def test_gpus_that_nobody_can_read_are_none(text: str) -> None:
    tags = {aws_wire.MARKER_TAG: "gf--acme-llm--vllm-1--abc123--0000", aws_wire.GPU_TAG: text}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    row = {"InstanceId": "i-1", "InstanceType": "p3dn.24xlarge", "Tags": listed}
    told = aws_wire.instance_from(row, "us-east-1")
    assert told
    assert (told.gpu, told.gpu_count) == (None, 0)


def test_ports_of_security_groups_of_ones_own_are_not_ours_to_compare(settings: dict[str, Any], ec2: Any) -> None:
    own = ec2.create_security_group(GroupName="mine", Description="x")["GroupId"]
    provider = aws.make({**settings, "source_ranges": None, "security_group_ids": [own]})
    made = rent(provider)
    assert made.ports is None
    assert drift(provider, replace(WISH, ports=((8000, "tcp"),)), made) == []


def test_a_stopped_machine_costs_nothing_known_now_and_its_price_when_it_runs(provider: aws.AwsProvider) -> None:
    made = rent(provider)
    assert (made.price_per_hour_usd, made.running_price_per_hour_usd) == (0.8048, 0.8048)
    stopped = provider.stop(made.id)
    assert stopped.status is Status.STOPPED
    assert (stopped.price_per_hour_usd, stopped.running_price_per_hour_usd) == (None, 0.8048)
    dear = replace(WISH, max_price_per_hour_usd=0.5)
    assert drift(provider, dear, made) == ["price_per_hour_usd"]  # it would be, when it is started


def test_spot_is_seen_as_such(provider: aws.AwsProvider) -> None:
    offer = replace(OFFER, id="us-east-1/g6.xlarge/spot", interruptible=True, price_per_hour_usd=0.3)
    made = rent(provider, offer=offer)
    assert (made.interruptible, made.running_price_per_hour_usd) == (True, 0.3)
    assert drift(provider, replace(WISH, interruptible=True, max_price_per_hour_usd=0.3), made) == []
    assert drift(provider, WISH, made) == ["interruptible"]


@pytest.mark.parametrize("text", ["", "5O", "-1", "1" * 9])
def test_a_disk_that_nobody_can_read_is_unknown(text: str) -> None:
    tags = [{"Key": aws_wire.MARKER_TAG, "Value": "gf--acme-llm--vllm-1--abc123--0000"}]
    row = {"InstanceId": "i-1", "Tags": [*tags, {"Key": aws_wire.DISK_TAG, "Value": text}]}
    told = aws_wire.instance_from(row, "us-east-1")
    assert told
    assert (told.disk_gib, told.ports) == (None, None)


def test_what_was_rented_is_told_when_nobody_can_look(
    provider: aws.AwsProvider, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: FakeClock
) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
    create = provider.create

    def then_nobody_can_look(request: Any) -> Instance:
        made = create(request)
        world.faults = [refuses("DescribeInstances", "InternalError", 500, None)]
        return made

    monkeypatch.setattr(provider, "create", then_nobody_can_look)
    with pytest.raises(ProviderUnavailable) as caught:
        _rent.rent({"aws": provider}, WISH, [OFFER])
    (living,) = world.alive()
    assert [one.id for one in caught.value.rented] == [living.id]
    journal = (tmp_path / "journal.jsonl").read_text()
    assert journal.index('"claim"') < journal.index('"created"')
    assert caught.value.rented[0].marker.nonce in journal[: journal.index('"created"')]
    assert caught.value.rented[0].marker.nonce != MARKER.nonce
