# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict: what it is made of, and, in a real play, that a host that failed before is not forgotten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.verdict import verdict

ROOT = Path(__file__).parents[3]
GOOD = {"name": "a: can be reached", "ok": True, "detail": "", "fix": ""}
BAD = {"name": "a: kafka: runs", "ok": False, "detail": "no", "fix": "Start it."}


def host(name: str, *roles: str, checks: list[Any] | None = None, done: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"inventory_hostname": name, "fleet_wanted_instance": {"roles": list(roles)}}
    found |= {"fleet_file": "/f/fleet.yml", "fleet_status": "running"}
    if checks is not None:
        found["__verify_checks"] = checks
    return found | ({"__verify_done": True} if done else {})


@pytest.mark.parametrize(
    ("hosts", "everything", "ok", "names"),
    [
        ([host("a", "kafka", checks=[GOOD])], True, True, ["a: can be reached"]),
        ([host("a", "kafka", checks=[GOOD, BAD])], True, False, ["a: can be reached", "a: kafka: runs"]),
        # Its verification began, and something failed in it.
        ([host("a", "kafka", checks=[GOOD], done=False)], True, False, ["a: can be reached", "a: was verified"]),
        # An earlier step failed on it, so nothing was even begun.
        (
            [host("a", "kafka", checks=[GOOD]), host("b", done=False)],
            True,
            False,
            ["a: can be reached", "b: was verified"],
        ),
        # Only what was asked for is due.
        ([host("a", "kafka", checks=[GOOD]), host("b", "vllm", done=False)], False, True, ["a: can be reached"]),
        ([host("b", "vllm", done=False)], False, False, ["something was verified"]),
        ([], True, False, ["something was verified"]),
    ],
)
def test_what_it_is_made_of(hosts: list[dict[str, Any]], everything: bool, ok: bool, names: list[str]) -> None:
    found = verdict(hosts, ["kafka"], everything)
    assert (found["ok"], [check["name"] for check in found["checks"]]) == (ok, names)
    assert all(check["fix"] for check in found["checks"] if not check["ok"])


def test_whoever_asks_for_what_is_not_there_is_told_what_is() -> None:
    """As with a typing error in --tags, which Ansible takes for a tag that nothing has."""
    (check,) = verdict([host("a", "kafka"), host("b", "vllm", "gateway")], [], False)["checks"]
    assert check["fix"] == "Ask by --tags for gateway or kafka or vllm, or leave --tags out."


def test_in_a_real_run_a_host_that_failed_before_is_in_it(tmp_path: Path) -> None:
    """Ansible leaves it out of every later play, also out of the one that gives the verdict."""
    last = yaml.safe_load((ROOT / "playbooks" / "verify.yml").read_text())[-1]
    last["vars_files"] = [str(ROOT / "playbooks" / name) for name in last["vars_files"]]
    before = {
        "hosts": "fleet_wanted",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.fail": {"msg": "deploying it failed"}, "when": "inventory_hostname == 'producer-1'"},
            {"ansible.builtin.set_fact": {"__verify_checks": [GOOD], "__verify_done": True}},
        ],
    }
    hosts = {name: {"fleet_wanted_instance": {"roles": ["kafka"]}} for name in ("kafka-1", "producer-1")}
    variables = {"ansible_connection": "local", "fleet_report_directory": str(tmp_path), "fleet_file": "/f/fleet.yml"}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([before, last]))
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"fleet_wanted": {"hosts": hosts, "vars": variables}}))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    written = json.loads((tmp_path / "verify.json").read_text())
    assert written["ok"] is False, done.stdout
    assert {check["name"]: check["ok"] for check in written["checks"]} == {
        "a: can be reached": True,
        "producer-1: was verified": False,
    }
    assert "1 of 2 checks failed" in " ".join(done.stdout.split())
