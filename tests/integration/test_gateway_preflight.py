# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role gateway refuses what can't work in one sentence, before it changes anything: one real run, a host a case."""

from __future__ import annotations

import datetime
import os
import pathlib
import socket
from typing import Any

import pytest
from support.certificates import DAY, pair
from support.fake_commands import Commands
from support.free_port import free_port
from support.refusals import refusals, said

KEY = "planted-key-0123456789"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cidr": ({"gateway_allowed_cidrs": ["10.0.0.0/33"]}, "gateway_allowed_cidrs: '10.0.0.0/33' is no range"),
    "metrics": ({"gateway_metrics_allowed_cidrs": []}, "gateway_metrics_allowed_cidrs is empty, so nobody could read"),
    "size": ({"gateway_max_body_bytes": -1}, "gateway_max_body_bytes is -1; it must be between 1024 and"),
    "match": (
        {"gateway_tls_certificate": "good.pem", "gateway_tls_private_key": "other.key"},
        "gateway_tls_certificate and gateway_tls_private_key do not match",
    ),
    "expired": (
        {"gateway_tls_certificate": "expired.pem", "gateway_tls_private_key": "expired.key"},
        "gateway_tls_certificate expired at ",
    ),
    "key-file": ({"gateway_api_keys_file": "empty"}, "and there is no key in it; write lines of NAME KEY"),
    "no-key-file": ({"gateway_api_keys_file": "nowhere"}, "and there is no such file on the controller"),
    "weak": ({"gateway_api_keys": [{"name": "a", "key": "planted"}]}, "The key a of the gateway is not usable"),
    "upstream": (
        {"gateway_upstream_api_key": "", "gateway_upstream_api_key_file": "empty"},
        "The key of the vLLM servers is missing on upstream: ",
    ),
    "port": ({"gateway_https_port": "taken"}, "of port is in use by py"),
    "no-systemd": ({"tried_as_if_systemd_ran": False}, "instead of systemd"),
    "no-servers": ({"gateway_servers": []}, "gateway_servers is empty"),
}
# What the HAProxy that is there says, or else apt-cache, and what is said about it; nothing where it may do.
OLDER: dict[str, tuple[str, str, str]] = {
    "noble": ("HAProxy version 2.8.16-0ubuntu0.24.04.2 2026/03/05 - https://haproxy.org/", "", ""),
    "bookworm": ("", "2.6.12-1+deb12u4", ""),
    "exactly": ("HAProxy version 2.6.5-1 2022/09/03", "", ""),
    "two-digits": ("HAProxy version 2.10.0", "", ""),
    "nobody-knows": ("", "(none)", ""),
    "before": ("HAProxy version 2.6.4-1 2022/08/22", "", "before has HAProxy 2.6.4 as "),
    "jammy": ("HAProxy version 2.4.30-0ubuntu0.22.04.1 2026/01/29", "3.0.1-1", "jammy has HAProxy 2.4.30 as "),
    "bullseye": ("HA-Proxy version 2.2.9-2+deb11u6 2023/08/12", "", "bullseye has HAProxy 2.2.9 as "),
    "bare-jammy": ("", "2.4.30-0ubuntu0.22.04.1", "bare-jammy would get HAProxy 2.4.30 from its packages"),
}


def programs_of(work: pathlib.Path, name: str, version: str, candidate: str) -> pathlib.Path:
    """A directory with an apt-cache and, where it says a version, a haproxy."""
    commands = Commands(work / f"programs-of-{name}")
    commands.fake("apt-cache", f"printf 'haproxy:\\n  Installed: (none)\\n  Candidate: {candidate}\\n'")
    if version:
        commands.fake("haproxy", f"echo '{version}'; echo 'Status: long-term supported branch'")
    return commands.bin


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("gateway")
    now = datetime.datetime.now(tz=datetime.UTC)
    files = {}
    for name, ends in (("good", now + DAY), ("other", now + DAY), ("expired", now - DAY)):
        files[f"{name}.pem"], files[f"{name}.key"] = pair(now - 9 * DAY, ends)
    (work / "empty").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = {
            "taken": listener.getsockname()[1],
            **{name: str(work / name) for name in ("empty", "nowhere")},
            **files,
        }
        good: dict[str, Any] = {
            "tried_as_if_systemd_ran": True,
            "gateway_servers": [{"name": "vllm-1", "address": "127.0.0.1"}],
            "gateway_upstream_api_key": KEY,
            "gateway_tls_names": ["localhost"],
            "gateway_https_port": free_port(),
            "gateway_http_port": 0,
            "gateway_metrics_port": free_port(),
            "tried_programs": str(programs_of(work, "good", "HAProxy version 3.0.11-1+deb13u2 2026/03/01", "")),
        }
        hosts: dict[str, tuple[str, dict[str, Any]]] = {"good": ("gateway", good)}
        for name, (values, _sentence) in BAD.items():
            named = {key: words.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
            hosts[name] = ("gateway", {**good, **named})
        for name, (version, candidate, _sentence) in OLDER.items():
            hosts[name] = ("gateway", {**good, "tried_programs": str(programs_of(work, name, version, candidate))})
        places = {"__gateway_unit_directory": str(work), "__gateway_haproxy": "{{ tried_programs }}/haproxy"}
        return refusals(work, hosts, places, PATH=f"{{{{ tried_programs }}}}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_sentence(refused: pathlib.Path, name: str) -> None:
    words = said(refused, name)
    assert BAD[name][1] in words
    assert "planted" not in words
    assert "PRIVATE" not in words


@pytest.mark.parametrize("name", [name for name, (*_program, sentence) in OLDER.items() if sentence])
def test_an_older_haproxy_is_refused_with_its_version(refused: pathlib.Path, name: str) -> None:
    words = said(refused, name)
    assert OLDER[name][-1] in words
    assert "and the gateway needs 2.6.5 or newer. Take a host with Debian 12, Ubuntu 24.04 or newer" in words


@pytest.mark.parametrize("name", [name for name, (*_program, sentence) in OLDER.items() if not sentence])
def test_a_haproxy_that_may_do_is_accepted(refused: pathlib.Path, name: str) -> None:
    assert not (refused / f"{name}.refused").exists(), (refused / f"{name}.refused").read_text()


def test_what_can_work_is_accepted(refused: pathlib.Path) -> None:
    assert not (refused / "good.refused").exists()


def test_nothing_was_changed(refused: pathlib.Path) -> None:
    assert not (refused / "gateway.service").exists()
    assert not pathlib.Path("/opt/gateway").exists()
