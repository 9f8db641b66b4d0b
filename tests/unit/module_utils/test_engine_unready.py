# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a machine that never becomes ready, and how failures are reported."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _host_keys,
    _journal,
    _listing,
    _metrics,
    _readiness,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run, run_module
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Request, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    EngineError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
)
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake",), wait="ssh", wait_timeout_seconds=30)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("refused", "Connection refused"))
    return FakeClock().install(monkeypatch)


def fail(cloud: FakeCloud, on_unready: str, **values: Any) -> EngineError:
    provider = FakeProvider(cloud, unique_names=True, **values)
    with pytest.raises(EngineError) as caught:
        Run({"fake": provider}, replace(WISH, on_unready=on_unready)).result()
    assert caught.value.code == "not_ready"
    assert "refused" in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("on_unready", "left"), [("keep", Status.RUNNING), ("stop", Status.STOPPED), ("destroy", None)]
)
def test_only_what_the_user_said_happens_to_it(on_unready: str, left: Status | None) -> None:
    cloud = FakeCloud()
    error = fail(cloud, on_unready)
    assert [one.status for one in cloud.alive()] == ([left] if left else [])
    assert error.result["readiness"]["classes"]["refused"]["count"] > 3
    assert error.result["instance"]["id"] == "fake-1"


def test_kept_it_is_resumed_by_running_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = FakeCloud()
    fail(cloud, "keep")
    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("ok"))
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok", host_key="ssh-ed25519 AAAA"))
    result = Run({"fake": FakeProvider(cloud, unique_names=True)}, WISH).result()
    assert not result["changed"]
    assert result["instance"]["host_key"] == "ssh-ed25519 AAAA"
    assert cloud.calls.count("create") == 1


def test_replace_takes_the_next_offer_and_keeps_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True)
    monkeypatch.setattr(
        _readiness, "probe_socket", lambda endpoint: Probe("ok" if "fake-2" in cloud.instances else "refused")
    )
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok"))
    result = Run({"fake": provider}, replace(WISH, on_unready="replace")).result()
    assert result["instance"]["price_per_hour_usd"] == 2.0  # not the offer of the bad machine again
    assert [one.id for one in cloud.alive()] == ["fake-2"]
    (evidence,) = result["failed_rentals"]
    assert evidence["id"] == "fake-1"
    assert evidence["ended"] == "destroyed"
    assert evidence["cost_usd"] == pytest.approx(evidence["readiness"]["seconds"] / 3600 * 1.0, abs=1e-3)
    assert evidence["rented_at"] == "2027-01-15T08:00:00Z"
    assert evidence["given_up_at"] > evidence["rented_at"]
    assert evidence["readiness"]["classes"]["refused"]["count"] > 3
    assert evidence["readiness"]["endpoints"][0]["address"] == "127.0.0.1:1"


def test_replace_takes_no_other_offer_of_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True, prices=(1.0, 2.0, 3.0), machines=("bad", "bad", "good"))
    monkeypatch.setattr(
        _readiness, "probe_socket", lambda endpoint: Probe("ok" if "fake-2" in cloud.instances else "refused")
    )
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok"))
    result = Run({"fake": provider}, replace(WISH, on_unready="replace")).result()
    assert result["instance"]["machine_id"] == "good"
    assert [one["machine_id"] for one in result["failed_rentals"]] == ["bad"]


def test_a_machine_of_an_earlier_run_is_not_rented_again_after_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This run did not choose it, so only the machine behind it tells that the offer is the same."""
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True, machines=("bad", "good"))
    fail(cloud, "keep", machines=("bad", "good"))
    monkeypatch.setattr(
        _readiness, "probe_socket", lambda endpoint: Probe("ok" if "fake-2" in cloud.instances else "refused")
    )
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok"))
    result = Run({"fake": provider}, replace(WISH, on_unready="replace")).result()
    assert result["instance"]["machine_id"] == "good"


def test_replacing_ends_when_it_never_helps() -> None:
    cloud = FakeCloud()
    error = fail(cloud, "replace", prices=tuple(float(price) for price in range(1, 9)))
    assert len(error.result["failed_rentals"]) == 4
    assert not cloud.alive()
    assert len({one["id"] for one in error.result["failed_rentals"]}) == 4


def test_what_can_not_be_destroyed_is_still_evidence() -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True)
    provider.refuse["delete"] = ProviderUnavailable("The provider is down.", provider="fake")
    with pytest.raises(EngineError, match=r"could not be destroyed: The provider is down") as caught:
        Run({"fake": provider}, replace(WISH, on_unready="destroy")).result()
    assert [one["ended"] for one in caught.value.result["failed_rentals"]] == ["unknown"]
    assert len(cloud.alive()) == 1


def test_the_message_says_what_is_paid_where_it_was_tried_and_what_happens_now() -> None:
    message = fail(FakeCloud(), "keep").message
    assert re.search(r"refused \(\d+ times\); last: Connection refused\. Tried 127\.0\.0\.1:1 \(direct\)\.", message)
    assert re.search(r"has cost 0\.0\d+ USD so far and goes on costing 1 USD per hour\. Run again to go on", message)


# Host keys --------------------------------------------------------------------------------------------------------

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The host keys with which a login was tried, in order; a login succeeds, and teaches the key."""
    keys: list[str | None] = []

    def login(endpoint: object, user: str, host_key: str | None, *_rest: object) -> Probe:
        keys.append(host_key)
        return Probe("ok", host_key=None if host_key else KEY)

    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("ok"))
    monkeypatch.setattr(_readiness, "probe_login", login)
    return keys


def run(cloud: FakeCloud) -> dict[str, Any]:
    return Run({"fake": FakeProvider(cloud, unique_names=True)}, WISH).result()


def test_a_key_that_was_learnt_is_the_only_one_from_then_on(accepted: list[str | None]) -> None:
    cloud = FakeCloud()
    first, second = run(cloud), run(cloud)
    assert accepted == [None, KEY]
    assert [first["host_key_trust"], second["host_key_trust"]] == ["first_use", "journal"]
    assert second["instance"]["host_key"] == KEY
    assert first["warnings"] == second["warnings"] == []  # a new machine has to be trusted once


def test_a_controller_that_can_read_no_record_says_that_it_trusts_again(
    accepted: list[str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud = FakeCloud()
    run(cloud)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "another"))
    again = run(cloud)
    assert accepted == [None, None]
    assert again["host_key_trust"] == "first_use"
    assert len(again["warnings"]) == 1
    assert KEY in again["warnings"][0]
    assert "trusted at first use again" in again["warnings"][0]


def test_the_key_of_another_rental_with_the_same_id_counts_for_nothing(accepted: list[str | None]) -> None:
    cloud = FakeCloud()
    run(cloud)
    (one,) = cloud.alive()
    cloud.instances[one.id] = replace(one, marker=replace(one.marker, nonce="zzzzzz"))
    run(cloud)
    assert accepted == [None, None]


@pytest.mark.parametrize("on_unready", ["keep", "stop", "replace", "destroy"])
def test_a_changed_key_is_fatal_and_nothing_is_ended_for_it(
    on_unready: str, accepted: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = FakeCloud()
    run(cloud)
    monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("host_key_changed", "CHANGED!"))
    with pytest.raises(EngineError, match=r"host_key_changed \(1 times\).*It is kept") as caught:
        Run({"fake": FakeProvider(cloud, unique_names=True)}, replace(WISH, on_unready=on_unready)).result()
    assert caught.value.result["readiness"]["attempts"] == 1
    assert [one.status for one in cloud.alive()] == [Status.RUNNING]


def test_the_inventory_pins_the_key_that_provisioning_learnt(accepted: list[str | None]) -> None:
    cloud = FakeCloud()
    run(cloud)
    listing = _listing.Listing("fake", tuple(cloud.alive()))
    assert [one.host_key for one in listing.instances] == [None]
    (complete,) = _host_keys.complete("acme-llm", [listing])
    assert [one.host_key for one in complete.instances] == [KEY]
    (told,) = _host_keys.complete(
        "acme-llm", [replace(listing, instances=(replace(cloud.alive()[0], host_key="k v"),))]
    )
    assert [one.host_key for one in told.instances] == ["k v"]  # what a provider says comes first


def test_waits_are_counted_whatever_comes_of_them(accepted: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    run(FakeCloud())
    monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("refused"))
    fail(FakeCloud(), "keep")
    home = _journal.home()
    assert home is not None
    samples = _metrics.read(home / "metrics" / "gpufleet_readiness.prom")
    assert samples['gpufleet_verifications_total{provider="fake",gpu="none"}'] == 2
    assert samples['gpufleet_verification_failures_total{provider="fake",gpu="none",class="refused"}'] == 1
    assert samples['gpufleet_ready_seconds_count{provider="fake",gpu="none"}'] == 1


def test_the_journal_tells_what_happened() -> None:
    fail(FakeCloud(), "destroy")
    assert [line["event"] for line in _journal.read("acme-llm")] == ["claim", "created", "unready", "deleted"]
    assert _journal.read("another") == []
    home = _journal.home()
    assert home is not None
    assert home.stat().st_mode & 0o777 == 0o700


# What was done before an error ------------------------------------------------------------------------------------


def break_off(provider: FakeProvider, wish: Wish) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        Run({"fake": provider}, wish).result()
    return caught.value


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (None, "no_capacity"),  # the only offer was the bad machine's
        (NoCapacity("Sold out.", provider="fake"), "no_capacity"),
        (AuthError("The key is refused.", provider="fake"), "auth"),
        (InvalidRequest("No such image.", provider="fake"), "invalid_request"),
    ],
)
def test_what_was_rented_in_vain_is_told_when_there_is_no_replacement(refusal: ProviderError | None, code: str) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=True, prices=(1.0, 2.0) if refusal else (1.0,))
    if refusal:
        provider.refuse["create offer-2"] = refusal
    error = break_off(provider, replace(WISH, on_unready="replace"))
    assert error.code == code
    assert not cloud.alive()
    assert error.result["changed"] is True
    assert error.result["actions"] == ["create", "delete"]
    assert error.result["instance"] is None
    (evidence,) = error.result["failed_rentals"]
    assert (evidence["id"], evidence["ended"]) == ("fake-1", "destroyed")
    assert evidence["cost_usd"] > 0
    assert re.search(r"^Rented in vain: fake fake-1 \(destroyed, 0\.0\d+ USD\)\. ", error.message)
    assert error.as_failure()["message"] == str(error) == error.message
    assert (refusal.message if refusal else "no offer fits") in error.message


def test_a_market_that_fails_after_the_end_of_an_older_rental_does_not_hide_that_end() -> None:
    """A rental of an earlier run: this one looks at the market only when it needs a replacement."""
    cloud = FakeCloud()
    fail(cloud, "keep")
    provider = FakeProvider(cloud, unique_names=True)
    provider.refuse["offers"] = ProviderUnavailable("The provider is down.", provider="fake")
    error = break_off(provider, replace(WISH, on_unready="replace"))
    assert error.code == "unavailable"
    assert error.result["actions"] == ["delete"]
    assert [one["id"] for one in error.result["failed_rentals"]] == ["fake-1"]


def test_each_of_several_rentals_in_vain_is_in_the_message() -> None:
    message = fail(FakeCloud(), "replace", prices=tuple(float(price) for price in range(1, 9))).message
    assert re.search(
        r"Rented in vain before: fake fake-1 \(destroyed, .*fake fake-3 \(destroyed, [\d.]+ USD\)\.", message
    )
    assert "fake-4 (destroyed" not in message  # the last one is what the rest of the message is about


def test_a_drifted_machine_that_is_gone_without_a_successor_is_told() -> None:
    cloud = FakeCloud()
    break_off(FakeProvider(cloud, unique_names=True), replace(WISH, image="one"))
    provider = FakeProvider(cloud, unique_names=True)
    provider.refuse["create"] = NoCapacity("Sold out.", provider="fake")
    error = break_off(provider, replace(WISH, image="two", on_drift="replace"))
    assert not cloud.alive()
    assert error.result["changed"] is True
    assert error.result["actions"] == ["delete"]
    assert error.result["instance"] is None
    assert error.result["failed_rentals"] == []
    assert "fake fake-1 differed and was destroyed, and no other is known" in error.message


def test_a_drifted_machine_that_could_not_be_destroyed_is_not_said_to_be() -> None:
    cloud = FakeCloud()
    break_off(FakeProvider(cloud, unique_names=True), replace(WISH, image="one"))
    provider = FakeProvider(cloud, unique_names=True)
    provider.refuse["delete"] = ProviderUnavailable("The provider is down.", provider="fake")
    error = break_off(provider, replace(WISH, image="two", on_drift="replace"))
    assert error.result["changed"] is False
    assert error.result["actions"] == []
    assert error.result["instance"]["id"] == "fake-1"
    assert "destroyed" not in error.message


def test_a_warning_is_not_lost_with_an_error(accepted: list[str | None], capsys: pytest.CaptureFixture[str]) -> None:
    """Here: that it costs more than its offer said."""
    provider = Dearer(FakeCloud(), unique_names=True)
    provider.refuse["get"] = AuthError("The key is refused.", provider="fake")
    with patch_module_args({}), pytest.raises(SystemExit):
        run_module(AnsibleModule({}), lambda: Run({"fake": provider}, WISH).result())
    result = json.loads(capsys.readouterr().out)
    assert result["failed"]
    (warning,) = result["warnings"]
    assert "it costs 1.5 USD per hour; its offer said 1 USD" in str(warning)


class Dearer(FakeProvider):
    def create(self, request: Request) -> Instance:
        return self._set(super().create(request).id, running_price_per_hour_usd=1.5)


def test_a_machine_that_lives_and_costs_is_named_by_any_error(accepted: list[str | None]) -> None:
    provider = FakeProvider(FakeCloud(), unique_names=True)
    provider.refuse["get"] = AuthError("The key is refused.", provider="fake")
    error = break_off(provider, WISH)
    assert error.result["actions"] == ["create"]
    assert error.result["instance"]["id"] == "fake-1"
    assert error.message == (
        "Instance 'vllm-1' lives at fake (fake-1) and goes on costing 1 USD per hour. The key is refused."
    )
