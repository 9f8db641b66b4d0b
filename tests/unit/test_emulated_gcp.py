# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the emulated Compute v1 behaves: what Google's document says, what it doesn't, and when things are done."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from emulators import compute_schema, gcp
from emulators.compute_market import Quotas
from emulators.server import serving
from emulators.world import Fault, World

KEY = {"Authorization": "Bearer any"}
ZONE = "us-central1-b"
INSTANCES = f"/zones/{ZONE}/instances"
WISH: dict[str, Any] = {
    "name": "one",
    "machineType": f"zones/{ZONE}/machineTypes/g2-standard-4",
    "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": "x", "diskSizeGb": "50"}}],
    "networkInterfaces": [{"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}],
    "scheduling": {"onHostMaintenance": "TERMINATE"},
}
RULE = {
    "name": "ssh",
    "network": "global/networks/default",
    "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
    "sourceRanges": ["203.0.113.0/24"],
}


@pytest.fixture
def world() -> World:
    return World("gcp", scale=1)


@pytest.fixture
def base(world: World) -> Iterator[str]:
    with serving(gcp.make(world), world) as url:
        yield f"{url}{gcp.URL_PATH}/projects/{gcp.PROJECT}"


def call(base: str, method: str, path: str, body: Any = None, **query: Any) -> requests.Response:
    return requests.request(method, base + path, json=body, headers=KEY, params=query, timeout=10)


def wish(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**copy.deepcopy(WISH), **changes}.items() if value is not None}


def insert(base: str, **changes: Any) -> requests.Response:
    return call(base, "POST", INSTANCES, wish(**changes))


def refusal(answer: requests.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert error["code"] == answer.status_code
    return answer.status_code, error["errors"][0]["reason"], error["message"]


def done(base: str, world: World, answer: requests.Response, seconds: float = 120) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    operation = answer.json()
    assert operation["status"] == "RUNNING"
    world.skip(seconds)
    found: dict[str, Any] = call(base, "GET", f"/zones/{ZONE}/operations/{operation['name']}").json()
    assert found["status"] == "DONE"
    return found


def rent(base: str, world: World, **changes: Any) -> dict[str, Any]:
    """The instance, when it runs."""
    operation = done(base, world, insert(base, **changes))
    assert "error" not in operation
    found: dict[str, Any] = call(base, "GET", f"{INSTANCES}/{operation['targetId']}").json()
    assert found["status"] == "RUNNING"
    return found


def test_the_extract_is_small_and_of_a_known_revision() -> None:
    assert compute_schema.REVISION == "20261106"
    assert compute_schema.find("POST", "projects/p/zones/z/instances") is not None
    assert compute_schema.find("POST", "projects/p/zones/Z/instances") is None, "a zone has no capitals"
    assert compute_schema.find("PUT", "projects/p/zones/z/instances") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": None}, "Required field 'name'"),
        ({"name": "One"}, "Invalid value for field 'name'"),
        ({"machine_type": "x"}, "machine_type"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"scheduling": {"onHostMaintenance": "terminate"}}, "scheduling.onHostMaintenance"),
        ({"scheduling": {"onHostMaintenance": "TERMINATE", "maxRunDuration": {"seconds": "8h"}}}, "maxRunDuration"),
        ({"disks": {}}, "disks"),
        ({"kind": "compute#instance"}, "kind"),
    ],
)
def test_a_request_is_what_the_document_says(base: str, world: World, changes: dict[str, Any], words: str) -> None:
    status, reason, message = refusal(insert(base, **changes))
    assert (status, reason) == (400, "invalid")
    assert words in message
    assert world.rentals == {}


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"scheduling": None}, "badRequest", "do not support live migration"),
        ({"scheduling": {"onHostMaintenance": "MIGRATE"}}, "badRequest", "do not support live migration"),
        ({"scheduling": {"provisioningModel": "SPOT", "automaticRestart": True}}, "invalid", "automaticRestart"),
        ({"scheduling": {**WISH["scheduling"], "instanceTerminationAction": "DELETE"}}, "invalid", "limit of the run"),
        (
            {"scheduling": {**WISH["scheduling"], "maxRunDuration": {"seconds": "60"}}},
            "invalid",
            "instanceTerminationAction",
        ),
        (
            {
                "scheduling": {
                    **WISH["scheduling"],
                    "maxRunDuration": {"seconds": 10},
                    "instanceTerminationAction": "DELETE",
                }
            },
            "invalid",
            "between 30 seconds and 120 days",
        ),
        ({"machineType": "g2-standard-4"}, "invalid", "malformed"),
        ({"machineType": f"zones/{ZONE}/machineTypes/a2-highgpu-1g"}, "invalid", "does not exist in zone"),
        ({"machineType": f"zones/{ZONE}/machineTypes/a3-highgpu-1g"}, "invalid", "does not exist in zone"),
        (
            {
                "guestAccelerators": [
                    {"acceleratorType": f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": 1}
                ]
            },
            "invalid",
            "not compatible",
        ),
        ({"disks": []}, "invalid", "boot disk"),
        ({"disks": [{"boot": True}]}, "invalid", "sourceImage"),
        ({"networkInterfaces": []}, "invalid", "network interface"),
        ({"labels": {"Who": "me"}}, "invalid", "Label key 'Who'"),
        ({"labels": {"who": "Me"}}, "invalid", "Label value 'Me'"),
        ({"labels": {"who": "x" * 64}}, "invalid", "Label value"),
        ({"tags": {"items": ["Web"]}}, "invalid", "tags"),
        ({"metadata": {"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}}, "invalid", "metadata"),
    ],
)
def test_what_the_document_does_not_say_is_refused_by_hand(
    base: str, world: World, changes: dict[str, Any], reason: str, words: str
) -> None:
    status, why, message = refusal(insert(base, **changes))
    assert (status, why) == (400, reason)
    assert words in message
    assert world.rentals == {}


def test_who_asks_without_a_token_or_for_another_project_gets_nothing(base: str) -> None:
    assert requests.get(base + INSTANCES, timeout=10).status_code == 401
    assert refusal(call(base.replace(gcp.PROJECT, "other"), "GET", INSTANCES))[0] == 404
    assert refusal(call(base, "GET", "/zones/nowhere-a/instances"))[0] == 404
    assert refusal(call(base, "GET", INSTANCES, colour="red"))[0] == 400


def test_an_instance_comes_about_in_its_time(base: str, world: World) -> None:
    operation = insert(base).json()
    assert (operation["operationType"], operation["progress"]) == ("insert", 0)
    path = f"{INSTANCES}/{operation['targetId']}"
    seen = []
    for _turn in range(6):
        shown = call(base, "GET", path).json()
        seen.append((shown["status"], "natIP" in shown["networkInterfaces"][0]["accessConfigs"][0]))
        world.skip(3.0)
    assert seen[0] == ("PROVISIONING", False)
    assert ("STAGING", True) in seen
    assert seen[-1] == ("RUNNING", True)
    assert call(base, "GET", f"{INSTANCES}/one").json()["id"] == operation["targetId"], "by its name, too"
    assert refusal(insert(base))[:2] == (409, "alreadyExists")


def test_the_same_request_takes_effect_once(base: str, world: World) -> None:
    named = {"requestId": "7a2d0b38-98a5-4d6c-a2a4-6a2b1d1a4b6f"}
    first = call(base, "POST", INSTANCES, wish(), **named).json()
    assert call(base, "POST", INSTANCES, wish(), **named).json()["name"] == first["name"]
    assert len(world.rentals) == 1
    for wrong in ("abc", "00000000-0000-0000-0000-000000000000"):
        assert refusal(call(base, "POST", INSTANCES, wish(name="two"), requestId=wrong))[:2] == (400, "invalid")


def test_a_zone_without_stock_says_so_only_in_the_operation(base: str, world: World) -> None:
    world.faults = [Fault(trouble="offer_gone", of=f"{ZONE}/")]
    answer = insert(base)
    assert [one.wire["name"] for one in world.alive()] == ["one"], "it is shown until then"
    found = done(base, world, answer)
    (error,) = found["error"]["errors"]
    assert (found["httpErrorStatusCode"], error["code"]) == (503, "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS")
    stocked = error["errorDetails"][0]["errorInfo"]["metadatas"]["zonesAvailable"]
    assert stocked == "us-central1-c,us-east4-a,europe-west4-b"
    assert world.alive() == []
    assert [one.billed_usd for one in world.rentals.values()] == [0.0]
    world.faults = [Fault(trouble="offer_gone", of=".*")]
    assert done(base, world, insert(base))["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"


def test_what_is_left_and_the_quota_are_counted(world: World) -> None:
    with serving(gcp.make(world, quotas=Quotas(all_regions=5)), world) as url:
        base = f"{url}{gcp.URL_PATH}/projects/{gcp.PROJECT}"
        codes = []
        for number in range(6):
            zone = ZONE if number < 5 else "us-central1-c"
            body = wish(name=f"n-{number}", machineType=f"zones/{zone}/machineTypes/g2-standard-4")
            operation = call(base, "POST", f"/zones/{zone}/instances", body).json()
            world.skip(10)
            found = call(base, "GET", f"/zones/{zone}/operations/{operation['name']}").json()
            codes += [one["code"] for one in found.get("error", {}).get("errors", [])] or ["ok"]
        region = call(base, "GET", "/regions/us-central1").json()
    # There are four of them in that zone, and five are allowed.
    assert codes == ["ok"] * 4 + ["ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "ok"]
    assert {one["metric"]: one["usage"] for one in region["quotas"]}["NVIDIA_L4_GPUS"] == 5


def test_a_stale_fingerprint_changes_nothing(base: str, world: World) -> None:
    made = rent(base, world)
    path = f"{INSTANCES}/one"
    for verb, body, stamp in (
        ("setLabels", {"labels": {"a": "b"}}, {"labelFingerprint": made["labelFingerprint"]}),
        ("setTags", {"items": ["web"]}, {"fingerprint": made["tags"]["fingerprint"]}),
        ("setMetadata", {"items": [{"key": "a", "value": "b"}]}, {"fingerprint": made["metadata"]["fingerprint"]}),
    ):
        assert refusal(call(base, "POST", f"{path}/{verb}", body))[:2] == (412, "conditionNotMet"), "none at all"
        assert call(base, "POST", f"{path}/{verb}", {**body, **stamp}).status_code == 200
        assert refusal(call(base, "POST", f"{path}/{verb}", {**body, **stamp}))[0] == 412
    shown = call(base, "GET", path).json()
    assert (shown["labels"], shown["tags"]["items"]) == ({"a": "b"}, ["web"])


def test_the_end_of_what_runs_can_not_be_moved(base: str, world: World) -> None:
    limit = {"maxRunDuration": {"seconds": "36000"}, "instanceTerminationAction": "DELETE"}
    rent(base, world, scheduling={**WISH["scheduling"], **limit})
    path = f"{INSTANCES}/one"
    longer = {**WISH["scheduling"], **limit, "maxRunDuration": {"seconds": "72000"}}
    assert refusal(call(base, "POST", f"{path}/setScheduling", longer))[:2] == (400, "badRequest")
    done(base, world, call(base, "POST", f"{path}/stop", discardLocalSsd="false"))
    done(base, world, call(base, "POST", f"{path}/setScheduling", longer))
    done(base, world, call(base, "POST", f"{path}/start"))
    world.skip(71000)
    assert call(base, "GET", path).json()["status"] == "RUNNING"
    world.skip(2000)
    assert call(base, "GET", path).status_code == 404


def test_what_is_stopped_costs_nothing_here_and_is_not_ended(base: str, world: World) -> None:
    rent(base, world)
    (rental,) = world.alive()
    done(base, world, call(base, "POST", f"{INSTANCES}/one/stop"))
    world.state()
    billed = rental.billed_usd
    world.skip(36000)
    world.state()
    assert (rental.status, rental.billed_usd) == ("TERMINATED", billed)
    assert billed > 0


def test_a_disk_of_the_host_must_be_spoken_of_before_a_stop(base: str, world: World) -> None:
    zone = "us-central1-a"
    body = wish(machineType=f"zones/{zone}/machineTypes/a2-ultragpu-1g")
    call(base, "POST", f"/zones/{zone}/instances", body)
    world.skip(60)
    assert refusal(call(base, "POST", f"/zones/{zone}/instances/one/stop"))[:2] == (400, "badRequest")
    assert call(base, "POST", f"/zones/{zone}/instances/one/stop", discardLocalSsd="false").status_code == 200


def test_an_order_that_comes_too_early_is_refused(base: str, world: World) -> None:
    insert(base)
    assert refusal(call(base, "DELETE", f"{INSTANCES}/one"))[:2] == (400, "resourceNotReady")
    world.skip(30)
    answer = call(base, "DELETE", f"{INSTANCES}/one")
    assert call(base, "GET", f"{INSTANCES}/one").json()["status"] == "STOPPING"
    about = f'(targetId = {answer.json()["targetId"]}) (operationType = "delete")'
    listed = call(base, "GET", f"/zones/{ZONE}/operations", filter=about).json()["items"]
    assert [one["name"] for one in listed] == [answer.json()["name"]]
    done(base, world, answer)
    assert refusal(call(base, "GET", f"{INSTANCES}/one"))[:2] == (404, "notFound")


def test_lists_have_pages_and_zones_that_have_nothing(base: str, world: World) -> None:
    for name in ("one", "two", "three"):
        rent(base, world, name=name)
    first = call(base, "GET", "/aggregated/instances", maxResults=2).json()
    second = call(base, "GET", "/aggregated/instances", maxResults=2, pageToken=first["nextPageToken"]).json()
    assert "nextPageToken" not in second
    names = [one["name"] for page in (first, second) for one in page["items"][f"zones/{ZONE}"]["instances"]]
    assert sorted(names) == ["one", "three", "two"]
    assert first["items"]["zones/us-east4-a"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"
    assert refusal(call(base, "GET", INSTANCES, filter="name eq one"))[:2] == (400, "invalid")


def test_a_wait_ends_when_the_operation_does(base: str, world: World) -> None:
    operation = insert(base).json()
    world.skip(7.9)
    path = f"/zones/{ZONE}/operations/{operation['name']}"
    assert call(base, "POST", f"{path}/wait").json()["status"] == "DONE"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"allowed": []}, "allowed and denied"),
        ({"allowed": [{"IPProtocol": "icmp", "ports": ["1"]}]}, "Ports may only"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["x"]}]}, "ports[0]"),
        ({"sourceRanges": ["203.0.113.1/24"]}, "sourceRanges"),
        ({"targetTags": ["Web"]}, "tags"),
        ({"priority": 70000}, "priority"),
    ],
)
def test_a_firewall_rule_is_checked(base: str, changes: dict[str, Any], words: str) -> None:
    status, _reason, message = refusal(call(base, "POST", "/global/firewalls", {**RULE, **changes}))
    assert status == 400
    assert words in message


def test_a_firewall_rule_without_sources_opens_everything(base: str, world: World) -> None:
    """As the real one does, when nobody says anything."""
    call(base, "POST", "/global/firewalls", {key: value for key, value in RULE.items() if key != "sourceRanges"})
    assert refusal(call(base, "GET", "/global/firewalls/ssh"))[0] == 404, "not before it is done"
    world.skip(10)
    assert call(base, "GET", "/global/firewalls/ssh").json()["sourceRanges"] == ["0.0.0.0/0"]
    call(base, "PATCH", "/global/firewalls/ssh", {"name": "ssh", "sourceRanges": ["203.0.113.0/24"]})
    world.skip(10)
    assert call(base, "GET", "/global/firewalls/ssh").json()["sourceRanges"] == ["203.0.113.0/24"]
    call(base, "DELETE", "/global/firewalls/ssh")
    world.skip(10)
    assert call(base, "GET", "/global/firewalls").json()["items"] == []


def test_too_many_calls_are_refused_with_403(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gcp.QUOTA == (("minute", 1500, 60.0),)
    monkeypatch.setattr(gcp, "QUOTA", (("minute", 3, 60.0),))
    world.limits = True
    with serving(gcp.make(world), world) as url:
        base = f"{url}{gcp.URL_PATH}/projects/{gcp.PROJECT}"
        answers = [call(base, "GET", "/regions/us-east4") for _call in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 403]
    assert refusal(answers[-1])[1] == "rateLimitExceeded"
