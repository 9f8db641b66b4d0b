# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role gateway writes with every option in use, as HAProxy itself and openssl judge it."""

from __future__ import annotations

import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.gateway_certificate_problems import gateway_certificate_problems
from support import gateway_role
from support.certificates import DAY, pair, signed
from support.gateway_fixtures import haproxy
from support.local_play import ROOT
from support.playbook_vars import computed

# Fixtures are used by their names.
__all__ = ["haproxy"]

TOOL = ROOT / "roles/gateway/files/gateway_host.py"
SERVERS = [
    {"name": "vllm-1", "address": "vllm-1.acme.internal"},
    {"name": "vllm-2", "address": "::1", "port": 8001, "drain": True},
]


def tool(*arguments: Any) -> dict[str, Any]:
    done = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_haproxy_takes_the_configuration_with_every_option_in_use(tmp_path: pathlib.Path, haproxy: str) -> None:
    """The role's own validation; the long lists are longer than a line of HAProxy may be."""
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate, key = pair(now - DAY, now + DAY)
    done = gateway_role.run_step(
        tmp_path,
        "configure",
        {
            "gateway_servers": SERVERS,
            "gateway_upstream_api_key": "planted-internal-key-5e11",
            "gateway_api_keys": [
                {"name": f"client-{number}", "key": f"planted-key-of-client-{number}", "unlimited": True}
                for number in range(80)
            ],
            "gateway_addresses": ["*", "[::]"],
            "gateway_allowed_cidrs": [f"10.{number}.0.0/16" for number in range(200)],
            "gateway_rate_limit_exempt_cidrs": ["2001:db8::/32", "192.0.2.7"],
            "gateway_cors_origins": [f"https://chat-{number}.example.org" for number in range(80)],
            "gateway_metrics_address": "[::1]",
            "gateway_tls_certificate": certificate,
            "gateway_tls_private_key": key,
        },
    )
    assert done.returncode == 0, done.stdout
    text = (tmp_path / "gateway" / "haproxy.cfg").read_text()
    assert "server vllm-1 vllm-1.acme.internal:8000\n" in text
    assert "server vllm-2 [::1]:8001 weight 0\n" in text
    assert "check inter 30s " in text
    checked = subprocess.run(
        [haproxy, "-c", "-f", tmp_path / "gateway" / "haproxy.cfg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0
    warnings = [line for line in checked.stderr.splitlines() if "[WARNING]" in line]
    assert [line for line in warnings if "could not resolve address 'vllm-1.acme.internal'" not in line] == []
    unit = (tmp_path / "gateway.service").read_text()
    assert "planted" not in unit + text
    assert "planted" not in done.stdout + done.stderr
    written = tmp_path / "gateway" / "certificate.pem.key"
    assert (written.read_text(), written.stat().st_mode & 0o777) == (key, 0o640)
    assert (tmp_path / "gateway" / "certificate.pem").read_text() == certificate
    assert key.splitlines()[1] not in done.stdout + done.stderr


@pytest.mark.parametrize(("follows", "stale"), [(False, True), (True, False)])
def test_a_server_with_another_address_in_the_hosts_file_is_a_reason_to_reload(
    tmp_path: pathlib.Path, haproxy: str, follows: bool, stale: bool
) -> None:
    """By what the unit itself notes at its start, and the role compares."""
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.5 vllm-1.acme.internal\n")
    done = gateway_role.run_step(
        tmp_path,
        "configure",
        {
            "gateway_servers": SERVERS,
            "gateway_upstream_api_key": "planted-internal-key-5e11",
            "gateway_follow_names": follows,
            "__gateway_hosts_file": str(hosts),
        },
    )
    assert done.returncode == 0, done.stdout
    lines = (tmp_path / "gateway.service").read_text().splitlines()
    (notes,) = [line for line in lines if line.startswith("ExecStartPost=") and line.endswith("/loaded'")]
    subprocess.run(["sh", "-c", notes.removeprefix("ExecStartPost=")], check=True)
    look = ["sha256sum", "--check", "--status", str(tmp_path / "run" / "loaded")]
    assert subprocess.run(look, check=False).returncode == 0
    hosts.write_text("10.0.0.9 vllm-1.acme.internal\n")
    assert (subprocess.run(look, check=False).returncode == 1) is stale


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"key": "RSA-1024"},
        {"key": "RSA-2048"},
        {"key": "P-192"},
        {"digest": "SHA-1"},
        {"digest": "MD5"},
        {"authority_digest": "SHA-1"},
        {"authority_key": "RSA-1024"},
    ],
    ids=str,
)
def test_preflight_and_openssl_take_and_refuse_the_same_certificates(
    tmp_path: pathlib.Path, haproxy: str, made: dict[str, str]
) -> None:
    """What preflight took and HAProxy refuses would be found by nobody before the next restart."""
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate, key = signed(now - DAY, now + DAY, **made)
    (tmp_path / "certificate.pem").write_text(certificate)
    (tmp_path / "certificate.pem.key").write_text(key)
    (tmp_path / "haproxy.cfg").write_text(
        f"frontend f\n bind 127.0.0.1:1 ssl crt {tmp_path}/certificate.pem\n mode http\n timeout client 1s\n"
    )
    checked = subprocess.run(
        [haproxy, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False
    )
    refused = "SSL certificate into SSL Context" in checked.stderr or "chain certificate into SSL" in checked.stderr
    assert (checked.returncode != 0) == refused, checked.stderr
    assert bool(gateway_certificate_problems(certificate, key)) == refused, checked.stderr


def text_of(certificate: pathlib.Path, *what: str) -> str:
    command = ["openssl", "x509", "-noout", *what, "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_self_signed_certificate_is_made_once_and_again_when_it_is_no_use(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secrets").mkdir()
    place, key = tmp_path / "certificate.pem", tmp_path / "certificate.pem.key"
    names = ["llm.example.org", "203.0.113.5", "2001:0db8::0007"]
    assert tool("certificate", place, "--dry-run", *names)["changed"] is True
    assert not place.exists()
    assert tool("certificate", place, *names)["reason"] == "there is none"
    assert (place.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o644, 0o640)
    assert tool("certificate", place, *names) == {"changed": False, "reason": ""}
    assert tool("certificate", place, *reversed(names))["changed"] is False
    first = place.read_bytes()
    assert tool("certificate", place, *names[:1])["reason"] == "it is good for other names"
    assert place.read_bytes() != first
    assert "DNS:llm.example.org" in text_of(place, "-ext", "subjectAltName")
    key.write_text("torn")
    assert tool("certificate", place, *names[:1])["reason"] == "it can't be read"
    # One that was given before is not taken for one of ours.
    make: list[Any] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        key,
        "-out",
        place,
    ]
    subprocess.run([*make, "-days", "5"], check=True, capture_output=True)
    assert tool("certificate", place, *names[:1])["reason"] == "it was not made here"
    assert {path.name for path in tmp_path.iterdir()} == {
        "secrets",
        "certificate.pem",
        "certificate.pem.key",
    }


def probe_of_the_certificate(place: pathlib.Path) -> tuple[int, str]:
    """How the probe of the playbook verify ends for this file, and what it says to do."""
    (probe,) = [one for one in computed("verify", "__verify_gateway_probes") if "certificate" in one["name"]]
    assert probe["argv"][-1] == "/opt/gateway/certificate.pem"
    done = subprocess.run([*map(str, probe["argv"][:-1]), place], capture_output=True, text=True, check=False)
    return done.returncode, probe["fix"]


@pytest.mark.parametrize(("days", "status"), [(90, 0), (15, 0), (13, 1), (-1, 1)])
def test_verify_sees_a_certificate_that_will_expire_or_has(tmp_path: pathlib.Path, days: int, status: int) -> None:
    now = datetime.datetime.now(tz=datetime.UTC)
    (tmp_path / "certificate.pem").write_text(signed(now - 90 * DAY, now + days * DAY)[0])
    found, fix = probe_of_the_certificate(tmp_path / "certificate.pem")
    assert found == status
    assert "gateway_tls_certificate and gateway_tls_private_key" in fix


def test_a_deployment_renews_a_self_signed_certificate_before_verify_complains(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secrets").mkdir()
    place = tmp_path / "certificate.pem"
    tool("certificate", place, "localhost")
    assert probe_of_the_certificate(place)[0] == 0
    issuer = text_of(place, "-issuer", "-nameopt", "multiline").splitlines()
    organisation = next(line.partition("=")[2].strip() for line in issuer if "organizationName" in line)
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-subj", f"/O={organisation}/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    for days, status in ((20, 0), (13, 1)):
        files = ["-days", str(days), "-keyout", f"{place}.key", "-out", str(place)]
        subprocess.run([*make, *about, *files], check=True, capture_output=True)
        assert probe_of_the_certificate(place)[0] == status
        assert tool("certificate", place, "--dry-run", "localhost")["reason"] == "it expires soon"


def test_keys_are_generated_once_and_gone_when_nobody_names_them(tmp_path: pathlib.Path) -> None:
    assert tool("keys", tmp_path, "--dry-run", "a", "b") == {"changed": True, "generated": ["a", "b"], "removed": []}
    assert list(tmp_path.iterdir()) == []
    tool("keys", tmp_path, "a", "b")
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {len(text) for text in first.values()} == {40}
    assert first["a"] != first["b"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert tool("keys", tmp_path, "a", "b")["changed"] is False
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first
    assert tool("keys", tmp_path, "a")["removed"] == ["b"]
    tool("keys", tmp_path, "a", "b")
    assert (tmp_path / "b").read_text() != first["b"]


def test_an_empty_key_is_made_anew_and_gives_nobody_anothers_name(tmp_path: pathlib.Path, haproxy: str) -> None:
    variables: dict[str, Any] = {
        "gateway_servers": SERVERS,
        "gateway_upstream_api_key": "planted-internal-key-5e11",
        "gateway_api_keys": [{"name": "alpha", "unlimited": True}, {"name": "beta"}],
    }
    secrets = tmp_path / "gateway" / "secrets"
    for _run in range(2):
        done = gateway_role.run_step(tmp_path, "configure", variables)
        assert done.returncode == 0, done.stdout
        lines = (secrets / "keys.map").read_text().splitlines()[1:]
        known = {name: digest for digest, name in (line.split() for line in lines)}
        keys = {name: (secrets / "keys" / name).read_bytes() for name in ("alpha", "beta")}
        assert known == {name: hashlib.sha256(key).hexdigest().upper() for name, key in keys.items()}
        assert all(len(key) == 40 for key in keys.values())
        (secrets / "keys" / "alpha").write_text("")
