# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lives at Vast.ai, until it is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Marker,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai, vastai_wire
from emulators.world import Fault, World
from support.fake_clock import FakeClock
from support.vastai_calls import (
    INSTANCE,
    MARKER,
    PAGES,
    ROW,
    add_rentals,
    body_of,
    calls,
    env_of,
    one_offer,
    rent,
    request,
    wait_for,
)

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
    row = ROW | {"id": int(made.id), "actual_status": "exited"}  # the list has not heard of it yet
    world.faults = [Fault(method="GET", path=INSTANCE, status=200, body={"instances": row}, times=None)]
    assert provider.start(made.id).status is Status.PENDING


def test_what_is_gone_can_not_be_started(provider: vastai.VastaiProvider) -> None:
    with pytest.raises(InvalidRequest, match="no instance 42"):
        provider.start("42")


# Lists


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


def test_a_refused_delete_says_what_goes_on_costing(provider: vastai.VastaiProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    world.faults = [Fault(method="DELETE", status=401, body={"success": False, "error": "auth_error"})]
    said = rf"instance {made.id} could not be ordered: it goes on costing 0\.410 USD per hour"
    with pytest.raises(AuthError, match=said):
        provider.delete(made.id)


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
