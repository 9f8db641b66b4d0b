# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a machine is tried again, for how long, and what is told about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _probe, _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import (
    LONGEST_READY_SECONDS,
    TABLE,
    Budget,
    budget_for,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    AuthError,
    Capability,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

READY = Instance(
    "fake", "fake-1", Marker("acme-llm", "a", "abc123"), Status.RUNNING, ssh_endpoints=(Endpoint("127.0.0.1", 1),)
)


class Waiting:
    """wait_until_ready over a scripted probe and a clock that costs nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock().install(monkeypatch)
        self.provider = FakeProvider(FakeCloud())
        self.provider.cloud.instances[READY.id] = READY
        self.probed: list[tuple[float, Endpoint]] = []
        self.kind: Callable[[float], str] = lambda seconds: "ok"
        self.began = self.clock.now()
        monkeypatch.setattr(_readiness, "probe_socket", self._probe)
        monkeypatch.setattr(_readiness, "probe_login", self._login)

    def _probe(self, endpoint: Endpoint) -> Probe:
        seconds = self.clock.now() - self.began
        self.probed.append((seconds, endpoint))
        kind = self.kind(seconds)
        return Probe("ok" if kind == "auth" else kind, "words")

    def _login(self, endpoint: Endpoint, *_rest: object) -> Probe:
        kind = self.kind(self.probed[-1][0])
        return Probe(kind, "words", host_key="ssh-ed25519 AAAA" if kind == "ok" else None)

    def wait(
        self, ready: float = 60, instance: Instance = READY, key: float = 60
    ) -> tuple[Instance, _readiness.Report]:
        return _readiness.wait_until_ready(self.provider, instance, "ssh", Budget(1800, ready, key), None)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


@pytest.mark.parametrize(("kind", "most"), [("refused", 3), ("closed", 3), ("connect_timeout", 6), ("auth", 6)])
def test_readiness_is_seen_soon_after_it_is_there(waiting: Waiting, kind: str, most: float) -> None:
    waiting.kind = lambda seconds: kind if seconds < 47 else "ok"
    instance, report = waiting.wait()
    assert report.ready
    assert 47 <= waiting.probed[-1][0] <= 47 + most
    assert report.classes["key_pending" if kind == "auth" else kind]["first_seconds"] == 0
    assert report.attempts == len(waiting.probed)
    assert instance.host_key == "ssh-ed25519 AAAA"  # learnt at the first login


def test_there_is_always_a_probe_at_the_deadline(waiting: Waiting) -> None:
    waiting.kind = lambda seconds: "no_route" if seconds < 59.9 else "ok"
    assert waiting.wait(60)[1].ready
    waiting.probed.clear()
    waiting.began = waiting.clock.now()
    waiting.kind = lambda seconds: "no_route"
    report = waiting.wait(60)[1]
    assert not report.ready
    assert waiting.probed[-1][0] == pytest.approx(60, abs=0.01)
    assert report.classes["no_route"]["last_seconds"] == pytest.approx(60, abs=0.01)


@pytest.mark.parametrize("kind", sorted(_probe.PERMANENT - {"auth"}))
def test_what_can_not_heal_is_not_waited_for(waiting: Waiting, kind: str) -> None:
    waiting.kind = lambda seconds: kind
    assert waiting.wait()[1].attempts == 1


def test_a_refused_key_is_waited_for_as_long_as_keys_take_and_no_longer(waiting: Waiting) -> None:
    waiting.kind = lambda seconds: "refused" if seconds < 100 else "auth"
    report = waiting.wait(600, key=60)[1]
    assert not report.ready
    assert report.last_class == "auth"
    assert 160 <= report.seconds <= 166  # not at the deadline, which is far away
    assert report.classes["key_pending"]["count"] > 10
    assert report.classes["auth"]["count"] == 1


def test_a_key_that_one_way_in_refuses_may_be_taken_by_the_other(waiting: Waiting) -> None:
    """A provider's proxy may know other keys than the machine behind it."""
    ways = (Endpoint("10.0.0.1", 22), Endpoint("proxy", 2222, "proxy"))
    instance = replace(READY, ssh_endpoints=ways)
    waiting.provider.cloud.instances[READY.id] = instance

    def kind(seconds: float) -> str:
        proxy = waiting.probed[-1][1].kind == "proxy"
        return "auth" if proxy else "refused" if seconds < 120 else "ok"

    waiting.kind = kind
    report = waiting.wait(300, instance, key=20)[1]
    assert report.ready
    assert {one["address"]: one["last_class"] for one in report.as_result()["endpoints"]} == {
        "10.0.0.1:22": "ok",
        "proxy:2222": "auth",
    }
    assert {one["kind"] for one in report.as_result()["endpoints"]} == {"direct", "proxy"}


def test_the_providers_work_does_not_consume_the_ssh_budget(waiting: Waiting) -> None:
    waiting.provider.cloud.instances[READY.id] = replace(READY, status=Status.PENDING)

    def pulled_after_300_seconds() -> None:
        if waiting.clock.now() - waiting.began > 300:
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = pulled_after_300_seconds
    waiting.kind = lambda seconds: "refused" if seconds < 330 else "ok"
    assert waiting.wait(60, replace(READY, status=Status.PENDING))[1].ready


def test_direct_and_proxy_endpoints_take_turns_and_are_read_again(waiting: Waiting) -> None:
    old, proxy, new = Endpoint("10.0.0.1", 22), Endpoint("proxy", 2222, "proxy"), Endpoint("10.0.0.1", 40022)
    waiting.provider.cloud.instances[READY.id] = replace(READY, ssh_endpoints=(new, proxy))
    waiting.kind = lambda seconds: "closed" if seconds < 40 else "ok"
    waiting.wait(60, replace(READY, ssh_endpoints=(old, proxy)))
    assert {endpoint for seconds, endpoint in waiting.probed if seconds < 29} == {old, proxy}
    assert new in {endpoint for seconds, endpoint in waiting.probed if seconds > 30}


def test_a_machine_that_failed_at_its_provider_is_not_probed(waiting: Waiting) -> None:
    report = waiting.wait(instance=replace(READY, status=Status.FAILED, detail="image not found"))[1]
    assert not waiting.probed
    assert "image not found" in report.last_message


def test_a_machine_that_goes_while_it_is_tried_ends_the_wait(waiting: Waiting) -> None:
    waiting.kind = lambda seconds: "refused"

    def gone_after_100_seconds() -> None:
        if waiting.clock.now() - waiting.began > 100:
            waiting.provider.cloud.instances.pop(READY.id, None)

    waiting.clock.on_sleep = gone_after_100_seconds
    report = waiting.wait(600)[1]
    assert report.last_class == "provider_failed"
    assert "no longer knows" in report.last_message
    assert 100 <= report.seconds <= 135


def test_a_rental_that_ran_and_then_stopped_ends_the_wait(waiting: Waiting) -> None:
    waiting.kind = lambda seconds: "refused"

    def stopped_after_100_seconds() -> None:
        if waiting.clock.now() - waiting.began > 100:
            waiting.provider.cloud.instances[READY.id] = replace(READY, status=Status.STOPPED, detail="EXITED")

    waiting.clock.on_sleep = stopped_after_100_seconds
    report = waiting.wait(7200)[1]
    assert (report.ready, report.last_class) == (False, "exited")
    assert "it ran, and now the provider says: stopped EXITED" in report.last_message
    assert 160 <= report.seconds <= 200


def test_one_stop_that_is_over_soon_ends_nothing(waiting: Waiting) -> None:
    """Its provider starts again what has ended."""

    def stopped_for_half_a_minute() -> None:
        stopped = 40 < waiting.clock.now() - waiting.began < 80
        waiting.provider.cloud.instances[READY.id] = replace(READY, status=Status.STOPPED) if stopped else READY

    waiting.clock.on_sleep = stopped_for_half_a_minute
    waiting.kind = lambda seconds: "refused" if seconds < 200 else "ok"
    assert waiting.wait(600)[1].ready


@pytest.mark.parametrize(("runs_for_seconds", "given_up"), [(70, True), (100_000, False)])
def test_what_ends_again_and_again_is_not_waited_for(waiting: Waiting, runs_for_seconds: float, given_up: bool) -> None:
    waiting.kind = lambda seconds: "refused"

    def started_again_and_again() -> None:
        uptime = (waiting.clock.now() - waiting.began) % runs_for_seconds
        waiting.provider.cloud.instances[READY.id] = replace(READY, uptime_seconds=uptime)

    waiting.clock.on_sleep = started_again_and_again
    report = waiting.wait(7200)[1]
    assert (report.last_class == "exited") is given_up
    if given_up:
        assert "has ended 3 times or more" in report.last_message
        assert report.seconds < 400


def test_a_provider_that_can_not_be_asked_for_a_moment_ends_nothing(waiting: Waiting) -> None:
    waiting.provider.refuse["get"] = ProviderUnavailable("down", provider="fake")
    waiting.kind = lambda seconds: "refused" if seconds < 45 else "ok"
    assert waiting.wait(60)[1].ready


def test_a_machine_without_an_address_is_looked_up_again_at_once(waiting: Waiting) -> None:
    """It had one when it was read, then it moved."""
    waiting.provider.cloud.instances[READY.id] = replace(READY, ssh_endpoints=())

    def has_one_after_40_seconds() -> None:
        if waiting.clock.now() - waiting.began > 40:
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = has_one_after_40_seconds
    waiting.kind = lambda seconds: "refused" if seconds < 40 else "ok"
    report = waiting.wait(60)[1]
    assert report.ready
    assert report.seconds < 45
    assert "no_endpoint" in report.classes


def test_a_wrong_mapping_is_looked_up_again_at_once(waiting: Waiting) -> None:
    new = Endpoint("10.0.0.1", 40022)
    waiting.provider.cloud.instances[READY.id] = replace(READY, ssh_endpoints=(new,))
    waiting.kind = lambda seconds: "ok" if waiting.probed[-1][1] == new else "not_ssh"
    report = waiting.wait(60)[1]
    assert report.ready
    assert report.attempts == 2


def test_the_report_says_how_long_the_provider_took(waiting: Waiting) -> None:
    waiting.provider.cloud.instances[READY.id] = replace(READY, status=Status.PENDING)

    def pulled_after_300_seconds() -> None:
        if waiting.clock.now() - waiting.began > 300:
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = pulled_after_300_seconds
    result = waiting.wait(60, replace(READY, status=Status.PENDING))[1].as_result()
    assert 300 <= result["provider_seconds"] <= 306
    assert result["budget_seconds"] == {"provider": 1800, "ready": 60, "key": 60}


def test_patience_depends_on_provider_runtime_and_gpu() -> None:
    def ready(provider: str, runtime: Runtime, stage: str, **values: Any) -> float:
        return budget_for(provider, runtime, stage, **values).ready_seconds

    container = Runtime.CONTAINER
    assert ready("vastai", Runtime.VM, "ssh") < ready("vastai", Runtime.VM, "gpu")
    small = ready("runpod", container, "endpoint", gpu="L4", gpu_count=1)
    assert ready("runpod", container, "endpoint") < small
    assert small < ready("runpod", container, "endpoint", gpu="H100_80GB", gpu_count=1)
    assert ready("runpod", container, "endpoint", gpu="B200", gpu_count=8) == LONGEST_READY_SECONDS
    assert ready("runpod", container, "endpoint") != ready("vastai", container, "endpoint")
    assert (
        budget_for("vastai", Runtime.VM, "ssh").provider_seconds
        > budget_for("local", Runtime.VM, "ssh").provider_seconds
    )
    assert all(budget.source for budget in TABLE.values())


def test_what_the_user_says_about_patience_wins() -> None:
    for stage in ("ssh", "gpu", "endpoint"):
        budget = budget_for("vastai", Runtime.VM, stage, gpu="L4", gpu_count=1, wait_timeout_seconds=17)
        assert budget.ready_seconds == 17
        assert budget.provider_seconds == 3600  # what was said is about the machine, not about its provider


def test_every_provider_has_a_row_for_what_it_rents() -> None:
    for name, capabilities in CAPABILITIES.items():
        for runtime in Runtime:
            assert ((name, runtime) in TABLE) is (Capability(runtime.value) in capabilities)


# While the provider works ------------------------------------------------------------------------------------------


def pending(waiting: Waiting, status: Status = Status.PENDING, detail: str = "") -> Instance:
    shown = replace(READY, status=status, detail=detail)
    waiting.provider.cloud.instances[READY.id] = shown
    return shown


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("It is down.", provider="fake"), RateLimited("Not so fast.", provider="fake")]
)
def test_a_provider_that_can_not_be_asked_while_it_works_says_nothing_about_the_machine(
    waiting: Waiting, error: ProviderError
) -> None:
    waiting.provider.refuse["get"] = error
    shown = pending(waiting)

    def answers_again_after_120_seconds() -> None:
        if waiting.clock.now() - waiting.began > 120:
            waiting.provider.refuse.clear()
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = answers_again_after_120_seconds
    assert waiting.wait(60, shown)[1].ready


def test_a_provider_that_can_not_be_asked_until_the_deadline_is_slow_for_this_machine(waiting: Waiting) -> None:
    waiting.provider.refuse["get"] = ProviderUnavailable("It is down.", provider="fake")
    instance, report = waiting.wait(60, pending(waiting, detail="loading"))
    assert instance.id == READY.id
    assert report.last_class == "provider_slow"
    assert report.last_message == "still pending: loading (when last asked: It is down.)"
    assert 1800 <= report.provider_seconds <= 1810


def test_what_the_provider_refuses_for_good_is_not_waited_for(waiting: Waiting) -> None:
    waiting.provider.refuse["get"] = AuthError("The key is refused.", provider="fake")
    with pytest.raises(AuthError):
        waiting.wait(60, pending(waiting))
    assert waiting.provider.cloud.calls == ["get"]


def test_what_stays_stopped_after_its_start_will_not_run(waiting: Waiting) -> None:
    report = waiting.wait(60, pending(waiting, Status.STOPPED, "image pull failed"))[1]
    assert report.last_class == "provider_failed"
    assert report.last_message == "the provider says: stopped image pull failed"
    assert _readiness.STOPPED_SECONDS <= report.provider_seconds <= _readiness.STOPPED_SECONDS + 5
    assert not waiting.probed


def test_what_stops_while_its_provider_works_on_it_will_not_run(waiting: Waiting) -> None:
    shown = pending(waiting)

    def exits_after_300_seconds() -> None:
        if waiting.clock.now() - waiting.began > 300:
            pending(waiting, Status.STOPPED, "exited")

    waiting.clock.on_sleep = exits_after_300_seconds
    report = waiting.wait(60, shown)[1]
    assert report.last_class == "provider_failed"
    assert 360 <= report.provider_seconds <= 372


def test_what_still_shows_as_stopped_right_after_its_start_is_waited_for(waiting: Waiting) -> None:
    """Twice, each time for less than the grace."""
    shown = pending(waiting, Status.STOPPED)

    def comes_and_goes() -> None:
        seconds = waiting.clock.now() - waiting.began
        pending(waiting, Status.STOPPED if seconds < 50 or 60 < seconds < 110 else Status.PENDING)
        if seconds > 150:
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = comes_and_goes
    assert waiting.wait(60, shown)[1].ready


def test_what_was_stopped_before_its_provider_could_not_be_asked_may_run_by_now(waiting: Waiting) -> None:
    shown = pending(waiting, Status.STOPPED)
    waiting.provider.refuse["get"] = ProviderUnavailable("It is down.", provider="fake")

    def answers_again_after_200_seconds() -> None:
        if waiting.clock.now() - waiting.began > 200:
            waiting.provider.refuse.clear()
            waiting.provider.cloud.instances[READY.id] = READY

    waiting.clock.on_sleep = answers_again_after_200_seconds
    assert waiting.wait(60, shown)[1].ready
