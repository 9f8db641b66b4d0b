# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the emulated Vast.ai behaves, and misbehaves when told to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from emulators import vastai
from emulators.server import serving
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Fault, World

KEY = {"Authorization": "Bearer any"}
A40 = FIRST_OFFER + 112
WISH = {"image": "b", "disk": 20, "runtype": "ssh_direct", "label": "a", "env": {"-p 8000:8000": "1"}}


@pytest.fixture
def world() -> World:
    return World("vastai", scale=1)


@pytest.fixture
def base(world: World) -> Iterator[str]:
    with serving(vastai.make(world, copies=3), world) as url:
        yield url


def call(base: str, method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(method, f"{base}/api{path}", json=body, headers=KEY, timeout=10)


def rent(base: str, offer: int = A40, **more: Any) -> int:
    return int(call(base, "PUT", f"/v0/asks/{offer}/", WISH | more).json()["new_contract"])


def show(base: str, instance: int) -> Any:
    return call(base, "GET", f"/v0/instances/{instance}/?owner=me").json()["instances"]


def later(world: World, seconds: float = 600) -> None:
    world.skip(seconds)


def offers(base: str) -> set[int]:
    return {row["id"] for row in call(base, "POST", "/v0/bundles/", {"gpu_name": {"eq": "A40"}}).json()["offers"]}


def test_an_instance_is_created_then_loads_then_runs(base: str, world: World) -> None:
    instance = rent(base)
    seen = []
    for seconds in (0, 4, 20):
        later(world, seconds)
        one = show(base, instance)
        seen.append((one["actual_status"], one["ports"] is not None))
    assert seen == [("created", False), ("loading", False), ("running", True)]
    assert one["public_ipaddr"].endswith("\n")
    assert all(isinstance(port[0]["HostPort"], str) for port in one["ports"].values())
    assert set(one["ports"]) == {"22/tcp", "8000/tcp"}


def test_a_boot_can_be_stuck_for_ever(base: str, world: World) -> None:
    instance = rent(base)
    world.faults = [Fault(trouble="boot_stuck", of=str(instance))]
    later(world, 86_400)
    assert show(base, instance)["actual_status"] == "loading"
    world.faults = []
    assert show(base, instance)["actual_status"] == "running"


def test_ports_are_others_after_each_start(base: str, world: World) -> None:
    instance = rent(base)
    ports = set()
    for _number in range(3):
        later(world)
        ports.add(show(base, instance)["ports"]["22/tcp"][0]["HostPort"])
        for state in ("stopped", "running"):
            assert call(base, "PUT", f"/v0/instances/{instance}/", {"state": state}).json() == {"success": True}
            later(world)
            assert (show(base, instance)["ports"] is None) == (state == "stopped")
    assert len(ports) == 3


@pytest.mark.parametrize("trouble", ["port_refused", "silent_server"])
def test_what_is_wrong_with_ssh_is_so_directly_and_through_the_proxy(base: str, world: World, trouble: Any) -> None:
    instance = rent(base)
    later(world)
    world.faults = [Fault(trouble=trouble, of="^a$")]
    one = show(base, instance)
    ways = {
        (one["public_ipaddr"].strip(), int(one["ports"]["22/tcp"][0]["HostPort"])),
        (one["ssh_host"], one["ssh_port"]),
    }
    (way,) = ways
    if trouble == "port_refused":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(way, timeout=5)
    else:
        with socket.create_connection(way, timeout=5) as connection:
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_an_offer_vanishes_between_search_and_create(base: str, world: World) -> None:
    world.faults = [Fault(trouble="offer_gone", of=f"^{A40}$")]
    assert A40 in offers(base)
    gone = call(base, "PUT", f"/v0/asks/{A40}/", WISH)
    assert (gone.status_code, gone.json()["error"]) == (410, "no_such_ask")
    assert A40 not in offers(base)
    assert len(offers(base)) == 2, "the other machines of this kind are still there"
    assert world.rentals == {}


def test_status_200_may_say_no(base: str, world: World) -> None:
    instance = rent(base)
    later(world)
    call(base, "PUT", f"/v0/instances/{instance}/", {"state": "stopped"})
    later(world)
    world.faults = [Fault(trouble="no_gpu")]
    answer = call(base, "PUT", f"/v0/instances/{instance}/", {"state": "running"})
    assert (answer.status_code, answer.json()["success"], answer.json()["error"]) == (
        200,
        False,
        "resources_unavailable",
    )
    assert show(base, instance)["actual_status"] == "exited"


def test_a_bid_that_lost_leaves_something_that_costs(base: str, world: World) -> None:
    answer = call(base, "PUT", f"/v0/asks/{A40}/", WISH | {"price": 0.001})
    assert (answer.status_code, answer.json()["success"]) == (200, False)
    later(world, 36_000)
    (one,) = world.state()["instances"]
    assert one["id"] == str(answer.json()["new_contract"])
    assert one["billed_usd"] > 0
    assert A40 in offers(base), "it took no GPU away"


def states(row: Any) -> set[str]:
    return {row[name] for name in ("cur_state", "intended_status", "next_state")}


def test_who_is_outbid_is_stopped_until_his_bid_is_the_highest_again(base: str, world: World) -> None:
    bid, on_demand = rent(base, price=1.0), rent(base, A40 + vastai.MACHINES_APART)
    later(world)
    assert show(base, bid)["actual_status"] == "running"
    world.faults = [Fault(trouble="outbid")]
    show(base, bid)
    later(world)
    assert (show(base, bid)["actual_status"], states(show(base, bid))) == ("exited", {"stopped"})
    assert 0 < show(base, bid)["instance"]["totalHour"] < show(base, bid)["dph_total"], "its disk costs on"
    refused = call(base, "PUT", f"/v0/instances/{bid}/", {"state": "running"}).json()
    assert (refused["success"], refused["error"]) == (False, "resources_unavailable")
    assert show(base, on_demand)["actual_status"] == "running", "that is no bid"
    world.faults = []
    show(base, bid)
    later(world)
    assert show(base, bid)["actual_status"] == "running", "nobody had to start it"


def test_who_stops_what_is_outbid_stops_it_for_good(base: str, world: World) -> None:
    instance = rent(base, price=1.0)
    world.faults = [Fault(trouble="outbid")]
    show(base, instance)
    call(base, "PUT", f"/v0/instances/{instance}/", {"state": "stopped"})
    world.faults = []
    later(world)
    assert states(show(base, instance)) == {"stopped"}


def test_what_a_provider_takes_back_is_gone(base: str, world: World) -> None:
    taken, kept = rent(base, label="gone"), rent(base, A40 + vastai.MACHINES_APART, label="kept")
    answer = requests.post(f"{base}/_control/take_back", json={"of": "gone"}, timeout=10).json()
    assert answer == {"taken": [str(taken)]}
    assert show(base, taken) is None
    assert show(base, kept)["id"] == kept
    assert [one["id"] for one in world.state()["instances"] if one["deleted_at"]] == [str(taken)]


def test_storage_costs_from_create_to_destroy(base: str, world: World) -> None:
    instance = rent(base)
    later(world)
    price = show(base, instance)["dph_total"]
    call(base, "PUT", f"/v0/instances/{instance}/", {"state": "stopped"})
    later(world)
    assert show(base, instance)["actual_status"] == "exited"
    before = world.state()["instances"][0]["billed_usd"]
    later(world, 36_000)
    assert world.state()["instances"][0]["billed_usd"] - before == pytest.approx(price, rel=0.01)  # a tenth of 10 hours


def test_a_page_has_at_most_25_instances(base: str) -> None:
    machines = [FIRST_OFFER + number for number in (101, 102, 103, 105, 106, 107, 108, 109, 110)]
    rented = [rent(base, offer + copy * vastai.MACHINES_APART) for offer in machines for copy in range(3)]
    assert len(rented) == 27
    first = call(base, "GET", "/v1/instances/").json()
    assert (first["instances_found"], first["total_instances"]) == (25, 27)
    rest = call(base, "GET", f"/v1/instances/?after_token={first['next_token']}").json()
    assert rest["next_token"] is None
    assert [one["id"] for one in first["instances"] + rest["instances"]] == sorted(rented)
    assert call(base, "GET", "/v1/instances/?limit=26").status_code == 400
    assert call(base, "GET", "/v0/instances/").status_code == 410


def test_a_new_instance_can_be_missing_from_lists_for_a_while(base: str, world: World) -> None:
    world.faults = [Fault(trouble="list_late", seconds=30)]
    rent(base)
    assert call(base, "GET", "/v1/instances/").json()["instances"] == []
    later(world, 31)
    assert len(call(base, "GET", "/v1/instances/").json()["instances"]) == 1


def test_calls_of_one_kind_must_keep_their_distance() -> None:
    world = World("vastai", scale=1, limits=True)
    with serving(vastai.make(world), world) as base:
        assert call(base, "GET", "/v1/instances/").status_code == 200
        refused = call(base, "GET", "/v1/instances/")
        assert (refused.status_code, refused.headers["content-type"]) == (429, "text/plain; charset=utf-8")
        assert "threshold=1.000" in refused.text
        assert call(base, "POST", "/v0/bundles/", {}).status_code == 200, "another kind has its own"
        later(world, 1.1)
        assert call(base, "GET", "/v1/instances/").status_code == 200
