# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HAProxy with what the role gateway writes, and clients who mean harm."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator

import pytest
from ansible_collections.gpuops.fleet.plugins.filter import gateway_problems
from support.fake_upstream import Upstream
from support.free_port import free_port
from support.gateway_fixtures import INTERNAL, KEYS, PRODUCER, gateway, haproxy, refused, source, upstreams
from support.gateway_role import Gateway

# Fixtures are used by their names.
__all__ = ["gateway", "haproxy", "source", "upstreams"]

STREAMS = 20
HEADERS_END_STREAM = 0x05


def own_address() -> str:
    """Of this machine, and not of loopback; empty where it has none. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, upstreams: list[Upstream]) -> Iterator[Gateway]:
    """Open to one network, from which nobody comes, and its metrics to another."""
    ports = list({free_port() for _number in range(20)})
    running = Gateway(
        tmp_path_factory.mktemp("closed"),
        {
            "gateway_servers": [{"name": "vllm-1", "address": "127.0.0.1", "port": upstreams[0].port}],
            "gateway_upstream_api_key": INTERNAL,
            "gateway_api_keys": KEYS,
            "gateway_https_port": ports[0],
            "gateway_http_port": ports[1],
            "gateway_metrics_port": ports[2],
            "gateway_allowed_cidrs": ["203.0.113.0/24"],
            "gateway_metrics_allowed_cidrs": ["203.0.113.0/24"],
            "gateway_follow_names": False,
        },
    )
    yield running
    running.close()


def test_a_client_does_not_choose_the_name_of_its_request_or_the_engine(
    gateway: Gateway, upstreams: list[Upstream], source: str
) -> None:
    headers = {"X-Request-ID": "planted-name", "X-data-parallel-rank": "3", "X-Mark": source}
    answer = gateway.ask("GET", "/v1/models", key=PRODUCER, headers=headers, source=source)
    (seen,) = [one for server in upstreams for one in server.seen if one["headers"].get("x-mark") == source]
    asked = {name.lower(): value for name, value in seen["headers"].items()}
    assert asked["x-request-id"] == answer.getheader("X-Request-ID")
    assert "planted-name" not in str(seen)
    assert "x-data-parallel-rank" not in asked


def test_the_host_itself_may_ask_from_any_of_its_addresses(closed: Gateway) -> None:
    own = own_address()
    if not own:
        pytest.skip("this machine has no address but that of loopback")
    assert closed.ask("GET", "/v1/models", key=PRODUCER, source=own).status == 200


def test_a_stranger_of_the_metrics_is_not_even_listened_to(closed: Gateway, source: str) -> None:
    assert refused(("127.0.0.1", closed.variables["gateway_metrics_port"]), source)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def asked(gateway: Gateway) -> int:
    """How many requests HAProxy has begun to answer."""
    return int(gateway.admin("show info").partition("CumReq:")[2].split()[0])


def test_answers_that_nobody_takes_cost_the_memory_that_is_reckoned_with(gateway: Gateway) -> None:
    """HTTP/2 connections that ask for much, without a key, and have no room for any answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    path, host = b"/v1/models", b"x"
    # GET, https, and two literal fields whose names stand in the static table.
    fields = b"\x82\x87" + bytes([4, len(path)]) + path + bytes([1, len(host)]) + host
    no_room = frame(4, 0, 0, struct.pack("!HI", 4, 0))
    questions = b"".join(frame(1, HEADERS_END_STREAM, 2 * number + 1, fields) for number in range(STREAMS))
    before, already, connections = gateway.largest_memory_mib(), asked(gateway), 150
    held = []
    for number in range(connections):
        connection = socket.socket()
        connection.settimeout(30)
        connection.bind((f"127.4.{number // 15}.1", 0))
        connection.connect(("127.0.0.1", gateway.variables["gateway_https_port"]))
        held.append(context.wrap_socket(connection))
        held[-1].sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_room + questions)
    ends = time.monotonic() + 60
    while asked(gateway) < already + connections * 10:
        assert time.monotonic() < ends, asked(gateway)
        time.sleep(0.1)
    grown_kib = (gateway.largest_memory_mib() - before) * 1024 / connections
    for connection in held:
        connection.close()
    assert grown_kib < gateway_problems.MEMORY_OF_A_CONNECTION_KIB
