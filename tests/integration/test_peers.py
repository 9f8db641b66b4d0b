# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a producer finds its model server: on a host of the fleet, else at a container rental. With real Ansible."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIN = "sha256:" + "a" * 64
RENTAL = {
    "fleet_endpoint_url": "https://203.0.113.20:40000",
    "fleet_own_tls": True,
    "fleet_tls_fingerprint": PIN,
    "fleet_runtime": "container",
}
HOST = {"fleet_peer_name": "vllm-2.acme-llm.internal"}
PODS = {**RENTAL, "fleet_endpoint_url": "https://pod1-8000.proxy.runpod.net", "fleet_tls_fingerprint": None}
NAMES = ("url", "host", "tls_fingerprint", "model", "key")


def found(tmp_path: pathlib.Path, vllm: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What the producer would be given."""
    ssh = [name for name, variables in vllm.items() if "fleet_peer_name" in variables] + ["producer-1"]
    rented = [name for name in vllm if name not in ssh]
    inventory = {
        "all": {
            "hosts": {"producer-1": {"ansible_connection": "local"}, **vllm},
            "vars": {"vllm_model": "Qwen/Qwen3-8B", "vllm_api_key": "the-given-key-of-rentals"},
            "children": {
                "vllm": {"hosts": {name: {} for name in vllm}},
                "fleet_ssh": {"hosts": {name: {} for name in ssh}},
                "fleet_endpoints": {"hosts": {name: {} for name in rented}},
            },
        }
    }
    play = {
        "hosts": "producer-1",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks" / "vars" / "peers.yml")],
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "producer_vllm_url": "{{ __peers_vllm_url }}",
            "__deploy_model_server_key": {"content": "dGhlLWtleS1vZi10aGUtaG9zdA=="},
        },
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "dest": str(tmp_path / "found.json"),
                    "content": "{{ {"
                    + ", ".join(f"'{name}': __peers_vllm_{name}" for name in NAMES)
                    + "} | to_json }}",
                }
            }
        ],
    }
    (tmp_path / "key").write_text("the-key-in-a-file\n")
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: str(value).strip() for name, value in json.loads((tmp_path / "found.json").read_text()).items()}


@pytest.mark.parametrize(
    ("vllm", "expected"),
    [
        (
            {"vllm-1": RENTAL},
            ("https://203.0.113.20:40000", "vllm-1", PIN, "Qwen/Qwen3-8B", "the-given-key-of-rentals"),
        ),
        (
            {"vllm-1": PODS},
            ("https://pod1-8000.proxy.runpod.net", "vllm-1", "", "Qwen/Qwen3-8B", "the-given-key-of-rentals"),
        ),
        (
            {"vllm-1": {**PODS, "vllm_api_key": "", "vllm_api_key_file": "key"}},
            ("https://pod1-8000.proxy.runpod.net", "vllm-1", "", "Qwen/Qwen3-8B", "the-key-in-a-file"),
        ),
        # A host of one's own comes first, and keeps its key itself.
        (
            {"vllm-1": RENTAL, "vllm-2": HOST},
            ("http://vllm-2.acme-llm.internal:8000", "vllm-2", "", "Qwen/Qwen3-8B", "the-key-of-the-host"),
        ),
        ({}, ("", "", "", "", "")),
    ],
)
def test_a_producer_finds_its_model_server(
    tmp_path: pathlib.Path, vllm: dict[str, dict[str, Any]], expected: tuple[str, ...]
) -> None:
    assert tuple(found(tmp_path, vllm).values()) == expected


@pytest.mark.parametrize("variables", [{}, PODS], ids=["hosts", "rentals"])
def test_of_several_it_is_the_first_in_each_run(tmp_path: pathlib.Path, variables: dict[str, Any]) -> None:
    """Else a run in which nothing has to be changed would send it to another one."""
    names = [f"vllm-{number}" for number in range(1, 30)]
    several = {name: variables or {"fleet_peer_name": f"{name}.acme-llm.internal"} for name in names}
    assert found(tmp_path, several)["host"] == "vllm-1"
