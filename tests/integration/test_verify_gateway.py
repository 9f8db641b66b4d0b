# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where verify asks a gateway: as a user would, or on its host where not everybody may. With real Ansible."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from support.local_play import ROOT, run_plays

OPEN: dict[str, dict[str, Any]] = {
    "open": {},
    "ipv6": {"ansible_host": "2001:db8::7", "gateway_https_port": 8443},
    "said-open": {"gateway_allowed_cidrs": []},
}
# A machine at a cloud can't ask itself by the address that others know, and its firewall would refuse it there.
LIMITED: dict[str, dict[str, Any]] = {
    "limited": {},
    "limited-all-of-ipv6": {"gateway_addresses": ["[::]"]},
    "limited-one-address": {"gateway_addresses": ["10.1.2.3"], "gateway_https_port": 8443},
    "limited-one-of-ipv6": {"gateway_addresses": ["[fd00::3]"]},
    "limited-bare-ipv6": {"gateway_addresses": ["fd00::3"]},
}


def test_a_gateway_that_is_limited_to_networks_is_asked_on_its_host(tmp_path: pathlib.Path) -> None:
    hosts = {name: {"ansible_host": "203.0.113.9", **told} for name, told in OPEN.items()} | {
        name: {"ansible_host": "203.0.113.9", "gateway_allowed_cidrs": ["198.51.100.0/24"], **told}
        for name, told in LIMITED.items()
    }
    all_of_them = "dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'asked')))"
    to = {"dest": str(tmp_path / "asked.json"), "content": "{{ " + all_of_them + " | to_json }}"}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks" / "vars" / "verify.yml")],
        "tasks": [
            {"ansible.builtin.set_fact": {"asked": "{{ __verify_gateway_url }}"}},
            {"ansible.builtin.copy": to, "run_once": True},
        ],
    }
    done = run_plays(tmp_path, [play], hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "asked.json").read_text()) == {
        "open": "https://203.0.113.9:443",
        "ipv6": "https://[2001:db8::7]:8443",
        "said-open": "https://203.0.113.9:443",
        "limited": "https://127.0.0.1:443",
        "limited-all-of-ipv6": "https://[::1]:443",
        "limited-one-address": "https://10.1.2.3:8443",
        "limited-one-of-ipv6": "https://[fd00::3]:443",
        "limited-bare-ipv6": "https://[fd00::3]:443",
    }
