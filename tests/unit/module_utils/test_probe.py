# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Classes of failures when a machine is tried, made with plain sockets and with the words of ssh."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _probe
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint
from support.free_port import free_port

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"
LOOPBACK = (socket.AF_INET, ("127.0.0.1", 22))


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                connection, _peer = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # whoever has heard enough hangs up
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint("127.0.0.1", listening.getsockname()[1])


def drip(connection: socket.socket) -> None:
    """A byte at a time, for ever, and none of them the last of a banner that counts."""
    try:
        for byte in b"SS" * 500:
            connection.sendall(bytes([byte]))
            time.sleep(0.2)
    except OSError:
        return


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
        assert _probe.probe_socket(endpoint).kind == kind


@pytest.mark.parametrize("answer", [lambda connection: time.sleep(2), drip], ids=["silent", "slow"])
def test_a_server_that_takes_its_time_can_not_hold_the_probe(
    answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the clock's, not a number of reads: what drips restarts nothing."""
    monkeypatch.setattr(_probe, "BANNER_SECONDS", 0.5)
    with server(answer) as endpoint:
        assert _probe.probe_socket(endpoint).kind == "banner_timeout"


def test_a_resolver_that_takes_its_time_can_not_hold_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind = threading.Event()

    def slow(*_arguments: Any, **_options: Any) -> list[Any]:
        left_behind.wait(3)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(_probe, "RESOLVE_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    probe = _probe.probe_socket(Endpoint("slow.example", 22))
    left_behind.set()
    assert probe.kind == "dns_temporary"
    assert "the resolver took longer" in probe.message


def test_a_closed_port_is_refused() -> None:
    assert _probe.probe_socket(Endpoint("127.0.0.1", free_port())).kind == "refused"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "dns"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "dns_temporary"),
        (UnicodeError("label too long"), "dns"),
    ],
)
def test_a_name_that_does_not_exist_is_no_resolver_that_is_away(
    error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert _probe.probe_socket(Endpoint("nowhere.example", 22)).kind == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("timed out"), "connect_timeout"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "connect_timeout"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no_route"),
        (OSError(errno.EHOSTDOWN, "Host is down"), "no_route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "controller_network"),
        (OSError(errno.EPERM, "Operation not permitted"), "controller_network"),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), "closed"),
        (OSError(errno.EIO, "something new"), "ssh_failed"),
    ],
)
def test_what_needs_a_network_of_its_own_is_told_by_its_number(
    error: OSError, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faked at the socket: without rights over the network they can't be made here."""

    def fail(self: socket.socket, address: Any) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "connect", fail)
    assert _probe.probe_socket(Endpoint("127.0.0.1", 22)).kind == kind


def test_an_address_that_swallows_everything_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []

    def swallow(self: socket.socket, address: Any) -> None:
        limits.append(self.gettimeout())
        raise TimeoutError

    monkeypatch.setattr(_probe, "_resolve", lambda endpoint: [LOOPBACK, LOOPBACK])
    monkeypatch.setattr(socket.socket, "connect", swallow)
    assert _probe.probe_socket(Endpoint("two.example", 22)).kind == "connect_timeout"
    assert [round(limit or 0) for limit in limits] == [2, 5]


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "host_key_changed"),
        ('Load key "k": error in libcrypto\nroot@h: Permission denied (publickey).', "local_key"),
        ("KnownHostsCommand-HOSTNAME: host key has changed\nHost key verification failed.", "host_key_changed"),
        (
            "No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
            "host_key_unknown",
        ),
        (
            "Unable to negotiate with h port 22: no matching host key type found. Their offer: ssh-rsa",
            "host_key_unknown",
        ),
        ('Load key "k": bad permissions\nroot@h: Permission denied (publickey).', "local_key"),
        ("root@h: Permission denied (publickey).", "auth"),
        ("kex_exchange_identification: read: Connection reset by peer", "closed"),
        ("Connection closed by 10.0.0.1 port 22", "closed"),
        ("Connection timed out during banner exchange", "banner_timeout"),
        ("ssh: connect to host h port 22: Connection refused", "refused"),
        ("ssh: connect to host h port 22: Connection timed out", "connect_timeout"),
        ("ssh: connect to host h port 22: No route to host", "no_route"),
        ("ssh: connect to host h port 22: Network is unreachable", "controller_network"),
        ("ssh: Could not resolve hostname h: Name or service not known", "dns"),
        ("ssh: Could not resolve hostname h: Temporary failure in name resolution", "dns_temporary"),
        ("Connection reset by 10.0.0.1 port 22", "closed"),
        ('"System is booting up. Unprivileged users are not permitted"', "booting"),
        ("something new", "ssh_failed"),
    ],
)
def test_what_ssh_says_decides_the_class(stderr: str, kind: str) -> None:
    assert _probe.classify(255, stderr).kind == kind


def test_a_failing_command_is_not_a_failing_login() -> None:
    assert _probe.classify(127, "nvidia-smi: Permission denied").kind == "command_failed"


@pytest.fixture
def ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with an ssh of our own first on the path: it writes its arguments down, then does what `does` says."""
    program = tmp_path / "ssh"
    program.write_text(
        f'#!/bin/sh\nfor word; do echo "$word"; done > {tmp_path}/arguments\nset -- "$@"\n. {tmp_path}/does\n'
    )
    program.chmod(0o755)
    (tmp_path / "does").write_text("exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def login(host_key: str | None = None) -> _probe.Probe:
    return _probe.probe_login(Endpoint("203.0.113.7", 40022), "root", host_key, "true", "/keys/id")


def test_a_known_host_key_is_the_only_one_that_is_accepted(ssh: Path) -> None:
    assert login(KEY) == _probe.Probe("ok")
    arguments = (ssh / "arguments").read_text().splitlines()
    assert {"StrictHostKeyChecking=yes", "UserKnownHostsFile=none", "HostKeyAlgorithms=ssh-ed25519"} <= set(arguments)
    assert f"KnownHostsCommand=/bin/echo %H {KEY}" in arguments
    assert not [word for word in arguments if "accept-new" in word]
    assert {"BatchMode=yes", "IdentitiesOnly=yes", "LogLevel=INFO"} <= set(arguments)


def test_an_rsa_host_key_may_not_sign_with_sha1(ssh: Path) -> None:
    assert login(f"ssh-rsa {KEY.split()[1]}") == _probe.Probe("ok")
    assert "HostKeyAlgorithms=rsa-sha2-512,rsa-sha2-256" in (ssh / "arguments").read_text().splitlines()


def test_an_unknown_host_key_is_learnt_at_the_first_login(ssh: Path) -> None:
    (ssh / "does").write_text(
        f"file=$(sed -n 's/^UserKnownHostsFile=//p' {ssh}/arguments); echo '[203.0.113.7]:40022 {KEY}' > \"$file\""
    )
    assert login().host_key == KEY


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("echo 'root@h: Permission denied (publickey).' >&2; exit 255", "auth"),
        ("echo 'Connection closed by 10.0.0.1 port 22' >&2; exit 255", "closed"),
        ("echo '\"System is booting up.\" pam_nologin' >&2; exit 1", "booting"),
        ("exit 9", "command_failed"),
        ("sleep 5", "login_timeout"),
    ],
)
def test_what_becomes_of_a_login(does: str, kind: str, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "LOGIN_AND_COMMAND_SECONDS", 1.0)
    (ssh / "does").write_text(does)
    assert login().kind == kind


def test_a_controller_without_ssh_says_so(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert login().kind == "no_ssh_client"


def test_every_class_is_in_the_troubleshooting_guide_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "TROUBLESHOOTING.md").read_text()
    section = text.split("## A machine that is not ready\n")[1].split("\n## ")[0]
    assert re.findall(r"^### `([a-z_]+)`", section, re.MULTILINE) == list(_probe.CLASSES)


def test_every_class_that_is_made_is_in_the_table() -> None:
    """A class without an entry would have no delay, and nobody could look it up."""
    folder = Path(_probe.__file__).parent
    made = set()
    for name in ("_probe.py", "_readiness.py"):
        made |= set(re.findall(r'Probe\(\s*"([a-z_]+)"', (folder / name).read_text()))
    made |= {kind for kind, _pattern in _probe._SSH_MESSAGES}
    assert made <= {*_probe.CLASSES}
    assert len(made) > 15
