# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All vLLM hosts have the key that one of them keeps, whoever is deployed first."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess

import pytest
from support.local_play import run_plays

KEEPER, OTHER = "vllm-1", "vllm-2"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role writes as root, and so does this test")


def take_key(work: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """The step of the role for the other host, of which nobody answers: all that is done is done on the keeper."""
    hosts = {
        KEEPER: {},
        OTHER: {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
    }
    values = {
        "vllm_api_key_host": KEEPER,
        "vllm_model": "gpuops/tiny",
        "vllm_uid": os.getuid(),
        "vllm_gid": os.getgid(),
        "__vllm_directory": str(work / "vllm"),
        "__service_directory": str(work / "vllm"),
    }
    # What the role hands to the service as the value of its secret; a digest of it, because it is a secret.
    role = {"name": "gpuops.fleet.vllm", "tasks_from": "key", "public": True}
    seen = {
        "ansible.builtin.copy": {
            "content": "{{ __vllm_api_key | hash('sha256') }} {{ __vllm_takes_key }}",
            "dest": str(work / "seen"),
            "mode": "0600",
        },
        "delegate_to": KEEPER,
        "no_log": True,
    }
    tasks = [{"ansible.builtin.include_role": role}, seen]
    (work / "values.json").write_text(json.dumps(values))
    play = {"hosts": OTHER, "gather_facts": False, "tasks": tasks}
    return run_plays(work, [play], hosts, "--extra-vars", f"@{work / 'values.json'}", "--diff", "-vvv")


def test_whoever_comes_first_makes_the_key_on_the_host_that_keeps_it(tmp_path: pathlib.Path) -> None:
    first = take_key(tmp_path)
    assert first.returncode == 0, first.stdout
    key = (tmp_path / "vllm/secrets/api_key").read_text()
    assert len(key) == 40
    assert (tmp_path / "seen").read_text() == f"{hashlib.sha256(key.encode()).hexdigest()} True"
    second = take_key(tmp_path)
    assert "changed=0" in second.stdout
    assert (tmp_path / "vllm/secrets/api_key").read_text() == key
    assert key not in first.stdout + second.stdout + first.stderr + second.stderr
