# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The provider runpod over real HTTP, against the emulator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _marker, _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Marker,
    Offer,
    Request,
    Runtime,
    Status,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    EngineError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod, runpod_wire
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport
from emulators import runpod as emulator
from emulators.server import serving
from emulators.world import Fault, World

MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_000)
QUERY = {"gpu": "A100_80GB", "gpu_count": 1, "runtime": "container", "regions": []}
PLANTED = "planted-secret-5b1c"


@pytest.fixture
def world() -> World:
    return World("runpod", scale=3600)


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(emulator.make(world), world) as base:
        yield base + emulator.URL_PATH


@pytest.fixture
def provider(url: str) -> runpod.RunpodProvider:
    return runpod.make({"api_key": "any", "api_url": url})


@pytest.fixture(autouse=True)
def _fast_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two hundred times as fast as life, for sleeping and for measuring alike."""
    monkeypatch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / 200))
    monkeypatch.setattr(_clock, "monotonic", lambda: time.monotonic() * 200)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))


def request(offer: Offer, **changes: Any) -> Request:
    wanted = Request(
        marker=MARKER,
        offer=offer,
        image="vllm/vllm-openai:v0.32.0",
        env={"TOKEN": PLANTED},
        ports=((22, "tcp"), (8000, "http")),
        disk_gib=60,
    )
    return replace(wanted, **changes)


def rent(provider: runpod.RunpodProvider, **changes: Any) -> str:
    return provider.create(request(provider.offers(QUERY)[0], **changes)).id


def until(provider: runpod.RunpodProvider, identity: str, status: Status) -> Any:
    for _attempt in range(200):
        found = provider.get(identity)
        if found and found.status is status and (status is not Status.RUNNING or found.ssh_endpoints):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{identity} never was {status}: {found}")


# Offers -------------------------------------------------------------------------------------------------------------


def test_offers_are_types_in_clouds_at_the_price_of_all_gpus(provider: runpod.RunpodProvider) -> None:
    found = provider.offers({**QUERY, "gpu_count": 2})
    assert {(offer.id, offer.price_per_hour_usd) for offer in found} == {
        ("NVIDIA A100 80GB PCIe|SECURE|", 3.28),
        ("NVIDIA A100-SXM4-80GB|SECURE|", 3.78),
        ("NVIDIA A100 80GB PCIe|COMMUNITY|", 2.38),
    }
    assert {offer.runtime for offer in found} == {Runtime.CONTAINER}
    assert {offer.gpu_count for offer in found} == {2}


def test_offers_of_regions_are_in_data_centres_that_have_stock(provider: runpod.RunpodProvider) -> None:
    found = provider.offers({**QUERY, "regions": ["EU-RO-1", "EU-XX-9"]})
    assert [(offer.region, offer.id) for offer in found] == [("EU-RO-1", "NVIDIA A100 80GB PCIe|SECURE|EU-RO-1")]


@pytest.mark.parametrize(
    "changes",
    [{"gpu": "RTX_3090"}, {"runtime": "vm"}, {"interruptible": True}, {"gpu": "A40", "gpu_count": 9}, {"gpu": None}],
)
def test_what_is_not_sold_is_not_offered(provider: runpod.RunpodProvider, changes: dict[str, Any]) -> None:
    """RTX 3090: no stock anywhere. Machines, spot and nine GPUs of one pod: not sold."""
    assert provider.offers({**QUERY, **changes}) == []


def test_a_host_knows_the_cuda_of_the_image(provider: runpod.RunpodProvider) -> None:
    """There are L4s, and none with a driver for CUDA 13. What nobody knows filters nothing."""
    wanted = {**QUERY, "gpu": "L4"}
    assert provider.offers({**wanted, "minimum_cuda_version": "13.0"}) == []
    assert provider.offers({**QUERY, "minimum_cuda_version": "13.0"}) == provider.offers(QUERY)
    old = provider.offers({**wanted, "minimum_cuda_version": "12.8"})
    assert old == provider.offers(wanted) != []
    with pytest.raises(NoCapacity):
        provider.create(request(old[0], minimum_cuda_version="13.0"))
    assert provider.create(request(old[0], minimum_cuda_version="12.8")).gpu == "L4"


# A pod's life -------------------------------------------------------------------------------------------------------


def test_the_life_of_a_pod(provider: runpod.RunpodProvider, world: World) -> None:
    identity = rent(provider, args=("--model", "a model"))
    one = until(provider, identity, Status.RUNNING)
    assert (one.marker, one.gpu, one.gpu_count) == (MARKER, "A100_80GB", 1)
    assert (one.price_per_hour_usd, one.disk_gib, one.ports) == (1.64, 60, ((22, "tcp"), (8000, "http")))
    assert one.created_at == pytest.approx(world.now(), abs=3600)
    first_port = one.ssh_endpoints[0].port

    assert provider.stop(identity).status is Status.STOPPED
    assert provider.stop(identity).status is Status.STOPPED  # 409, and it is as wanted
    assert provider.start(identity).status in (Status.PENDING, Status.RUNNING)
    assert until(provider, identity, Status.RUNNING).ssh_endpoints[0].port != first_port

    assert provider.delete(identity) is True
    assert provider.delete(identity) is False
    assert provider.get(identity) is None
    assert provider.list() == []
    assert world.rentals[identity].billed_usd > 0


def test_what_is_asked_of_the_api(provider: runpod.RunpodProvider, world: World) -> None:
    wire = world.rentals[rent(provider, args=("--model", "a model"), ssh_public_key="ssh-ed25519 AAAA")].wire
    assert wire["name"] == wire["env"]["GPUFLEET_MARKER"] == _marker.encode(MARKER)
    assert wire["args"] == "--model 'a model'"
    assert wire["env"]["PUBLIC_KEY"] == "ssh-ed25519 AAAA"
    assert wire["ports"] == ["22/tcp", "8000/http"]
    assert wire["gpu"]["count"] == 1, "without it every create fails as sold out"
    explicit = world.rentals[rent(provider, entrypoint=("/bin/sh", "-c"), args=("serve",))].wire
    assert (explicit["entrypoint"], explicit["cmd"], explicit["args"]) == (["/bin/sh", "-c"], ["serve"], "")


def test_the_environment_stays_behind(provider: runpod.RunpodProvider) -> None:
    identity = rent(provider)
    assert PLANTED not in repr(provider.get(identity))
    assert PLANTED not in repr(provider.list())


def test_a_new_name_takes_nothing_from_us(provider: runpod.RunpodProvider, world: World) -> None:
    identity = rent(provider)
    world.rentals[identity].wire["name"] = "renamed in the console"
    assert [one.marker for one in provider.list()] == [MARKER]


@pytest.mark.parametrize("name", ["somebody's pod", "gf--acme-llm", f"{_marker.encode(MARKER)} (copy)"])
def test_what_is_not_ours_is_not_seen(provider: runpod.RunpodProvider, world: World, name: str) -> None:
    foreign = world.rentals[rent(provider)]
    foreign.wire["name"], foreign.wire["env"] = name, {}
    assert provider.list() == []
    for touch in (provider.get, provider.start, provider.stop, provider.delete):
        with pytest.raises(InvalidRequest, match="carries no marker of this collection"):
            touch(foreign.id)
    assert foreign.alive
    assert [call["path"] for call in world.calls if call["method"] != "GET"] == ["/v2/pods"], "only its creation"


@pytest.mark.parametrize("identity", ["", "../pods", "abc/def", "abc?x", "abc def", "abc-1", "abc\n", "\u0663abc"])
def test_what_is_no_id_is_refused_before_anybody_is_asked(
    provider: runpod.RunpodProvider, world: World, identity: str
) -> None:
    for touch in (provider.get, provider.start, provider.stop, provider.delete):
        with pytest.raises(InvalidRequest, match="is no id of runpod"):
            touch(identity)
    assert world.calls == []


def test_all_pages_are_read(provider: runpod.RunpodProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "PAGE_SIZE", 2)
    for _number in range(5):
        rent(provider)
    assert len(provider.list()) == 5


def test_half_a_list_is_no_list(provider: runpod.RunpodProvider, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runpod, "PAGE_SIZE", 2)
    for _number in range(3):
        rent(provider)
    original = Transport.call

    def fails_on_the_second_page(self: Any, method: str, path: str, **options: Any) -> Any:
        if (options.get("query") or {}).get("cursor"):
            world.faults = [Fault(status=503, times=None)]
        return original(self, method, path, **options)

    monkeypatch.setattr(Transport, "call", fails_on_the_second_page)
    with pytest.raises(ProviderUnavailable):
        provider.list()


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_a_create_whose_answer_is_lost_can_be_found(provider: runpod.RunpodProvider, world: World) -> None:
    offer = provider.offers(QUERY)[0]
    world.faults = [Fault(method="POST", drop="after")]
    with pytest.raises(Ambiguous):
        provider.create(request(offer))
    assert [one.marker for one in provider.list()] == [MARKER]


def test_a_pod_that_comes_without_our_marker_is_told_with_its_id_and_not_asked_for_again(
    provider: runpod.RunpodProvider, world: World
) -> None:
    body = {"id": "pod00000000abc", "name": "renamed", "status": "PROVISIONING", "env": {}}
    world.faults = [Fault(method="POST", path="/pods$", status=201, body=body)]
    with pytest.raises(
        InvalidRequest, match="RunPod rented pod pod00000000abc, but shows it without our marker"
    ) as said:
        rent(provider)
    assert "end it yourself at https://console.runpod.io/pods" in said.value.fix


def test_a_create_that_never_arrived_leaves_nothing(provider: runpod.RunpodProvider, world: World) -> None:
    offer = provider.offers(QUERY)[0]
    world.faults = [Fault(method="POST", drop="before")]
    with pytest.raises(Ambiguous):
        provider.create(request(offer))
    assert provider.list() == []


def test_sold_out_is_told_apart_from_a_mistake(provider: runpod.RunpodProvider) -> None:
    """The same status, 400, says both."""
    gone = replace(provider.offers(QUERY)[0], id="NVIDIA GeForce RTX 3090|SECURE|")
    with pytest.raises(NoCapacity):
        provider.create(request(gone))
    with pytest.raises(InvalidRequest, match="disk"):
        provider.create(request(provider.offers(QUERY)[0], disk_gib=0))


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (401, {"title": "Unauthorized", "detail": "bad key"}, AuthError, "RUNPOD_API_KEY"),
        (402, {"title": "Payment Required", "detail": "insufficient balance"}, QuotaError, "credit"),
        (403, "error code: 1010", ProviderUnavailable, "network"),
        (403, {"title": "Forbidden", "detail": "no access"}, AuthError, "RUNPOD_API_KEY"),
        (410, {"title": "Gone"}, ProviderUnavailable, "api_url"),
        (422, {"detail": "schema", "errors": ["entrypoint: unknown field"]}, InvalidRequest, "entry point"),
    ],
)
def test_refusals_say_what_to_do(
    provider: runpod.RunpodProvider, world: World, status: int, body: Any, error: type[ProviderError], words: str
) -> None:
    world.faults = [Fault(status=status, body=body, headers={"x-request-id": "r-7"})]
    with pytest.raises(error) as caught:
        provider.offers(QUERY)
    failure = caught.value.as_failure()
    assert words in failure["fix"]
    assert (failure["provider"], failure["status"], failure["request_id"]) == ("runpod", status, "r-7")


def test_a_delete_that_has_no_effect_is_an_alarm(provider: runpod.RunpodProvider, world: World) -> None:
    """As the same fault of the other providers: the code for it is shared."""
    identity = rent(provider)
    world.faults = [Fault(method="DELETE", status=204, times=None)]
    with pytest.raises(ProviderUnavailable, match=r"still has pod .* costing 1\.640 USD per hour") as caught:
        provider.delete(identity)
    assert "console.runpod.io" in caught.value.fix
    assert 2 <= sum(call["method"] == "DELETE" for call in world.calls) <= 6, "fewer where this machine is slow"


def test_a_refused_delete_says_what_goes_on_costing(provider: runpod.RunpodProvider, world: World) -> None:
    identity = rent(provider)
    world.faults = [Fault(method="DELETE", status=401, body={"title": "Unauthorized"})]
    with pytest.raises(AuthError, match=f"pod {identity} could not be ordered: it goes on costing 1.640 USD per hour"):
        provider.delete(identity)


@pytest.mark.parametrize("fault", [Fault(status=204), Fault(status=502), Fault(drop="before")])
def test_a_delete_without_effect_is_repeated(provider: runpod.RunpodProvider, world: World, fault: Fault) -> None:
    identity = rent(provider)
    world.faults = [replace(fault, method="DELETE")]
    assert provider.delete(identity) is True
    assert sum(call["method"] == "DELETE" for call in world.calls) == 2
    assert world.alive() == []


def test_a_delete_whose_answer_is_lost_is_settled_by_looking(provider: runpod.RunpodProvider, world: World) -> None:
    identity = rent(provider)
    world.faults = [Fault(method="DELETE", drop="after")]
    assert provider.delete(identity) is True
    assert world.alive() == []


def test_the_owner_of_a_job_comes_back(provider: runpod.RunpodProvider, world: World) -> None:
    job = rent(provider, marker=replace(MARKER, owner="job:17"))
    fleet = rent(provider)
    assert {one.id: one.marker.owner for one in provider.list()} == {job: "job:17", fleet: "fleet"}
    assert runpod_wire.OWNER_VARIABLE not in world.rentals[fleet].wire["env"]


# The bill -----------------------------------------------------------------------------------------------------------


def test_the_bill_says_what_was_charged_also_for_what_is_gone(provider: runpod.RunpodProvider, world: World) -> None:
    gone, lives, other = rent(provider), rent(provider), rent(provider)
    provider.delete(gone)
    began = min(rental.created_at for rental in world.rentals.values())
    billed = provider.billed_usd([gone, lives, "never-was"], began)
    assert set(billed) == {gone, lives}, other
    assert billed[gone] == pytest.approx(world.rentals[gone].billed_usd, abs=0.001)
    assert billed[gone] > 0


@pytest.mark.parametrize(
    ("body", "billed"),
    [
        ({"records": [{"podId": "a", "totalAmount": 1.25}, {"podId": "a", "totalAmount": 0.5}]}, {"a": 1.75}),
        ([{"podId": "a", "amount": 2.0}, {"podId": "b", "amount": 9.0}], {"a": 2.0}),
        ({"records": []}, {}),
    ],
)
def test_both_shapes_of_the_bill_are_read(
    provider: runpod.RunpodProvider, world: World, body: Any, billed: dict[str, float]
) -> None:
    world.faults = [Fault(path="/billing", status=200, body=body)]
    assert provider.billed_usd(["a"], 0.0) == billed


def test_a_bill_that_can_not_be_read_is_an_error(provider: runpod.RunpodProvider, world: World) -> None:
    world.faults = [Fault(path="/billing", status=200, body={"total": 5})]
    with pytest.raises(ProviderUnavailable, match="no records"):
        provider.billed_usd(["a"], 0.0)


def test_no_key_is_said_before_anything_is_sent(url: str, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    with pytest.raises(AuthError, match="no API key"):
        runpod.make({"api_url": url}).list()
    assert world.calls == []


def test_key_and_url_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "any")
    monkeypatch.setenv("RUNPOD_REST_V2_URL", url)
    assert runpod.make({}).list() == []
    assert len(world.calls) == 1


# Renting once -------------------------------------------------------------------------------------------------------

WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("runpod",),
    look_at=("runpod",),
    gpu="A100_80GB",
    gpu_count=1,
    runtime=Runtime.CONTAINER,
    lifetime_seconds=3600,
    image="vllm/vllm-openai:v0.32.0",
    wait="none",
)


def rented(url: str, **changes: Any) -> dict[str, Any]:
    """One run of the engine, by a controller that shares nothing with any other."""
    proxy_url = f"{url.removesuffix(emulator.URL_PATH)}/proxy/{{id}}/{{port}}"
    provider = runpod.make({"api_key": "any", "api_url": url, "proxy_url": proxy_url})
    return Run({"runpod": provider}, replace(WISH, **changes)).result()


def test_nothing_is_rented_whose_driver_is_too_old_for_the_image(
    url: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"gpu L4, CUDA 13\.0 for the image"):
        rented(url, gpu="L4", minimum_cuda_version="13.0")
    # A catalog that looks at no CUDA: the order says it, too.
    offers = runpod.RunpodProvider.offers
    monkeypatch.setattr(
        runpod.RunpodProvider, "offers", lambda self, query: offers(self, {**query, "minimum_cuda_version": ""})
    )
    with pytest.raises(ProviderError) as caught:
        rented(url, gpu="L4", minimum_cuda_version="13.0")
    assert caught.value.code == "no_capacity"
    assert world.rentals == {}


def test_waiting_ends_when_the_endpoint_answers(url: str, world: World) -> None:
    world.faults = [Fault(path="/health$", status=502, times=2)]
    result = rented(url, wait="endpoint", ports=((8000, "http"),))
    identity = result["instance"]["id"]
    assert result["instance"]["endpoint_url"].endswith(f"/proxy/{identity}/8000")
    assert result["readiness"]["ready"] is True
    assert result["readiness"]["classes"]["endpoint_starting"]["count"] == 2


def test_an_endpoint_that_never_answers_is_kept_and_told(url: str, world: World) -> None:
    world.faults = [Fault(path="/health$", status=502, times=None)]
    with pytest.raises(EngineError, match=r"endpoint_starting.*It is kept") as caught:
        rented(url, wait="endpoint", wait_timeout_seconds=30, ports=((8000, "http"),))
    assert caught.value.code == "not_ready"
    assert len(world.alive()) == 1


@pytest.mark.parametrize("how", ["stopped", "started again and again"])
def test_a_pod_whose_program_ends_while_it_is_probed_is_not_waited_for(
    url: str, world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = _readiness.probe_endpoint

    def ends_after_the_first_probe(*arguments: Any) -> Any:
        (pod,) = world.alive()
        if how == "stopped" and pod.status == "RUNNING":
            runpod.make({"api_key": "any", "api_url": url}).stop(pod.id)
        return probe(*arguments)

    monkeypatch.setattr(_readiness, "probe_endpoint", ends_after_the_first_probe)
    if how != "stopped":  # every 12 s of a controller whose time passes 18 times slower than the world's
        world.faults = [Fault(trouble="exits", seconds=12.0 * 18)]
    with pytest.raises(EngineError, match=r"exited \(1 times\).*It is kept") as caught:
        rented(url, wait="endpoint", wait_timeout_seconds=7200, ports=((8000, "http"),))
    assert caught.value.result["readiness"]["seconds"] < 1000
    assert caught.value.result["readiness"]["last_class"] == "exited"
    assert len(world.alive()) == 1


def test_the_cheapest_is_rented_once_and_ended_with_proof(url: str, world: World) -> None:
    first = rented(url)
    assert first["actions"] == ["create"]
    assert first["instance"]["price_per_hour_usd"] == 1.19
    assert not rented(url)["changed"]
    assert rented(url, state="absent")["actions"] == ["delete"]
    assert not rented(url, state="absent")["changed"]
    assert world.alive() == []


def test_too_dear_is_refused_before_anything_is_created(url: str, world: World) -> None:
    with pytest.raises(Exception, match="3 refused for their price"):
        rented(url, max_price_per_hour_usd=1.0)
    assert [call for call in world.calls if call["method"] == "POST"] == []


def test_a_pod_that_costs_more_than_its_offer_said_is_kept_and_told(url: str, world: World) -> None:
    world.faults = [Fault(trouble="dearer")]
    with pytest.raises(EngineError, match=r"price_per_hour_usd is 2\.38, wanted 'at most 1\.5'"):
        rented(url, max_price_per_hour_usd=1.5)
    assert [one.price_per_hour_usd for one in world.alive()] == [2.38]
    assert rented(url, state="stopped", max_price_per_hour_usd=1.5)["actions"] == ["stop"]


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_never_rents_twice(url: str, world: World, drop: Literal["before", "after"]) -> None:
    world.faults = [Fault(method="POST", drop=drop)]
    rented(url)
    assert len(world.alive()) == 1
    assert len(world.rentals) == 1


def test_controllers_that_share_nothing_end_with_one(url: str, world: World) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _number: rented(url), range(4)))
    assert {result["instance"]["id"] for result in results} == {rental.id for rental in world.alive()}
    assert len(world.alive()) == 1


def test_what_is_sold_out_at_the_last_moment_gives_way_to_the_next(url: str, world: World) -> None:
    sold_out = {"detail": "There are no longer any instances available with the requested specifications."}
    world.faults = [Fault(method="POST", status=400, body=sold_out)]
    assert rented(url)["instance"]["price_per_hour_usd"] == 1.64
