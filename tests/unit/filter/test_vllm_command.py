# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter is a thin coat: what Ansible hands in comes out as plain data, and errors are Ansible's."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.vllm_command import FilterModule, vllm_command


def test_is_offered_under_its_name() -> None:
    assert FilterModule().filters() == {"vllm_command": vllm_command}


def test_returns_what_a_template_needs() -> None:
    described = vllm_command({"model": "gpt2", "cpu_kv_cache_gib": 1}, 500)
    assert described["command"][:3] == ["vllm", "serve", "gpt2"]
    assert described["served_model_name"] == "gpt2"
    assert described["memory_needed_mib"] == 2048 + 1024 + 500
    assert set(described) == {
        *("command", "arguments", "environment", "served_model_name", "memory_needed_mib", "settings"),
    }


def test_a_refusal_is_an_ansible_error() -> None:
    with pytest.raises(AnsibleFilterError, match="vllm_port is 99999"):
        vllm_command({"model": "gpt2", "port": 99999})


def test_a_text_is_not_a_dictionary() -> None:
    with pytest.raises(AnsibleFilterError, match="not str"):
        vllm_command("gpt2")
