# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The provider vastai over real HTTP, against the emulator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _gpus, _marker, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Offer,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai, vastai_wire
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer
from emulators import vastai as emulator
from emulators.server import serving
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Fault, Rental, World
from support.fake_clock import FakeClock

MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_000)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"
PLANTED = "planted-secret-5b1c"
ASKS, INSTANCE, PAGES = r"/asks/", r"/v0/instances/[0-9]+/$", r"/v1/instances/"


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[World, str]]:
    """One server for all tests here, as starting one takes longer than most of them."""
    world = World("vastai")
    with serving(emulator.make(world), world) as base:
        yield world, base + emulator.URL_PATH


@pytest.fixture
def world(stage: tuple[World, str]) -> World:
    """The server's world, as new."""
    vars(stage[0]).update(vars(World("vastai", scale=3600)))
    return stage[0]


@pytest.fixture
def url(stage: tuple[World, str], world: World) -> str:
    return stage[1]


@pytest.fixture
def provider(url: str) -> vastai.VastaiProvider:
    return vastai.make({"api_key": PLANTED, "api_url": url})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Ours stands still until somebody sleeps; the world's runs on, an hour in each second."""
    for name in ("VAST_API_KEY", "VAST_URL"):
        monkeypatch.delenv(name, raising=False)
    return FakeClock().install(monkeypatch)


def query(**wanted: Any) -> dict[str, Any]:
    return {"gpu": None, "gpu_count": 1, "regions": [], "runtime": "vm", "disk_gib": 50} | wanted


def one_offer(provider: vastai.VastaiProvider, **wanted: Any) -> Offer:
    return provider.offers(query(**{"gpu": "A40"} | wanted))[0]


def request(offer: Offer, **changes: Any) -> Request:
    return replace(Request(marker=MARKER, offer=offer, image="vllm/vllm-openai:v0.32.0"), **changes)


def rent(provider: vastai.VastaiProvider, **changes: Any) -> Instance:
    return provider.create(request(one_offer(provider), **changes))


def wait_for(provider: vastai.VastaiProvider, instance_id: str, status: Status) -> Instance:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        current = provider.get(instance_id)
        if current and current.status is status:
            return current
    raise AssertionError(f"never {status}")


def calls(world: World, method: str) -> list[str]:
    return [call["path"] for call in world.calls if call["method"] == method]


def body_of(world: World, instance_id: str) -> dict[str, Any]:
    return world.rentals[instance_id].wire


def env_of(world: World, instance_id: str) -> dict[str, str]:
    return dict(body_of(world, instance_id)["extra_env"])


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


def test_regions_are_country_codes(provider: vastai.VastaiProvider) -> None:
    assert [offer.region for offer in provider.offers(query(regions=["is", "SE"]))] == ["IS"]


def test_machines_are_only_where_machines_can_run(provider: vastai.VastaiProvider) -> None:
    assert provider.offers(query(gpu="RTX_4090")) == []
    (container,) = provider.offers(query(gpu="RTX_4090", runtime="container"))
    assert (container.id, container.runtime) == ("31000105", Runtime.CONTAINER)


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


# Renting


def test_the_marker_round_trips(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    (listed,) = provider.list()
    got = provider.get(made.id)
    assert got is not None
    assert MARKER == made.marker == listed.marker == got.marker
    assert world.rentals[made.id].owner == _marker.encode(MARKER)
    assert env_of(world, made.id)["GPUFLEET_MARKER"] == _marker.encode(MARKER)


def test_what_is_rented_is_what_is_listed(provider: vastai.VastaiProvider) -> None:
    """Else the next run would see a drift."""
    made = rent(provider, ports=((22, "tcp"), (8000, "http")), disk_gib=50)
    (listed,) = provider.list()
    same = ("provider", "id", "marker", "runtime", "gpu", "gpu_count", "region", "image", "disk_gib", "ports")
    assert {name: getattr(made, name) for name in same} == {name: getattr(listed, name) for name in same}
    assert listed.ports == ((22, "tcp"), (8000, "http"))
    assert listed.created_at


def test_a_machine_gets_its_key_twice(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider, ssh_public_key=KEY + "\n", image=None)
    wire = body_of(world, made.id)
    assert wire["_keys"] == [KEY]
    assert KEY in wire["onstart"]
    assert "touch ~/.no_auto_tmux" in wire["onstart"]
    assert wire["image_runtype"] == "ssh_direct"
    assert wire["image_uuid"] == vastai_wire.DEFAULT_VM_IMAGE
    assert (made.runtime, made.detail) == (Runtime.VM, "")


@pytest.mark.parametrize(
    "fault", [Fault(path="/ssh/$", status=500), Fault(path="/ssh/$", drop="after"), Fault(path="/ssh/$", status=400)]
)
def test_a_key_that_is_not_taken_loses_no_rental(provider: vastai.VastaiProvider, world: World, fault: Fault) -> None:
    world.faults = [fault]
    made = rent(provider, ssh_public_key=KEY)
    assert KEY in body_of(world, made.id)["onstart"]
    assert "start script" in made.detail


def test_a_container_runs_the_image_as_it_is(provider: vastai.VastaiProvider, world: World) -> None:
    offer = one_offer(provider, runtime="container")
    wanted = request(
        offer,
        entrypoint=("python3", "-m"),
        args=("vllm.entrypoints", "--port", "8000"),
        env={"HF_HOME": "/data"},
        ports=((8000, "http"),),
        ssh_public_key=KEY,
    )
    wire = body_of(world, provider.create(wanted).id)
    assert (wire["image_runtype"], wire["onstart"]) == ("args", "python3")
    assert wire["image_args"] == ["-m", "vllm.entrypoints", "--port", "8000"]
    assert wire["_keys"] == []
    env = dict(wire["extra_env"])
    assert env == {
        "HF_HOME": "/data",
        "-p 8000:8000": "1",
        "GPUFLEET_MARKER": _marker.encode(MARKER),
        "GPUFLEET_PORTS": "8000/http",
    }
    (listed,) = provider.list()
    assert (listed.runtime, listed.ports) == (Runtime.CONTAINER, ((8000, "http"),))
    running = wait_for(provider, listed.id, Status.RUNNING)
    assert running.ssh_endpoints == ()  # nobody listens to SSH there
    assert running.address == "203.0.113.20"


@pytest.mark.parametrize("interruptible", [False, True])
def test_only_a_bid_sends_a_price(interruptible: bool) -> None:
    """Its presence makes the rental interruptible."""
    body = vastai_wire.create_body(request(Offer("vastai", "1", interruptible=interruptible)), 0.2)
    assert ("price" in body) is interruptible
    assert body["cancel_unavail"] is True
    assert body["client_id"] == "me"


def test_a_bid_without_an_amount_is_not_rented_on_demand(provider: vastai.VastaiProvider, world: World) -> None:
    unknown = Offer("vastai", "1", gpu="L4", gpu_count=1, interruptible=True)
    with pytest.raises(NoCapacity, match="no lowest bid"):
        provider.create(request(unknown))
    assert calls(world, "PUT") == []


def test_a_bid_is_the_minimum_without_the_disk(provider: vastai.VastaiProvider, world: World) -> None:
    offer = one_offer(provider, interruptible=True)
    made = provider.create(request(offer))
    assert body_of(world, made.id)["is_bid"]
    assert body_of(world, made.id)["dph_total"] == pytest.approx(offer.price_per_hour_usd, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"disk_gib": 5}, "disk_gib 5 is too small"),
        ({"env": {"-v /:/host": "1"}}, "no name of a variable"),
        ({"args": ("serve",)}, "takes neither args"),
        ({"offer": Offer("vastai", "1", runtime=Runtime.CONTAINER), "image": None}, "needs an image"),
        ({"offer": Offer("vastai", "../1")}, "no offer of vastai"),
    ],
)
def test_what_would_go_wrong_is_refused_before_any_call(
    provider: vastai.VastaiProvider, world: World, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        provider.create(request(**{"offer": Offer("vastai", "1")} | changes))
    assert caught.value.fix
    assert world.calls == []


def test_an_offer_vanishes_and_comes_back(provider: vastai.VastaiProvider) -> None:
    offer = one_offer(provider)
    made = provider.create(request(offer))
    assert provider.offers(query(gpu="A40")) == []
    with pytest.raises(OfferGone) as caught:
        provider.create(request(offer))
    assert caught.value.status == 410
    assert provider.delete(made.id) is True
    assert one_offer(provider).id == offer.id


def test_an_offer_that_nobody_knows(provider: vastai.VastaiProvider) -> None:
    with pytest.raises(OfferGone) as caught:
        provider.create(request(Offer("vastai", "12")))
    assert caught.value.status == 404


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_to_a_create_is_ambiguous(provider: vastai.VastaiProvider, world: World, drop: Any) -> None:
    offer = one_offer(provider)
    world.faults = [Fault(method="PUT", path=ASKS, drop=drop)]
    with pytest.raises(Ambiguous):
        provider.create(request(offer))
    assert len(calls(world, "PUT")) == 1
    assert [one.marker for one in provider.list()] == ([MARKER] if drop == "after" else [])


def test_a_create_that_has_to_wait_is_repeated(provider: vastai.VastaiProvider, world: World) -> None:
    offer = one_offer(provider)
    text = "API requests too frequent: endpoint threshold=4.5"
    world.faults = [Fault(method="PUT", path=ASKS, status=429, body=text, times=2)]
    provider.create(request(offer))
    assert len(calls(world, "PUT")) == 3
    assert len(world.alive()) == 1


def test_a_failed_create_that_left_a_contract_is_destroyed(provider: vastai.VastaiProvider, world: World) -> None:
    """A bid that is too low leaves a stopped instance, which would cost storage for ever."""
    offer = replace(one_offer(provider, interruptible=True), price_per_hour_usd=0.01)
    fresh = vastai.make(provider._settings)  # has not seen the offers, so it bids the price
    with pytest.raises(NoCapacity, match="bid is too low"):
        fresh.create(request(offer))
    assert len(world.rentals) == 1
    assert world.alive() == []


@pytest.mark.parametrize("status", [200, 410])
def test_a_contract_that_is_left_by_a_vanished_offer(
    provider: vastai.VastaiProvider, world: World, status: int
) -> None:
    left = rent(provider, marker=replace(MARKER, name="left"))
    body = {"success": False, "error": "no_such_ask", "msg": "gone", "new_contract": int(left.id)}
    world.faults = [Fault(method="PUT", path=ASKS, status=status, body=body)]
    with pytest.raises(OfferGone):
        provider.create(request(Offer("vastai", "31000110")))
    assert world.alive() == []


def test_a_contract_that_can_not_be_destroyed_is_looked_for(provider: vastai.VastaiProvider, world: World) -> None:
    left = rent(provider)
    body = {"success": False, "error": "bid_too_low", "msg": "too low", "new_contract": int(left.id)}
    world.faults = [
        Fault(method="PUT", path=ASKS, status=200, body=body),
        Fault(method="DELETE", status=400, body={"success": False, "error": "no", "msg": "no"}, times=None),
    ]
    with pytest.raises(Ambiguous, match=left.id):
        provider.create(request(Offer("vastai", "31000110")))


@pytest.mark.parametrize("body", [{}, "<html>", {"success": True}])
def test_neither_yes_nor_no_is_ambiguous(provider: vastai.VastaiProvider, world: World, body: Any) -> None:
    world.faults = [Fault(method="PUT", path=ASKS, status=200, body=body)]
    with pytest.raises(Ambiguous):
        provider.create(request(Offer("vastai", "31000110")))


def test_no_secret_leaves(provider: vastai.VastaiProvider, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    tokens = iter([f"leaked-{index}" for index in range(20)])
    monkeypatch.setattr("secrets.token_hex", lambda size: next(tokens))
    made = rent(provider, env={"TOKEN": PLANTED}, ssh_public_key=KEY)
    wait_for(provider, made.id, Status.RUNNING)
    shown = repr([made, provider.list(), provider.get(made.id), provider, vars(provider)["_transport"]])
    assert next(tokens) != "leaked-0"  # the emulator did hand out some
    assert "leaked-" not in shown
    assert env_of(world, made.id)["TOKEN"] == PLANTED
    assert PLANTED not in shown


# What lives


def test_a_life(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    running = wait_for(provider, made.id, Status.RUNNING)
    direct, proxy = running.ssh_endpoints
    assert (direct.host, direct.kind) == ("203.0.113.20", "direct")  # the API sends it with a line end
    assert (proxy.host, proxy.kind) == ("ssh5.vast.ai", "proxy")
    assert running.price_per_hour_usd == made.price_per_hour_usd
    stopped = provider.stop(made.id)
    assert stopped.status is Status.STOPPED
    assert stopped.price_per_hour_usd is not None
    assert made.price_per_hour_usd is not None
    assert 0 < stopped.price_per_hour_usd < made.price_per_hour_usd
    assert [end.kind for end in stopped.ssh_endpoints] == ["proxy"]
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    again = wait_for(provider, made.id, Status.RUNNING)
    assert again.ssh_endpoints[0].port != direct.port
    assert provider.delete(made.id) is True
    assert provider.get(made.id) is None
    assert provider.delete(made.id) is False
    assert (world.alive(), provider.list(), provider.clean_up("acme-llm")) == ([], [], False)


def test_nothing_is_known_of_a_port_before_it_runs(provider: vastai.VastaiProvider, world: World) -> None:
    world.scale = 1.0
    made = rent(provider)
    current = provider.get(made.id)
    assert current is not None
    assert (current.status, current.detail) == (Status.PENDING, "created")
    assert [end.kind for end in current.ssh_endpoints] == ["proxy"]


BASE = {"id": 1, "label": _marker.encode(MARKER), "actual_status": "running", "intended_status": "running"}


@pytest.mark.parametrize(
    ("row", "status", "detail"),
    [
        ({"actual_status": None}, Status.PENDING, "scheduling"),
        *(
            ({"actual_status": word}, Status.PENDING, word)
            for word in ("created", "loading", "rebooting", "restarting")
        ),
        ({}, Status.RUNNING, "running"),
        *(({"actual_status": word}, Status.STOPPED, word) for word in ("stopped", "exited", "frozen")),
        *(({"actual_status": word}, Status.FAILED, word) for word in ("unknown", "offline", "a new word")),
        ({"intended_status": "stopped"}, Status.RUNNING, "running"),
        ({"intended_status": "stopped", "is_bid": True}, Status.STOPPED, "outbid"),
        ({"actual_status": "created", "intended_status": "stopped"}, Status.STOPPED, "created"),
        ({"actual_status": "exited", "cur_state": "stopped"}, Status.PENDING, "queued"),
        ({"actual_status": "exited", "cur_state": "running"}, Status.STOPPED, "exited"),
        (
            {"actual_status": "loading", "status_msg": "Error response from daemon: manifest unknown"},
            Status.FAILED,
            "manifest unknown",
        ),
    ],
)
def test_words_for_what_it_does(row: dict[str, Any], status: Status, detail: str) -> None:
    found = vastai_wire.instance_from(BASE | row)
    assert found is not None
    assert found.status is status
    assert detail in found.detail


@pytest.mark.parametrize(
    ("row", "endpoints"),
    [
        ({}, ()),
        ({"ports": None, "ssh_host": "ssh4.vast.ai", "ssh_port": 10022}, (Endpoint("ssh4.vast.ai", 10022, "proxy"),)),
        ({"ports": {"22/tcp": [{"HostPort": "40022"}]}}, (Endpoint("198.51.100.7", 40022),)),
        ({"ports": {"22/tcp": []}}, ()),
        ({"ports": {"8000/tcp": [{"HostPort": "40022"}]}}, ()),
    ],
)
def test_where_ssh_answers(row: dict[str, Any], endpoints: tuple[Endpoint, ...]) -> None:
    found = vastai_wire.instance_from(BASE | {"public_ipaddr": " 198.51.100.7\n"} | row)
    assert found is not None
    assert found.ssh_endpoints == endpoints


@pytest.mark.parametrize(
    ("row", "price"),
    [
        ({"dph_total": 1.5, "instance": {"totalHour": 0.1}}, 1.5),
        ({"dph_total": 1.5, "instance": {"totalHour": 0.1}, "actual_status": "exited"}, 0.1),
        ({"dph_total": 1.5, "actual_status": "exited"}, 1.5),
        ({}, None),
    ],
)
def test_what_it_costs_now(row: dict[str, Any], price: float | None) -> None:
    found = vastai_wire.instance_from(BASE | row)
    assert found is not None
    assert found.price_per_hour_usd == price


def test_a_start_that_must_wait_for_a_gpu(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    provider.stop(made.id)
    body = {"success": False, "error": "resources_unavailable", "msg": "Required resources are busy; queued."}
    world.faults = [Fault(method="PUT", path=INSTANCE, status=200, body=body)]
    with pytest.raises(NoCapacity, match="queued"):
        provider.start(made.id)


def test_a_start_that_was_taken_is_no_longer_stopped(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    row = BASE | {"id": int(made.id), "actual_status": "exited"}  # the list has not heard of it yet
    world.faults = [Fault(method="GET", path=INSTANCE, status=200, body={"instances": row}, times=None)]
    assert provider.start(made.id).status is Status.PENDING


def test_what_is_gone_can_not_be_started(provider: vastai.VastaiProvider) -> None:
    with pytest.raises(InvalidRequest, match="no instance 42"):
        provider.start("42")


# Lists


def add_rentals(world: World, labels: list[str | None], provider: vastai.VastaiProvider) -> None:
    """Many more than there are offers: copies of a real one, as if they had always been there."""
    first = world.rentals[rent(provider).id]
    del world.rentals[first.id]
    for label in labels:
        number = 9_100_000 + next(world.numbers)
        wire = {**first.wire, "id": number, "label": label}
        world.rent(Rental(str(number), "vastai", label or "", "created", first.created_at, 0.1, wire))


def test_a_list_has_all_pages_and_only_ours(provider: vastai.VastaiProvider, world: World) -> None:
    ours = [_marker.encode(Marker("acme-llm", f"vllm-{index}", "abc123")) for index in range(55)]
    foreign = ["", None, "vllm-1", f"{ours[0]} ", f"x{ours[0]}", ours[0].upper(), "gf--acme-llm--vllm-1"]
    add_rentals(world, [*ours, *foreign], provider)
    found = provider.list()
    assert sorted(_marker.encode(one.marker) for one in found) == sorted(ours)
    assert len({one.id for one in found}) == len(found) == 55
    assert [path for path in calls(world, "GET") if "/v1/" in path] == ["/api/v1/instances/"] * 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, times=None),
        Fault(drop="before", times=None),
        Fault(status=200, body={"success": False, "error": "invalid_token", "msg": "no"}),
        Fault(status=400, body={"success": False, "error": "invalid_token", "msg": "no"}),
        Fault(status=200, body="<html>"),
        Fault(status=200, body={"success": True}),
        Fault(status=200, body={"success": True, "instances": None}),
        Fault(status=200, body={"success": True, "instances": [{"label": "no id"}]}),
        Fault(status=200, body={"success": True, "instances": [], "next_token": "same"}, times=None),
    ],
)
def test_a_page_that_fails_is_an_error_and_no_short_list(
    provider: vastai.VastaiProvider, world: World, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rentals(world, [_marker.encode(MARKER)] * 30, provider)
    fault = replace(fault, path=PAGES)

    def at_the_second(self: World, method: str, path: str) -> Fault | None:
        pages = [call for call in self.calls if "/v1/" in call["path"]]
        return fault if len(pages) > 1 and fault.matches(method, path) else None

    monkeypatch.setattr(World, "fault", at_the_second)
    with pytest.raises(ProviderError):
        provider.list()


def test_a_question_is_asked_again(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(path=PAGES, status=503), Fault(path=PAGES, status=429), Fault(path=PAGES, drop="before")]
    assert [one.id for one in provider.list()] == [made.id]


# Absence


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, times=None),
        Fault(status=404, body={"success": False, "error": "auth_error", "msg": "2FA session expired"}),
        Fault(status=404, body="not found"),
        Fault(status=200, body={}),
        Fault(status=200, body={"instances": []}),
        Fault(status=200, body={"instances": {"id": 5}}),
        Fault(status=200, body={"success": False, "error": "x", "instances": None}),
    ],
)
def test_only_the_provider_says_that_something_is_gone(
    provider: vastai.VastaiProvider, world: World, fault: Fault
) -> None:
    world.faults = [replace(fault, method="GET", path=INSTANCE)]
    with pytest.raises(ProviderError):
        provider.get("42")


def test_gone_in_two_ways(provider: vastai.VastaiProvider, world: World) -> None:
    assert provider.get("42") is None
    body = {"success": False, "error": "no_such_instance"}
    world.faults = [Fault(method="GET", path=INSTANCE, status=404, body=body)]
    assert provider.get("42") is None


@pytest.mark.parametrize("instance_id", ["", "abc", "1/../2", "-1", "1 "])
def test_a_malformed_id_is_a_usage_error(provider: vastai.VastaiProvider, world: World, instance_id: str) -> None:
    with pytest.raises(InvalidRequest, match="no id of vastai"):
        provider.delete(instance_id)
    assert world.calls == []


@pytest.mark.parametrize("label", ["somebody's", None])
def test_what_is_not_ours_is_not_touched(
    provider: vastai.VastaiProvider, world: World, url: str, label: str | None
) -> None:
    made = rent(provider)
    headers = {"Authorization": "Bearer x"}
    requests.put(f"{url}/api/v0/instances/{made.id}/", json={"label": label}, headers=headers, timeout=5)
    before = len(calls(world, "PUT"))
    for call in (provider.delete, provider.stop, provider.start, provider.get):
        with pytest.raises(InvalidRequest, match="no marker"):
            call(made.id)
    assert len(calls(world, "PUT")) == before
    assert calls(world, "DELETE") == []


def test_a_delete_whose_answer_is_lost_is_settled_by_looking(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(method="DELETE", drop="after")]
    assert provider.delete(made.id) is True
    assert world.alive() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=502),
        Fault(drop="before"),
        Fault(status=200, body={"success": True}),  # says so, and does nothing
        Fault(status=200, body={"success": False, "error": "busy", "msg": "busy"}),
    ],
)
def test_a_delete_without_effect_is_repeated(provider: vastai.VastaiProvider, world: World, fault: Fault) -> None:
    made = rent(provider)
    world.faults = [replace(fault, method="DELETE")]
    assert provider.delete(made.id) is True
    assert len(calls(world, "DELETE")) == 2
    assert world.alive() == []


def test_somebody_else_was_faster(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    body = {"success": False, "error": "no_such_instance", "msg": "gone"}
    world.faults = [Fault(method="DELETE", status=404, body=body)]
    assert provider.delete(made.id) is False


def test_a_delete_that_never_works_is_loud(provider: vastai.VastaiProvider, world: World, clock: FakeClock) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    began = clock.time
    world.faults = [Fault(method="DELETE", status=200, body={"success": True}, times=None)]
    with pytest.raises(ProviderUnavailable, match=r"costing 0\.410 USD per hour") as caught:
        provider.delete(made.id)
    assert "cloud.vast.ai/instances" in caught.value.fix
    assert 55 <= clock.time - began <= 80
    assert 3 <= len(calls(world, "DELETE")) <= 6


# More time, and the owner


def test_more_time_is_a_new_label_and_nothing_else(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    before = dict(body_of(world, made.id))
    renewed = provider.renew(made.id, 500_123)
    assert renewed.marker == replace(MARKER, expiry_epoch_hours=500_123)
    assert renewed.status is Status.RUNNING
    changed = {key for key, value in body_of(world, made.id).items() if before[key] != value}
    assert changed == {"label"}
    assert [one.marker for one in provider.list()] == [renewed.marker]


def test_a_lost_answer_to_more_time_is_settled_by_looking(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(method="PUT", path=INSTANCE, drop="after")]
    assert provider.renew(made.id, 500_123).marker.expiry_epoch_hours == 500_123
    world.faults = [Fault(method="PUT", path=INSTANCE, drop="before")]
    with pytest.raises(Ambiguous):
        provider.renew(made.id, 500_456)


def test_more_time_is_given_to_nothing_that_is_not_ours(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    world.rentals[made.id].wire["label"] = "somebody's"
    before = len(calls(world, "PUT"))
    with pytest.raises(InvalidRequest, match="no marker"):
        provider.renew(made.id, 500_123)
    assert len(calls(world, "PUT")) == before


def test_the_owner_of_a_job_comes_back(provider: vastai.VastaiProvider, world: World) -> None:
    job = rent(provider, marker=replace(MARKER, owner="job:17"))
    fleet = provider.create(request(one_offer(provider, gpu="L40S")))
    assert {one.id: one.marker.owner for one in provider.list()} == {job.id: "job:17", fleet.id: "fleet"}
    assert vastai_wire.ENV_OWNER not in env_of(world, fleet.id)


# What is refused, and how fast we may ask


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"success": False, "error": "no_ssh_key_for_vm", "msg": "no key"}, InvalidRequest),
        (400, {"success": False, "error": "invalid_args", "msg": "bad disk"}, InvalidRequest),
        (400, {"success": False, "error": "missing_billing", "msg": "no card"}, QuotaError),
        (402, {"error": "insufficient_credit"}, QuotaError),
        (403, {"detail": "not allowed"}, AuthError),
        (404, {"error": "invalid_args", "msg": "error 404/3603: no_such_ask x"}, OfferGone),
        (410, {"error": "no_such_ask"}, OfferGone),
        (410, {"error": "gone"}, ProviderUnavailable),
        (200, {"success": False, "error": "resources_unavailable"}, NoCapacity),
        (400, None, InvalidRequest),
    ],
)
def test_a_refusal_in_our_words(status: int, body: Any, error: type[ProviderError]) -> None:
    refused = vastai_wire.refusal(Answer(status, body, str(body or "")))
    assert refused.code == error.code  # each class has a code of its own
    assert (refused.provider, refused.status) == ("vastai", status)
    assert refused.fix.endswith(".")
    said = (body or {}).get("msg") or (body or {}).get("detail") or ""
    assert said in refused.message


def test_calls_of_one_kind_keep_their_distance(clock: FakeClock) -> None:
    pace = _rate_limit.Limiter(_accounts.Account("vastai", "u", "k"), vastai._INTERVALS).wait
    for method, path in [
        ("PUT", "/api/v0/asks/1/"),
        ("PUT", "/api/v0/asks/2/"),
        ("GET", "/api/v0/instances/7/"),
        ("GET", "/api/v1/instances/"),
        ("POST", "/api/v0/instances/7/ssh/"),
        ("GET", "/api/v0/instances/8/"),
        ("GET", "/api/v0/users/current"),
    ]:
        pace(method, path)
    assert [seconds for seconds in clock.slept if seconds] == [4.5, 2.0]


# The emulator


def test_an_hour_costs_what_was_said(
    provider: vastai.VastaiProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the price while it doesn't run, the whole while it does, however late somebody looks."""
    now = [world.now()]
    monkeypatch.setattr(world, "now", lambda: now[0])
    made = rent(provider)
    price = body_of(world, made.id)["dph_total"]
    now[0] += 3600 + 23
    world.state()
    provider.get(made.id)
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(price + price * 0.1 * 23 / 3600)
    world.rentals[made.id].wire.update(_intended="stopped", _since=now[0])
    now[0] += 7200
    provider.delete(made.id)
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(
        price * (3600 + 3) / 3600 + price * 0.1 * (23 + 7197) / 3600
    )


def test_the_emulator_answers_the_official_client(url: str) -> None:
    """What vastai 1.9.1 was seen to insist on."""
    headers = {"Authorization": "Bearer x"}
    wanted = {"gpu_name": {"eq": "A40"}, "num_gpus": {"eq": "1"}, "verified": {"eq": True}}
    found = requests.post(f"{url}/api/v0/bundles/", json=wanted, headers=headers, timeout=5)
    assert found.headers["Content-Type"] == "application/json"
    (offer,) = found.json()["offers"]
    assert isinstance(offer["cuda_max_good"], float)
    wish = {"client_id": "me", "image": "x", "runtype": "ssh_direc ssh_proxy", "env": {"-p 80:80": "1"}, "price": None}
    made = requests.put(f"{url}/api/v0/asks/{offer['id']}/", json=wish, headers=headers, timeout=5).json()
    assert set(made) == {"success", "new_contract", "instance_api_key"}
    row = requests.get(f"{url}/api/v0/instances/{made['new_contract']}/", headers=headers, timeout=5).json()[
        "instances"
    ]
    assert row["extra_env"] == [["-p 80:80", "1"]]
    assert isinstance(row["start_date"], float)
    for path in ("users/current", "instances/filters/"):
        assert requests.get(f"{url}/api/v0/{path}", headers=headers, timeout=5).status_code == 200
    for limit in (0, 26):
        page = requests.get(f"{url}/api/v1/instances/", params={"limit": limit}, headers=headers, timeout=5)
        assert page.status_code == 400
    assert requests.get(f"{url}/api/v0/instances/", headers=headers, timeout=5).status_code == 410
