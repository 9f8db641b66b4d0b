# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare machine gets its engine: nothing takes for granted that an image brings one."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml
from support.fake_commands import Commands
from support.local_play import ROOT, run_plays

PACKAGES = {
    "Debian 13": ("Debian", "13", "docker.io, docker-cli, iptables, docker-compose, docker-buildx"),
    "Ubuntu 24.04": ("Ubuntu", "24", "docker.io, docker-compose-v2, docker-buildx"),
}


def test_a_bare_machine_gets_an_engine_and_compose(tmp_path: pathlib.Path) -> None:
    """The role in check mode, on machines that have no `docker`, as their facts say Debian and Ubuntu."""
    hosts = {name.replace(" ", "-"): {"said": said} for name, said in PACKAGES.items()}
    facts = {
        "distribution": "{{ said[0] }}",
        "distribution_major_version": "{{ said[1] }}",
        "service_mgr": "systemd",
        "apparmor": {"status": "disabled"},
        "user_uid": 0,
        "cacheable": True,
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": str(Commands(tmp_path / "commands").bin)},
        "tasks": [
            {"ansible.builtin.set_fact": facts},
            {"ansible.builtin.include_role": {"name": "gpuops.fleet.docker"}},
        ],
    }
    done = run_plays(tmp_path, [play], hosts, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    for _distribution, _version, packages in PACKAGES.values():
        assert f"Would install {packages}." in " ".join(done.stdout.split())


def test_hosts_get_docker_before_anything_is_deployed() -> None:
    steps = [play.get("ansible.builtin.import_playbook") for play in load("site.yml")]
    assert steps.index("prepare.yml") < steps.index("deploy.yml")
    roles = [
        next(iter(task[module].values()))
        for play in load("prepare.yml")
        for task in play.get("tasks", [])
        for module in ("ansible.builtin.import_role", "ansible.builtin.include_role")
        if module in task
    ]
    assert "gpuops.fleet.docker" in roles


def load(name: str) -> list[dict[str, Any]]:
    plays: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / name).read_text())
    return plays
