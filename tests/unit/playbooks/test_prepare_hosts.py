# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""prepare writes the names of peers where they outlive a reboot: cloud-init makes /etc/hosts anew of a template."""

from __future__ import annotations

import json
import pathlib
import re

import yaml
from support.local_play import ROOT, run_plays

TASKS = ("Look for what cloud-init makes its hosts file of", "Let it find its peers by their names")
TEMPLATE = "## template:jinja\n127.0.1.1 {{fqdn}} {{hostname}}\n127.0.0.1 localhost\n"
LINE = "10.0.0.5 kafka-1.acme-llm.internal\n"


def prepared(work: pathlib.Path, block: bool = True) -> int:
    """Runs these tasks of prepare, with this directory for /etc, and returns how many changed something."""
    play = next(one for one in yaml.safe_load((ROOT / "playbooks/prepare.yml").read_text()) if "tasks" in one)
    tasks = [task for task in play["tasks"] if task["name"] in TASKS]
    assert len(tasks) == len(TASKS)
    for name in ("owner", "group"):
        del tasks[1]["ansible.builtin.blockinfile"][name]  # whoever runs the tests
    here = json.loads(json.dumps(tasks).replace("/etc/", f"{work}/etc/"))
    variables = {
        "__peers_hosts_block": block,
        "__peers_hosts": {"kafka-1.acme-llm.internal": "10.0.0.5"},
        "fleet_deployment_id": "acme-llm",
    }
    done = run_plays(work, [{"hosts": "all", "gather_facts": False, "tasks": here}], {"vllm-1": variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.findall(r"changed=([0-9]+)", done.stdout)[0])


def test_what_cloud_init_writes_at_the_next_boot_has_the_peers_too(tmp_path: pathlib.Path) -> None:
    template = tmp_path / "etc/cloud/templates/hosts.debian.tmpl"
    template.parent.mkdir(parents=True)
    template.write_text(TEMPLATE)
    hosts = tmp_path / "etc/hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    assert prepared(tmp_path) == 1
    assert LINE in hosts.read_text()
    # As at the next boot.
    hosts.write_text(template.read_text().partition("\n")[2])
    assert LINE in hosts.read_text()
    assert prepared(tmp_path) == 0


def test_without_cloud_init_nothing_of_it_is_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "etc").mkdir()
    assert prepared(tmp_path, block=False) == 0
    assert prepared(tmp_path) == 1
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["hosts"]
