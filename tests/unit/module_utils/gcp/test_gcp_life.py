# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rented at Google Cloud: listed completely, stopped, started, ended, by Google or by us."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _ending, _lifetime, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp, gcp_wire
from emulators import gcp as emulator
from emulators.compute_instances import PUBLIC_NETWORK
from emulators.machines import NoMachines
from emulators.world import Fault, World
from support.gcp_calls import KEY, ONE, marker, offer_in, orders, rent, rental, request

LIST = "/aggregated/instances$"
KIND = "compute#instanceAggregatedList"
HOST_KEY = "ssh-ed25519 " + "A" * 68


def wait_for(provider: gcp.GcpProvider, instance_id: str, status: Status | None) -> Instance | None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        current = provider.get(instance_id)
        if (current.status if current else None) is status:
            return current
    raise AssertionError(f"never {status}")


def test_a_rental_is_pending_then_runs_and_can_be_reached(provider: gcp.GcpProvider) -> None:
    made = rent(provider)
    assert made.status is Status.PENDING
    running = wait_for(provider, made.id, Status.RUNNING)
    assert running is not None
    (endpoint,) = running.ssh_endpoints
    assert (endpoint.host.startswith(PUBLIC_NETWORK), endpoint.port, running.ssh_user) == (True, 22, "root")
    assert str(running.address).startswith("10.128.0.")
    assert running.host_key is None, "nothing runs behind it, so nobody told one"


def test_the_host_key_is_what_the_guest_has_written(
    provider: gcp.GcpProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoMachines, "host_key", lambda self, rental_id: f"{HOST_KEY} root@vm")
    made = rent(provider)
    running = wait_for(provider, made.id, Status.RUNNING)
    assert running is not None
    assert running.host_key == provider.list()[0].host_key == HOST_KEY
    world.faults = [Fault("GET", "/getGuestAttributes$", status=403, body={"error": {"code": 403}}, times=None)]
    assert provider.list()[0].host_key is None, "who may not read it does without"
    world.faults = [Fault("GET", "/getGuestAttributes$", status=503, times=None)]
    assert provider.list()[0].host_key is None, "and so does who can't"
    assert provider.delete(made.id)


def test_only_what_carries_a_marker_is_listed_and_touched(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    wire = rental(world, made.id).wire
    for label in ("gf--acme-llm--vllm-1--abc123-x", "other", ""):
        wire["labels"] = {"gpufleet-marker": label}
        assert provider.list() == []
        for act in (provider.get, provider.start, provider.stop, provider.delete):
            with pytest.raises(InvalidRequest, match="no marker"):
                act(made.id)
    assert [rental(world, made.id)] == world.alive()
    assert [one for one in orders(world) if not one.endswith("/instances")] == []


def test_all_pages_are_read(provider: gcp.GcpProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [rent(provider, zone) for zone in ("us-central1-b", "us-central1-c", "us-east4-a")]
    monkeypatch.setattr(emulator, "_PAGE", 1)
    assert sorted(one.id for one in provider.list()) == sorted(one.id for one in made)


@pytest.mark.parametrize(
    "body",
    [
        {"kind": KIND, "items": {"zones/us-east4-a": {"warning": {"code": "UNREACHABLE"}}}},
        {"kind": KIND, "items": {}, "unreachables": ["zones/us-east4-a"]},
        {"kind": KIND, "items": []},
        {},
        [],
    ],
)
def test_a_list_that_is_not_complete_proves_nothing(provider: gcp.GcpProvider, world: World, body: Any) -> None:
    rent(provider)
    world.faults = [Fault("GET", LIST, status=200, body=body)]
    with pytest.raises(ProviderUnavailable):
        provider.list()


def test_it_stops_and_starts_with_what_is_left_of_its_time(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider, marker=marker(8))
    wait_for(provider, made.id, Status.RUNNING)
    assert provider.stop(made.id).status is Status.STOPPED
    assert provider.stop(made.id).status is Status.STOPPED, "again is no error"
    assert [one.rpartition("/")[2] for one in orders(world)].count("stop") == 1
    world.skip(3600 * 3)
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    scheduling = rental(world, made.id).wire["scheduling"]
    assert int(scheduling["maxRunDuration"]["seconds"]) < 5 * 3600
    assert scheduling["onHostMaintenance"] == "TERMINATE"
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING), "again is no error"


def test_what_is_over_is_not_started_again(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider, marker=marker(2))
    wait_for(provider, made.id, Status.RUNNING)
    provider.stop(made.id)
    world.skip(3600 * 3)
    with pytest.raises(InvalidRequest, match="is over"):
        provider.start(made.id)
    assert rental(world, made.id).alive, "nobody but a sweep ends it"


def test_a_start_that_finds_no_gpu_says_so(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    provider.stop(made.id)
    world.faults = [Fault(trouble="no_gpu")]
    with pytest.raises(NoCapacity, match="could not start vllm-1"):
        provider.start(made.id)
    current = provider.get(made.id)
    assert current is not None
    assert current.status is Status.STOPPED


def test_a_machine_with_disks_of_its_host_can_be_stopped(provider: gcp.GcpProvider) -> None:
    """Google wants to know what becomes of them."""
    made = provider.create(request(offer_in(provider, "us-central1-a", gpu="A100_80GB")))
    wait_for(provider, made.id, Status.RUNNING)
    assert provider.stop(made.id).status is Status.STOPPED


def test_google_ends_it_when_its_time_is_over(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider, marker=marker(2))
    wait_for(provider, made.id, Status.RUNNING)
    world.skip(3600 * 3)
    assert provider.get(made.id) is None
    assert world.alive() == []
    ends = _lifetime.ends("gcp", made.marker.expiry_epoch_hours, ends_itself=False)
    assert ends.enforcer is _lifetime.Enforcer.PROVIDER


def test_a_spot_machine_that_google_takes_back_is_gone(provider: gcp.GcpProvider, world: World) -> None:
    offers = [offer_in(provider, zone, interruptible=True) for zone in ("us-central1-b", "us-central1-c")]
    limited = provider.create(request(offers[0], marker=marker(8)))
    unlimited = provider.create(request(offers[1], marker=marker(0)))
    world.faults = [Fault(trouble="exits")]
    wait_for(provider, limited.id, None)
    wait_for(provider, unlimited.id, None)
    world.faults = []
    wish = Wish("acme-llm", "vllm-1", providers=("gcp",), gpu="L4", gpu_count=1, interruptible=True, ssh_public_key=KEY)
    replaced, _offer = _rent.rent({"gcp": provider}, wish, [offers[0]])
    assert replaced.id != limited.id
    assert [rental(world, replaced.id)] == world.alive()


def test_it_is_ended_with_proof(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    assert provider.delete(made.id) is True
    assert provider.get(made.id) is None
    assert provider.delete(made.id) is False, "it was already gone"
    assert world.alive() == []


def test_an_end_is_ordered_again_until_it_is_taken(provider: gcp.GcpProvider, world: World) -> None:
    """While its create is under way, Google takes no other order."""
    made = rent(provider)
    error = {"code": 400, "message": "The resource is not ready", "errors": [{"reason": "resourceNotReady"}]}
    world.faults = [Fault("DELETE", ONE, status=400, body={"error": error}, times=1)]
    assert provider.delete(made.id) is True
    assert len([one for one in orders(world) if one.startswith("DELETE")]) == 2
    assert world.alive() == []


# A 2xx with it says neither yes nor no.
NO_OPERATIONS: list[Any] = ["<html>", [], {}, {"status": "PENDING"}, {"name": ""}]


@pytest.mark.parametrize("body", NO_OPERATIONS)
def test_an_order_that_is_answered_with_no_operation_may_have_taken_effect(
    provider: gcp.GcpProvider, world: World, body: Any
) -> None:
    world.faults = [Fault("POST", "/instances$", status=200, body=body)]
    with pytest.raises(Ambiguous, match="no operation"):
        rent(provider)
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    world.faults = [Fault("POST", "/stop$", status=200, body=body)]
    with pytest.raises(ProviderUnavailable, match="no operation"):
        provider.stop(made.id)
    world.faults = [Fault("DELETE", ONE, status=200, body=body)]
    assert provider.delete(made.id) is True
    assert len([one for one in orders(world) if one.startswith("DELETE")]) == 2
    assert world.alive() == []


@pytest.mark.parametrize("body", NO_OPERATIONS)
def test_what_an_operation_became_is_not_read_from_something_else(
    provider: gcp.GcpProvider, world: World, body: Any
) -> None:
    world.faults = [Fault("GET", "/operations/[^/]+$", status=200, body=body)]
    with pytest.raises(Ambiguous, match="no operation"):
        rent(provider)


def test_an_end_that_does_not_come_is_loud(
    provider: gcp.GcpProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rent(provider)
    world.faults = [Fault(trouble="delete_late", seconds=1e6)]
    with pytest.raises(ProviderUnavailable, match=r"goes on costing 0\.707 USD per hour") as caught:
        provider.delete(made.id)
    assert "console.cloud.google.com" in caught.value.fix
    assert rental(world, made.id).alive
    assert _ending.DEADLINE_SECONDS == 60.0


@pytest.mark.parametrize(
    "body",
    [
        {
            "error": {
                "code": 404,
                "message": "The resource 'projects/nope' was not found",
                "errors": [{"reason": "notFound"}],
            }
        },
        {
            "error": {
                "code": 404,
                "message": "The resource 'projects/p/zones/z' was not found",
                "errors": [{"reason": "notFound"}],
            }
        },
        "<html>no such page</html>",
    ],
)
def test_a_404_about_something_else_proves_no_absence(provider: gcp.GcpProvider, world: World, body: Any) -> None:
    made = rent(provider)
    world.faults = [Fault("GET", ONE, status=404, body=body, times=None)]
    with pytest.raises(ProviderUnavailable, match="404"):
        provider.get(made.id)
    with pytest.raises(ProviderUnavailable, match="404"):
        provider.delete(made.id)
    assert rental(world, made.id).alive


def test_a_wrong_project_is_an_error_and_not_an_empty_list(url: str) -> None:
    provider = gcp.make({"project": "somebody-elses", "api_url": url})
    with pytest.raises(InvalidRequest, match="somebody-elses"):
        provider.list()


def test_what_is_being_deleted_is_no_stopped_machine(provider: gcp.GcpProvider, world: World) -> None:
    """As after a controller that was killed while it ended it: the next one must not start it."""
    stopping = rent(provider, "us-central1-b")
    ending = rent(provider, "us-central1-c", marker=marker(name="vllm-2"))
    wait_for(provider, stopping.id, Status.RUNNING)
    wait_for(provider, ending.id, Status.RUNNING)
    world.scale = 0.0  # nothing goes on from here
    world.began = time.time() - (world.rentals[ending.id.split("/")[1]].created_at - world.began + 100.0)
    world._skipped_seconds = 0.0
    world.scale = 1.0
    provider._api.order("POST", f"{gcp_wire.path_of(stopping.id)}/stop")
    provider._api.order("DELETE", gcp_wire.path_of(ending.id))
    seen = {one.marker.name: one.status for one in provider.list()}
    assert seen == {"vllm-1": Status.STOPPED, "vllm-2": Status.TERMINATING}
    assert _rent.find({"gcp": provider}, "acme-llm", "vllm-2").current is None


def test_too_many_requests_can_come_as_a_403(provider: gcp.GcpProvider, world: World) -> None:
    body = {"error": {"code": 403, "message": "slow down", "errors": [{"reason": "rateLimitExceeded"}]}}
    world.faults = [Fault("GET", LIST, status=403, body=body, times=2)]
    assert provider.list() == []
    world.faults = [Fault("GET", LIST, status=403, body=body, times=None)]
    with pytest.raises(RateLimited):
        provider.list()


@pytest.mark.parametrize("wrong", ["", "abc", "us-central1-b", "us-central1-b/x", "../b/1", "us-central1-b/1/../2"])
def test_an_id_that_is_none_is_never_sent(provider: gcp.GcpProvider, world: World, wrong: str) -> None:
    with pytest.raises(InvalidRequest, match="is no id of gcp"):
        provider.get(wrong)
    assert world.calls == []


def test_a_list_that_warns_is_not_complete(provider: gcp.GcpProvider, world: World) -> None:
    body = {"kind": "compute#instanceAggregatedList", "items": {}, "warning": {"code": "PARTIAL_SUCCESS"}}
    world.faults = [Fault("GET", LIST, status=200, body=body, times=None)]
    with pytest.raises(ProviderUnavailable, match="not complete"):
        provider.list()


def test_who_may_not_ask_is_told_what_is_missing(provider: gcp.GcpProvider, world: World) -> None:
    body = {
        "error": {
            "code": 403,
            "message": "Required 'compute.instances.list' permission",
            "errors": [{"reason": "forbidden"}],
        }
    }
    world.faults = [Fault("GET", LIST, status=403, body=body)]
    with pytest.raises(AuthError, match=r"compute\.instances\.list") as caught:
        provider.list()
    assert "roles/compute.instanceAdmin.v1" in caught.value.fix
