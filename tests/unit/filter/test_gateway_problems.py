"""What the role gateway refuses, and what it takes."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.gateway_certificate_problems import gateway_certificate_problems
from ansible_collections.gpuops.fleet.plugins.filter.gateway_keys import gateway_keys
from ansible_collections.gpuops.fleet.plugins.filter.gateway_problems import gateway_problems
from support.certificates import DAY, pair, signed

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
KEY = "planted-key-0123456789"
SERVER = {"name": "vllm-1", "address": "vllm-1.acme.internal", "port": 8000}
GOOD: dict[str, Any] = {
    "servers": [SERVER, {"name": "vllm-2", "address": "2001:db8::7"}],
    "addresses": ["*", "[::]"],
    "https_port": 443,
    "http_port": "80",  # a number is text when it comes from the command line
    "metrics_address": "127.0.0.1",
    "metrics_port": 8404,
    "metrics_allowed_cidrs": ["127.0.0.0/8", "::1/128"],
    "allowed_cidrs": ["203.0.113.0/24", "198.51.100.7"],
    "rate_limit_per_minute": 0,
    "rate_limit_exempt_cidrs": [],
    "max_connections": 2000,
    "max_connections_per_client": 100,
    "max_body_bytes": 1048576,
    "timeout_seconds": 30,
    "drain_timeout_seconds": 600,
    "stop_timeout_seconds": 60,
    "health_interval_seconds": 30,
    "cors_origins": ["https://chat.example.org", "http://localhost:3000"],
    "tls_names": ["llm.example.org", "203.0.113.5", "::1"],
    "memory_mib": 512,
}


def problems(keys: list[dict[str, Any]] | None = None, **changed: Any) -> list[str]:
    given = [{"name": "producer"}] if keys is None else keys
    return gateway_problems({**GOOD, **changed}, gateway_keys(given))


def test_good_settings_are_taken() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"servers": []}, "gateway_servers is empty: name at least one"),
        ({"servers": [{**SERVER, "address": "http://vllm-1:8000"}]}, "it must be a host name or an address."),
        ({"servers": [{**SERVER, "name": "a b"}]}, "'a b' can't be a server's name"),
        ({"servers": [{**SERVER, "port": 0}]}, "the port of vllm-1 is 0; it must be between 1 and 65535"),
        ({"servers": [SERVER, SERVER]}, "2 servers are named vllm-1"),
        ({"servers": [{**SERVER, "drain": True}]}, "all servers have drain: true"),
        ({"allowed_cidrs": ["10.0.0.0/33"]}, "gateway_allowed_cidrs: '10.0.0.0/33' is no range of addresses"),
        ({"allowed_cidrs": ["10.0.0.5/24"]}, "gateway_allowed_cidrs: '10.0.0.5/24' is no range of addresses"),
        ({"metrics_allowed_cidrs": ["office"]}, "gateway_metrics_allowed_cidrs: 'office' is no range of addresses"),
        ({"metrics_allowed_cidrs": []}, "gateway_metrics_allowed_cidrs is empty, so nobody could read the metrics"),
        ({"rate_limit_exempt_cidrs": ["::1/129"]}, "gateway_rate_limit_exempt_cidrs: '::1/129' is no range"),
        ({"https_port": 70000}, "gateway_https_port is 70000; it must be between 1 and 65535."),
        ({"https_port": 0}, "gateway_https_port is 0; it must be between 1 and 65535."),
        ({"http_port": -1}, "gateway_http_port is -1; it must be between 1 and 65535 (or 0 for none)"),
        ({"http_port": 443}, "gateway_https_port and gateway_http_port are both 443"),
        ({"addresses": []}, "gateway_addresses is empty"),
        ({"addresses": ["eth0"]}, "gateway_addresses: eth0 is no address"),
        ({"metrics_address": "::1"}, "gateway_metrics_address: an address of IPv6 needs brackets here; write [::1]"),
        ({"max_body_bytes": -5}, "gateway_max_body_bytes is -5; it must be between 1024 and 1073741824 bytes"),
        ({"timeout_seconds": 0}, "gateway_timeout_seconds is 0"),
        ({"timeout_seconds": "soon"}, "gateway_timeout_seconds is soon"),
        ({"timeout_seconds": 1.5}, "gateway_timeout_seconds is 1.5"),
        ({"rate_limit_per_minute": -1}, "gateway_rate_limit_per_minute is -1"),
        ({"max_connections": 10000}, "gateway_memory_mib is 512, but 10000 connections can take 1346"),
        ({"cors_origins": ["*"]}, "gateway_cors_origins: '*' is no origin"),
        ({"cors_origins": ["https://a.example/"]}, "gateway_cors_origins: 'https://a.example/' is no origin"),
        ({"tls_names": []}, "gateway_tls_names is empty"),
        ({"tls_names": ["a b"]}, "'a b' is neither a host name nor an address"),
    ],
)
def test_what_can_not_work_is_refused_in_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    (said,) = problems(**changed)
    assert sentence in said


@pytest.mark.parametrize("text", ["a' { }", "a\nb", "a b", "a#", 'a"', "a\\"])
@pytest.mark.parametrize("option", ["name", "address"])
def test_nothing_that_haproxy_would_read_otherwise_becomes_part_of_its_configuration(option: str, text: str) -> None:
    assert problems(servers=[{**SERVER, option: text}])
    assert problems(cors_origins=[f"https://{text}"])
    assert problems(tls_names=[text])
    assert problems(addresses=[text])
    assert problems([{"name": text}])


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "gateway_api_keys is empty, so nobody could ask"),
        ([{"name": "Producer"}], "'Producer' can't be the name of a key"),
        ([{"name": "producer", "key": "planted"}], "The key producer of the gateway is not usable"),
        ([{"name": "producer", "key": "planted key 0123456789"}], "The key producer of the gateway is not usable"),
        ([{"name": "a"}, {"name": "a"}], "2 keys of a are to be generated"),
        ([{"name": "a", "key": KEY}, {"name": "b", "key": KEY}], "one key stands there twice, under a and b"),
    ],
)
def test_unusable_keys_are_refused_and_never_said(keys: list[dict[str, Any]], sentence: str) -> None:
    (said,) = problems(keys)
    assert sentence in said
    assert "planted" not in said


def test_two_keys_of_one_name_are_a_rotation() -> None:
    assert problems([{"name": "producer", "key": KEY}, {"name": "producer", "key": KEY + "-new"}]) == []


def test_keys_come_from_variables_and_from_a_file() -> None:
    text = f"# who may ask\nproducer\t{KEY}\n\n  report {KEY}-2  \n"
    assert gateway_keys([{"name": "bench", "unlimited": True}], text) == [
        {"name": "bench", "key": "", "unlimited": True},
        {"name": "producer", "key": KEY, "unlimited": False},
        {"name": "report", "key": f"{KEY}-2", "unlimited": False},
    ]


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n"])
def test_an_empty_key_file_is_refused(text: str) -> None:
    (said,) = gateway_problems(GOOD, gateway_keys([{"name": "a"}], text), "/srv/keys", text)
    assert "gateway_api_keys_file is /srv/keys, and there is no key in it" in said


def test_a_line_that_is_no_key_is_named_by_its_number() -> None:
    text = f"producer {KEY}\n{KEY}\n"
    (said,) = gateway_problems(GOOD, gateway_keys([], text), "/srv/keys", text)
    assert said == "/srv/keys: line 2 is not a name, white space and a key."


def valid() -> tuple[str, str]:
    return pair(NOW - DAY, NOW + DAY)


def test_a_certificate_with_its_key_is_taken_and_none_as_well() -> None:
    assert gateway_certificate_problems(*valid(), now=NOW) == []
    assert gateway_certificate_problems("", "", now=NOW) == []


def test_a_certificate_and_a_key_that_do_not_match() -> None:
    (said,) = gateway_certificate_problems(valid()[0], valid()[1], now=NOW)
    assert "gateway_tls_certificate and gateway_tls_private_key do not match" in said


def test_a_certificate_that_expired_or_is_not_valid_yet() -> None:
    (said,) = gateway_certificate_problems(*pair(NOW - 2 * DAY, NOW - DAY), now=NOW)
    assert said == "gateway_tls_certificate expired at 2026-11-21 00:00 UTC; renew it."
    (said,) = gateway_certificate_problems(*pair(NOW + DAY, NOW + 2 * DAY), now=NOW)
    assert "is not valid before 2026-11-23 00:00 UTC" in said


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"key": "RSA-1024"}, "gateway_tls_certificate has an RSA key of 1024 bits, which OpenSSL refuses"),
        ({"key": "P-192"}, "gateway_tls_certificate has a key on the curve secp192r1, whose 192 bits OpenSSL refuses"),
        (
            {"digest": "SHA-1"},
            "gateway_tls_certificate is signed with SHA-1, which OpenSSL refuses; have it signed anew",
        ),
        ({"digest": "MD5"}, "gateway_tls_certificate is signed with MD5, which OpenSSL refuses"),
        ({"authority_key": "RSA-1024"}, "Certificate 2 in gateway_tls_certificate has an RSA key of 1024 bits"),
    ],
)
def test_a_certificate_that_openssl_finds_too_weak(made: dict[str, str], sentence: str) -> None:
    (said,) = gateway_certificate_problems(*signed(NOW - DAY, NOW + DAY, **made), now=NOW)
    assert said.startswith(sentence)


@pytest.mark.parametrize("made", [{}, {"key": "RSA-2048"}, {"authority_digest": "SHA-1"}])
def test_a_certificate_that_is_strong_enough(made: dict[str, str]) -> None:
    """How an authority signed itself is nobody's concern: who trusts it trusts its key."""
    assert gateway_certificate_problems(*signed(NOW - DAY, NOW + DAY, **made), now=NOW) == []


def test_one_of_the_two_alone_and_what_is_neither() -> None:
    certificate, key = valid()
    for arguments, sentence in (
        ((certificate, ""), "gateway_tls_certificate is set and gateway_tls_private_key is not"),
        (("", key), "gateway_tls_private_key is set and gateway_tls_certificate is not"),
        (("planted", key), "gateway_tls_certificate holds no certificate"),
        ((certificate, "planted"), "gateway_tls_private_key is no usable private key"),
    ):
        (said,) = gateway_certificate_problems(*arguments, now=NOW)
        assert sentence in said
        assert "planted" not in said
        assert "PRIVATE KEY-----" not in said
