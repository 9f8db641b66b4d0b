# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting at Vast.ai, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Offer,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    InvalidRequest,
    NoCapacity,
    OfferGone,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai, vastai_wire
from emulators.world import Fault, World
from support.vastai_calls import (
    ASKS,
    KEY,
    MARKER,
    PLANTED,
    body_of,
    calls,
    env_of,
    one_offer,
    query,
    rent,
    request,
    wait_for,
)

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
        "GPUFLEET_PORTS": "v1.8000:http.end",
    }
    (listed,) = provider.list()
    assert (listed.runtime, listed.ports) == (Runtime.CONTAINER, ((8000, "http"),))
    running = wait_for(provider, listed.id, Status.RUNNING)
    assert running.ssh_endpoints == ()  # nobody listens to SSH there
    assert running.address == "203.0.113.20"


@pytest.mark.parametrize("interruptible", [False, True])
def test_only_a_bid_sends_a_price(interruptible: bool) -> None:
    """Its presence makes the rental interruptible."""
    body = vastai_wire.create_body(
        request(Offer("vastai", "1", interruptible=interruptible)), 0.2, "https://console.vast.ai"
    )
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
