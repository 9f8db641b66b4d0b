# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting at TensorDock, and what can go wrong with it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _marker, _rent, _transport
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Offer, Runtime, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock, tensordock_offers
from emulators import tensordock as emulator
from emulators.server import serving
from emulators.world import Fault, World
from support.tensordock_calls import (
    CREATE,
    DELTA,
    IDAHO,
    KEY,
    MARKER,
    MARLBORO,
    OSLO,
    body_of,
    calls,
    one_offer,
    query,
    rent,
    request,
)

LONGEST = replace(MARKER, deployment_id="a" * 24, name="b" * 16, nonce="zzzzzz", expiry_epoch_hours=36**4 - 1)


def test_the_marker_is_the_name_and_round_trips(provider: tensordock.TensordockProvider, world: World) -> None:
    made = provider.create(request(one_offer(provider), marker=LONGEST))
    (listed,) = provider.list()
    got = provider.get(made.id)
    assert got is not None
    assert LONGEST == made.marker == listed.marker == got.marker
    name = body_of(world, made.id)["name"]
    assert (name, len(name)) == (_marker.encode(LONGEST), 60)


def test_what_is_rented_is_what_is_listed(provider: tensordock.TensordockProvider) -> None:
    """Else the next run would see a drift."""
    offer = one_offer(provider, disk_gib=150)
    made = provider.create(request(offer, image="ubuntu2204", ports=((22, "tcp"), (8000, "http")), disk_gib=150))
    (listed,) = provider.list()
    same = (
        "provider",
        "id",
        "marker",
        "runtime",
        "gpu",
        "gpu_count",
        "region",
        "image",
        "disk_gib",
        "ports",
        "created_at",
    )
    assert {name: getattr(made, name) for name in same} == {name: getattr(listed, name) for name in same}
    assert listed.price_per_hour_usd == made.price_per_hour_usd


def test_what_is_sent(provider: tensordock.TensordockProvider, world: World) -> None:
    made = rent(provider, ports=((8000, "tcp"),))
    sent = {name: value for name, value in body_of(world, made.id).items() if not name.startswith("_")}
    commands = sent.pop("cloud_init")
    assert sent == {
        "id": made.id,
        "name": _marker.encode(MARKER),
        "type": "virtualmachine",
        "image": "ubuntu2404_ml_everything",
        "resources": {"vcpu_count": 4, "ram_gb": 48, "storage_gb": 100, "gpus": {"a40-pcie-48gb": {"count": 1}}},
        "location_id": IDAHO,
        "useDedicatedIp": True,
        "ssh_key": " ".join(KEY.split()[:2]),
    }
    assert list(commands) == ["runcmd"]
    assert calls(world, "POST") == ["/api/v2/instances"]


def test_where_there_is_no_own_address_ports_are_forwarded(
    provider: tensordock.TensordockProvider, world: World
) -> None:
    offer = one_offer(provider, regions=["Norway"])
    wire = body_of(world, provider.create(request(offer, ports=((22, "tcp"), (8000, "http")))).id)
    inside = [one["internal_port"] for one in wire["port_forwards"]]
    outside = [one["external_port"] for one in wire["port_forwards"]]
    assert (inside, wire["location_id"], "useDedicatedIp" in wire) == ([22, 8000], OSLO, False)
    assert all(1024 < port < 65536 for port in outside)
    other = provider.create(request(offer, marker=replace(MARKER, nonce="abc124")))
    assert body_of(world, other.id)["port_forwards"][0]["external_port"] not in outside[:1]


@pytest.mark.parametrize("has_user", [True, False])
def test_the_commands_of_the_first_boot_bring_the_key(tmp_path: Path, has_user: bool) -> None:
    """Run for real, with the folders of root and user somewhere else."""
    body = tensordock_offers.create_body(request(Offer("tensordock", "x/a40-pcie-48gb/address"), ssh_public_key=KEY))
    script = "\n".join(body["data"]["attributes"]["cloud_init"]["runcmd"])
    root, user = tmp_path / "root", tmp_path / "home" / "user"
    (root / ".ssh").mkdir(parents=True)
    (root / ".ssh" / "authorized_keys").write_text('command="echo no" ' + KEY + "\n")
    user.mkdir(parents=True)
    (user / ".ssh").mkdir()
    (user / ".ssh" / "authorized_keys").write_text("of the provider\n")
    script = script.replace("/root", str(root)).replace("/home/user", str(user)).replace("chown -R user:", "true")
    script = script.replace("id user", "true" if has_user else "false")
    subprocess.run(["sh", "-ec", script], check=True)
    key = " ".join(KEY.split()[:2])
    assert (root / ".ssh" / "authorized_keys").read_text() == f"{key}\n"
    assert ((root / ".ssh" / "authorized_keys").stat().st_mode & 0o777) == 0o600
    more = f"{key}\n" if has_user else ""
    assert (user / ".ssh" / "authorized_keys").read_text() == f"of the provider\n{more}"


def test_nothing_of_a_comment_reaches_a_shell() -> None:
    body = tensordock_offers.create_body(
        request(Offer("tensordock", "x/a40-pcie-48gb/address"), ssh_public_key="ssh-ed25519 AAAA '; reboot #")
    )
    assert "reboot" not in str(body)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"disk_gib": 99}, "disk_gib 99 is too small"),
        ({"ssh_public_key": None}, "needs an SSH key"),
        ({"args": ("serve",)}, "takes neither args"),
        ({"env": {"A": "1"}}, "nor env"),
        ({"offer": Offer("tensordock", "x/y/address", runtime=Runtime.CONTAINER)}, "machines alone"),
        ({"offer": Offer("tensordock", "../1")}, "no offer of tensordock"),
        ({"marker": replace(MARKER, owner="job:17")}, "no room for its owner"),
    ],
)
def test_what_would_go_wrong_is_refused_before_any_call(
    provider: tensordock.TensordockProvider, world: World, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem) as caught:
        provider.create(request(**{"offer": Offer("tensordock", "x/y/address")} | changes))
    assert caught.value.fix
    assert world.calls == []


# What goes wrong


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"status": 400, "error": "No available nodes found"}, NoCapacity),
        (200, {"status": 400, "error": "No available public IPs on hostnode"}, NoCapacity),
        (200, {"status": 400, "error": "in words that nobody has seen before"}, NoCapacity),
        (200, {"status": 404, "error": "Location not found"}, OfferGone),
        (404, {"error": "Location not found"}, OfferGone),
        (503, {"error": "No available nodes found"}, NoCapacity),
        (200, {"status": 400, "error": "need at least $5"}, QuotaError),
        (200, {"status": 401, "error": "who are you"}, AuthError),
        (400, [{"code": "x", "message": "wrong", "path": ["a"]}], InvalidRequest),
        (400, {"error": "SSH port (22) must be forwarded for Ubuntu VMs"}, InvalidRequest),
        (200, {"status": 502, "error": "upstream"}, Ambiguous),
        (500, {"error": "oops"}, Ambiguous),
        (500, "<html>", Ambiguous),
        (200, "<html>", Ambiguous),
        (200, {}, Ambiguous),
        (201, {"data": {"type": "virtualmachine"}}, Ambiguous),
    ],
)
def test_a_create_that_says_no(
    provider: tensordock.TensordockProvider, world: World, status: int, body: Any, error: type[ProviderError]
) -> None:
    offer = one_offer(provider)
    world.faults = [Fault(method="POST", path=CREATE, status=status, body=body)]
    with pytest.raises(ProviderError) as caught:
        provider.create(request(offer))
    assert type(caught.value).__name__ == error.__name__
    assert len(calls(world, "POST")) == 1


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_to_a_create_is_ambiguous(
    provider: tensordock.TensordockProvider, world: World, drop: Any
) -> None:
    offer = one_offer(provider)
    world.faults = [Fault(method="POST", path=CREATE, drop=drop)]
    with pytest.raises(Ambiguous):
        provider.create(request(offer))
    assert [one.marker for one in provider.list()] == ([MARKER] if drop == "after" else [])


def test_a_slow_create_is_waited_for(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than any other call: one that is given up may take effect later."""
    offer = one_offer(provider)
    monkeypatch.setattr(_transport, "READ_SECONDS", 0.05)
    world.faults = [Fault(method="POST", path=CREATE, latency_seconds=0.5)]
    assert provider.create(request(offer)).marker == MARKER


def test_a_create_that_takes_effect_after_we_gave_up(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = one_offer(provider)
    monkeypatch.setattr(tensordock, "CREATE_SECONDS", 0.1)
    world.faults = [Fault(method="POST", path=CREATE, latency_seconds=0.3)]
    with pytest.raises(Ambiguous, match="did not answer"):
        provider.create(request(offer))
    deadline = time.monotonic() + 20
    while not world.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [one.marker for one in provider.list()] == [MARKER]


def test_a_place_that_has_nothing_is_followed_by_the_next(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
    offers = sorted(provider.offers(query(gpu="L40S")), key=lambda one: one.price_per_hour_usd or 0)
    assert [one.id.partition("/")[0] for one in offers] == [DELTA, MARLBORO]
    wish = Wish(
        "acme-llm", "vllm-1", providers=("tensordock",), gpu="L40S", gpu_count=1, disk_gib=100, ssh_public_key=KEY
    )
    instance, offer = _rent.rent({"tensordock": provider}, wish, offers)
    assert offer == offers[1]
    assert body_of(world, instance.id)["location_id"] == MARLBORO
    assert instance.created_at is not None
    assert 0 <= _clock.now() - instance.created_at < 60  # its marker says since when it is there
    assert len(world.alive()) == 1


@pytest.mark.parametrize("strict", [True, False])
def test_it_is_rented_whether_unknown_attributes_are_refused_or_not(strict: bool) -> None:
    world = World("tensordock", scale=3600)
    with serving(emulator.make(world, strict=strict), world) as base:
        rented = tensordock.make({"api_key": "any", "api_url": base + emulator.URL_PATH})
        assert rent(rented).id == rented.list()[0].id


# When it was rented


def test_the_older_claim_stays_although_nobody_tells_dates(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = one_offer(provider)
    monkeypatch.setattr("secrets.randbelow", lambda below: below - 1)
    older = provider.create(request(offer, marker=replace(MARKER, nonce=_marker.dated_nonce())))
    _clock.sleep(_rent.LOOKS_APART_SECONDS)
    monkeypatch.setattr("secrets.randbelow", lambda below: 0)
    younger = provider.create(request(offer, marker=replace(MARKER, nonce=_marker.dated_nonce())))
    found = _rent.settle(provider.list())
    assert found.current is not None
    assert (found.current.id, [one.id for one in found.surplus]) == (older.id, [younger.id])
    assert (younger.created_at or 0) - (older.created_at or 0) == 10


def test_what_was_rented_twice_long_ago_is_settled(
    provider: tensordock.TensordockProvider, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after a create that took effect when nobody waited any more."""
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
    offer, wish = one_offer(provider), Wish("acme-llm", "vllm-1")
    for _number in range(2):
        provider.create(request(offer, marker=replace(MARKER, nonce=_marker.dated_nonce())))
        _clock.sleep(20)
    providers = {"tensordock": provider}
    assert _rent.delete_old_surplus(providers, wish, _rent.find(providers, "acme-llm", "vllm-1")) == []
    _clock.sleep(_rent.SURPLUS_AGE_SECONDS)
    (doomed,) = _rent.delete_old_surplus(providers, wish, _rent.find(providers, "acme-llm", "vllm-1"))
    (left,) = provider.list()
    assert (left.created_at or 0) < (doomed.created_at or 0)
