# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be rented at Vast.ai, and with which key."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Offer,
    Runtime,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._offers import survey
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai, vastai_wire
from emulators.vastai_market import FIRST_OFFER, HOSTS, offer_row
from emulators.world import Fault, World
from support.fake_clock import FakeClock
from support.vastai_calls import (
    PAGES,
    PLANTED,
    one_offer,
    query,
)

# Offers


@pytest.mark.parametrize(
    ("gpu", "count", "machines"),
    [
        ("A100_80GB", 1, {101}),  # the 40 GB one has the same name, and 104 is rented by somebody else
        ("A100_40GB", 1, {102}),
        ("A100_80GB", 2, {103}),
        ("RTX_4090", 2, {106}),
        ("RTX_3090", 1, {109}),  # 108 is not verified
        ("H100_80GB", 1, {110}),
        ("L40S", 1, {111}),
        ("H200", 1, set()),
        (None, 2, {103, 106}),
    ],
)
def test_offers_fit_the_query(provider: vastai.VastaiProvider, gpu: str | None, count: int, machines: set[int]) -> None:
    found = provider.offers(query(gpu=gpu, gpu_count=count))
    assert {offer.id for offer in found} == {str(FIRST_OFFER + machine) for machine in machines}
    assert all((offer.gpu_count, offer.provider) == (count, "vastai") for offer in found)
    assert gpu is None or {offer.gpu for offer in found} <= {gpu}


def test_what_an_offer_says(provider: vastai.VastaiProvider) -> None:
    (offer,) = provider.offers(query(gpu="A100_80GB", disk_gib=100))
    assert offer == Offer(
        provider="vastai",
        id="31000101",
        gpu="A100_80GB",
        gpu_count=1,
        memory_mib=128750,  # a quarter of the host's, like the CPUs
        cpu_count=16,
        disk_gib=800,
        region="CA",
        price_per_hour_usd=round(1.20 + 0.15 * 100 / 730, 6),
        machine_id="101",
    )


def test_what_nobody_knows_is_none(provider: vastai.VastaiProvider) -> None:
    (offer,) = provider.offers(query(gpu="RTX_3090"))
    assert (offer.memory_mib, offer.region, offer.cpu_count) == (None, None, 16)


def test_the_disk_is_part_of_the_price(provider: vastai.VastaiProvider) -> None:
    small, large = (one_offer(provider, disk_gib=size).price_per_hour_usd for size in (10, 500))
    assert small is not None
    assert large is not None
    assert large - small == pytest.approx(0.15 * 490 / 730, abs=1e-5)


def test_a_bid_costs_its_minimum_and_the_disk(provider: vastai.VastaiProvider) -> None:
    offer = one_offer(provider, interruptible=True)
    assert offer.interruptible
    assert offer.price_per_hour_usd == pytest.approx(0.20 + 0.15 * 50 / 730, abs=1e-5)


@pytest.mark.parametrize(("interruptible", "field"), [(False, "dph_total"), (True, "min_bid")])
@pytest.mark.parametrize("price", [0, 0.0, None, "free"])
def test_nothing_is_free(
    provider: vastai.VastaiProvider, world: World, interruptible: bool, field: str, price: Any
) -> None:
    """A price that nobody knows passes no maximum, and what has one comes before."""
    hosts = [host for host in HOSTS if host.machine_id in (112, 111)]
    rows = [offer_row(host, 50, interruptible) for host in hosts]
    rows[0][field] = price
    world.faults = [Fault(path="/bundles/", status=200, body={"offers": rows}, times=None)]
    wish = query(interruptible=interruptible)
    limited = survey({"vastai": provider}, wish, max_price_per_hour_usd=9.0)
    assert [one.id for one in limited.offers] == [str(rows[1]["id"])]
    assert "is not known" in limited.refused[0]["reason"]
    ranked = survey({"vastai": provider}, wish)
    assert [one.id for one in ranked.offers] == [str(rows[1]["id"]), str(rows[0]["id"])]


def test_regions_are_country_codes(provider: vastai.VastaiProvider) -> None:
    assert [offer.region for offer in provider.offers(query(regions=["is", "SE"]))] == ["IS"]


def test_machines_are_only_where_machines_can_run(provider: vastai.VastaiProvider) -> None:
    assert provider.offers(query(gpu="RTX_4090")) == []
    (container,) = provider.offers(query(gpu="RTX_4090", runtime="container"))
    assert (container.id, container.runtime) == ("31000105", Runtime.CONTAINER)


@pytest.mark.parametrize(
    ("cuda", "machines"), [("13.0", [115]), ("12.9", [115]), ("12.8", [114, 115]), (None, [114, 115])]
)
def test_a_host_knows_the_cuda_of_the_image(
    provider: vastai.VastaiProvider, cuda: str | None, machines: list[int]
) -> None:
    """The cheaper L4 has a driver for CUDA 12.8. What nobody knows filters nothing."""
    wanted = {"minimum_cuda_version": cuda} if cuda else {}
    found = provider.offers(query(gpu="L4", runtime="container", **wanted))
    assert [offer.id for offer in found] == [str(FIRST_OFFER + machine) for machine in machines]


def test_there_are_no_instance_types(provider: vastai.VastaiProvider, world: World) -> None:
    assert provider.offers(query(instance_type="large")) == []
    assert world.calls == []


@pytest.mark.parametrize(
    ("gpu", "spelling"),
    [
        ("A100_80GB", "A100 SXM4"),
        ("H100_80GB", "H100 PCIE"),
        ("RTX_4090", "RTX 4090"),
        ("RTX_6000_ADA", "RTX 6000Ada"),
        ("V100_16GB", "Tesla V100"),
        ("T4", "Tesla T4"),
        ("RTX_A6000", "RTX A6000"),
        ("H200", "H200 NVL"),
    ],
)
def test_cards_are_asked_for_as_vastai_spells_them(gpu: str, spelling: str) -> None:
    assert spelling in vastai_wire.spellings(gpu)


def test_every_card_can_be_asked_for() -> None:
    assert all(vastai_wire.spellings(gpu) for gpu in _gpus.names())


def test_a_lost_search_is_no_mystery(provider: vastai.VastaiProvider, world: World) -> None:
    world.faults = [Fault(path="/bundles/", status=502)]
    with pytest.raises(ProviderUnavailable):
        provider.offers(query())


def test_the_daily_quota_is_not_slept_through(provider: vastai.VastaiProvider, world: World, clock: FakeClock) -> None:
    body = {"success": False, "error": "search_quota_exceeded"}
    world.faults = [Fault(path="/bundles/", status=429, body=body, headers={"Retry-After": "7200"})]
    with pytest.raises(RateLimited) as caught:
        provider.offers(query())
    assert caught.value.retry_after_seconds == 7200
    assert len(world.calls) == 1
    assert sum(clock.slept) == 0


# Credentials


def test_a_missing_key_is_told_at_the_first_call(url: str) -> None:
    provider = vastai.make({"api_url": url})
    for call in (lambda: provider.offers(query()), provider.list, lambda: provider.delete("1")):
        with pytest.raises(AuthError, match="no API key") as caught:
            call()
        assert "VAST_API_KEY" in caught.value.fix


def test_credentials_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", PLANTED)
    monkeypatch.setenv("VAST_URL", url)
    assert vastai.make({}).list() == []


@pytest.mark.parametrize(("path", "status"), [(PAGES, 401), (PAGES, 403), ("/bundles/", 404), ("/bundles/", 401)])
def test_a_wrong_key(provider: vastai.VastaiProvider, world: World, path: str, status: int) -> None:
    body = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
    world.faults = [Fault(path=path, status=status, body=body, times=None)]
    call = provider.list if path == PAGES else lambda: provider.offers(query())
    with pytest.raises(AuthError, match="Invalid user key") as caught:
        call()
    assert caught.value.fix
    assert PLANTED not in str(caught.value.as_failure())


def test_the_emulator_wants_a_key(url: str) -> None:
    assert requests.get(f"{url}/api/v1/instances/", timeout=5).status_code == 401
