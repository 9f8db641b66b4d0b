# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Is a machine ready for work? One probe, the classes of its failures, and a schedule by class.

A probe never takes longer than the sum of its limits, each of which is enforced on the socket or the process itself.
"""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _endpoint
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability, Provider

CONNECT_SECONDS = 5.0
BANNER_SECONDS = 5.0
LOGIN_AND_COMMAND_SECONDS = 20.0
REREAD_SECONDS = 30.0  # addresses and ports of a rental can change while it boots
PROVIDER_BUDGET_SECONDS = 1800.0  # for the provider's own work, such as pulling an image; not part of the SSH budget

OK = "ok"
# Seconds to wait after a failure of each class; what is listed nowhere waits for _OTHER_DELAY.
_DELAYS = {"refused": 1.0, "closed": 1.0, "no_host_key": 1.0, "booting": 1.0, "auth": 4.0, "connect_timeout": 3.0}
_DELAYS |= {"endpoint_starting": 2.0, "endpoint_silent": 3.0}
_OTHER_DELAY = 4.0
# Trying again can't help: the machine is another one, or the key on this side is unusable.
PERMANENT = frozenset({"host_key_changed", "local_key", "no_ssh_client", "provider_failed"})

# In this order: a bad local key is followed by the words of a refused one, and so on.
_SSH_MESSAGES = (
    ("host_key_changed", r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed"),
    ("local_key", r"Load key .*(error|bad permissions|invalid format)|UNPROTECTED PRIVATE KEY|not accessible"),
    ("booting", r"System is booting up|pam_nologin"),
    ("auth", r"Permission denied|Too many authentication failures"),
    ("banner_timeout", r"timed out during banner exchange"),
    ("closed", r"kex_exchange_identification|Connection (closed|reset)"),
    ("refused", r"Connection refused"),
    ("dns", r"Could not resolve hostname"),
    ("connect_timeout", r"timed out"),
    ("no_route", r"No route to host|Network is unreachable"),
)


@dataclass(frozen=True)
class Probe:
    """The outcome of one try: a class, the words behind it, and the host key if it was learnt just now."""

    kind: str
    message: str = ""
    host_key: str | None = None


@dataclass
class Report:
    """How waiting went: tries, and when each class was first and last seen."""

    ready: bool = False
    attempts: int = 0
    seconds: float = 0.0
    last_message: str = ""
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, probe: Probe, seconds: float) -> None:
        self.attempts += 1
        self.seconds = round(seconds, 2)
        self.last_message = probe.message
        seen = self.classes.setdefault(probe.kind, {"count": 0, "first_seconds": self.seconds})
        seen["count"] += 1
        seen["last_seconds"] = self.seconds

    def as_result(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "attempts": self.attempts,
            "seconds": self.seconds,
            "classes": self.classes,
            "last_message": self.last_message,
        }


def wait_until_ready(
    provider: Provider, instance: Instance, stage: str, budget_seconds: float, private_key_file: str | None
) -> tuple[Instance, Report]:
    """Wait for the stage (running, ssh, gpu, endpoint): first for the provider, then budget_seconds of probing."""
    report = Report()
    started = _clock.monotonic()
    instance = _wait_for_provider(provider, instance, report, started, stage)
    if report.classes or stage == "running":
        report.ready = not report.classes
        return instance, report
    deadline, reread_at = _clock.monotonic() + budget_seconds, _clock.monotonic() + REREAD_SECONDS
    turn = 0
    while True:
        last = _clock.monotonic() >= deadline  # so there is always a probe at the deadline itself
        if stage == "endpoint":
            probe = (
                probe_endpoint(instance.urls[0][1]) if instance.urls else Probe("no_endpoint", "it has no address now")
            )
        else:
            command = "nvidia-smi -L" if stage == "gpu" else "true"
            probe = _probe_instance(provider, instance, turn, command, private_key_file)
        report.add(probe, _clock.monotonic() - started)
        if probe.kind == OK:
            report.ready = True
            return replace(instance, host_key=instance.host_key or probe.host_key), report
        if last or probe.kind in PERMANENT:
            return instance, report
        turn += 1
        delay = _DELAYS.get(probe.kind, _OTHER_DELAY) * random.uniform(0.9, 1.1)  # noqa: S311 (no secret)
        _clock.sleep(min(delay, max(0.0, deadline - _clock.monotonic())))
        if probe.kind == "no_host_key" or _clock.monotonic() >= reread_at:
            instance = provider.get(instance.id) or instance
            reread_at = _clock.monotonic() + REREAD_SECONDS


def _wait_for_provider(provider: Provider, instance: Instance, report: Report, started: float, stage: str) -> Instance:
    while not (instance.status is Status.RUNNING and _has_way_in(instance, stage)):
        waited = _clock.monotonic() - started
        if instance.status in (Status.FAILED, Status.TERMINATING):
            report.add(
                Probe("provider_failed", f"the provider says: {instance.status.value} {instance.detail}"), waited
            )
            return instance
        if waited > PROVIDER_BUDGET_SECONDS:
            report.add(Probe("provider_slow", f"still {instance.status.value}: {instance.detail}"), waited)
            return instance
        _clock.sleep(1.0 if waited < 30 else 5.0)
        current = provider.get(instance.id)
        if current is None:
            report.add(Probe("provider_failed", "the provider no longer knows this instance"), waited)
            return instance
        instance = current
    return instance


def _has_way_in(instance: Instance, stage: str) -> bool:
    if stage == "endpoint":
        return bool(instance.urls)
    return bool(instance.ssh_endpoints) or instance.runtime is Runtime.CONTAINER


def _probe_instance(
    provider: Provider, instance: Instance, turn: int, command: str, private_key_file: str | None
) -> Probe:
    if instance.host_key is None and Capability.HOST_KEY in provider.capabilities:
        return Probe("no_host_key", "the first boot has not made the host key yet")
    endpoint = instance.ssh_endpoints[turn % len(instance.ssh_endpoints)]
    probe = probe_socket(endpoint)
    if probe.kind == OK:
        probe = probe_login(endpoint, instance.ssh_user, instance.host_key, command, private_key_file)
    return probe


def probe_endpoint(url: str) -> Probe:
    """Does the server behind a container rental say that it is healthy? A provider's proxy answers long before it."""
    endpoint = _endpoint.Endpoint(url, timeout_seconds=CONNECT_SECONDS, validate_certs=True, use_proxy=True)
    answer = endpoint.ask("/health")
    if answer.status == 200:
        return Probe(OK)
    return Probe("endpoint_silent" if answer.status is None else "endpoint_starting", str(answer))


def probe_socket(endpoint: Endpoint) -> Probe:
    """Does an SSH server greet us there? A server that accepts and stays silent can't hold us up."""
    deadline = _clock.monotonic() + CONNECT_SECONDS + BANNER_SECONDS
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_SECONDS) as connection:
            return _read_banner(connection, min(deadline, _clock.monotonic() + BANNER_SECONDS))
    except ConnectionRefusedError as error:
        return Probe("refused", str(error))
    except TimeoutError:
        return Probe("connect_timeout", f"{endpoint.host}:{endpoint.port} did not answer in {CONNECT_SECONDS:.0f} s")
    except socket.gaierror as error:
        return Probe("dns", f"{endpoint.host}: {error.strerror}")
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return Probe("controller_network", f"this controller has no route at all: {error}")
        return Probe("no_route" if error.errno == errno.EHOSTUNREACH else "closed", str(error))


def _read_banner(connection: socket.socket, deadline: float) -> Probe:
    received = b""
    while len(received) < 4:
        left = deadline - _clock.monotonic()
        if left <= 0:
            return Probe("banner_timeout", "connected, but no SSH banner came")
        connection.settimeout(left)
        try:
            chunk = connection.recv(64)
        except TimeoutError:
            continue
        except ConnectionResetError as error:
            return Probe("closed", f"reset before the banner: {error}")
        if not chunk:
            return Probe("closed", "closed before the banner: still booting, or a proxy without the machine behind it")
        received += chunk
    if not received.startswith(b"SSH-"):
        return Probe("not_ssh", f"something else answers there: {received[:20]!r}")
    return Probe(OK)


def probe_login(
    endpoint: Endpoint, user: str, host_key: str | None, command: str, private_key_file: str | None
) -> Probe:
    """Log in with the real client and run a command. Without a host key, learn it at this first connection."""
    with tempfile.TemporaryDirectory(prefix="gpuops-fleet-") as folder:
        learnt = Path(folder) / "known_hosts"
        options = ["BatchMode=yes", "LogLevel=INFO", f"ConnectTimeout={CONNECT_SECONDS:.0f}", "ControlPath=none"]
        options += ["GlobalKnownHostsFile=none", *_host_key_options(host_key, learnt)]
        arguments = ["ssh", *(word for option in options for word in ("-o", option))]
        if private_key_file:
            arguments += ["-o", "IdentitiesOnly=yes", "-i", private_key_file]
        arguments += ["-p", str(endpoint.port), "-l", user, endpoint.host, command]
        try:
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LOGIN_AND_COMMAND_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Probe("login_timeout", f"no login within {LOGIN_AND_COMMAND_SECONDS:.0f} s")
        except FileNotFoundError:
            return Probe("no_ssh_client", "the controller has no ssh command; install the OpenSSH client")
        if done.returncode == 0:
            return Probe(OK, done.stdout, host_key=_first_key(learnt))
        return classify(done.returncode, done.stderr)


def _host_key_options(host_key: str | None, learnt: Path) -> list[str]:
    if host_key is None:
        return ["StrictHostKeyChecking=accept-new", "HostKeyAlgorithms=ssh-ed25519", f"UserKnownHostsFile={learnt}"]
    return [
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=none",
        f"HostKeyAlgorithms={host_key.split()[0]}",
        f"KnownHostsCommand=/bin/echo %H {host_key}",
    ]


def _first_key(known_hosts: Path) -> str | None:
    try:
        words = known_hosts.read_text().split()
    except OSError:
        return None
    return " ".join(words[1:3]) if len(words) >= 3 else None


def classify(returncode: int, stderr: str) -> Probe:
    """The class of a failed ssh call. 255 is ssh's own failure; everything else comes from the command."""
    words = " ".join(stderr.split())
    for kind, pattern in _SSH_MESSAGES:
        if re.search(pattern, stderr) and (returncode == 255 or kind == "booting"):
            return Probe(kind, words[-300:])
    return Probe("ssh_failed" if returncode == 255 else "command_failed", words[-300:])
