# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What endpoint_check refuses before anything is sent, and in which words."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_options import find_url

GOOD: dict[str, Any] = {"url": "http://127.0.0.1:9", "api_key": "planted-key", "model": "Qwen/Qwen3-0.6B"}
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PIN = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("values", "option", "words"),
    [
        ({"url": ""}, "url", "url is empty"),
        ({"url": "10.0.0.5:8000"}, "url", "'10.0.0.5:8000' is not an address; write http://"),
        ({"url": "ftp://host"}, "url", "'ftp://host' is not an address"),
        ({"url": "http://"}, "url", "names no host"),
        ({"url": "http://:8000"}, "url", "names no host; write http://HOST:PORT"),
        ({"url": "http://None:8000"}, "url", "the address was missing where it was made"),
        ({"url": "http://300.1.2.3:8000"}, "url", "'300.1.2.3', which is no IP address"),
        ({"url": "http://[fe80::zz]:8000"}, "url", "fe80::zz"),
        ({"url": "http://[::1:8000"}, "url", "can't be read"),
        ({"url": "http://a b:8000"}, "url", "'a b', which is neither a name nor an IP address"),
        ({"url": "http://-vllm:8000"}, "url", "neither a name nor an IP address"),
        ({"url": "http://vllm:0"}, "url", "ports are numbers from 1 to 65535"),
        ({"url": "http://vllm:99999"}, "url", "ports are numbers from 1 to 65535"),
        ({"url": "http://vllm:eight"}, "url", "ports are numbers from 1 to 65535"),
        ({"url": "http://me:planted-key@vllm"}, "url", "has a user or a password in it"),
        ({"url": "http://vllm/v1/"}, "url", "ends with /v1; leave that out"),
        ({"url": "http://vllm/?key=1"}, "url", "after '?' or '#'"),
        ({"url": "http://vllm/a b"}, "url", "has a space"),
        ({"url": None}, "address", "Neither url nor address is given"),
        ({"port": 8000}, "url", "url holds address and port already"),
        ({"address": "vllm"}, "url", "url holds address and port already"),
        ({"url": None, "address": " "}, "address", "address is empty"),
        ({"url": None, "address": "http://vllm:8000"}, "address", "is a whole URL; give it as url"),
        ({"url": None, "address": "vllm:8000"}, "address", "'vllm:8000', which is no IP address"),
        ({"url": None, "address": "1.2.3"}, "address", "no IP address"),
        ({"url": None, "address": "vllm", "port": 0}, "address", "port is 0"),
        ({"url": None, "address": "vllm", "port": 65536}, "address", "port is 65536"),
        ({"url": None, "address": "vllm", "port": -1}, "address", "port is -1"),
        ({"model": ""}, "model", "model is empty"),
        ({"model": "two words"}, "model", "'two words' has a space"),
        ({"model": "https://huggingface.co/a/b"}, "model", "is an address"),
        ({"model": "x" * 300}, "model", "too long"),
        ({"api_key": ""}, "api_key", "api_key is empty"),
        ({"api_key": "planted key"}, "api_key", "holds a space"),
        ({"api_key": "planted-k\u00e9y"}, "api_key", "another letter that a key can't have"),
        ({"api_key": None}, "api_key", "Neither api_key nor api_key_file is given"),
        ({"api_key_file": "/nowhere/key"}, "api_key_file", "both given"),
        (
            {"api_key": None, "api_key_file": "/nowhere/key"},
            "api_key_file",
            "'/nowhere/key' can't be read: No such file",
        ),
        ({"timeout_seconds": 0}, "timeout_seconds", "timeout_seconds is 0; write a number from 1 to 3600"),
        ({"max_tokens": -8}, "max_tokens", "max_tokens is -8"),
        ({"requests": 0}, "requests", "requests is 0"),
        ({"max_wait_seconds": -1}, "max_wait_seconds", "max_wait_seconds is -1"),
        ({"health_path": "health"}, "health_path", "'health', but a route begins with '/'"),
        ({"forbidden_paths": ["/a", "b"]}, "forbidden_paths", "'b', but a route"),
        ({"public_paths": ["/a b"]}, "public_paths", "'/a b'"),
        ({"ca_certificate": "gateway.pem"}, "ca_certificate", "holds no certificate; it is PEM text"),
        ({"ca_certificate": PEM, "ca_certificate_file": "/x"}, "ca_certificate", "both given"),
        ({"ca_certificate_file": "/nowhere.pem"}, "ca_certificate", "'/nowhere.pem' can't be read"),
        ({"ca_certificate": PEM}, "ca_certificate", "is not https://"),
        ({"url": "https://vllm", "ca_certificate": PEM}, "ca_certificate", "holds no certificate in PEM"),
        (
            {"url": "https://vllm", "ca_certificate": PEM + "-----BEGIN PRIVATE KEY-----"},
            "ca_certificate",
            "holds a private key",
        ),
        ({"url": "https://vllm", "ca_certificate": PEM, "tls_fingerprint": PIN}, "tls_fingerprint", "both set"),
        ({"url": "https://vllm", "tls_fingerprint": "sha256:0"}, "tls_fingerprint", "64 digits"),
        ({"tls_fingerprint": PIN}, "tls_fingerprint", "is not https://"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_sent(values: dict[str, Any], option: str, words: str) -> None:
    result = check_endpoint({**GOOD, **values})
    (check,) = result["checks"]
    assert (check["name"], check["ok"]) == (option, False)
    assert words in check["detail"]
    assert check["detail"].endswith((".", "…."))
    assert result["mistakes"] == [check["detail"]]
    assert "planted" not in str(result)


def test_a_file_with_no_key_or_two_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "key"
    for text, words in (("", "is empty"), (" \n", "is empty"), ("planted-a\nplanted-b\n", "a line end")):
        file.write_text(text)
        result = check_endpoint({**GOOD, "api_key": None, "api_key_file": str(file)})
        assert [words in sentence for sentence in result["mistakes"]] == [True]
        assert "planted" not in str(result)
    file.write_bytes(b"\xff\xfe")
    result = check_endpoint({**GOOD, "api_key": None, "api_key_file": str(file)})
    assert "it is no text" in result["mistakes"][0]


def test_all_mistakes_are_said_at_once() -> None:
    result = check_endpoint({"url": "vllm", "model": "", "api_key": "", "requests": -5})
    assert [check["name"] for check in result["checks"]] == ["url", "api_key", "model", "requests"]


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"url": "https://abc-8000.proxy.example.net"}, "https://abc-8000.proxy.example.net"),
        ({"url": "http://127.0.0.1:1/proxy/one/8000"}, "http://127.0.0.1:1/proxy/one/8000"),
        ({"url": "http://[::1]:8000/"}, "http://[::1]:8000/"),
        ({"url": "http://vllm-1.acme_llm.internal.:8000"}, "http://vllm-1.acme_llm.internal.:8000"),
        ({"scheme": "https", "address": "llm.example.org"}, "https://llm.example.org:443"),
        ({"scheme": "http", "address": "10.0.0.5", "port": 8000}, "http://10.0.0.5:8000"),
        ({"scheme": "https", "address": "2001:db8::7", "port": 8443}, "https://[2001:db8::7]:8443"),
        ({"scheme": "https", "address": "[2001:db8::7]"}, "https://[2001:db8::7]:443"),
    ],
)
def test_good_addresses_are_taken(values: dict[str, Any], url: str) -> None:
    assert find_url(values) == url
