# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the emulated TensorDock behaves, and misbehaves when told to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from emulators import tensordock
from emulators.server import serving
from emulators.tensordock_market import PLACES
from emulators.world import Fault, World

KEY = {"Authorization": "Bearer any"}
ATTRIBUTES: dict[str, Any] = {
    "name": "a",
    "type": "virtualmachine",
    "image": "ubuntu2404",
    "resources": {"vcpu_count": 4, "ram_gb": 32, "storage_gb": 100, "gpus": {"a40-pcie-48gb": {"count": 1}}},
    "location_id": PLACES[0].id,
    "useDedicatedIp": True,
    "ssh_key": "ssh-ed25519 AAAA",
    "cloud_init": {"runcmd": ["true"]},
}
FORWARDS = [{"internal_port": 22, "external_port": 22}, {"internal_port": 8000, "external_port": 30001}]
IN_OSLO = {"location_id": PLACES[1].id, "useDedicatedIp": False, "port_forwards": FORWARDS}


@pytest.fixture
def world() -> World:
    return World("tensordock", scale=1)


@pytest.fixture
def base(world: World) -> Iterator[str]:
    with serving(tensordock.make(world), world) as url:
        yield url + tensordock.URL_PATH


def call(base: str, method: str, path: str, body: Any = None) -> requests.Response:
    return requests.request(method, f"{base}{path}", json=body, headers=KEY, timeout=10)


def create(base: str, **changes: Any) -> requests.Response:
    attributes = {name: value for name, value in {**ATTRIBUTES, **changes}.items() if value is not None}
    return call(base, "POST", "/instances", {"data": {"type": "virtualmachine", "attributes": attributes}})


def rent(base: str, **changes: Any) -> str:
    return str(create(base, **changes).json()["data"]["id"])


def show(base: str, instance: str) -> dict[str, Any]:
    row = call(base, "GET", f"/instances/{instance}").json()
    row = row.get("data", row)
    return {**row, **row.get("attributes", {})}


def test_a_create_tells_no_address_and_it_comes_late(base: str, world: World) -> None:
    answer = create(base)
    assert answer.status_code in (200, 201)
    assert set(answer.json()["data"]) == {"type", "id", "name", "status"}
    instance = answer.json()["data"]["id"]
    seen = []
    for seconds in (0, 6, 15, 15):
        world.skip(seconds)
        one = show(base, instance)
        seen.append((one["status"].lower(), one["ipAddress"] != ""))
    assert seen == [("creating", False), ("starting", False), ("running", False), ("running", True)]
    assert one["rateHourly"] == pytest.approx(0.40 + 4 * 0.003 + 32 * 0.002 + 0.005)


def test_lists_come_in_three_shapes_and_statuses_in_any_case(base: str, world: World) -> None:
    rent(base)
    rent(base, name="somebody's")
    world.skip(60)
    shapes, words = set(), set()
    for _number in range(12):
        data = call(base, "GET", "/instances").json()["data"]
        shapes.add("list" if isinstance(data, list) else next(iter(data)))
        rows = data if isinstance(data, list) else data.get("instances") or data["attributes"]["instances"]
        assert len(rows) == 2
        words |= {row.get("status") or row["attributes"]["status"] for row in rows}
    assert shapes == {"list", "instances", "attributes"}
    assert len({word.lower() for word in words}) == 1 < len(words)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "x" * 61}, "name"),
        ({"image": "windows3"}, "image"),
        ({"ssh_key": None}, "ssh_key"),
        ({"ssh_key_id": "x"}, "ssh_key"),
        ({"hostnode_id": "x"}, "location_id"),
        ({"resources": {**ATTRIBUTES["resources"], "storage_gb": 99}}, "storage_gb"),
        ({"resources": {**ATTRIBUTES["resources"], "vcpu_count": 3}}, "vcpu_count"),
        ({"resources": {**ATTRIBUTES["resources"], "ram_gb": 33}}, "ram_gb"),
        ({"resources": {**ATTRIBUTES["resources"], "gpus": []}}, "gpus"),
        ({"tags": ["a"]}, "tags"),
        ({"cloud_init": {"ssh_authorized_keys": []}}, "ssh_authorized_keys"),
        ({"cloud_init": {"write_files": [{"path": "/x", "content": "", "encoding": "b64"}]}}, "encoding"),
    ],
)
def test_what_is_wrong_with_a_request_is_a_bare_list(base: str, world: World, changes: Any, path: str) -> None:
    answer = create(base, **changes)
    assert answer.status_code == 400
    (issue,) = answer.json()
    assert issue["path"][-1] == path
    assert world.rentals == {}


def test_without_strictness_an_unknown_attribute_is_left_alone(world: World) -> None:
    with serving(tensordock.make(world, strict=False), world) as url:
        assert create(url + tensordock.URL_PATH, tags=["a"]).status_code < 300


def test_a_machine_without_a_way_in_is_refused(base: str) -> None:
    answer = create(base, useDedicatedIp=None, port_forwards=FORWARDS[1:])
    assert (answer.status_code, "SSH port (22)" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"location_id": PLACES[1].id}, "No available public IPs on hostnode"),
        ({"resources": {**ATTRIBUTES["resources"], "gpus": {"l40s-pcie-48gb": {"count": 1}}}}, "No available nodes"),
        ({"resources": {**ATTRIBUTES["resources"], "gpus": {"a40-pcie-48gb": {"count": 9}}}}, "No available nodes"),
    ],
)
def test_status_200_may_say_no(base: str, world: World, changes: Any, words: str) -> None:
    answer = create(base, **changes)
    assert (answer.status_code, answer.json()["status"]) == (200, 400)
    assert words in answer.json()["error"]
    assert world.rentals == {}


def test_a_location_is_listed_whatever_is_left_there(base: str, world: World) -> None:
    before = call(base, "GET", "/locations").json()
    for number in range(8):
        rent(base, name=f"n-{number}")
    assert "No available nodes" in create(base).json()["error"]
    world.faults = [Fault(trouble="offer_gone", of=PLACES[1].id)]
    assert "No available nodes" in create(base, **IN_OSLO).json()["error"]
    assert call(base, "GET", "/locations").json() == before


def test_forwarded_ports_are_replaced_or_forgotten(base: str, world: World) -> None:
    instance = rent(base, **IN_OSLO)
    world.skip(60)
    ports = {one["internal_port"]: one["external_port"] for one in show(base, instance)["portForwards"]}
    assert ports[8000] == 30001
    assert ports[22] not in (22, 0)
    world.faults = [Fault(trouble="ports_ignored", of="^a$")]
    assert show(base, instance)["portForwards"] == []


def test_a_stopped_one_keeps_its_gpu_and_its_price_unless_that_is_given_away(base: str, world: World) -> None:
    instance = rent(base, resources=(whole := whole_stock()))
    world.skip(60)
    price = show(base, instance)["rateHourly"]
    assert call(base, "POST", f"/instances/{instance}/stop").json()["data"]["attributes"]["status"] == "stopping"
    world.skip(10)
    assert (show(base, instance)["status"].lower(), show(base, instance)["rateHourly"]) == ("stopped", price)
    assert "No available nodes" in create(base, resources=whole).text
    assert call(base, "POST", f"/instances/{instance}/start").status_code == 200
    assert call(base, "POST", f"/instances/{instance}/start").status_code == 409
    world.skip(30)
    show(base, instance)
    world.faults = [Fault(trouble="no_gpu")]
    call(base, "POST", f"/instances/{instance}/stop")
    world.skip(10)
    one = show(base, instance)
    assert (one["status"].lower(), one["rateHourly"]) == ("stoppeddisassociated", 0.005)
    assert call(base, "POST", f"/instances/{instance}/start").status_code == 400
    assert create(base, resources=whole).status_code < 300
    assert "data" in create(base, **IN_OSLO).json()


def whole_stock() -> dict[str, Any]:
    resources = copy.deepcopy(ATTRIBUTES["resources"])
    resources["gpus"]["a40-pcie-48gb"]["count"] = 8
    return dict(resources)


def test_a_deleted_one_may_still_be_there_for_a_while(base: str, world: World) -> None:
    instance = rent(base)
    world.faults = [Fault(trouble="delete_late", seconds=30)]
    assert call(base, "DELETE", f"/instances/{instance}").json()["data"]["type"] == "success"
    assert call(base, "GET", f"/instances/{instance}").status_code == 200
    world.skip(31)
    assert call(base, "GET", f"/instances/{instance}").status_code == 404
    assert call(base, "DELETE", f"/instances/{instance}").status_code == 404
    assert world.state()["instances"][0]["deleted_at"] is not None


def test_a_new_one_may_be_listed_late(base: str, world: World) -> None:
    world.faults = [Fault(trouble="list_late", seconds=30)]
    instance = rent(base)
    assert call(base, "GET", "/instances").text.count(instance) == 0
    world.skip(31)
    assert call(base, "GET", "/instances").text.count(instance) == 1


def test_a_boot_can_be_stuck_for_ever(base: str, world: World) -> None:
    instance = rent(base)
    world.faults = [Fault(trouble="boot_stuck", of=instance)]
    world.skip(86_400)
    assert show(base, instance)["status"].lower() == "creating"


def test_too_many_calls_in_a_minute_are_refused_without_a_word_about_when() -> None:
    world = World("tensordock", scale=1, limits=True)
    with serving(tensordock.make(world), world) as url:
        base = url + tensordock.URL_PATH
        answers = [call(base, "GET", "/instances") for _number in range(101)]
        assert [one.status_code for one in answers] == [200] * 100 + [429]
        assert "Retry-After" not in answers[-1].headers
        assert requests.get(f"{url}/_control/state", timeout=10).status_code == 200
        world.skip(61)
        assert call(base, "GET", "/instances").status_code == 200


def test_a_token_stands_in_the_header_alone(base: str) -> None:
    assert requests.get(f"{base}/locations?api_token=any", timeout=10).status_code == 401
