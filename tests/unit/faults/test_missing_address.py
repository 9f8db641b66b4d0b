# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The smoke test with an address that somebody forgot to fill in, wholly or before the port."""

from __future__ import annotations

import pathlib

from support.local_play import run_plays

ADDRESSES = {"none": "", "port-alone": "http://:8000"}


def test_a_missing_address_ends_the_check_with_a_sentence(tmp_path: pathlib.Path) -> None:
    options = {"url": "{{ url }}", "api_key": "planted-key-0123456789", "model": "acme/Planted-8B"}
    check = {"gpuops.fleet.endpoint_check": options, "register": "checked", "ignore_errors": True}
    told = {
        "ansible.builtin.copy": {
            "content": "{{ 'failed' if checked is failed else 'silent' }}: {{ checked.msg | default('') }}",
            "dest": str(tmp_path / "{{ inventory_hostname }}.told"),
            "mode": "0600",
        }
    }
    hosts = {name: {"url": url} for name, url in ADDRESSES.items()}
    done = run_plays(tmp_path, [{"hosts": "all", "gather_facts": False, "tasks": [check, told]}], hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, url in ADDRESSES.items():
        words = " ".join((tmp_path / f"{name}.told").read_text().split())
        assert words.startswith("failed: "), words
        assert (url or "url") in words, words
        assert "Traceback" not in words
