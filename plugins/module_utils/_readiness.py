# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Is a machine ready for work? When to try again, for how long, and how that went."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _cached, _clock, _endpoint, _pins, _taken_back
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import Budget
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import (
    CLASSES,
    CONNECT_SECONDS,
    OK,
    OUTBID,
    PERMANENT,
    Probe,
    probe_login,
    probe_socket,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Capability,
    Provider,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
)

REREAD_SECONDS = 30.0  # addresses and ports of a rental can change while it boots
# An order to start may take some seconds to show. What is stopped for longer than this won't start by itself (an image
# that can't be pulled, a command that ended), and waiting for it would cost the whole time of its provider.
STOPPED_SECONDS = 60.0
# One end of a program may be an accident; what ends so often will end again, and costs all the while.
ENDS = 3
# With more than one way in, one that swallows everything must not keep us from trying the other.
_OTHER_WAY_SECONDS = 0.2


@dataclass
class Report:
    """How waiting went: tries, when each class was first and last seen, and where we tried."""

    budget: Budget
    ready: bool = False
    attempts: int = 0
    seconds: float = 0.0
    provider_seconds: float = 0.0  # of them, until the provider said that it runs
    last_class: str = ""
    last_message: str = ""
    way: str = ""  # the kind of the way in by which it was ready
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, probe: Probe, seconds: float, tried: str = "", kind: str = "direct") -> None:
        self.attempts += 1
        self.seconds = round(seconds, 2)
        self.last_class, self.last_message = probe.kind, probe.message
        seen = self.classes.setdefault(probe.kind, {"count": 0, "first_seconds": self.seconds})
        seen["count"] += 1
        seen["last_seconds"] = self.seconds
        if tried:
            there = self.endpoints.setdefault(tried, {"address": tried, "kind": kind, "attempts": 0})
            there["attempts"] += 1
            there["last_class"] = probe.kind
            self.way = kind if probe.kind == OK else ""

    def as_result(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "attempts": self.attempts,
            "seconds": self.seconds,
            "provider_seconds": self.provider_seconds,
            "budget_seconds": {
                "provider": self.budget.provider_seconds,
                "ready": self.budget.ready_seconds,
                "key": self.budget.key_seconds,
            },
            "classes": self.classes,
            "endpoints": list(self.endpoints.values()),
            "last_class": self.last_class,
            "last_message": self.last_message,
        }


def wait_until_ready(
    provider: Provider, instance: Instance, stage: str, budget: Budget, private_key_file: str | None
) -> tuple[Instance, Report]:
    """Wait for the stage (running, ssh, gpu, endpoint): first for the provider, then for the machine itself."""
    report = Report(budget)
    started = _clock.monotonic()
    instance = _wait_for_provider(provider, instance, report, started, stage)
    report.provider_seconds = report.seconds = round(_clock.monotonic() - started, 2)
    if report.classes or stage == "running":
        report.ready = not report.classes
        return instance, report
    waiting = _Waiting(provider, stage, private_key_file, report)
    deadline, reread_at = _clock.monotonic() + budget.ready_seconds, _clock.monotonic() + REREAD_SECONDS
    while True:
        last = _clock.monotonic() >= deadline  # so there is always a probe at the deadline itself
        probe = waiting.probe(instance, started)
        if probe.kind == OK:
            report.ready = True
            return replace(
                instance,
                host_key=instance.host_key or probe.host_key,
                tls_fingerprint=probe.tls_fingerprint or instance.tls_fingerprint,
            ), report
        if last or probe.kind in PERMANENT:
            return instance, report
        _clock.sleep(min(waiting.delay_seconds(instance, probe), max(0.0, deadline - _clock.monotonic())))
        if CLASSES[probe.kind].reread or waiting.stopped_since is not None or _clock.monotonic() >= reread_at:
            instance = waiting.read_again(instance)
            reread_at = _clock.monotonic() + REREAD_SECONDS


@dataclass
class _Waiting:
    """The tries of one wait: whose turn it is, and since when the key is refused."""

    provider: Provider
    stage: str
    private_key_file: str | None
    report: Report
    turn: int = 0
    refused_since: float | None = None
    ended: Probe | None = None  # what the provider said meanwhile
    stopped_since: float | None = None  # by its provider, although it ran
    ends: int = 0  # of what runs inside, after which its provider started it again

    def probe(self, instance: Instance, started: float) -> Probe:
        """One try, written into the report."""
        tried, kind = "", "direct"
        if self.ended:
            probe = self.ended
        elif self.stage == "endpoint":
            tried = instance.urls[0][1] if instance.urls else ""
            probe = self._probe_url(instance, tried) if tried else Probe("no_endpoint", "it has no address now")
        elif not instance.ssh_endpoints:
            probe = Probe("no_endpoint", f"{instance.provider} names no address now ({instance.detail})")
        elif instance.host_key is None and Capability.HOST_KEY in self.provider.capabilities:
            probe = Probe("no_host_key", "the first boot has not made the host key yet")
        else:
            endpoint = instance.ssh_endpoints[self.turn % len(instance.ssh_endpoints)]
            tried, kind = f"{endpoint.host}:{endpoint.port}", endpoint.kind
            probe = self._probe_ssh(instance, endpoint)
        self.turn += 1
        self.report.add(probe, _clock.monotonic() - started, tried, kind)
        return self._final(instance, probe)

    def _probe_ssh(self, instance: Instance, endpoint: Endpoint) -> Probe:
        command = "nvidia-smi -L" if self.stage == "gpu" else "true"
        probe = probe_socket(endpoint)
        if probe.kind == OK:
            probe = probe_login(endpoint, instance.ssh_user, instance.host_key, command, self.private_key_file)
        if probe.kind != "auth":
            return probe
        now = _clock.monotonic()
        self.refused_since = now if self.refused_since is None else self.refused_since
        late = now - self.refused_since >= self.report.budget.key_seconds
        return probe if late else replace(probe, kind="key_pending")

    def _probe_url(self, instance: Instance, url: str) -> Probe:
        """Does what it serves answer, with the certificate that was pinned, now or before?"""
        if not instance.own_tls:
            return probe_endpoint(url)
        known = instance.tls_fingerprint or _pins.recorded(instance)
        try:
            seen = known or _endpoint.presented_fingerprint(url, CONNECT_SECONDS)
        except OSError as error:
            return Probe("endpoint_silent", str(error))
        probe = probe_endpoint(url, seen)
        if probe.kind != OK:
            return probe
        pin = _pins.Pin(seen, "") if known else _pins.judge(self.provider, instance, seen)
        if pin.fingerprint != seen:
            return Probe("endpoint_other_certificate", pin.said)
        return replace(probe, message=pin.said, tls_fingerprint=seen)

    def _final(self, instance: Instance, probe: Probe) -> Probe:
        """A key that one way in refuses for good may still be taken by another: that is final for both or for none."""
        ways = [f"{one.host}:{one.port}" for one in instance.ssh_endpoints]
        last = [self.report.endpoints.get(way, {}).get("last_class") for way in ways]
        if probe.kind == "auth" and set(last) != {"auth"}:
            return replace(probe, kind="key_pending")
        return probe

    def delay_seconds(self, instance: Instance, probe: Probe) -> float:
        """Until the next try: by class, and a little by chance, so that many controllers don't come at once."""
        slow = probe.kind in ("connect_timeout", "banner_timeout") and len(instance.ssh_endpoints) > 1
        seconds = _OTHER_WAY_SECONDS if slow else CLASSES[probe.kind].delay_seconds
        return seconds * random.uniform(0.9, 1.1)  # noqa: S311 (no secret)

    def read_again(self, instance: Instance) -> Instance:
        """What the provider says now. That it can't be asked at this moment says nothing about the machine."""
        try:
            now = self.provider.get(instance.id)
        except ProviderError:
            return instance
        if now is None:
            self.ended = Probe("provider_failed", "the provider no longer knows this instance")
            return instance
        if now.status in (Status.FAILED, Status.TERMINATING):
            self.ended = Probe("provider_failed", f"the provider says: {now.status.value} {now.detail}")
        self._notice_ends(instance, now)
        return replace(now, host_key=now.host_key or instance.host_key)

    def _notice_ends(self, before: Instance, now: Instance) -> None:
        """It ran, and runs no more; or it runs again and again, and never for long."""
        time = _clock.monotonic()
        if now.status is not Status.STOPPED:
            self.stopped_since = None
        elif self.stopped_since is None:
            self.stopped_since = time
        elif time - self.stopped_since >= STOPPED_SECONDS:
            clear = _clear(now)
            kind = OUTBID if clear.outbid else "exited"
            self.ended = Probe(kind, f"it ran, and now the provider says: {clear.status.value} {clear.detail}")
        if before.uptime_seconds is not None and now.uptime_seconds is not None:
            self.ends += now.uptime_seconds < before.uptime_seconds
        if self.ends >= ENDS:
            self.ended = Probe(
                "exited",
                f"what runs inside has ended {self.ends} times or more, and the provider started it again each time",
            )


def _wait_for_provider(provider: Provider, instance: Instance, report: Report, started: float, stage: str) -> Instance:
    no_news = ""  # why the last look showed nothing
    stopped_since: float | None = None
    while not (instance.status is Status.RUNNING and _has_way_in(instance, stage)):
        waited = _clock.monotonic() - started
        if instance.status is not Status.STOPPED:
            stopped_since = None
        elif stopped_since is None:
            stopped_since = waited
        stays = stopped_since is not None and waited - stopped_since >= STOPPED_SECONDS and not no_news
        if stays or instance.status in (Status.FAILED, Status.TERMINATING):
            now = _clear(instance)
            kind = OUTBID if now.outbid else "provider_failed"
            report.add(Probe(kind, f"the provider says: {now.status.value} {now.detail}"), waited)
            return now
        if waited > report.budget.provider_seconds:
            report.add(Probe("provider_slow", f"still {instance.status.value}: {instance.detail}{no_news}"), waited)
            return instance
        _clock.sleep(1.0 if waited < 30 else 5.0)
        try:
            current = _cached.look(provider, instance.id)
        except (ProviderUnavailable, RateLimited) as error:
            no_news = f" (when last asked: {error.message})"
            continue
        no_news = ""
        if current is None:
            report.add(Probe("provider_failed", "the provider no longer knows this instance"), waited)
            return instance
        instance = current
    return instance


def _clear(instance: Instance) -> Instance:
    """Who waits has ordered it to run: what its provider could not tell apart is clear then."""
    return instance if instance.outbid is False else _taken_back.outbid(instance)


def refused_start(budget: Budget, said: str) -> Report:
    """Nothing to wait for: its provider has no room for it now."""
    report = Report(budget)
    report.add(Probe(OUTBID, f"its start was refused: {said}"), 0.0)
    return report


def _has_way_in(instance: Instance, stage: str) -> bool:
    if stage == "endpoint":
        return bool(instance.urls)
    return bool(instance.ssh_endpoints) or instance.runtime is Runtime.CONTAINER


def probe_endpoint(url: str, tls_fingerprint: str | None = None) -> Probe:
    """Does the server behind a container rental say that it is healthy? A provider's proxy answers long before it."""
    endpoint = _endpoint.Endpoint(
        url,
        timeout_seconds=CONNECT_SECONDS,
        validate_certs=True,
        use_proxy=tls_fingerprint is None,  # a machine's own address is reached directly
        tls_fingerprint=tls_fingerprint,
    )
    answer = endpoint.ask("/health")
    if answer.status == 200:
        return Probe(OK)
    if answer.other_certificate:
        return Probe("endpoint_other_certificate", str(answer))
    return Probe("endpoint_silent" if answer.status is None else "endpoint_starting", str(answer))
