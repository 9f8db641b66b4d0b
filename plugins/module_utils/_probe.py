# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""One try to reach a machine: the classes of failures as data, and how each is told from the others.

A try never takes longer than the sum of its limits, each of which is enforced on the socket or the process itself.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 5.0
BANNER_SECONDS = 5.0
LOGIN_AND_COMMAND_SECONDS = 20.0

OK, OUTBID = "ok", "outbid"


@dataclass(frozen=True)
class FailureClass:
    """What a class of failures means, and what waiting does about it. TROUBLESHOOTING.md has an entry for each."""

    meaning: str
    delay_seconds: float = 4.0  # until the next try
    permanent: bool = False  # trying again can't help
    reread: bool = False  # what the provider says about the machine is probably out of date


CLASSES: dict[str, FailureClass] = {
    # The network in between.
    "refused": FailureClass("the host is up, and nothing listens at this port yet", 1.0),
    "connect_timeout": FailureClass("no answer at all: not routed yet, or a firewall drops it", 3.0),
    "no_route": FailureClass("a router says that the host can't be reached", 3.0),
    "controller_network": FailureClass("this controller itself has no network, or may not use it"),
    "dns": FailureClass("the name of the host doesn't exist", reread=True),
    "dns_temporary": FailureClass("the controller's resolver has no answer right now", 3.0),
    "no_endpoint": FailureClass("the provider names no address to try", 2.0, reread=True),
    # Before anybody could log in. A silent server has cost a whole limit already, so the next try comes at once.
    "banner_timeout": FailureClass("something accepts connections and stays silent", 0.5),
    "closed": FailureClass("closed or reset before the login: still booting, or a proxy without the machine", 1.0),
    "not_ssh": FailureClass("something answers that is no SSH server: the port is mapped elsewhere", reread=True),
    "booting": FailureClass("the machine says itself that it is still booting", 1.0),
    "no_host_key": FailureClass("the provider doesn't know the host key yet", 1.0, reread=True),
    "login_timeout": FailureClass("the login or the command did not end in time", 0.5),
    # The login itself.
    "key_pending": FailureClass("the key is refused, and may be on its way to the machine"),
    "auth": FailureClass("the key is refused, also after the time that keys take", permanent=True),
    "local_key": FailureClass("the private key on this controller can't be used", permanent=True),
    "host_key_changed": FailureClass("another machine answers than the one that is known", permanent=True),
    "host_key_unknown": FailureClass("there is no host key of the kind that is expected", permanent=True),
    "no_ssh_client": FailureClass("the controller has no ssh command", permanent=True),
    "ssh_failed": FailureClass("ssh failed for a reason that has no class of its own"),
    "command_failed": FailureClass("the login works, and the command on the machine fails"),
    # A container's endpoint.
    "endpoint_starting": FailureClass("the proxy answers, and the server behind it is not ready", 2.0),
    "endpoint_other_certificate": FailureClass(
        "who answers has another certificate than the one that is pinned, or that the rental's log names",
        permanent=True,
    ),
    "endpoint_silent": FailureClass("the endpoint doesn't answer", 3.0),
    # What the provider says.
    "provider_slow": FailureClass("the provider has not said that it runs", permanent=True),
    "provider_failed": FailureClass("the provider says that it will not run", permanent=True),
    OUTBID: FailureClass("it was stopped because others bid more for its machine", permanent=True),
    "exited": FailureClass("it ran, and then it stopped, or what runs inside ends again and again", permanent=True),
}
PERMANENT = frozenset(kind for kind, known in CLASSES.items() if known.permanent)

# In this order: a bad local key is followed by the words of a refused one, and so on.
_SSH_MESSAGES = (
    ("host_key_changed", r"HOST IDENTIFICATION HAS CHANGED|host key has changed"),
    ("host_key_unknown", r"No \S+ host key is known|no matching host key type"),
    ("host_key_changed", r"Host key verification failed"),
    ("local_key", r"Load key .*(error|bad permissions|invalid format)|UNPROTECTED PRIVATE KEY|not accessible"),
    ("booting", r"System is booting up|pam_nologin"),
    ("auth", r"Permission denied|Too many authentication failures"),
    ("banner_timeout", r"timed out during banner exchange"),
    ("closed", r"kex_exchange_identification|Connection (closed|reset)"),
    ("refused", r"Connection refused"),
    ("dns_temporary", r"Could not resolve hostname .*Temporary failure"),
    ("dns", r"Could not resolve hostname"),
    ("connect_timeout", r"timed out"),
    ("no_route", r"No route to host"),
    ("controller_network", r"Network is unreachable"),
)
_CONTROLLERS_OWN = (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Probe:
    """The outcome of one try: a class, the words behind it, and the key or certificate if it was learnt just now."""

    kind: str
    message: str = ""
    host_key: str | None = None
    tls_fingerprint: str | None = None


def probe_socket(endpoint: Endpoint) -> Probe:
    """Does an SSH server greet us there? A server that accepts and stays silent can't hold us up."""
    try:
        addresses = _resolve(endpoint)
    except socket.gaierror as error:
        return Probe(
            "dns_temporary" if error.errno == socket.EAI_AGAIN else "dns", f"{endpoint.host}: {error.strerror}"
        )
    deadline = _clock.monotonic() + CONNECT_SECONDS
    outcome = Probe("dns", f"{endpoint.host} has no address")
    for number, (family, address) in enumerate(addresses):
        # What is left is shared, so that an address that swallows everything leaves time for the next one.
        left = max(0.1, deadline - _clock.monotonic()) / (len(addresses) - number)
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            outcome = _connect(connection, address, left)
            if outcome.kind == OK:
                return _read_banner(connection, _clock.monotonic() + BANNER_SECONDS)
    return outcome


def _resolve(endpoint: Endpoint) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses behind a name. The system's resolver has no deadline, so it is left behind when it takes long."""
    found: list[tuple[socket.AddressFamily, Any]] = []
    failures = [socket.gaierror(socket.EAI_AGAIN, f"the resolver took longer than {RESOLVE_SECONDS:.0f} s")]

    def ask() -> None:
        try:
            answer = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            failures.append(error)
        except UnicodeError as error:
            failures.append(socket.gaierror(socket.EAI_NONAME, f"this is no name of a host ({error})"))
        else:
            found.extend((family, address) for family, _type, _protocol, _name, address in answer)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(RESOLVE_SECONDS)
    if not found:
        raise failures[-1]
    return found


def _connect(connection: socket.socket, address: Any, seconds: float) -> Probe:
    connection.settimeout(seconds)
    try:
        connection.connect(address)
    except ConnectionRefusedError as error:
        return Probe("refused", f"{_shown(address)}: {error}")
    except TimeoutError:
        return Probe("connect_timeout", f"{_shown(address)} did not answer in {seconds:.1f} s")
    except OSError as error:
        return Probe(_class_of(error), f"{_shown(address)}: {error}")
    return Probe(OK)


def _class_of(error: OSError) -> str:
    if error.errno in _CONTROLLERS_OWN:
        return "controller_network"
    if error.errno in (errno.EHOSTUNREACH, errno.EHOSTDOWN):
        return "no_route"
    return "closed" if isinstance(error, (ConnectionResetError, ConnectionAbortedError)) else "ssh_failed"


def _shown(address: Any) -> str:
    return f"{address[0]}:{address[1]}"


def _read_banner(connection: socket.socket, deadline: float) -> Probe:
    received = b""
    while len(received) < 4:
        left = deadline - _clock.monotonic()
        if left <= 0:
            return Probe("banner_timeout", f"connected, but no SSH banner came in {BANNER_SECONDS:.0f} s")
        connection.settimeout(left)
        try:
            chunk = connection.recv(64)
        except TimeoutError:
            continue
        except OSError as error:
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
            return Probe("login_timeout", f"no login and answer within {LOGIN_AND_COMMAND_SECONDS:.0f} s")
        except FileNotFoundError:
            return Probe("no_ssh_client", "the controller has no ssh command; install the OpenSSH client")
        if done.returncode == 0:
            return Probe(OK, done.stdout, host_key=_first_key(learnt))
        return classify(done.returncode, done.stderr)


# An RSA key may have signed with these; with the name of the key itself it would sign with SHA-1, which ssh refuses.
_RSA = "rsa-sha2-512,rsa-sha2-256"


def _host_key_options(host_key: str | None, learnt: Path) -> list[str]:
    if host_key is None:
        return ["StrictHostKeyChecking=accept-new", "HostKeyAlgorithms=ssh-ed25519", f"UserKnownHostsFile={learnt}"]
    return [
        "StrictHostKeyChecking=yes",
        "UserKnownHostsFile=none",
        f"HostKeyAlgorithms={_RSA if host_key.startswith('ssh-rsa ') else host_key.split()[0]}",
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
