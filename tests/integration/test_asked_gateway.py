# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the role gateway asks its own gateway at the end, under a limit of requests. With real Ansible."""

from __future__ import annotations

import datetime
import pathlib

import pytest
from support import gateway_role
from support.certificates import DAY, pair
from support.fake_endpoint import KEY, Faults, serving


@pytest.mark.parametrize(("keyless_left", "returncode", "asked"), [(1, 0, 1), (0, 2, 8)])
def test_a_limit_is_waited_for_and_no_proof_of_a_refusal(
    tmp_path: pathlib.Path, keyless_left: int, returncode: int, asked: int
) -> None:
    """Of the keys, the one that no limit counts is taken: the server knows no other. A limit that lasts is an error."""
    now = datetime.datetime.now(tz=datetime.UTC)
    with serving(Faults(keyless_left=keyless_left), pair(now - DAY, now + DAY)) as server:
        variables = {
            "gateway_servers": [{"name": "vllm-1", "address": "127.0.0.1"}],
            "gateway_api_keys": [
                {"name": "counted", "key": "planted-other-key-0123"},
                {"name": "verify", "key": KEY, "unlimited": True},
            ],
            "gateway_https_port": int(server.url.rpartition(":")[2]),
            "__gateway_limit_delay_seconds": 0,
        }
        done = gateway_role.run_step(tmp_path, "verify", variables)
        keyless = [headers for _method, _path, headers, _body in server.asked if "Authorization" not in headers]
    assert done.returncode == returncode, done.stdout + done.stderr
    assert len(keyless) == asked
    assert KEY not in done.stdout + done.stderr
