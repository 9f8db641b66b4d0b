# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists and offers from files: real processes, and providers that answer late or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _accounts,
    _budgets,
    _cached,
    _clock,
    _engine,
    _files,
    _listing,
    _offers,
    _readiness,
    _refresher,
)
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
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as provider_file
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer
from emulators import runpod
from emulators.server import serving
from emulators.world import Fault, World
from hypothesis import given
from hypothesis import strategies as st
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

ROOT = Path(__file__).parents[3]
KEY = "planted-key-71d0"
PLANTED = "planted-secret-0c4f"
A40 = {"gpu": "A40", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 20}


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[World, str]]:
    world = World("runpod", scale=600)
    with serving(runpod.make(world), world) as url:
        yield world, url + runpod.URL_PATH


@pytest.fixture
def world(stage: tuple[World, str], monkeypatch: pytest.MonkeyPatch) -> World:
    """An account with one pod whose environment holds a secret."""
    world, url = stage
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_REST_V2_URL", url)
    world.rentals.clear()
    world.faults.clear()
    rent(_engine.load_providers(["runpod"], {})["runpod"])
    world.calls.clear()
    return world


def rent(provider: Any, name: str = "vllm-1", offer: str = "NVIDIA A40|SECURE|") -> Instance:
    wanted = Offer("runpod", offer, gpu="A40", gpu_count=1, runtime=Runtime.CONTAINER)
    created: Instance = provider.create(
        Request(Marker("acme-llm", name, "abc123"), wanted, image="x/y:1", env={"TOKEN": PLANTED})
    )
    return created


def asked(world: World, path: str = "/v2/pods") -> int:
    with world.lock:
        return sum(call["method"] == "GET" and call["path"] == path for call in world.calls)


def listed(**how: Any) -> _listing.Listing:
    (listing,) = _listing.list_all(["runpod"], {}, **how)
    return listing


def cache_file(kind: str = "instances") -> Path:
    directory = _files.folder("cache")
    assert directory is not None
    (found,) = directory.glob(f"*-{kind}*.json")
    return found


def age(seconds: float, kind: str = "instances") -> None:
    """Make what is known older, and what was changed before."""
    for path in (cache_file(kind), *cache_file(kind).parent.glob("*.changed")):
        told = json.loads(path.read_text())
        for name in {"asked_at", "fetched_at", "changed_at"}.intersection(told):
            told[name] -= seconds
        path.write_text(json.dumps(told))


def eventually(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
    return found


def unlocked() -> bool:
    lock = _files.lock(cache_file().with_suffix(".lock"))
    _files.unlock(lock)
    return lock is not None


def python(program: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "build" / "collections"), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


LIST = """
import sys
from ansible_collections.gpuops.fleet.plugins.module_utils import _fleet_file, _inventory, _listing
listings = _listing.list_all(sys.argv[1:] or ["runpod"], {})
text = "plugin: gpuops.fleet.fleet\\ndeployment_id: acme-llm\\ninstances: []"
built = _inventory.build(_fleet_file.parse(text, "fleet.yml"), listings, "/x")
print([host.name for host in built.hosts], built.all_variables["fleet_complete"], built.warnings)
print([name for name in ("requests", "urllib3", "docker", "http.client") if name in sys.modules])
"""


def test_ten_processes_ask_once(world: World) -> None:
    world.faults = [Fault(method="GET", path="/pods$", latency_seconds=1.0, times=None)]
    processes = [python(LIST) for _number in range(10)]
    answers = {process.communicate(timeout=60)[0].splitlines()[0] for process in processes}
    assert answers == {"['vllm-1'] True []"}
    assert asked(world) == 1
    age(100)
    processes = [python(LIST) for _number in range(4)]
    answers = {process.communicate(timeout=60)[0].splitlines()[0] for process in processes}
    assert answers == {"['vllm-1'] True []"}
    eventually(unlocked)
    assert asked(world) == 2


@pytest.mark.parametrize("seconds", [0, 100])
def test_a_list_from_a_file_needs_no_http(world: World, seconds: float) -> None:
    listed()
    if seconds:
        age(seconds)
    (told, imported) = python(LIST).communicate(timeout=60)[0].splitlines()
    assert told == "['vllm-1'] True []"
    assert imported == "[]"
    eventually(unlocked)


def test_old_data_at_once_and_new_data_soon(world: World) -> None:
    assert [one.marker.name for one in listed().instances] == ["vllm-1"]
    for rental in world.alive():
        world.delete(rental)
    age(100)
    listing = listed()
    assert [one.marker.name for one in listing.instances] == ["vllm-1"]
    assert listing.age_seconds >= 100
    eventually(lambda: json.loads(cache_file().read_text())["data"] == [])
    assert listed().instances == ()
    assert asked(world) == 2


def test_a_home_that_begins_where_we_are(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUFLEET_HOME", "state")
    listed()
    age(100)
    before = json.loads(cache_file().read_text())["fetched_at"]
    listed()
    eventually(lambda: json.loads(cache_file().read_text())["fetched_at"] > before)


def test_the_process_in_the_background_can_not_be_seen_with_a_key(world: World) -> None:
    settings = {"runpod": {"api_key": f"{KEY}-of-the-file"}}
    _listing.list_all(["runpod"], settings)
    age(100)
    world.faults = [Fault(method="GET", path="/pods$", latency_seconds=2.0)]
    _listing.list_all(["runpod"], settings)
    (process,) = eventually(_refreshers)
    words = (process / "cmdline").read_text()
    assert KEY not in words
    assert os.getsid(int(process.name)) == int(process.name), "a session of its own"
    assert {os.readlink(process / "fd" / number) for number in "12"} == {"/dev/null"}
    eventually(unlocked)


def _refreshers() -> list[Path]:
    """Ours that run and have been told what to do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if "_refresher" in (process / "cmdline").read_text() and (process / "fd" / "1").exists():
                environment = (process / "environ").read_text()
                if f"GPUFLEET_HOME={os.environ['GPUFLEET_HOME']}\0" in environment:
                    found.append(process)
        except OSError:
            continue
    return found


def test_a_hung_provider_can_not_hold_the_lock(world: World) -> None:
    listed()
    age(100)
    world.faults = [Fault(method="GET", path="/pods$", latency_seconds=20.0)]
    lock = _files.lock(cache_file().with_suffix(".lock"))
    assert lock is not None
    job: dict[str, Any] = {"provider": "runpod", "settings": {}, "kind": "instances", "query": None}
    _refresher.start(job, lock, -4.0)  # with the grace, one second
    _files.unlock(lock)
    assert not unlocked(), "the child has it now"
    eventually(unlocked, seconds=15)
    assert [one.marker.name for one in listed().instances] == ["vllm-1"]


def test_a_provider_that_is_down_is_a_warning_with_age_and_reason(world: World) -> None:
    listed()
    age(100)
    world.faults = [Fault(status=503, times=None)]
    assert listed().outdated is None, "nobody knows it yet"
    eventually(lambda: json.loads(cache_file().read_text())["error"])
    (told, imported) = python(LIST).communicate(timeout=60)[0].splitlines()
    assert told.startswith("['vllm-1'] True [")
    assert "Provider runpod did not say what lives there now: runpod can't be asked: GET /pods answers 503." in told
    assert "Its list of 10" in told
    assert imported == "[]"
    assert listed(fresh=True).failure is not None, "somebody who wants the truth gets it"


def test_what_we_change_is_never_missed(world: World) -> None:
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    assert len(listed().instances) == 1
    made = rent(provider, "vllm-2")
    assert {one.marker.name for one in listed().instances} == {"vllm-1", "vllm-2"}
    provider.stop(made.id)
    assert {one.status for one in listed().instances if one.id == made.id} == {Status.STOPPED}
    provider.start(made.id)
    assert {one.status for one in listed().instances if one.id == made.id} != {Status.STOPPED}
    provider.delete(made.id)
    assert {one.marker.name for one in listed().instances} == {"vllm-1"}
    world.faults = [Fault(method="POST", path="/pods$", drop="after")]
    with pytest.raises(ProviderError):
        rent(provider, "vllm-3")
    assert {one.marker.name for one in listed().instances} == {"vllm-1", "vllm-3"}, "nor what perhaps happened"


def test_a_list_from_the_middle_of_a_change_is_not_used_after_it(world: World) -> None:
    inner = FakeProvider(FakeCloud(), name="runpod")
    provider = _cached.WatchedProvider(inner, _accounts.get("runpod", {}), {})

    def names() -> list[str]:
        return [one.marker.name for one in _cached.hosts("runpod", {}, lambda name, settings: inner).data or []]

    seen = []
    inner.at_boundary = lambda call, when: seen.append(names()) if (call, when) == ("create", "before") else None
    rent(provider)
    assert seen == [[]]
    assert names() == ["vllm-1"]


def test_what_a_module_decides_by_is_never_from_a_file(world: World) -> None:
    listed()
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    assert isinstance(provider, _cached.WatchedProvider)
    for _time in range(2):
        provider.list()
    assert asked(world) == 3


def test_no_secret_is_kept(world: World) -> None:
    listed()
    listed(fresh=True)
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    _cached.offers(provider, A40, _cached.OFFERS)
    world.faults = [Fault(status=503, times=None)]
    listed(fresh=True)
    texts = [path.read_text() + str(path) for path in Path(os.environ["GPUFLEET_HOME"]).rglob("*") if path.is_file()]
    assert any("vllm-1" in text for text in texts)
    assert not [text for text in texts if KEY in text or PLANTED in text]


def test_accounts_do_not_mix(world: World) -> None:
    listed()
    (other,) = _listing.list_all(["runpod"], {"runpod": {"api_key": "another"}})
    assert other.age_seconds == 0.0
    assert asked(world) == 2


def test_offers_are_shared_and_leave_when_they_are_gone(world: World) -> None:
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    first = _offers.survey({"runpod": provider}, A40, _cached.OFFERS)
    assert [offer.id for offer in first.offers] == ["NVIDIA A40|SECURE|"]
    assert first.answers == [{"provider": "runpod", "age_seconds": 0.0, "error": None}]
    _offers.survey({"runpod": provider}, A40, _cached.RENTING)
    assert asked(world, "/v2/catalog/gpus") == 2, "once for each cloud"
    age(20, "offers")
    assert _offers.survey({"runpod": provider}, A40, _cached.OFFERS).answers[0]["age_seconds"] >= 20
    _offers.survey({"runpod": provider}, A40, _cached.RENTING)
    assert asked(world, "/v2/catalog/gpus") == 4, "prices are a promise for whoever rents"
    sold_out = {"detail": "There are no longer any instances available with the requested specifications."}
    world.faults = [Fault(method="POST", path="/pods$", status=400, body=sold_out)]
    with pytest.raises(NoCapacity):
        rent(provider)
    assert _offers.survey({"runpod": provider}, A40, _cached.OFFERS).offers == []
    assert asked(world, "/v2/catalog/gpus") == 4


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (OfferGone("gone", provider="runpod"), ["b", "c"]),
        (NoCapacity("none", provider="runpod", scope="region"), ["c"]),
        (NoCapacity("none", provider="runpod", scope="provider"), []),
    ],
)
def test_as_much_is_gone_as_the_provider_said(world: World, error: ProviderError, left: list[str]) -> None:
    account = _accounts.get("runpod", {})
    found = [Offer("runpod", "a", region="EU"), Offer("runpod", "b", region="EU"), Offer("runpod", "c", region="US")]
    inner = FakeProvider(FakeCloud(), name="runpod")
    inner.offers = lambda query: found  # type: ignore[method-assign]
    inner.refuse["create"] = error
    provider = _cached.WatchedProvider(inner, account, {})
    _cached.offers(provider, A40, _cached.OFFERS)
    with pytest.raises(type(error)):
        provider.create(Request(Marker("acme-llm", "a-1", "abc123"), found[0]))
    assert [one.id for one in _cached.offers(provider, A40, _cached.OFFERS).data or []] == left


def test_offers_of_another_default_region_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that names no region means that one, so what is offered elsewhere is no answer to it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    inner = FakeProvider(FakeCloud(), name="aws")
    query = {"gpu": "L4", "gpu_count": 1, "runtime": "vm", "regions": [], "disk_gib": 50}

    def region(given: list[str], variable: str) -> str | None:
        monkeypatch.setenv("AWS_REGION", variable)
        settings = {"regions": given}
        provider = _cached.watched(inner, settings)
        monkeypatch.setattr(inner, "offers", lambda query: [Offer("aws", "L4", region=given[0] if given else variable)])
        (offer,) = _offers.survey({"aws": provider}, query, _cached.OFFERS).offers
        return offer.region

    assert region([], "eu-west-1") == "eu-west-1"
    assert region([], "us-east-1") == "us-east-1"
    assert region(["eu-west-1", "us-east-1"], "us-west-2") == "eu-west-1"
    assert region(["us-east-1", "eu-west-1"], "us-west-2") == "us-east-1"
    labels = set()
    for name in ("eu-west-1", "us-east-1"):
        monkeypatch.setenv("AWS_REGION", name)
        labels.add(_accounts.get("aws", {}).label)
    assert len(labels) == 1, "what lives is listed in all regions, whichever is the first"


def test_a_bid_is_made_from_a_search_of_its_own(world: World) -> None:
    inner = FakeProvider(FakeCloud(), name="runpod")
    provider = _cached.WatchedProvider(inner, _accounts.get("runpod", {}), {})
    for _time in range(2):
        _cached.offers(provider, {**A40, "interruptible": True}, _cached.RENTING)
    assert inner.cloud.calls == ["offers", "offers"]


def test_all_providers_are_asked_at_the_same_time(world: World) -> None:
    together = threading.Barrier(4, timeout=20)

    class Slow(FakeProvider):
        def offers(self, query: Mapping[str, Any]) -> list[Offer]:
            together.wait()  # raises when not all four come
            return super().offers(query)

    accounts = {name: _accounts.Account(name, "https://x", KEY) for name in "abcd"}
    watched = {
        name: _cached.WatchedProvider(Slow(FakeCloud(), name=name), account, {}) for name, account in accounts.items()
    }
    market = _offers.survey(watched, A40, _cached.OFFERS)
    assert {offer.provider for offer in market.offers} == {"a", "b", "c", "d"}
    assert market.errors == {}


def test_both_clouds_are_asked_at_the_same_time_and_within_the_limit(world: World) -> None:
    together, limits = threading.Barrier(2, timeout=20), []

    class Connection:
        def call(self, *_arguments: Any, **_named: Any) -> Answer:
            together.wait()
            limits.append(_clock.seconds_left())
            return Answer(200, {"gpus": []})

    provider = provider_file.make({})
    provider._connection = Connection()  # type: ignore[assignment]
    with _clock.limit(30):
        assert provider.offers(A40) == []
    assert all(limit is not None and limit <= 30 for limit in limits)


def test_one_that_is_down_takes_nothing_from_the_others_and_is_named(clock: FakeClock) -> None:
    up, down = FakeProvider(FakeCloud(), name="up"), FakeProvider(FakeCloud(), name="down")
    accounts = {one.name: _accounts.Account(one.name, "https://x", KEY) for one in (up, down)}
    watched = {one.name: _cached.WatchedProvider(one, accounts[one.name], {}) for one in (up, down)}
    down.refuse["offers"] = ProviderUnavailable("it is down.", provider="down", fix="Wait.")
    market = _offers.survey(watched, A40, _cached.OFFERS)
    assert {offer.provider for offer in market.offers} == {"up"}
    assert market.warnings == ["Provider down did not say what it offers now: it is down. Nothing of it is here."]
    del down.refuse["offers"]
    _offers.survey(watched, A40, _cached.OFFERS)
    down.refuse["offers"] = ProviderUnavailable("it is down.", provider="down", fix="Wait.")
    clock.time += 400
    market = _offers.survey(watched, A40, _cached.OFFERS)
    assert {offer.provider for offer in market.offers} == {"up", "down"}
    assert market.errors == {}
    assert market.answers[1]["age_seconds"] == 400
    assert market.answers[1]["error"]["code"] == "unavailable"
    assert "Its offers of 400 s ago are used." in market.warnings[0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock().install(monkeypatch)


def test_all_who_wait_share_one_list(world: World) -> None:
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    ids = [rent(provider, f"vllm-{number}").id for number in range(2, 12)]
    world.calls.clear()
    for instance_id in ids:
        found = _cached.look(provider, instance_id)
        assert found is not None
        assert found.id == instance_id
    assert [(call["method"], call["path"]) for call in world.calls] == [("GET", "/v2/pods")]
    assert _cached.look(provider, "gone") is None
    assert world.calls[-1]["path"] == "/v2/pods/gone", "only the provider itself says that something is gone"
    age(3)
    _cached.look(provider, ids[0])
    assert asked(world) == 2


def test_waiting_uses_it(world: World) -> None:
    provider = _engine.load_providers(["runpod"], {})["runpod"]
    made = rent(provider, "vllm-2")
    world.calls.clear()
    found, report = _readiness.wait_until_ready(provider, made, "running", _budgets.DEFAULT, None)
    assert report.ready
    assert found.status is Status.RUNNING
    assert {call["path"] for call in world.calls} == {"/v2/pods"}


def test_who_waits_and_gets_no_list_asks_for_his_own(clock: FakeClock) -> None:
    inner = FakeProvider(FakeCloud(), name="runpod")
    made = rent(inner)
    inner.refuse["list"] = ProviderUnavailable("it is down.", provider="runpod", fix="Wait.")
    provider = _cached.WatchedProvider(inner, _accounts.Account("runpod", "https://x", KEY), {})
    assert _cached.look(provider, made.id) == made
    assert _cached.look(inner, made.id) == made


def test_a_provider_without_an_account_is_asked_each_time() -> None:
    provider = FakeProvider(FakeCloud(), name="local")
    for _time in range(2):
        _cached.hosts("local", {}, lambda name, settings: provider)
    assert provider.cloud.calls == ["list", "list"]
    assert _cached.watched(provider, {}) is provider


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
pairs = st.lists(st.tuples(st.integers(1, 65535), st.text()), max_size=3).map(tuple)
instances = st.builds(
    Instance,
    provider=st.text(),
    id=st.text(),
    marker=st.builds(Marker, st.text(), st.text(), st.text(), st.integers(), st.text()),
    status=st.sampled_from(Status),
    runtime=st.sampled_from(Runtime),
    price_per_hour_usd=numbers,
    ports=st.none() | pairs,
    ssh_endpoints=st.lists(st.builds(Endpoint, st.text(), st.integers(), st.text()), max_size=2).map(tuple),
    urls=pairs,
    host_key=st.none() | st.text(),
    created_at=numbers,
    needs_start=st.booleans(),
)


@given(st.lists(instances, max_size=3))
def test_an_instance_comes_back_as_it_was(found: list[Instance]) -> None:
    assert _cached._to_instances(json.loads(json.dumps(_cached._plain(found)))) == found


@given(st.lists(st.builds(Offer, provider=st.text(), id=st.text(), price_per_hour_usd=numbers), max_size=3))
def test_an_offer_comes_back_as_it_was(found: list[Offer]) -> None:
    assert _cached._to_offers(json.loads(json.dumps(_cached._plain(found)))) == found
