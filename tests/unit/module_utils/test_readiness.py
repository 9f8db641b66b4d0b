# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Failure classes of the SSH probe, made with plain sockets, and the schedule of waiting."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._readiness import Probe
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                connection, _peer = listening.accept()
            except OSError:
                return
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint("127.0.0.1", listening.getsockname()[1])


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda connection: connection.sendall(b"SSH-2.0-test\r\n"), "ok"),
        (lambda connection: [connection.sendall(bytes([byte])) for byte in b"SSH-2.0-slow\r\n"], "ok"),
        (lambda connection: None, "closed"),
        (reset, "closed"),
        (lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n"), "not_ssh"),
    ],
)
def test_what_answers_decides_the_class(answer: Callable[[socket.socket], None], kind: str) -> None:
    with server(answer) as endpoint:
        assert _readiness.probe_socket(endpoint).kind == kind


def test_a_silent_server_can_not_hold_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readiness, "BANNER_SECONDS", 0.3)
    with server(lambda connection: time.sleep(2)) as endpoint:
        began = time.monotonic()
        assert _readiness.probe_socket(endpoint).kind == "banner_timeout"
        assert time.monotonic() - began < 1.5


def test_a_closed_port_is_refused_and_an_unknown_name_is_dns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert _readiness.probe_socket(Endpoint("127.0.0.1", port)).kind == "refused"
    assert _readiness.probe_socket(Endpoint("nowhere.invalid", 22)).kind == "dns"


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "host_key_changed"),
        ('Load key "k": error in libcrypto\nroot@h: Permission denied (publickey).', "local_key"),
        ("root@h: Permission denied (publickey).", "auth"),
        ("kex_exchange_identification: read: Connection reset by peer", "closed"),
        ("Connection closed by 10.0.0.1 port 22", "closed"),
        ("Connection timed out during banner exchange", "banner_timeout"),
        ("ssh: connect to host h port 22: Connection refused", "refused"),
        ("ssh: connect to host h port 22: Connection timed out", "connect_timeout"),
        ("ssh: connect to host h port 22: No route to host", "no_route"),
        ("ssh: Could not resolve hostname h: Name or service not known", "dns"),
        ('"System is booting up. Unprivileged users are not permitted"', "booting"),
        ("something new", "ssh_failed"),
    ],
)
def test_what_ssh_says_decides_the_class(stderr: str, kind: str) -> None:
    assert _readiness.classify(255, stderr).kind == kind


def test_a_failing_command_is_not_a_failing_login() -> None:
    assert _readiness.classify(127, "nvidia-smi: Permission denied").kind == "command_failed"


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
        monkeypatch.setattr(_readiness, "probe_login", lambda *arguments: Probe("ok", host_key="ssh-ed25519 AAAA"))

    def _probe(self, endpoint: Endpoint) -> Probe:
        seconds = self.clock.now() - self.began
        self.probed.append((seconds, endpoint))
        return Probe(self.kind(seconds), "words")

    def wait(self, budget: float = 60, instance: Instance = READY) -> tuple[Instance, _readiness.Report]:
        return _readiness.wait_until_ready(self.provider, instance, "ssh", budget, None)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


@pytest.mark.parametrize(("kind", "most"), [("refused", 3), ("closed", 3), ("connect_timeout", 6), ("auth", 6)])
def test_readiness_is_seen_soon_after_it_is_there(waiting: Waiting, kind: str, most: float) -> None:
    waiting.kind = lambda seconds: kind if seconds < 47 else "ok"
    instance, report = waiting.wait()
    assert report.ready
    assert 47 <= waiting.probed[-1][0] <= 47 + most
    assert report.classes[kind]["first_seconds"] == 0
    assert report.attempts == len(waiting.probed)
    assert instance.host_key == "ssh-ed25519 AAAA"  # learnt at the first login


def test_there_is_always_a_probe_at_the_deadline(waiting: Waiting) -> None:
    waiting.kind = lambda seconds: "auth" if seconds < 59.9 else "ok"
    assert waiting.wait(60)[1].ready
    waiting.probed.clear()
    waiting.began = waiting.clock.now()
    waiting.kind = lambda seconds: "auth"
    report = waiting.wait(60)[1]
    assert not report.ready
    assert waiting.probed[-1][0] == pytest.approx(60, abs=0.01)
    assert report.classes["auth"]["last_seconds"] == pytest.approx(60, abs=0.01)


@pytest.mark.parametrize("kind", sorted(_readiness.PERMANENT))
def test_what_can_not_heal_is_not_waited_for(waiting: Waiting, kind: str) -> None:
    waiting.kind = lambda seconds: kind
    assert waiting.wait()[1].attempts == 1


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
