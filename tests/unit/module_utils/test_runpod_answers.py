# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers at RunPod's address that RunPod does not give: of a gateway, half of one, of a later version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Request, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._offers import survey
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    InvalidRequest,
    ProviderError,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod, runpod_wire
from emulators import runpod as emulator
from emulators.runpod_wire import GPUS, catalog_entry
from emulators.server import serving
from emulators.world import Fault, World
from support.fake_clock import FakeClock

MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_000)
POD = {"id": "pod1", "name": _marker.encode(MARKER), "status": "RUNNING", "ports": ["22/tcp", "8000/http"]}
QUERY = {"gpu": "A100_80GB", "gpu_count": 1, "runtime": "container", "regions": []}
LIST, ONE, CATALOG = "/pods$", "/pods/[^/]+$", "/catalog/gpus$"
UNKNOWN = "pod0000000000f"
NOT_FOUND = {"title": "Not Found", "status": 404, "detail": "pod not found"}
PAGE = "<html>502, or what a gateway thinks is one</html>"


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[World, str]]:
    """One server for all tests here, as starting one takes longer than most of them."""
    world = World("runpod")
    with serving(emulator.make(world), world) as base:
        yield world, base + emulator.URL_PATH


@pytest.fixture
def world(stage: tuple[World, str]) -> World:
    """The server's world, as new."""
    vars(stage[0]).update(vars(World("runpod", scale=3600)))
    return stage[0]


@pytest.fixture
def url(stage: tuple[World, str], world: World) -> str:
    return stage[1]


@pytest.fixture
def provider(url: str) -> runpod.RunpodProvider:
    return runpod.make({"api_key": "any", "api_url": url})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


def wanted(provider: runpod.RunpodProvider, **changes: Any) -> Request:
    (offer, *_others) = provider.offers(QUERY)
    return replace(Request(MARKER, offer, image="vllm/vllm-openai:v0.32.0", ports=((8000, "http"),)), **changes)


def rent(provider: runpod.RunpodProvider) -> Instance:
    return provider.create(wanted(provider))


def orders(world: World) -> list[str]:
    return [call["method"] for call in world.calls if call["method"] != "GET"]


# Absence


@pytest.mark.parametrize("body", [PAGE, {"message": "no route"}, {"detail": "Not Found"}, []])
def test_a_404_in_other_words_counts_when_the_list_agrees(
    provider: runpod.RunpodProvider, world: World, body: Any
) -> None:
    made = rent(provider)
    world.faults = [Fault("GET", ONE, status=404, body=body, times=None)]
    assert provider.get(UNKNOWN) is None
    assert provider.delete(UNKNOWN) is False
    for touch in (provider.get, provider.delete):
        with pytest.raises(ProviderUnavailable, match="which its list has"):
            touch(made.id)
    world.faults.append(Fault("GET", LIST, status=404, body=body, times=None))
    with pytest.raises(ProviderError):  # a wrong address knows nothing at all
        provider.get(UNKNOWN)
    assert [one.id for one in world.alive()] == [made.id]


def test_a_404_of_its_own_is_enough(provider: runpod.RunpodProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault("GET", ONE, status=404, body=NOT_FOUND), Fault("GET", LIST, status=503, times=None)]
    assert provider.get(made.id) is None


def test_a_gateways_404_to_a_delete_is_no_end(provider: runpod.RunpodProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault("DELETE", ONE, status=404, body=PAGE)]
    assert provider.delete(made.id) is True
    assert orders(world) == ["POST", "DELETE", "DELETE"]
    assert world.alive() == []


def test_somebody_else_was_faster(provider: runpod.RunpodProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault("DELETE", ONE, status=404, body=NOT_FOUND)]
    assert provider.delete(made.id) is False


# Answers that are none

BROKEN: list[Any] = [PAGE, [], {}, {"pods": None}, {"id": "pod1"}, {"id": 7, "name": "x"}, {"id": "", "name": "x"}]


@pytest.mark.parametrize("body", BROKEN)
def test_what_is_no_pod_is_no_word_about_it(provider: runpod.RunpodProvider, world: World, body: Any) -> None:
    made = rent(provider)
    world.faults = [Fault("GET", ONE, status=200, body=body, times=None)]
    for touch in (provider.get, provider.delete, provider.stop):
        with pytest.raises(ProviderUnavailable, match="not the pod we asked for"):
            touch(made.id)
    world.faults = [Fault("GET", ONE, status=200, body=POD)]
    with pytest.raises(ProviderUnavailable, match="not the pod we asked for"):
        provider.get(made.id)
    assert [one.id for one in world.alive()] == [made.id]


@pytest.mark.parametrize(
    "body",
    [
        *BROKEN,
        {"pods": ["x"]},
        {"pods": [{"name": "without an id"}]},
        {"pods": [{"id": "pod1", "status": "RUNNING"}]},  # whose it is can't be told
        {"pods": [], "pagination": "next"},
    ],
)
def test_what_is_no_list_is_no_empty_list(provider: runpod.RunpodProvider, world: World, body: Any) -> None:
    world.faults = [Fault("GET", LIST, status=200, body=body)]
    with pytest.raises(ProviderUnavailable):
        provider.list()


@pytest.mark.parametrize("body", [PAGE, [], {}, {"gpus": {}}, {"gpus": [{"name": "A100 PCIe"}]}])
def test_what_is_no_catalog_is_an_error(provider: runpod.RunpodProvider, world: World, body: Any) -> None:
    world.faults = [Fault("GET", CATALOG, status=200, body=body, times=None)]
    with pytest.raises(ProviderUnavailable):
        provider.offers(QUERY)


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("body", BROKEN)
def test_a_create_with_neither_yes_nor_no_may_have_taken_effect(
    provider: runpod.RunpodProvider, world: World, status: int, body: Any
) -> None:
    request = wanted(provider)
    world.faults = [Fault("POST", LIST, status=status, body=body)]
    with pytest.raises(Ambiguous) as caught:
        provider.create(request)
    assert caught.value.status == status
    assert orders(world) == ["POST"]


def test_a_stop_with_neither_yes_nor_no_may_have_taken_effect(provider: runpod.RunpodProvider, world: World) -> None:
    made = rent(provider)
    world.faults = [Fault("POST", "/action$", status=200, body=PAGE)]
    with pytest.raises(Ambiguous, match="answered a stop"):
        provider.stop(made.id)


@pytest.mark.parametrize("body", [PAGE, {}, {"secrets": [{"name": "x"}]}])
def test_what_is_no_list_of_secrets_is_an_error_and_hides_no_end(
    provider: runpod.RunpodProvider, world: World, body: Any
) -> None:
    made = provider.create(wanted(provider, secret_env={"TOKEN": "x"}))
    world.faults = [Fault("GET", "/account/secrets$", status=200, body=body, times=None)]
    with pytest.raises(ProviderUnavailable, match="no list of secrets"):
        provider.clean_up("acme-llm")
    assert provider.delete(made.id) is True


@pytest.mark.parametrize("price", [{"secure": 0, "community": 0.0}, {}, None, "free", {"secure": "free"}])
def test_nothing_is_free(provider: runpod.RunpodProvider, world: World, price: Any) -> None:
    """A price that nobody knows passes no maximum, and what has one comes before."""
    row = catalog_entry(GPUS[0], "SECURE") | {"dataCenters": []}
    world.faults = [Fault("GET", CATALOG, status=200, body={"gpus": [row | {"price": price}]}, times=None)]
    limited = survey({"runpod": provider}, QUERY, max_price_per_hour_usd=9.0)
    assert limited.offers == []
    assert {one["reason"] for one in limited.refused} == {"its price is not known, and max_price_per_hour_usd is set"}
    both = [row | {"price": price}, catalog_entry(GPUS[1], "SECURE")]
    world.faults = [Fault("GET", CATALOG, status=200, body={"gpus": both}, times=None)]
    ranked = survey({"runpod": provider}, QUERY)
    assert [one.price_per_hour_usd for one in ranked.offers] == [1.89, None, None]


# Pods that are told in an unexpected way


@pytest.mark.parametrize(
    "strange",
    [
        {name: value}
        for name in ("gpu", "ssh", "ports", "cost", "disk", "runtime", "createdAt", "status", "dataCenterId")
        for value in (None, "x", 7, [], ["x"], {}, {"direct": "x"}, {"direct": {"host": "203.0.113.7"}})
    ],
    ids=str,
)
def test_nothing_that_is_said_of_a_pod_hides_it(strange: dict[str, Any]) -> None:
    """Not right after a create, when its id is known from nothing else."""
    found = runpod_wire.instance_from(POD | strange, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert (found.id, found.marker) == ("pod1", MARKER)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *((word, Status.PENDING) for word in ("PROVISIONING", "STARTING", "A_NEW_WORD", "running", "", None)),
        ("RUNNING", Status.RUNNING),
        ("EXITED", Status.STOPPED),
        ("ERROR", Status.FAILED),
        ("TERMINATED", Status.TERMINATING),
    ],
)
def test_words_for_what_it_does(word: str | None, status: Status) -> None:
    found = runpod_wire.instance_from(POD | {"status": word}, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert (found.status, found.detail) == (status, word or "")


@pytest.mark.parametrize(
    ("listed", "ports"),
    [
        (["8000/http", "22/tcp"], ((22, "tcp"), (8000, "http"))),
        ([], ()),
        (None, ()),
        ("22/tcp", None),
        (["8000-8010/tcp"], None),
        ([{"private": 22}], None),
    ],
)
def test_ports_that_can_not_be_read_are_no_other_ports(listed: Any, ports: Any) -> None:
    """Else a pod would be replaced for them."""
    found = runpod_wire.instance_from(POD | {"ports": listed}, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert found.ports == ports


@pytest.mark.parametrize("strange", [{"name": None}, {"name": 7}, {"name": ["x"]}, {"env": "x"}, {"env": None}])
def test_whose_it_is_stands_in_one_of_two_places(strange: dict[str, Any]) -> None:
    in_both = POD | {"env": {runpod_wire.MARKER_VARIABLE: _marker.encode(MARKER)}}
    found = runpod_wire.instance_from(in_both | strange, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert found.marker == MARKER


@pytest.fixture
def _in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_in_tokyo")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400.0),
        ("1970-01-02T00:00:00", 86400.0),
        ("1970-01-02 00:00:00.5", 86400.5),
        ("1970-01-02T02:00:00+02:00", 86400.0),
        ("yesterday", None),
        ("", None),
        (None, None),
        (86400, None),
    ],
)
def test_when_it_was_rented(text: Any, seconds: float | None) -> None:
    """Wherever the controller is: a time without a zone is UTC."""
    found = runpod_wire.instance_from(POD | {"createdAt": text}, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert found.created_at == seconds


# Settings


@pytest.mark.parametrize("proxy_url", ["https://{pod}/{port}", "https://{}/{port}", "https://{id", "https://{id:d}"])
def test_a_proxy_url_that_can_not_be_filled_in_is_refused_before_any_call(
    url: str, world: World, proxy_url: str
) -> None:
    provider = runpod.make({"api_key": "any", "api_url": url, "proxy_url": proxy_url})
    with pytest.raises(InvalidRequest, match=r"provider_settings\.runpod\.proxy_url: .* has other braces"):
        provider.offers(QUERY)
    assert world.calls == []


def test_a_pod_is_running_when_it_says_so(provider: runpod.RunpodProvider) -> None:
    """The row that the tests above change is one that is understood."""
    found = runpod_wire.instance_from(POD, runpod.DEFAULT_PROXY_URL)
    assert found is not None
    assert (found.status, found.urls) == (Status.RUNNING, ((8000, "https://pod1-8000.proxy.runpod.net"),))
