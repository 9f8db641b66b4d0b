# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What EC2 offers, and at what price."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus, _offers, _prices, _prices_aws
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import AuthError, InvalidRequest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_wire
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_sizes import SIZES
from emulators.world import Fault, World
from support.aws_calls import actions, refuses


def kinds(provider: aws.AwsProvider, **query: Any) -> dict[str, float | None]:
    return {str(one.instance_type): one.price_per_hour_usd for one in provider.offers(query)}


def test_sizes_that_have_the_gpu_and_its_number(provider: aws.AwsProvider) -> None:
    one = kinds(provider, gpu="L4", gpu_count=1)
    assert one["g6.xlarge"] == 0.8048
    assert "g6.12xlarge" not in one
    assert kinds(provider, gpu="L4", gpu_count=4) == {"g6.12xlarge": 4.6016, "g6.24xlarge": 6.6752}
    assert set(kinds(provider, gpu="A100_80GB", gpu_count=8)) == {"p4de.24xlarge"}
    assert kinds(provider, gpu="A100_80GB", gpu_count=1) == {}
    assert kinds(provider, gpu="RTX_4090") == {}


def test_the_offer_says_what_it_is(provider: aws.AwsProvider) -> None:
    (offer,) = provider.offers({"instance_type": "g5.xlarge"})
    assert (offer.id, offer.gpu, offer.gpu_count, offer.region) == ("us-east-1/g5.xlarge", "A10G", 1, "us-east-1")
    assert (offer.cpu_count, offer.memory_mib, offer.interruptible) == (4, 16384, False)


def test_without_a_wish_a_plain_machine(provider: aws.AwsProvider) -> None:
    assert min(kinds(provider).items(), key=lambda one: one[1] or 0) == ("m7i.large", 0.1008)
    assert all(name.startswith("m7i.") for name in kinds(provider))


def test_a_size_that_is_in_no_table_of_ours(provider: aws.AwsProvider, world: World) -> None:
    """EC2 describes it; its price is unknown, and no arm machine gets an image for x86."""
    assert kinds(provider, instance_type="c5.large") == {"c5.large": None}
    assert kinds(provider, instance_type="p3dn.24xlarge") == {"p3dn.24xlarge": None}
    (offer,) = provider.offers({"instance_type": "p3dn.24xlarge", "gpu": "V100_32GB", "gpu_count": 8})
    assert (offer.gpu, offer.gpu_count) == ("V100_32GB", 8)
    assert kinds(provider, instance_type="g5g.xlarge") == {}
    assert kinds(provider, instance_type="x9.enormous") == {}
    assert actions(world).count("DescribeInstanceTypes") == 5


def test_containers_are_not_rented_here(provider: aws.AwsProvider, world: World) -> None:
    assert provider.offers({"runtime": "container", "gpu": "L4"}) == []
    assert world.calls == []


def test_what_a_region_does_not_have_is_not_offered(provider: aws.AwsProvider, world: World) -> None:
    body = (
        '<DescribeInstanceTypeOfferingsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        "<instanceTypeOfferingSet><item><instanceType>g6.2xlarge</instanceType></item></instanceTypeOfferingSet>"
        "</DescribeInstanceTypeOfferingsResponse>"
    )
    world.faults = [Fault(path="/DescribeInstanceTypeOfferings$", status=200, body=body)]
    assert kinds(provider, gpu="L4") == {"g6.2xlarge": 0.9776}


def test_a_region_without_a_price_is_refused_under_a_maximum(settings: dict[str, Any]) -> None:
    both = aws.make({**settings, "regions": ["us-east-1", "us-west-2"]})
    query = {"gpu": "L4", "gpu_count": 1, "regions": ["us-west-2", "us-east-1"]}
    prices = {one.id: one.price_per_hour_usd for one in both.offers(query)}
    assert prices["us-east-1/g6.xlarge"] == 0.8048
    assert prices["us-west-2/g6.xlarge"] is None
    market = _offers.survey({"aws": both}, query, max_price_per_hour_usd=1.0)
    assert [one.id for one in market.offers] == ["us-east-1/g6.xlarge", "us-east-1/g6.2xlarge"]
    assert {"provider": "aws", "id": "us-west-2/g6.xlarge"}.items() <= next(
        one for one in market.refused if one["id"] == "us-west-2/g6.xlarge"
    ).items()
    said = _offers.survey({"aws": both}, query, max_price_per_hour_usd=1.0, price_per_hour_usd=0.9)
    assert "us-west-2/g6.xlarge" in [one.id for one in said.offers]


SPOT_PRICES = (
    '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><spotPriceHistorySet>'
    "<item><instanceType>g6.xlarge</instanceType><spotPrice>0.31</spotPrice></item>"
    "<item><instanceType>g6.xlarge</instanceType><spotPrice>0.35</spotPrice></item>"
    "</spotPriceHistorySet></DescribeSpotPriceHistoryResponse>"
)


def test_spot_costs_at_most_the_dearest_zone(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [Fault(path="/DescribeSpotPriceHistory$", status=200, body=SPOT_PRICES)]
    offers = {one.instance_type: one for one in provider.offers({"gpu": "L4", "interruptible": True})}
    assert offers["g6.xlarge"].price_per_hour_usd == 0.35
    assert offers["g6.xlarge"].id == "us-east-1/g6.xlarge/spot"
    assert offers["g6.2xlarge"].price_per_hour_usd is None  # nobody told: not that of a machine that stays
    assert all(one.interruptible for one in offers.values())


def test_the_region_of_the_settings_comes_before_the_environment(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def region(**changes: Any) -> str | None:
        return aws.make({**settings, **changes}).offers({"instance_type": "m7i.large"})[0].region

    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert region() == "us-east-1"
    assert region(regions=["us-west-2", "us-east-1"]) == "us-west-2"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_REGION")
    assert region(regions=None) == "us-east-1"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(InvalidRequest, match="which region") as caught:
        region(regions=None)
    assert "AWS_REGION" in caught.value.fix


def test_a_region_that_nobody_looks_into_is_refused(provider: aws.AwsProvider) -> None:
    with pytest.raises(InvalidRequest, match="eu-west-1 is not among those"):
        provider.offers({"gpu": "L4", "regions": ["eu-west-1"]})


def test_a_policy_that_lacks_something(provider: aws.AwsProvider, world: World) -> None:
    world.faults = [refuses("DescribeInstanceTypeOfferings", "UnauthorizedOperation", 403)]
    with pytest.raises(AuthError, match="describe_instance_type_offerings") as caught:
        provider.offers({"gpu": "L4"})
    assert (caught.value.status, caught.value.request_id) == (403, "r-1")


def test_every_size_has_a_gpu_that_our_table_knows() -> None:
    for size in SIZES.values():
        assert (size.gpu is not None) == bool(size.gpu_model), size.name
        if size.gpu:
            nominal = _gpus.resolve(size.gpu).memory_mib
            assert abs(nominal - size.gpu_memory_mib) <= 0.07 * nominal
            assert size.gpu_count >= 1


def test_every_row_of_prices_has_a_date_and_a_source() -> None:
    assert {row.item for row in _prices_aws.TABLE.rows} == set(SIZES)
    for row in _prices_aws.TABLE.rows:
        assert datetime.date.fromisoformat(row.as_of) > datetime.date(2026, 1, 1)
        # A commit: what stands there can't change.
        assert re.fullmatch(r"https://github\.com/[^ ]+/blob/[0-9a-f]{40}/[^ ]+", row.source)
        assert row.price_per_hour_usd is None or row.price_per_hour_usd > 0
    assert _prices_aws.TABLE.price_per_hour_usd("p5e.48xlarge", "us-east-1") is None
    assert _prices_aws.TABLE.price_per_hour_usd("g6.xlarge", "eu-west-1") is None
    assert _prices_aws.TABLE.price_per_hour_usd("g6.xlarge", "us-east-1", interruptible=True) is None


def test_a_table_says_one_price() -> None:
    row = _prices.Row("a", "here", 1.0, "2026-07-20", "x")
    assert _prices.Table([row, replace(row, interruptible=True), replace(row, region="there")]).row("a", "here") == row
    with pytest.raises(ValueError, match="twice"):
        _prices.Table([row, replace(row, price_per_hour_usd=2.0)])


@pytest.mark.parametrize(
    ("described", "sizes"),
    [
        ({"ProcessorInfo": {"SupportedArchitectures": ["arm64"]}}, []),
        ({}, []),
        ({"ProcessorInfo": {"SupportedArchitectures": ["x86_64"]}, "GpuInfo": {"Gpus": [{}, {}]}}, []),
    ],
)
def test_what_no_size_is_made_of(described: dict[str, Any], sizes: list[Any]) -> None:
    assert aws_wire.size_from(described) == sizes
