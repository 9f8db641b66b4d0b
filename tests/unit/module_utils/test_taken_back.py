# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider takes back, at an emulated provider over real HTTP: seen as that, told, and rented anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _clock,
    _costs,
    _fleet_file,
    _inventory,
    _journal,
    _provider,
    _readiness,
    _report,
    _taken_back,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, NoCapacity
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai
from emulators import vastai as emulator
from emulators.server import serving
from emulators.world import Fault, World

FASTER = 2000.0
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("vastai",),
    look_at=("vastai",),
    gpu="A100_80GB",
    gpu_count=1,
    lifetime_seconds=8 * 3600,
    interruptible=True,
    wait="ssh",
    wait_timeout_seconds=120,
)
OUTBID = [Fault(trouble="outbid", of="vllm-1")]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A provider in which time passes as fast as our own; every machine of it has a host key of its own."""
    world = World("vastai", scale=FASTER)
    monkeypatch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / FASTER))
    monkeypatch.setattr(_clock, "monotonic", lambda: time.monotonic() * FASTER)
    monkeypatch.setattr(_clock, "now", world.now)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))

    def login(_endpoint: object, _user: str, host_key: str | None, *_rest: object) -> Probe:
        own = f"ssh-ed25519 AAAA{len(world.rentals)}"
        return Probe("ok", host_key=own) if host_key in (None, own) else Probe("host_key_changed")

    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("ok"))
    monkeypatch.setattr(_readiness, "probe_login", login)
    return world


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(emulator.make(world, copies=2), world) as url:
        yield url


@pytest.fixture
def provider(url: str) -> vastai.VastaiProvider:
    return vastai.make({"api_key": "any", "api_url": url})


def run(provider: vastai.VastaiProvider, **values: Any) -> dict[str, Any]:
    return Run({"vastai": provider}, replace(WISH, **values)).result()


def fail(provider: vastai.VastaiProvider, **values: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run(provider, **values)
    assert caught.value.code == "not_ready"
    assert caught.value.result["readiness"]["last_class"] == "outbid"
    return caught.value


def outbid(provider: vastai.VastaiProvider, world: World) -> dict[str, Any]:
    """A rental that ran and was outbid; as its first run returned it."""
    first: dict[str, Any] = run(provider)["instance"]
    world.faults = OUTBID
    provider.list()
    world.skip(600)
    return first


def listed(url: str) -> dict[str, Any]:
    """As instance_info, and with it the playbook status, shows it."""
    settings = {"vastai": {"api_key": "any", "api_url": url}}
    params = {"deployment_id": "acme-llm", "providers": ["vastai"], "provider_settings": settings, "names": []}
    (one,) = _report.list_instances(params)["instances"]
    return dict(one)


def events(*names: str) -> list[tuple[str, str]]:
    return [(line["event"], line["id"]) for line in _journal.read("acme-llm") if line["event"] in names]


# Outbid -----------------------------------------------------------------------------------------------------------


def test_who_wants_it_to_run_is_told_that_it_is_outbid_and_what_to_do(
    provider: vastai.VastaiProvider, world: World
) -> None:
    first = outbid(provider, world)
    error = fail(provider)
    assert "its start was refused: vastai refuses: Required resources are currently unavailable" in error.message
    assert "It is kept: its disk goes on costing, now 0.0" in error.message
    for word in ("on_unready: replace", "max_price_per_hour_usd", "interruptible: false and on_drift: replace"):
        assert word in error.message
    assert (error.result["changed"], error.result["instance"]["id"]) == (False, first["id"])
    assert error.result["instance"]["outbid"] is True
    assert error.result["failed_rentals"][0]["cost_usd"] is None, "the price of its disk says nothing about before"
    assert len(world.alive()) == 1


def test_once_its_bid_is_the_highest_again_the_next_run_goes_on_with_it(
    provider: vastai.VastaiProvider, world: World
) -> None:
    first = outbid(provider, world)
    fail(provider)
    world.faults = []
    result = run(provider)
    assert (result["changed"], result["instance"]["id"]) == (False, first["id"])
    assert result["instance"]["outbid"] is False


def test_replace_takes_the_next_offer_and_keeps_the_evidence(provider: vastai.VastaiProvider, world: World) -> None:
    first = outbid(provider, world)
    world.faults = [Fault(trouble="outbid", of=first["id"])]
    result = run(provider, on_unready="replace")
    (evidence,) = result["failed_rentals"]
    assert (evidence["id"], evidence["ended"]) == (first["id"], "destroyed")
    assert evidence["readiness"]["last_class"] == "outbid"
    assert [one.id for one in world.alive()] == [result["instance"]["id"]]
    assert result["instance"]["machine_id"] != first["machine_id"], "who pays more is still there"
    assert result["actions"] == ["delete", "create"]
    assert events("unready", "deleted") == [("unready", first["id"]), ("deleted", first["id"])]
    assert result["host_key_trust"] == "first_use", "the key of the other machine is in nobody's way"


def test_who_does_not_wait_gets_the_refusal_itself(provider: vastai.VastaiProvider, world: World) -> None:
    outbid(provider, world)
    with pytest.raises(NoCapacity):
        run(provider, wait="none", on_unready="replace")
    assert len(world.alive()) == 1


def test_who_stopped_it_himself_and_lost_its_machine_meanwhile_is_outbid_too(
    provider: vastai.VastaiProvider, world: World
) -> None:
    run(provider)
    run(provider, state="stopped")
    world.faults = [Fault(trouble="no_gpu")]
    fail(provider)


def test_what_is_no_bid_and_finds_no_gpu_is_not_called_outbid(provider: vastai.VastaiProvider, world: World) -> None:
    run(provider, interruptible=False)
    run(provider, interruptible=False, state="stopped")
    world.faults = [Fault(trouble="no_gpu")]
    with pytest.raises(NoCapacity):
        run(provider, interruptible=False, on_unready="replace")
    assert len(world.alive()) == 1


def test_an_order_that_is_taken_and_has_no_effect_shows_the_same(
    provider: vastai.VastaiProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has told us which of the two Vast.ai does."""
    outbid(provider, world)
    monkeypatch.setattr(emulator.Account, "order", lambda *_arguments: None)
    error = fail(provider)
    assert "the provider says: stopped outbid by others; its disk goes on costing" in error.message
    assert error.result["instance"]["outbid"] is True
    assert error.result["instance"]["detail"].startswith("outbid by others; its disk goes on costing")


def test_what_is_outbid_while_it_is_waited_for(
    provider: vastai.VastaiProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(_endpoint: object) -> Probe:
        world.faults = OUTBID
        return Probe("refused")

    monkeypatch.setattr(_readiness, "probe_socket", probe)
    error = fail(provider, wait_timeout_seconds=20_000)
    assert error.result["readiness"]["seconds"] < 10_000


def test_what_its_user_stopped_is_not_called_outbid_and_is_started(
    provider: vastai.VastaiProvider, world: World, url: str
) -> None:
    first = run(provider)["instance"]
    run(provider, state="stopped")
    assert listed(url)["outbid"] is False
    assert listed(url)["detail"].startswith("stopped; its disk goes on costing")
    result = run(provider)
    assert (result["actions"], result["instance"]["id"]) == (["start"], first["id"])


def test_status_and_inventory_say_that_it_is_outbid(provider: vastai.VastaiProvider, world: World, url: str) -> None:
    assert run(provider)["instance"]["outbid"] is False
    assert listed(url)["outbid"] is False
    world.faults = OUTBID
    provider.list()
    world.skip(600)
    assert listed(url)["outbid"] is True
    assert listed(url)["detail"].startswith("outbid by others; its disk goes on costing")
    assert listed(url)["cost_so_far_usd"] is None
    built = inventory(provider)
    assert built.hosts[0].variables["fleet_outbid"] is True
    assert any("vllm-1: it was outbid by others at vastai. Its disk goes on costing" in said for said in built.warnings)


def test_another_controller_says_what_it_can_not_know(
    provider: vastai.VastaiProvider, world: World, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outbid(provider, world)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "empty"))
    assert listed(url)["outbid"] is None
    assert listed(url)["detail"].startswith("stopped, or outbid by others; its disk goes on costing")
    built = inventory(provider)
    assert built.hosts[0].variables["fleet_outbid"] is None
    assert not any("outbid" in said for said in built.warnings)


def test_stopping_what_is_outbid_ends_its_waiting_for_a_better_price(
    provider: vastai.VastaiProvider, world: World, url: str
) -> None:
    outbid(provider, world)
    seen = run(provider, state="present")
    assert (seen["changed"], seen["instance"]["outbid"]) == (False, True)
    assert run(provider, state="stopped")["actions"] == ["stop"]
    assert run(provider, state="stopped")["actions"] == []
    world.faults = []
    provider.list()
    world.skip(600)
    assert listed(url)["status"] == "stopped", "else it would cost its full price again, although nobody wants it"


def test_on_unready_stop_ends_the_waiting_for_a_better_price(
    provider: vastai.VastaiProvider, world: World, url: str
) -> None:
    outbid(provider, world)
    fail(provider, on_unready="stop")
    assert listed(url)["outbid"] is False, "from now on it is stopped because that was ordered here"
    world.faults = []
    provider.list()
    world.skip(600)
    assert listed(url)["status"] == "stopped"


def inventory(provider: vastai.VastaiProvider) -> _inventory.Built:
    wanted = {"name": "vllm-1", "providers": ["vastai"], "interruptible": True}
    fleet = _fleet_file.Fleet("/srv/fleet.yml", "acme-llm", (wanted,), ("vastai",))
    return _inventory.build(fleet, [Listing("vastai", tuple(provider.list()))], "/srv/reports")


# Gone -------------------------------------------------------------------------------------------------------------


def test_what_is_gone_is_rented_anew_with_its_own_key_and_the_ledger_of_the_old_one_ends(
    provider: vastai.VastaiProvider, world: World
) -> None:
    first = run(provider)["instance"]
    world.skip(3600)
    assert world.take_back("vllm-1") == [first["id"]]
    result = run(provider)
    second = result["instance"]
    assert second["id"] != first["id"]
    assert second["host_key"] != first["host_key"]
    (warning,) = result["warnings"]
    assert f"vllm-1 at vastai ({first['id']}) is no longer there. It was interruptible" in warning
    assert events("gone") == [("gone", first["id"])]
    (past,) = _costs.past_of(_journal.read("acme-llm"), {("vastai", second["id"])})
    (end,) = [line["time"] for line in _journal.read("acme-llm") if line["event"] == "gone"]
    assert past.began is not None
    assert end - past.began >= 3600
    assert past.hours == pytest.approx((end - past.began) / 3600)
    assert run(provider)["warnings"] == [], "told once"
    assert events("gone") == [("gone", first["id"])]


def test_what_was_not_interruptible_and_nobody_here_ended_may_live_in_another_account(
    provider: vastai.VastaiProvider, world: World
) -> None:
    """With another key, a list has nothing of what the first one rented."""
    first = run(provider, interruptible=False)["instance"]
    world.take_back("vllm-1")
    (warning,) = run(provider, interruptible=False)["warnings"]
    assert warning == (
        f"vllm-1 at vastai ({first['id']}) is no longer there. Nobody here ended it. Another one is rented in its "
        "place. If you changed the key or the project, the first may live on, and cost money, in the other account: "
        "look there."
    )
    assert events("gone") == [("gone", first["id"])]
    assert run(provider, interruptible=False)["warnings"] == [], "told once"


def test_what_was_ended_here_is_not_gone(provider: vastai.VastaiProvider, world: World) -> None:
    run(provider)
    run(provider, state="absent")
    assert run(provider)["warnings"] == []
    assert events("gone") == []


def test_check_mode_writes_nothing_down(provider: vastai.VastaiProvider, world: World) -> None:
    run(provider)
    world.take_back("vllm-1")
    assert Run({"vastai": provider}, WISH, check_mode=True).result()["actions"] == ["create"]
    assert events("gone") == []


def test_what_ended_at_its_own_expiry_was_not_taken_back(provider: vastai.VastaiProvider, world: World) -> None:
    first = run(provider)["instance"]
    world.skip(10 * 3600)
    world.take_back("vllm-1")
    assert run(provider)["warnings"] == []
    (gone,) = [line for line in _journal.read("acme-llm") if line["event"] == "gone"]
    assert (gone["id"], gone["reason"]) == (first["id"], "expired")


class Lists:
    """A provider that answers; nobody asks it anything here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.capabilities = _provider.CAPABILITIES[name] - {_provider.Capability.SOME_REGIONS}


@pytest.mark.parametrize("interruptible", [True, False])
@pytest.mark.parametrize(
    ("name", "ends_itself", "hours_later", "orders", "ended_hour"),
    [
        ("gcp", False, 9, (), 8),  # Google ends it then
        ("aws", False, 30, (), 8),  # its timer does
        ("vastai", True, 9, (), 8),  # what runs there does, with its key
        ("vastai", False, 9, (), 9),  # some controller's sweep did, nobody here knows when
        ("gcp", False, 9, ("stopped",), 9),  # what is stopped is ended by a sweep, too
        ("gcp", False, 9, ("stopped", "started"), 8),
        ("aws", False, 9, ("renewed",), None),  # it had been given more time, so somebody took it back
        ("gcp", False, 7, (), None),  # its time was not over
    ],
)
def test_the_end_of_what_ended_as_ordered_is_its_expiry(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    ends_itself: bool,
    hours_later: int,
    orders: tuple[str, ...],
    ended_hour: int | None,
    interruptible: bool,
) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    began = 500_000
    monkeypatch.setattr(_clock, "now", lambda: began * 3600.0)
    marker = Marker("acme-llm", "vllm-1", "abc123", began + 8)
    one = Instance(
        name,
        "1",
        marker,
        Status.RUNNING,
        created_at=began * 3600.0,
        price_per_hour_usd=2.0,
        ends_itself=ends_itself,
    )
    _journal.record("created", one, interruptible=interruptible)
    for order in orders:
        expiry = began + 24 if order == "renewed" else began + 8
        _journal.record(order, replace(one, marker=replace(marker, expiry_epoch_hours=expiry)))
    monkeypatch.setattr(_clock, "now", lambda: (began + hours_later) * 3600.0)
    asked: Any = {name: Lists(name)}
    told = _taken_back.note_gone("acme-llm", "vllm-1", asked, [])
    assert bool(told) is (ended_hour is None), "taken back is only what had time left"
    (past,) = _costs.past_of(_journal.read("acme-llm"), ())
    assert past.hours == (hours_later if ended_hour is None else ended_hour)
    assert _taken_back.note_gone("acme-llm", "vllm-1", asked, []) == [], "told once"


@pytest.mark.parametrize("interruptible", [True, False])
def test_what_is_listed_as_ending_lives_in_no_other_account(interruptible: bool) -> None:
    asked: Any = {"gcp": Lists("gcp")}
    one = Instance("gcp", "1", Marker("acme-llm", "vllm-1", "abc123"), Status.TERMINATING)
    _journal.record("created", one, interruptible=interruptible)
    told = _taken_back.note_gone("acme-llm", "vllm-1", asked, [], terminating=[one])
    assert [" took it back" in said for said in told] == ([True] if interruptible else [])
    assert not any("account" in said for said in told)
    assert events("gone") == [("gone", "1")]


def test_where_there_are_no_accounts_none_can_be_another() -> None:
    asked: Any = {"local": Lists("local")}
    one = Instance("local", "1", Marker("acme-llm", "vllm-1", "abc123"), Status.RUNNING)
    _journal.record("created", one, interruptible=False)
    assert _taken_back.note_gone("acme-llm", "vllm-1", asked, []) == []
    assert events("gone") == [("gone", "1")]
