# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be rented at TensorDock, at which price, and with which token."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Offer
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    ProviderError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock, tensordock_offers
from emulators.tensordock_market import PLACES, shown
from emulators.world import Fault, World
from support.fake_clock import FakeClock
from support.tensordock_calls import DELTA, IDAHO, MARLBORO, OSLO, PLANTED, UNKNOWN, query

# Offers


@pytest.mark.parametrize(
    ("gpu", "count", "places"),
    [
        ("A40", 1, {IDAHO, OSLO}),
        ("A40", 8, {IDAHO, OSLO}),
        ("A40", 9, set()),
        ("A100_80GB", 1, {OSLO}),
        ("A100_40GB", 1, set()),
        ("L40S", 1, {DELTA, MARLBORO}),  # what is not there is offered: only a create tells
        ("RTX_A6000", 1, set()),  # nobody could log in there
        ("RTX_4090", 2, {IDAHO}),
    ],
)
def test_offers_fit_the_query(provider: tensordock.TensordockProvider, gpu: str, count: int, places: set[str]) -> None:
    found = provider.offers(query(gpu=gpu, gpu_count=count))
    assert {offer.id.partition("/")[0] for offer in found} == places
    assert all((offer.gpu, offer.gpu_count, offer.provider) == (gpu, count, "tensordock") for offer in found)


def test_what_an_offer_says(provider: tensordock.TensordockProvider) -> None:
    first, other = provider.offers(query(gpu="A40", gpu_count=2, disk_gib=200))
    assert first == Offer(
        provider="tensordock",
        id=f"{IDAHO}/a40-pcie-48gb/address",
        gpu="A40",
        gpu_count=2,
        memory_mib=96 * 1024,
        cpu_count=8,
        disk_gib=2000,
        region="United States",
        price_per_hour_usd=round(2 * 0.40 + 8 * 0.003 + 96 * 0.002 + 200 * 0.00005, 6),
    )
    assert other.id == f"{OSLO}/a40-pcie-48gb/ports"


def test_a_card_that_nobody_knows_is_left_out(provider: tensordock.TensordockProvider) -> None:
    offers = provider.offers(query())
    assert "quadrop9999-pcie-1gb" in str(shown(PLACES[0]))
    assert {offer.gpu for offer in offers} <= set(_gpus.names())
    assert len(offers) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"price_per_hr": None},
        {"price_per_hr": 0},
        {"price_per_hr": -1},
        {"price_per_hr": "0.4"},
        {"pricing": None},
        {"pricing": {}},
        *(
            {"pricing": {"per_vcpu_hr": 0.003, "per_gb_ram_hr": 0.002, "per_gb_storage_hr": 0.00005, name: value}}
            for name in ("per_vcpu_hr", "per_gb_ram_hr", "per_gb_storage_hr")
            for value in (None, -0.1, "x", True)
        ),
    ],
)
def test_a_price_with_an_unknown_part_is_unknown_and_never_less(change: dict[str, Any]) -> None:
    place = shown(PLACES[0])
    (whole,) = tensordock_offers.offers_at(place, query(gpu="A40"))
    assert whole.price_per_hour_usd == pytest.approx(0.40 + 4 * 0.003 + 48 * 0.002 + 100 * 0.00005)
    place["gpus"][0].update(change)
    (offer,) = tensordock_offers.offers_at(place, query(gpu="A40"))
    assert offer.price_per_hour_usd is None


def test_the_price_is_that_of_the_least_disk_that_can_be_had(provider: tensordock.TensordockProvider) -> None:
    small, least, large = (provider.offers(query(gpu="A40", disk_gib=size))[0] for size in (50, 100, 300))
    assert small.price_per_hour_usd == least.price_per_hour_usd
    assert large.price_per_hour_usd == pytest.approx((least.price_per_hour_usd or 0) + 200 * 0.00005)


@pytest.mark.parametrize(
    ("gpu", "count", "limits", "size"),
    [
        ("RTX_4090", 1, {}, (4, 32)),
        ("A100_80GB", 1, {}, (4, 96)),
        ("A100_80GB", 8, {}, (32, 512)),  # not more than there is a step for
        ("RTX_3070", 1, {}, (4, 16)),
        ("A40", 1, {"max_ram_gb": 50, "max_vcpus": 3}, (2, 48)),
        ("A40", 1, {"max_ram_gb": 40}, (4, 32)),
        ("A40", 1, {"max_vcpus": 1}, None),
        ("A40", 1, {"max_ram_gb": 3}, None),
    ],
)
def test_cpus_are_even_and_memory_holds_a_model(
    gpu: str, count: int, limits: dict[str, Any], size: tuple[int, int] | None
) -> None:
    row = {"v0Name": _gpus.resolve(gpu).aliases[-1].casefold(), "max_count": 8, "resources": limits}
    place = {"id": IDAHO, "network_features": {"dedicated_ip_available": True}, "gpus": [row]}
    found = list(tensordock_offers.offers_at(place, query(gpu=gpu, gpu_count=count)))
    assert [(one.cpu_count, (one.memory_mib or 0) // 1024) for one in found] == ([size] if size else [])


@pytest.mark.parametrize(
    ("regions", "places"),
    [
        (["united states"], {IDAHO, MARLBORO}),
        (["Idaho", "norway"], {IDAHO, OSLO}),
        (["CHUBBUCK"], {IDAHO}),
        ([MARLBORO], {MARLBORO}),
        (["US"], set()),
    ],
)
def test_a_region_is_a_country_a_state_a_city_or_a_location(
    provider: tensordock.TensordockProvider, regions: list[str], places: set[str]
) -> None:
    found = {offer.id.partition("/")[0] for offer in provider.offers(query(regions=regions))}
    assert found - {PLACES[4].id} == places


def test_a_disk_that_is_nowhere(provider: tensordock.TensordockProvider) -> None:
    assert provider.offers(query(disk_gib=2001)) == []


@pytest.mark.parametrize("other", [{"instance_type": "large"}, {"interruptible": True}, {"runtime": "container"}])
def test_there_are_no_types_bids_or_containers(
    provider: tensordock.TensordockProvider, world: World, other: dict[str, Any]
) -> None:
    assert provider.offers(query(**other)) == []
    assert world.calls == []


@pytest.mark.parametrize("body", [None, [], {}, {"data": {}}, {"data": {"locations": [1]}}, "<html>"])
def test_no_list_of_locations_is_no_empty_market(
    provider: tensordock.TensordockProvider, world: World, body: Any
) -> None:
    world.faults = [Fault(path="/locations", status=200, body=body)]
    with pytest.raises(ProviderError, match="no list of locations"):
        provider.offers(query())


# Credentials and limits


def test_a_missing_token_is_told_at_the_first_call(url: str) -> None:
    provider = tensordock.make({"api_url": url})
    for call in (lambda: provider.offers(query()), provider.list, lambda: provider.delete(UNKNOWN)):
        with pytest.raises(AuthError, match="no API token") as caught:
            call()
        assert "TENSORDOCK_API_TOKEN" in caught.value.fix


def test_credentials_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORDOCK_API_TOKEN", PLANTED)
    monkeypatch.setenv("TENSORDOCK_API_URL", url)
    assert tensordock.make({}).list() == []


@pytest.mark.parametrize(
    ("status", "body"), [(401, {"error": "no"}), (403, "no"), (200, {"status": 401, "error": "no"})]
)
def test_a_wrong_token(provider: tensordock.TensordockProvider, world: World, status: int, body: Any) -> None:
    world.faults = [Fault(status=status, body=body, times=None)]
    for call in (provider.list, lambda: provider.offers(query())):
        with pytest.raises(AuthError, match="no") as caught:
            call()
        assert caught.value.fix
        assert PLANTED not in str(caught.value.as_failure())


def test_the_token_is_in_no_address(provider: tensordock.TensordockProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = requests.Session.request

    def noted(self: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        answer = send(self, method, url, **options)
        asked.append(str(answer.request.url))
        assert answer.request.headers["Authorization"] == f"Bearer {PLANTED}"
        return answer

    monkeypatch.setattr(requests.Session, "request", noted)
    provider.offers(query())
    provider.list()
    assert len(asked) == 2
    assert PLANTED not in "".join(asked)


def test_the_emulator_wants_a_token(url: str) -> None:
    assert requests.get(f"{url}/instances?api_key=x&api_token=x", timeout=5).status_code == 401


def test_no_more_calls_in_a_minute_than_all_may_have(
    provider: tensordock.TensordockProvider, world: World, clock: FakeClock
) -> None:
    sent = []
    for _number in range(165):
        provider.list()
        sent.append(clock.time)
    assert len(world.calls) == 165
    assert sent[19] == sent[0]  # a few at once
    assert 95 <= max(sum(begin <= time < begin + 60 for time in sent) for begin in sent) <= 100


def test_a_429_is_waited_out_then_told(provider: tensordock.TensordockProvider, world: World) -> None:
    world.faults = [Fault(status=429, body={"error": "Too many requests"}, times=2)]
    assert provider.list() == []
    world.faults = [Fault(status=429, body={"error": "Too many requests"}, times=None)]
    with pytest.raises(RateLimited):
        provider.list()
