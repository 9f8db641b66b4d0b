# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module endpoint_check as a command, the way its documentation says, with real Ansible."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from support.certificates import DAY, pair
from support.fake_endpoint import KEY, Faults, serving

ROOT = pathlib.Path(__file__).resolve().parents[2]


def command(folder: pathlib.Path, words: str) -> tuple[int, dict[str, Any]]:
    """Its exit status and its result, as talkative as Ansible can be; the key is in none of its output."""
    done = subprocess.run(
        [
            *(str(pathlib.Path(sys.executable).with_name("ansible")), "localhost", "-vvv"),
            *("-m", "gpuops.fleet.endpoint_check", "-a", words),
        ],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert KEY not in done.stdout + done.stderr
    _words, arrow, document = done.stdout.partition(" => ")
    assert arrow, done.stdout + done.stderr
    return done.returncode, dict(json.loads(document[: document.rindex("}") + 1]))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "gateway-key").write_text(KEY + "\n")
    return tmp_path


def test_a_good_endpoint_behind_a_self_signed_certificate(folder: pathlib.Path) -> None:
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate = pair(now - DAY, now + DAY)
    (folder / "gateway.pem").write_text(certificate[0])
    with serving(Faults(text=f"you sent {KEY}"), certificate) as server:
        status, result = command(
            folder,
            f"url={server.url} ca_certificate_file={folder}/gateway.pem api_key_file={folder}/gateway-key "
            "model=tiny requests=5",
        )
    assert status == 0, result
    assert result["changed"] is False
    assert result["completion"]["text"] == "you sent ********"
    assert result["latency"]["requests"] == 5
    assert all(check["ok"] for check in result["checks"])


def test_health_without_completions_fails_and_says_so(folder: pathlib.Path) -> None:
    with serving(Faults(always_fails=500)) as server:
        status, result = command(folder, f"url={server.url} api_key_file={folder}/gateway-key model=tiny")
    assert status == 2
    assert result["msg"].startswith(
        f"{server.url} is not as it should be: completion: it answers /health but fails completions: status 500"
    )


def test_mistakes_are_said_before_anything_is_asked(folder: pathlib.Path) -> None:
    status, result = command(folder, "url=http://:8000 api_key_file=nowhere model=tiny requests=-1")
    assert status == 2
    assert result["msg"] == (
        "Nothing was asked. url 'http://:8000' names no host; write http://HOST:PORT. "
        "api_key_file 'nowhere' can't be read: No such file or directory. "
        "requests is -1; write a number from 1 to 10000."
    )
