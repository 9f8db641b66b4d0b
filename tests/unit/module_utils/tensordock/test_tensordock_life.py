# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lives at TensorDock, until it is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    renewing,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock
from emulators.world import Fault, Rental, World
from support.tensordock_calls import (
    LIST,
    ONE,
    ROW,
    UNKNOWN,
    calls,
    one_offer,
    orders,
    rent,
    request,
    wait_for,
)

# What lives


def test_a_life(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    running = wait_for(provider, made.id, Status.RUNNING)
    assert [(end.host, end.port) for end in running.ssh_endpoints] == [("203.0.113.40", 22)]
    stopped = provider.stop(made.id)
    assert stopped.status is Status.STOPPED
    assert stopped.price_per_hour_usd == running.price_per_hour_usd  # a stop saves nothing
    assert (running.running_price_per_hour_usd, stopped.running_price_per_hour_usd) == (
        running.price_per_hour_usd,
        None,
    )
    assert provider.stop(made.id).status is Status.STOPPED
    assert provider.start(made.id).status in (Status.PENDING, Status.RUNNING)
    wait_for(provider, made.id, Status.RUNNING)
    assert provider.start(made.id).status is Status.RUNNING
    assert provider.delete(made.id) is True
    assert provider.get(made.id) is None
    assert provider.delete(made.id) is False
    assert (world.alive(), provider.list(), provider.clean_up("acme-llm")) == ([], [], False)
    assert provider.log(made.id, "x") == ""


def test_its_address_comes_late(provider: tensordock.TensordockProvider, world: World) -> None:
    world.scale = 1.0
    made = rent(provider)
    seen = []
    for skipped in (0, 6, 15, 15):
        world.skip(skipped)
        current = provider.get(made.id)
        assert current is not None
        seen.append((current.status, current.ssh_endpoints != ()))
    assert seen == [
        (Status.PENDING, False),
        (Status.PENDING, False),
        (Status.RUNNING, False),
        (Status.RUNNING, True),
    ]


@pytest.mark.parametrize(("ignored", "port"), [(False, 20000), (True, 22)])
def test_ports_are_read_back(provider: tensordock.TensordockProvider, world: World, ignored: bool, port: int) -> None:
    world.faults = [Fault(trouble="ports_ignored")] if ignored else []
    made = provider.create(request(one_offer(provider, regions=["Norway"]), ports=((8000, "tcp"),)))
    current = wait_for(provider, made.id, Status.RUNNING)
    (end,) = current.ssh_endpoints
    assert end.port == 22 if ignored else end.port >= port
    assert ("no port is forwarded" in current.detail) is ignored


def test_a_machine_that_stops_by_itself(provider: tensordock.TensordockProvider, world: World) -> None:
    world.faults = [Fault(trouble="exits", seconds=60)]
    made = rent(provider)
    world.skip(90)
    assert wait_for(provider, made.id, Status.STOPPED).id == made.id


def test_a_stop_may_give_the_gpu_away(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    world.faults = [Fault(trouble="no_gpu")]
    stopped = provider.stop(made.id)
    assert stopped.status is Status.STOPPED
    assert "its GPU was given away" in stopped.detail
    assert stopped.price_per_hour_usd is not None
    assert 0 < stopped.price_per_hour_usd < 0.01
    with pytest.raises(NoCapacity, match="its GPU was given away") as caught:
        provider.start(made.id)
    assert "absent" in caught.value.fix
    assert provider.delete(made.id) is True


def test_what_is_outbid_can_not_be_started(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [
        Fault(method="GET", path=ONE, status=200, body=ROW | {"id": made.id, "status": "Outbid"}, times=None),
        Fault(method="POST", path=rf"{ONE}/start", status=409, body={"error": "no"}),
    ]
    with pytest.raises(NoCapacity, match="its GPU was given away"):
        provider.start(made.id)


def test_a_start_waits_for_the_stop_before_it(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    world.faults = [
        Fault(method="GET", path=ONE, status=200, body=ROW | {"id": made.id, "status": "Stopping"}, times=3)
    ]
    provider.stop(made.id)
    assert len([path for path in calls(world, "GET") if made.id in path]) >= 4
    world.faults = [
        Fault(method="GET", path=ONE, status=200, body=ROW | {"id": made.id, "status": "stopping"}, times=2)
    ]
    before = len(world.calls)
    provider.start(made.id)
    assert [call["method"] for call in world.calls[before:]] == ["GET", "GET", "GET", "POST", "GET"]


def test_a_refused_start_or_stop_is_told(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    wait_for(provider, made.id, Status.RUNNING)
    world.faults = [Fault(method="POST", status=400, body={"error": "not now"})]
    with pytest.raises(InvalidRequest, match="not now"):
        provider.stop(made.id)
    provider.stop(made.id)
    world.faults = [Fault(method="POST", status=200, body={"status": 409, "error": "not now"})]
    with pytest.raises(InvalidRequest, match="not now"):
        provider.start(made.id)


def test_what_is_gone_can_not_be_started(provider: tensordock.TensordockProvider) -> None:
    for call in (provider.start, provider.stop):
        with pytest.raises(InvalidRequest, match="no instance"):
            call(UNKNOWN)


def test_its_name_can_not_be_changed_so_its_end_can_not(provider: tensordock.TensordockProvider) -> None:
    with pytest.raises(InvalidRequest, match="can't change the expiry"):
        renewing(provider)


# Lists


def add_rentals(world: World, names: list[str | None], provider: tensordock.TensordockProvider) -> None:
    """Copies of a real one, as if they had always been there."""
    first = world.rentals[rent(provider).id]
    del world.rentals[first.id]
    for name in names:
        number = next(world.numbers)
        identity = f"7d0c0000-0000-4000-8000-{number:012x}"
        wire = {**first.wire, "id": identity, "name": name}
        world.rent(Rental(identity, "tensordock", name or "", "running", first.created_at, 0.1, wire))


def test_a_list_has_only_ours_in_whichever_shape_it_comes(
    provider: tensordock.TensordockProvider, world: World
) -> None:
    ours = [_marker.encode(Marker("acme-llm", f"vllm-{index}", "abc123")) for index in range(4)]
    foreign = ["", None, "vllm-1", f"{ours[0]} ", f"x{ours[0]}", ours[0].upper(), "gf--acme-llm--vllm-1"]
    add_rentals(world, [*ours, *foreign], provider)
    for _turn in range(6):
        assert sorted(_marker.encode(one.marker) for one in provider.list()) == ours
    shown = [path for path in calls(world, "GET") if path.count("/") > 3]
    assert len(set(shown)) == 4  # nobody looks closer at what is not ours
    assert {one.gpu_count for one in provider.list()} == {1}  # which the list itself doesn't say


BROKEN = [
    Fault(status=500, times=None),
    Fault(drop="before", times=None),
    Fault(status=400, body=[{"message": "no"}]),
    Fault(status=200, body={"status": 500, "error": "Internal"}),
    Fault(status=200, body="<html>"),
    Fault(status=200, body={}),
    Fault(status=200, body={"data": None}),
    Fault(status=200, body={"data": [{"name": "no id"}]}),
    Fault(status=200, body={"data": [{"id": "7d0c"}]}),
    Fault(status=200, body={"data": [], "links": {"next": "more"}}),
]
# Said of one instance, it means that it ended meanwhile.
NOT_FOUND = [
    Fault(status=404, body={"error": "no such route"}),
    Fault(status=200, body={"status": 404, "error": "no"}),
]


@pytest.mark.parametrize(
    ("path", "fault"), [*((LIST, one) for one in [*BROKEN, *NOT_FOUND]), *((ONE, one) for one in BROKEN)]
)
def test_a_call_that_fails_is_an_error_and_no_short_list(
    provider: tensordock.TensordockProvider, world: World, path: str, fault: Fault
) -> None:
    rent(provider)
    world.faults = [replace(fault, method="GET", path=path)]
    with pytest.raises(ProviderError) as caught:
        provider.list()
    assert caught.value.code != "ambiguous"  # a question has no effect


def test_what_ends_while_we_look_is_not_listed(provider: tensordock.TensordockProvider, world: World) -> None:
    rent(provider)
    world.faults = [Fault(method="GET", path=ONE, status=404, body={"error": "Instance not found"})]
    assert provider.list() == []


def test_what_says_its_name_in_the_list_alone_is_ours(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    nameless = {name: value for name, value in ROW.items() if name != "name"}
    world.faults = [Fault(method="GET", path=ONE, status=200, body=nameless | {"id": made.id}, times=2)]
    for seen in (*provider.list(), provider.get(made.id)):
        assert seen is not None
        assert (seen.id, seen.marker, seen.gpu, seen.status) == (made.id, made.marker, "A40", Status.RUNNING)
    assert provider.delete(made.id) is True


@pytest.mark.parametrize("name", [None, "", "renamed", _marker.encode(Marker("acme-llm", "vllm-2", "abc123"))])
def test_two_names_of_one_instance_are_an_error(
    provider: tensordock.TensordockProvider, world: World, name: str | None
) -> None:
    made = rent(provider)
    world.faults = [Fault(method="GET", path=ONE, status=200, body=ROW | {"id": made.id, "name": name})]
    with pytest.raises(ProviderUnavailable, match=f"another name for instance {made.id}"):
        provider.list()


def test_a_question_is_asked_again(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault(path=LIST, status=503), Fault(path=LIST, status=429), Fault(path=LIST, drop="before")]
    assert [one.id for one in provider.list()] == [made.id]


# Absence


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, times=None),
        Fault(status=200, body={}),
        Fault(status=200, body={"data": None}),
        Fault(status=200, body=[]),
        Fault(status=200, body=ROW),  # somebody else's id
        Fault(status=200, body={"status": 500, "error": "x"}),
        Fault(status=403, body={"error": "expired"}),
    ],
)
def test_only_the_provider_says_that_something_is_gone(
    provider: tensordock.TensordockProvider, world: World, fault: Fault
) -> None:
    world.faults = [replace(fault, method="GET", path=ONE)]
    with pytest.raises(ProviderError):
        provider.get(UNKNOWN)


def test_a_404_without_a_word_counts_when_the_list_agrees(
    provider: tensordock.TensordockProvider, world: World
) -> None:
    made = rent(provider)
    world.faults = [Fault(method="GET", path=ONE, status=404, body="not found", times=None)]
    assert provider.get(UNKNOWN) is None
    with pytest.raises(ProviderUnavailable, match="which its list has"):
        provider.get(made.id)
    world.faults.append(Fault(method="GET", path=LIST, status=404, body="not found", times=None))
    with pytest.raises(ProviderError):  # a wrong address knows nothing at all
        provider.get(UNKNOWN)


def test_gone_in_two_ways(provider: tensordock.TensordockProvider, world: World) -> None:
    assert provider.get(UNKNOWN) is None
    world.faults = [Fault(method="GET", path=ONE, status=200, body={"status": 404, "error": "Instance not found"})]
    assert provider.get(UNKNOWN) is None


@pytest.mark.parametrize("instance_id", ["", "abc", "1/../2", "-1-1-1", "1234 ", "a" * 65])
def test_a_malformed_id_is_a_usage_error(
    provider: tensordock.TensordockProvider, world: World, instance_id: str
) -> None:
    with pytest.raises(InvalidRequest, match="no id of tensordock"):
        provider.delete(instance_id)
    assert world.calls == []


@pytest.mark.parametrize("name", ["somebody's", None])
def test_what_is_not_ours_is_not_touched(
    provider: tensordock.TensordockProvider, world: World, name: str | None
) -> None:
    made = rent(provider)
    world.rentals[made.id].wire["name"] = name
    before = orders(world)
    for call in (provider.delete, provider.stop, provider.start, provider.get):
        with pytest.raises(InvalidRequest, match="no marker"):
            call(made.id)
    assert orders(world) == before
