# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HAProxy with what the role gateway writes: who gets what, and what is said about it."""

from __future__ import annotations

import json
import pathlib
import socket
import ssl
import time

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint
from support import rule_metrics
from support.fake_upstream import Upstream
from support.gateway_fixtures import (
    BENCH,
    INTERNAL,
    LIMIT,
    MAX_BODY,
    PRODUCER,
    PROMPT,
    QUESTION,
    REPORT,
    TIMEOUT_SECONDS,
    error_of,
    gateway,
    haproxy,
    raw,
    source,
    until,
    upstreams,
)
from support.gateway_role import Gateway

# Fixtures are used by their names.
__all__ = ["gateway", "haproxy", "source", "upstreams"]


def test_what_is_listed_is_served_with_a_key(gateway: Gateway, source: str) -> None:
    for method, path in (
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
    ):
        body = QUESTION if method == "POST" else None
        assert gateway.ask(method, path, key=PRODUCER, body=body, source=source).status == 200, path
    assert gateway.ask("GET", "/health", source=source).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", path) for path in ("/", "/metrics", "/version", "/load", "/docs", "/openapi.json", "/ping", "/v1")],
        *[
            ("POST", path)
            for path in ("/tokenize", "/detokenize", "/invocations", "/pause", "/health", "/v1/responses")
        ],
        *[
            ("POST", path)
            for path in ("/v1/load_lora_adapter", "/v1/models", "/sleep", "/reset_prefix_cache", "/pooling")
        ],
        *[("GET", path) for path in ("//health", "/health/", "/HEALTH", "/%68ealth", "/v1/models/", "/v1//models")],
        *[("GET", path) for path in ("/v1/models/../../metrics", "/v1/completions", "/v1/models%2f", "/health;x=1")],
        *[(method, "/v1/models") for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")],
    ],
)
def test_everything_else_is_not_found_and_never_arrives(
    gateway: Gateway, upstreams: list[Upstream], source: str, method: str, path: str
) -> None:
    before = [len(server.seen) for server in upstreams]
    assert gateway.ask(method, path, key=PRODUCER, source=source).status == 404
    assert [len(server.seen) for server in upstreams] == before


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789", INTERNAL, PRODUCER.upper(), PRODUCER + " ", "-"])
def test_nobody_is_served_without_a_key_of_the_list(
    gateway: Gateway, upstreams: list[Upstream], source: str, key: str
) -> None:
    before = [len(server.seen) for server in upstreams]
    if key.endswith(" "):  # http.client would send it as it is; the space is no part of a header's value
        assert gateway.ask("GET", "/v1/models", key=key, source=source).status == 200
        return
    answer = gateway.ask("POST", "/v1/completions", key=key, body=QUESTION, source=source)
    assert (answer.status, answer.getheader("WWW-Authenticate")) == (401, "Bearer")
    assert "API key" in error_of(answer)["message"]
    assert [len(server.seen) for server in upstreams] == before


def test_the_check_of_an_endpoint_finds_no_route_open_and_trusts_the_self_signed_certificate(gateway: Gateway) -> None:
    result = check_endpoint(
        {
            "url": f"https://localhost:{gateway.variables['gateway_https_port']}",
            "ca_certificate_file": str(gateway.work / "gateway" / "certificate.pem"),
            "api_key": PRODUCER,
            "model": "tiny",
            "requests": 3,
            "streaming": False,  # the server here streams numbers
        }
    )
    assert [check for check in result["checks"] if not check["ok"]] == []
    assert (result["open_routes"], result["latency"]["requests"]) == ([], 3)


def test_two_keys_in_one_request_are_none(gateway: Gateway, source: str) -> None:
    request = (
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {PRODUCER}\r\nAuthorization: Bearer wrong-key-0123456789\r\n\r\n"
    )
    assert raw(gateway, request.encode(), source).startswith(b"HTTP/1.1 401")


def test_a_generated_key_is_readable_by_its_owner_alone_and_works(gateway: Gateway, source: str) -> None:
    file = gateway.work / "gateway" / "secrets" / "keys" / "generated"
    assert file.stat().st_mode & 0o777 == 0o600
    assert gateway.ask("GET", "/v1/models", key=file.read_text(), source=source).status == 200


def test_the_server_sees_its_own_key_and_nothing_that_it_should_not(
    gateway: Gateway, upstreams: list[Upstream], source: str
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "Upgrade": "h2c", "X-Mark": source}
    assert gateway.ask("GET", "/v1/models?key=abc", key=PRODUCER, headers=headers, source=source).status == 200
    (seen,) = [one for server in upstreams for one in server.seen if one["headers"].get("x-mark") == source]
    asked = {name.lower(): value for name, value in seen["headers"].items()}
    assert asked["authorization"] == f"Bearer {INTERNAL}"
    assert asked["x-forwarded-for"] == source
    assert not {"forwarded", "upgrade"} & asked.keys()
    assert seen["path"] == "/v1/models"
    assert PRODUCER not in str(seen)


def test_too_many_requests_are_told_when_to_come_back(gateway: Gateway, source: str) -> None:
    statuses = [gateway.ask("GET", "/v1/models", key=REPORT, source=source).status for _number in range(LIMIT)]
    assert set(statuses) == {200}
    answer = gateway.ask("GET", "/v1/models", key=REPORT, source=source)
    assert (answer.status, answer.getheader("Retry-After")) == (429, "60")
    assert f"{LIMIT} a minute" in error_of(answer)["message"]
    assert gateway.ask("GET", "/health", source=source).status == 429
    # Others are not made to wait, nor is who has a key without limit.
    assert gateway.ask("GET", "/v1/models", key=REPORT, source="127.2.0.1").status == 200
    assert gateway.ask("GET", "/v1/models", key=BENCH, source=source).status == 200


def test_what_is_refused_does_not_count_so_that_waiting_is_enough(gateway: Gateway, source: str) -> None:
    for _number in range(LIMIT + 10):
        gateway.ask("GET", "/nothing", source=source).close()
    (row,) = [line for line in gateway.admin("show table clients").splitlines() if f"::ffff:{source} " in f"{line} "]
    assert f"gpc0_rate(60000)={LIMIT}" in row


def test_a_body_may_have_its_size_and_no_more(gateway: Gateway, source: str) -> None:
    good = json.dumps(QUESTION).encode().ljust(MAX_BODY)
    assert gateway.ask("POST", "/v1/completions", key=PRODUCER, body=good, source=source).status == 200
    answer = gateway.ask("POST", "/v1/completions", key=PRODUCER, body=good + b" ", source=source)
    assert answer.status == 413
    assert str(MAX_BODY) in error_of(answer)["message"]


def test_a_body_without_a_length_is_refused(gateway: Gateway, source: str) -> None:
    """As its size can't be known before it is there."""
    for method, path, status in (("POST", "/v1/completions", b"411"), ("GET", "/v1/models", b"400")):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PRODUCER}\r\n"
        assert (
            raw(gateway, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", source).split()[
                1
            ]
            == status
        )


def test_a_body_that_does_not_arrive_in_time_ends(gateway: Gateway, source: str) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {PRODUCER}\r\nContent-Length: 99\r\n\r\n"
    assert raw(gateway, head.encode() + b"{", source).startswith(b"HTTP/1.1 408")


def test_a_stream_arrives_part_by_part(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    """The second part is sent only after the first was read here: a gateway that collects would wait for ever."""
    for server in upstreams:
        server.proceed.clear()
    answer = gateway.ask("POST", "/v1/completions", key=PRODUCER, body={**QUESTION, "stream": True}, source=source)
    assert answer.readline() == b"data: 0\n"
    for server in upstreams:
        server.proceed.set()
    assert answer.read() == b"\ndata: 1\n\n"


def test_a_stream_may_last_longer_than_the_time_limit(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    for server in upstreams:
        server.proceed.clear()
    body = {**QUESTION, "stream": True, "parts": 6, "pause_seconds": TIMEOUT_SECONDS / 3}
    began = time.monotonic()
    answer = gateway.ask("POST", "/v1/completions", key=PRODUCER, body=body, source=source)
    assert answer.read().count(b"data:") == 6
    assert time.monotonic() - began > TIMEOUT_SECONDS


def test_pages_of_listed_origins_may_ask_and_others_not(gateway: Gateway, source: str) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    listed, other = {"Origin": "https://chat.example.org"}, {"Origin": "https://chat.example.org.evil.example"}
    answer = gateway.ask("OPTIONS", "/v1/completions", headers={**listed, **asks}, source=source)
    assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (204, listed["Origin"])
    assert "Authorization" in str(answer.getheader("Access-Control-Allow-Headers"))
    answer = gateway.ask("OPTIONS", "/v1/completions", headers={**other, **asks}, source=source)
    assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (404, None)
    # Also what vLLM itself says of origins goes no further, and an error can be read by the page.
    for key, status in ((PRODUCER, 200), ("", 401)):
        answer = gateway.ask("GET", "/v1/models", key=key, headers=listed, source=source)
        assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (status, listed["Origin"])
        assert answer.getheader("Vary") == "Origin"
    answer = gateway.ask("GET", "/v1/models", key=PRODUCER, headers=other, source=source)
    assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (200, None)


def test_http_is_sent_to_https_with_the_same_method(gateway: Gateway, upstreams: list[Upstream], source: str) -> None:
    before = [len(server.seen) for server in upstreams]
    answer = gateway.ask("POST", "/v1/completions?a=1", body=QUESTION, source=source, plain=True)
    port = gateway.variables["gateway_https_port"]
    assert (answer.status, answer.getheader("Location")) == (308, f"https://localhost:{port}/v1/completions?a=1")
    assert [len(server.seen) for server in upstreams] == before


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_old_tls_and_strangers_certificates_are_refused(gateway: Gateway, source: str) -> None:
    port = gateway.variables["gateway_https_port"]
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.maximum_version = old.minimum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", port), source_address=(source, 0)) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection)
    with (
        socket.create_connection(("127.0.0.1", port), source_address=(source, 0)) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(connection, server_hostname="localhost")


def test_metrics_have_a_port_of_their_own(gateway: Gateway, source: str) -> None:
    pages = {}
    for path, status in (("/metrics", b"200"), ("/", b"404")):
        with socket.create_connection(("127.0.0.1", gateway.variables["gateway_metrics_port"])) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            text = b"".join(iter(lambda: connection.recv(65536), b""))
        assert text.split()[1] == status
        assert (b'haproxy_server_status{proxy="vllm",server="vllm-1"' in text) == (status == b"200")
        pages[path] = text.decode()
    assert rule_metrics.missing("haproxy_", pages["/metrics"]) == [], "what the monitoring's rules ask for"


def test_log_has_one_json_line_a_request_and_nothing_that_a_client_wrote(gateway: Gateway, source: str) -> None:
    secrets = [PRODUCER, REPORT, BENCH, INTERNAL, PROMPT, "planted"]
    answer = gateway.ask("POST", "/v1/completions", key=PRODUCER, body=QUESTION, source=source)
    identity = answer.getheader("X-Request-ID")
    answer.read()
    gateway.ask("GET", f"/v1/{PRODUCER}?planted=1", key="planted-wrong-key-0001", source=source).close()
    raw(gateway, b"PLANTED /planted HTTP/1.1\r\nHost: planted\r\n\r\n", source)
    raw(gateway, b"planted nonsense\r\n\r\n", source)
    until(lambda: sum(line["client"] == source for line in gateway.lines()) >= 4, "four lines are written")
    lines = [line for line in gateway.lines() if line["client"] == source]
    assert [line["status"] for line in lines] == [200, 404, 404, 400]
    assert lines[3]["error"] == "malformed request"
    first = lines[0]
    assert (first["id"], first["key"], first["method"], first["route"]) == (
        identity,
        "producer",
        "POST",
        "/v1/completions",
    )
    assert first["server"] in ("vllm-1", "vllm-2")
    assert first["total_ms"] >= 0
    assert (lines[1]["key"], lines[1]["route"], lines[2]["method"]) == ("-", "other", "other")
    text = gateway.log.read_text()
    assert [secret for secret in secrets if secret in text] == []


def test_no_secret_is_in_the_configuration_or_in_a_command_line(gateway: Gateway) -> None:
    secrets = [PRODUCER, REPORT, BENCH, INTERNAL]
    work = gateway.work / "gateway"
    generated = (work / "secrets" / "keys" / "generated").read_text()
    assert [one for one in [*secrets, generated] if one in (work / "haproxy.cfg").read_text()] == []
    # Who may ask is known by a digest alone.
    assert [one for one in [*secrets, generated] if one in (work / "secrets" / "keys.map").read_text()] == []
    assert {(work / "secrets" / f"{name}.map").stat().st_mode & 0o777 for name in ("keys", "upstream")} == {0o640}
    assert (work / "certificate.pem.key").stat().st_mode & 0o777 == 0o640
    for pid in gateway.workers():
        assert b"planted" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
