# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway in front of two servers that remember what they were asked, for the tests of more than one file."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import debian_program, gateway_role
from support.fake_upstream import Upstream
from support.free_port import free_port
from support.gateway_role import Gateway
from support.local_play import ROOT

INTERNAL = "planted-internal-key-5e11"
PRODUCER, REPORT, BENCH = "planted-key-of-producer-41", "planted-key-of-report-42aa", "planted-key-of-bench-43bbb"
PROMPT = "planted prompt 7d90"
QUESTION = {"model": "tiny", "prompt": PROMPT}
LIMIT, MAX_BODY, TIMEOUT_SECONDS = 20, 4096, 3
KEYS: list[dict[str, Any]] = [
    {"name": "producer", "key": PRODUCER},
    {"name": "report", "key": REPORT},
    {"name": "bench", "key": BENCH, "unlimited": True},
    {"name": "generated"},
]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[list[Upstream]]:
    servers = [Upstream(INTERNAL), Upstream(INTERNAL)]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def haproxy() -> str:
    """Where it is; without it no test that needs it can run."""
    try:
        return gateway_role.haproxy()
    except debian_program.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstreams: list[Upstream], haproxy: str) -> Iterator[Gateway]:
    ports = list({free_port() for _number in range(20)})
    running = Gateway(
        tmp_path_factory.mktemp("gateway"),
        {
            "gateway_servers": [
                {"name": f"vllm-{number}", "address": "127.0.0.1", "port": server.port}
                for number, server in enumerate(upstreams, start=1)
            ],
            "gateway_upstream_api_key": INTERNAL,
            "gateway_api_keys": KEYS,
            "gateway_https_port": ports[0],
            "gateway_http_port": ports[1],
            "gateway_metrics_port": ports[2],
            "gateway_rate_limit_per_minute": LIMIT,
            # What asks without an address of its own asks more often.
            "gateway_rate_limit_exempt_cidrs": ["127.0.0.1/32"],
            "gateway_max_connections_per_client": 20,
            "gateway_max_body_bytes": MAX_BODY,
            "gateway_timeout_seconds": TIMEOUT_SECONDS,
            "gateway_cors_origins": ["https://chat.example.org"],
            "gateway_follow_names": False,
            "gateway_health_interval_seconds": 1,
        },
    )
    yield running
    running.close()


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """An address of loopback for this test alone, as the limits count by address."""
    number = 1 + request.session.items.index(request.node)
    return f"127.1.{number // 250}.{1 + number % 250}"


def error_of(answer: Any) -> dict[str, Any]:
    found = json.loads(answer.read())["error"]
    assert found["code"] == answer.status
    return dict(found)


def raw(gateway: Gateway, data: bytes, source: str) -> bytes:
    """What is answered to exactly these bytes."""
    address = ("127.0.0.1", gateway.variables["gateway_https_port"])
    with (
        socket.create_connection(address, timeout=60, source_address=(source, 0)) as plain,
        gateway.tls.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            return connection.recv(65536)
    return b""


def refused(address: tuple[str, int], source: str) -> bool:
    """Whether the other side closes a connection without a word."""
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(address, timeout=60, source_address=(source, 0)) as connection,
    ):
        return connection.recv(1) == b""
    return True


def tool(
    gateway: Gateway, server: str, state: str, *options: str, seconds: int = 30, place: str = ""
) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "roles/gateway/files/gateway_host.py")),
            *("server", str(gateway.work / "run" / "admin.sock"), server, state, str(seconds), place, *options),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def restore(gateway: Gateway) -> None:
    """Both servers where they really are, and known to be up."""
    for number, server in enumerate(gateway.variables["gateway_servers"], start=1):
        gateway.admin(f"set server vllm/vllm-{number} addr 127.0.0.1 port {server['port']}")
    until(
        lambda: gateway.admin("show stat vllm 4 -1").count(",UP,") == len(gateway.variables["gateway_servers"]),
        "both servers are up",
    )


def until(condition: Callable[[], Any], what: str) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, f"in a minute it didn't happen that {what}"
        time.sleep(0.2)
