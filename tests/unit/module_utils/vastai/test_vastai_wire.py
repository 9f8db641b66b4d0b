# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vast.ai's words in ours: rows of its list, its refusals, its limits, and what the emulator makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai, vastai_errors, vastai_wire
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer
from emulators.world import World
from support.fake_clock import FakeClock
from support.vastai_calls import (
    ROW,
    body_of,
    rent,
)

# Rows


@pytest.mark.parametrize(
    ("row", "status", "detail"),
    [
        ({"actual_status": None}, Status.PENDING, "scheduling"),
        *(
            ({"actual_status": word}, Status.PENDING, word)
            for word in ("created", "loading", "rebooting", "restarting", "a new word")
        ),
        ({}, Status.RUNNING, "running"),
        *(({"actual_status": word}, Status.STOPPED, word) for word in ("stopped", "exited", "frozen")),
        *(({"actual_status": word}, Status.FAILED, word) for word in ("unknown", "offline")),
        ({"intended_status": "stopped"}, Status.RUNNING, "running"),
        ({"intended_status": "stopped", "is_bid": True}, Status.STOPPED, "outbid"),
        ({"actual_status": "created", "intended_status": "stopped"}, Status.STOPPED, "created"),
        ({"actual_status": "exited", "cur_state": "stopped"}, Status.PENDING, "queued"),
        ({"actual_status": "exited", "cur_state": "running"}, Status.STOPPED, "exited"),
        (
            {"actual_status": "loading", "status_msg": "Error response from daemon: manifest unknown"},
            Status.FAILED,
            "manifest unknown",
        ),
    ],
)
def test_words_for_what_it_does(row: dict[str, Any], status: Status, detail: str) -> None:
    found = vastai_wire.instance_from(ROW | row)
    assert found is not None
    assert found.status is status
    assert detail in found.detail


@pytest.mark.parametrize(
    ("row", "endpoints"),
    [
        ({}, ()),
        ({"ports": None, "ssh_host": "ssh4.vast.ai", "ssh_port": 10022}, (Endpoint("ssh4.vast.ai", 10022, "proxy"),)),
        ({"ports": {"22/tcp": [{"HostPort": "40022"}]}}, (Endpoint("198.51.100.7", 40022),)),
        ({"ports": {"22/tcp": []}}, ()),
        ({"ports": {"8000/tcp": [{"HostPort": "40022"}]}}, ()),
    ],
)
def test_where_ssh_answers(row: dict[str, Any], endpoints: tuple[Endpoint, ...]) -> None:
    found = vastai_wire.instance_from(ROW | {"public_ipaddr": " 198.51.100.7\n"} | row)
    assert found is not None
    assert found.ssh_endpoints == endpoints


@pytest.mark.parametrize(
    ("row", "outbid"),
    [
        ({"is_bid": True, "intended_status": "stopped", "cur_state": "stopped", "next_state": "stopped"}, None),
        ({"is_bid": False, "intended_status": "stopped", "cur_state": "stopped", "next_state": "stopped"}, False),
        ({"is_bid": True, "intended_status": "running", "cur_state": "stopped"}, False),
        ({"is_bid": True}, False),
    ],
)
def test_who_is_outbid_looks_like_who_was_stopped(row: dict[str, Any], outbid: bool | None) -> None:
    found = vastai_wire.instance_from(ROW | row)
    assert found is not None
    assert found.outbid is outbid


@pytest.mark.parametrize(
    ("row", "price"),
    [
        ({"dph_total": 1.5, "instance": {"totalHour": 0.1}}, 1.5),
        ({"dph_total": 1.5, "instance": {"totalHour": 0.1}, "actual_status": "exited"}, 0.1),
        ({"dph_total": 1.5, "actual_status": "exited"}, 1.5),
        ({}, None),
    ],
)
def test_what_it_costs_now(row: dict[str, Any], price: float | None) -> None:
    found = vastai_wire.instance_from(ROW | row)
    assert found is not None
    assert found.price_per_hour_usd == price


# What is refused, and how fast we may ask


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"success": False, "error": "no_ssh_key_for_vm", "msg": "no key"}, InvalidRequest),
        (400, {"success": False, "error": "invalid_args", "msg": "bad disk"}, InvalidRequest),
        (400, {"success": False, "error": "missing_billing", "msg": "no card"}, QuotaError),
        (402, {"error": "insufficient_credit"}, QuotaError),
        (403, {"detail": "not allowed"}, AuthError),
        (404, {"error": "invalid_args", "msg": "error 404/3603: no_such_ask x"}, OfferGone),
        (410, {"error": "no_such_ask"}, OfferGone),
        (410, {"error": "gone"}, ProviderUnavailable),
        (200, {"success": False, "error": "resources_unavailable"}, NoCapacity),
        (400, None, InvalidRequest),
    ],
)
def test_a_refusal_in_our_words(status: int, body: Any, error: type[ProviderError]) -> None:
    refused = vastai_errors.refusal(Answer(status, body, str(body or "")))
    assert refused.code == error.code  # each class has a code of its own
    assert (refused.provider, refused.status) == ("vastai", status)
    assert refused.fix.endswith(".")
    said = (body or {}).get("msg") or (body or {}).get("detail") or ""
    assert said in refused.message


def test_calls_of_one_kind_keep_their_distance(clock: FakeClock) -> None:
    pace = _rate_limit.Limiter(_accounts.Account("vastai", "u", "k"), vastai._INTERVALS).wait
    for method, path in [
        ("PUT", "/api/v0/asks/1/"),
        ("PUT", "/api/v0/asks/2/"),
        ("GET", "/api/v0/instances/7/"),
        ("GET", "/api/v1/instances/"),
        ("POST", "/api/v0/instances/7/ssh/"),
        ("GET", "/api/v0/instances/8/"),
        ("GET", "/api/v0/users/current"),
    ]:
        pace(method, path)
    assert [seconds for seconds in clock.slept if seconds] == [4.5, 2.0]


# The emulator


def test_an_hour_costs_what_was_said(
    provider: vastai.VastaiProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of the price while it doesn't run, the whole while it does, however late somebody looks."""
    now = [world.now()]
    monkeypatch.setattr(world, "now", lambda: now[0])
    made = rent(provider)
    price = body_of(world, made.id)["dph_total"]
    now[0] += 3600 + 23
    world.state()
    provider.get(made.id)
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(price + price * 0.1 * 23 / 3600)
    world.rentals[made.id].wire.update(_intended="stopped", _since=now[0])
    now[0] += 7200
    provider.delete(made.id)
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(
        price * (3600 + 3) / 3600 + price * 0.1 * (23 + 7197) / 3600
    )


def test_the_emulator_answers_the_official_client(url: str) -> None:
    """What vastai 1.9.1 was seen to insist on."""
    headers = {"Authorization": "Bearer x"}
    wanted = {"gpu_name": {"eq": "A40"}, "num_gpus": {"eq": "1"}, "verified": {"eq": True}}
    found = requests.post(f"{url}/api/v0/bundles/", json=wanted, headers=headers, timeout=5)
    assert found.headers["Content-Type"] == "application/json"
    (offer,) = found.json()["offers"]
    assert isinstance(offer["cuda_max_good"], float)
    wish = {"client_id": "me", "image": "x", "runtype": "ssh_direc ssh_proxy", "env": {"-p 80:80": "1"}, "price": None}
    made = requests.put(f"{url}/api/v0/asks/{offer['id']}/", json=wish, headers=headers, timeout=5).json()
    assert set(made) == {"success", "new_contract", "instance_api_key"}
    row = requests.get(f"{url}/api/v0/instances/{made['new_contract']}/", headers=headers, timeout=5).json()[
        "instances"
    ]
    assert row["extra_env"] == [["-p 80:80", "1"]]
    assert isinstance(row["start_date"], float)
    for path in ("users/current", "instances/filters/"):
        assert requests.get(f"{url}/api/v0/{path}", headers=headers, timeout=5).status_code == 200
    for limit in (0, 26):
        page = requests.get(f"{url}/api/v1/instances/", params={"limit": limit}, headers=headers, timeout=5)
        assert page.status_code == 400
    assert requests.get(f"{url}/api/v0/instances/", headers=headers, timeout=5).status_code == 410
