# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HAProxy with what the role gateway writes, while servers, keys and clients come and go."""

from __future__ import annotations

import contextlib
import csv
import json
import pathlib
import socket
import ssl
import subprocess
import threading
import time
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter import gateway_problems
from support import gateway_role
from support.fake_upstream import Upstream
from support.free_port import free_port
from support.gateway_fixtures import (
    BENCH,
    INTERNAL,
    KEYS,
    PRODUCER,
    QUESTION,
    REPORT,
    error_of,
    gateway,
    haproxy,
    refused,
    restore,
    source,
    tool,
    until,
    upstreams,
)
from support.gateway_role import Gateway
from support.load_program import load_program
from support.local_play import ROOT

# Fixtures are used by their names.
__all__ = ["gateway", "haproxy", "source", "upstreams"]


@pytest.fixture
def gateway_host() -> Any:
    """The role's program, whose patience a test can shorten."""
    return load_program(ROOT / "roles/gateway/files/gateway_host.py")


def status(gateway: Gateway, server: str) -> str:
    rows = csv.DictReader(gateway.admin("show stat vllm 4 -1").lstrip("# ").splitlines())
    return next(row["status"] for row in rows if row["svname"] == server)


def test_a_server_that_says_nothing_is_a_clear_error(gateway: Gateway, source: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for number in (1, 2):
            gateway.admin(f"set server vllm/vllm-{number} addr 127.0.0.1 port {port}")
        try:
            answer = gateway.ask("POST", "/v1/completions", key=PRODUCER, body=QUESTION, source=source)
            assert answer.status == 504
            assert "too long" in error_of(answer)["message"]
        finally:
            restore(gateway)


def test_a_wrong_internal_key_is_not_blamed_on_the_client(
    gateway: Gateway, upstreams: list[Upstream], source: str
) -> None:
    for server in upstreams:
        server.key = "another"
    try:
        answer = gateway.ask("GET", "/v1/models", key=PRODUCER, source=source)
        assert answer.status == 502
        assert "key of the gateway" in error_of(answer)["message"]
    finally:
        for server in upstreams:
            server.key = INTERNAL


def test_requests_are_spread_and_a_server_can_be_drained(gateway: Gateway, source: str) -> None:
    def served() -> set[int]:
        answers = [gateway.ask("GET", "/v1/models", key=BENCH, source=source) for _number in range(6)]
        return {json.loads(answer.read())["port"] for answer in answers}

    both = {server["port"] for server in gateway.variables["gateway_servers"]}
    assert served() == both
    assert tool(gateway, "vllm-1", "drain")["changed"] is True
    assert len(served()) == 1
    assert tool(gateway, "vllm-1", "drain")["changed"] is False
    # As a play does it, with the role's entry point.
    done = gateway_role.run_step(
        gateway.work, "server", {"gateway_server_name": "vllm-1", "gateway_server_state": "drain"}
    )
    assert "changed=0" in done.stdout, done.stdout
    assert tool(gateway, "vllm-1", "ready")["changed"] is True
    assert served() == both


def test_a_drain_waits_for_what_runs(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    for server in upstreams:
        server.proceed.clear()
    tool(gateway, "vllm-2", "drain")
    answer = gateway.ask("POST", "/v1/completions", key=BENCH, body={**QUESTION, "stream": True}, source=source)
    tool(gateway, "vllm-2", "ready")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        tool(gateway, "vllm-1", "drain", seconds=0)
    assert "1 still run after 0 s" in refused.value.stderr
    upstreams[0].proceed.set()
    assert answer.read().count(b"data:") == 2, "the stream was not cut"
    tool(gateway, "vllm-1", "drain")
    tool(gateway, "vllm-1", "ready")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        tool(gateway, "vllm-7", "drain")
    assert "The gateway has no server vllm-7" in refused.value.stderr


def test_a_server_that_is_ready_again_is_waited_for_until_it_is_healthy(gateway: Gateway) -> None:
    """Also one that was found dead while it was drained: what HAProxy says then names no drain."""
    port = gateway.variables["gateway_servers"][0]["port"]
    tool(gateway, "vllm-1", "drain")
    gateway.admin(f"set server vllm/vllm-1 addr 127.0.0.1 port {free_port()}")
    until(lambda: status(gateway, "vllm-1") == "DOWN", "the drained server is found dead")
    assert tool(gateway, "vllm-1", "drain")["changed"] is False
    assert tool(gateway, "vllm-1", "ready", "--dry-run")["changed"] is True
    comes_back = threading.Timer(2, gateway.admin, (f"set server vllm/vllm-1 addr 127.0.0.1 port {port}",))
    comes_back.start()
    try:
        assert tool(gateway, "vllm-1", "ready")["changed"] is True
        assert status(gateway, "vllm-1") == "UP"
    finally:
        comes_back.join()
        restore(gateway)


def test_a_server_that_went_elsewhere_is_not_waited_for(
    gateway: Gateway, gateway_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new port HAProxy is told later, by its own deployment, which must not be stopped before."""
    was, new = free_port(), gateway.variables["gateway_servers"][0]["port"]
    gateway.admin(f"set server vllm/vllm-1 addr 127.0.0.1 port {was}")
    try:
        until(lambda: status(gateway, "vllm-1") == "DOWN", "nobody is there")
        tool(gateway, "vllm-1", "drain")
        assert tool(gateway, "vllm-1", "ready", place=f"127.0.0.1:{new}")["changed"] is True
        assert tool(gateway, "vllm-1", "ready", place=f"127.0.0.1:{was}")["changed"] is False
        monkeypatch.setattr(gateway_host, "HEALTHY_AFTER_SECONDS", 0)
        asked = (str(gateway.work / "run" / "admin.sock"), "vllm-1")
        gateway_host.server(*asked, "drain", "0", "")
        with pytest.raises(gateway_host.Problem, match=r"still finds it DOWN after 0 s \(.+\)\. Look whether"):
            gateway_host.server(*asked, "ready", "0", f"127.0.0.1:{was}")
    finally:
        restore(gateway)


def test_what_gateway_servers_drains_stays_drained(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    gateway.admin("set weight vllm/vllm-1 0")  # as `drain: true` does
    try:
        assert tool(gateway, "vllm-1", "drain")["changed"] is True
        assert tool(gateway, "vllm-1", "ready")["changed"] is True
        before = len(upstreams[0].seen)
        statuses = {gateway.ask("GET", "/v1/models", key=BENCH, source=source).status for _number in range(6)}
        assert statuses == {200}
        assert len(upstreams[0].seen) == before
    finally:
        gateway.admin("set weight vllm/vllm-1 100%")


def test_nothing_is_done_where_the_gateway_is_not_there_and_nothing_is_changed_in_check_mode(
    gateway: Gateway, tmp_path: pathlib.Path
) -> None:
    assert tool(gateway, "vllm-7", "drain", "--if-there") == {"changed": False, "was": ""}
    values = {"gateway_server_name": "vllm-1", "gateway_server_state": "drain"}
    nobody = gateway_role.run_step(tmp_path, "server", values)
    assert "HAProxy does not answer at" in nobody.stdout
    nobody = gateway_role.run_step(tmp_path, "server", {**values, "gateway_server_if_there": True})
    assert "failed=0" in nobody.stdout, nobody.stdout
    assert "changed=0" in nobody.stdout
    told = gateway_role.run_step(gateway.work, "server", values, "--check")
    assert "changed=1" in told.stdout, told.stdout
    assert status(gateway, "vllm-1") == "UP"


def test_a_dead_server_is_left_out_and_without_any_health_says_so(
    gateway: Gateway, upstreams: list[Upstream], source: str
) -> None:
    nobody = free_port()
    gateway.admin(f"set server vllm/vllm-1 addr 127.0.0.1 port {nobody}")
    try:
        statuses = {gateway.ask("GET", "/v1/models", key=BENCH, source=source).status for _number in range(8)}
        assert statuses == {200}, "none was lost by the server that died"
        gateway.admin(f"set server vllm/vllm-2 addr 127.0.0.1 port {nobody}")
        until(lambda: gateway.ask("GET", "/health", source="127.2.0.2").status == 503, "every server is down")
        answer = gateway.ask("GET", "/v1/models", key=BENCH, source=source)
        assert answer.status == 503
        assert "No server is ready" in error_of(answer)["message"]
    finally:
        restore(gateway)


def test_a_thousand_bad_requests_cost_bounded_memory_and_nobody_elses_answer(gateway: Gateway) -> None:
    """From addresses of their own, as from many machines; good requests go on from another one."""
    held: list[socket.socket] = []
    port = gateway.variables["gateway_https_port"]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    key = f"Authorization: Bearer {REPORT}\r\n".encode()
    kinds = {
        "half-open": None,
        "slow header": head + b"X-Slow: a",
        "slow body": head + key + b"Content-Length: 4000\r\n\r\n{",
        "oversized": head + key + b"Content-Length: 999999999\r\n\r\n" + b"x" * 8192,
        "huge header": head + b"X-Huge: " + b"a" * 40000 + b"\r\n\r\n",
        "malformed": b"\x00\xff GET\r\n : \r\n\r\n",
    }
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE

    def attack(number: int) -> None:
        connection = socket.socket()
        connection.settimeout(30)
        connection.bind((f"127.3.{number % 100}.1", 0))
        connection.connect(("127.0.0.1", port))
        held.append(connection)
        data = list(kinds.values())[number % len(kinds)]
        if data is not None:
            held[-1] = unverified.wrap_socket(connection)
            with contextlib.suppress(OSError):  # refused while it was sent
                held[-1].sendall(data)

    good: list[int] = []
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set() or len(good) < 20:
            good.append(gateway.ask("POST", "/v1/completions", key=BENCH, body=QUESTION, source="127.2.0.3").status)
            time.sleep(0.02)

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        for number in range(1000):
            with contextlib.suppress(OSError):  # a connection of this address too many
                attack(number)
    finally:
        done.set()
        client.join(timeout=120)
        for connection in held:
            connection.close()
    assert set(good) == {200}
    # What was sent has arrived, and was refused for what it was.
    answers = {line["status"] for line in gateway.lines() if line["client"].startswith("127.3.")}
    assert {400, 413} <= answers
    connections = 2000  # gateway_max_connections
    allowed = (
        gateway_problems.MEMORY_BESIDE_CONNECTIONS_MIB
        + connections * gateway_problems.MEMORY_OF_A_CONNECTION_KIB / 1024
    )
    assert gateway.largest_memory_mib() < allowed


def test_one_address_does_not_get_all_connections(gateway: Gateway, source: str) -> None:
    address = ("127.0.0.1", gateway.variables["gateway_https_port"])
    held = [socket.create_connection(address, timeout=60, source_address=(source, 0)) for _number in range(20)]
    assert refused(address, source)
    with socket.create_connection(address, timeout=60, source_address=("127.2.0.6", 0)) as another:
        gateway.tls.wrap_socket(another, server_hostname="localhost").close()
    for connection in held:
        connection.close()


def test_keys_are_rotated_without_a_lost_request(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    """Old and new are good for a while under one name; then the old one is gone. Requests run all the time."""
    new = "planted-new-key-of-bench-9"
    for server in upstreams:
        server.proceed.clear()
    # A part a second, which goes on until the end of the test.
    parts = {**QUESTION, "stream": True, "parts": 200, "pause_seconds": 1}
    stream = gateway.ask("POST", "/v1/completions", key=BENCH, body=parts, source=source)
    statuses: list[int] = []
    in_use, done = [BENCH], threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            statuses.append(gateway.ask("GET", "/v1/models", key=in_use[0], source=source).status)
            time.sleep(0.02)

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        output = gateway.configure(gateway_api_keys=[*KEYS, {"name": "bench", "key": new, "unlimited": True}])
        gateway.reload()
        until(lambda: gateway.ask("GET", "/v1/models", key=new, source="127.2.0.4").status == 200, "the new key works")
        in_use[0] = new
        output += gateway.configure(
            gateway_api_keys=[key for key in KEYS if key["name"] not in ("bench", "generated")]
            + [{"name": "bench", "key": new, "unlimited": True}]
        )
        gateway.reload()
        until(
            lambda: gateway.ask("GET", "/v1/models", key=BENCH, source="127.2.0.5").status == 401, "the old one is gone"
        )
    finally:
        done.set()
        client.join(timeout=60)
    assert len(statuses) > 10
    assert set(statuses) == {200}
    for server in upstreams:
        server.proceed.set()
    assert stream.read().count(b"data:") == 200, "what had begun before two reloads ended well"
    assert not (gateway.work / "gateway" / "secrets" / "keys" / "generated").exists()
    assert [secret for secret in (new, INTERNAL, PRODUCER) if secret in output] == []


def test_a_second_run_changes_nothing(gateway: Gateway) -> None:
    assert "changed=0" in gateway.configure()
