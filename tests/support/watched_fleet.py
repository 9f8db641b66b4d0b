# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who watches a fleet of planted hosts: what the playbooks give to the role monitoring, and what it makes of that."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import yaml
from support import role_templates
from support.local_play import ROOT, run_plays

FLEET = {
    "gateway-1": ["gateway"],
    "kafka-1": ["kafka"],
    "monitoring-1": ["monitoring"],
    "processor-1": ["processor"],
    "vllm-1": ["vllm"],
}
# An alert of each kind: of who is watched at all, of services, of hosts, of answers.
KINDS = {"TargetDown", "ServiceDown", "ContainerUnhealthy", "DiskFull", "LatencyHigh", "ErrorRateHigh"}


def _given(playbook: str) -> dict[str, Any]:
    """The variables that this playbook gives to the role; none where it has no task with it."""
    tasks = [task for play in yaml.safe_load((ROOT / playbook).read_text()) for task in play.get("tasks", [])]
    found: list[dict[str, Any]] = [
        task.get("vars", {})
        for task in tasks
        if task.get("ansible.builtin.include_role", {}).get("name") == "gpuops.fleet.monitoring"
    ]
    return found[0] if found else {}


def asked(work: pathlib.Path) -> set[tuple[str, str]]:
    """(what, host) for everything that Prometheus asks in this fleet, itself or by the relay of a host."""
    values = {"targets": _given("playbooks/deploy.yml").get("monitoring_targets", [])}
    values["relays"] = _given("playbooks/prepare.yml").get("monitoring_exporter_relays", [])
    hosts = {
        name: {"planted_groups": ["fleet_ssh", *roles], "fleet_peer_name": f"{name}.acme.internal", "__peers_given": {}}
        for name, roles in FLEET.items()
    }
    plays = [
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [{"ansible.builtin.group_by": {"key": "{{ item }}"}, "loop": "{{ planted_groups }}"}],
        },
        {
            "hosts": "all",
            "gather_facts": False,
            "vars_files": [str(ROOT / "playbooks/vars/monitoring.yml")],
            "vars": {"planted": values},
            "tasks": [
                {
                    "ansible.builtin.copy": {
                        "content": "{{ planted | to_json }}",
                        "dest": f"{work}/{{{{ inventory_hostname }}}}.json",
                        "mode": "0600",
                    }
                }
            ],
        },
    ]
    done = run_plays(work, plays, hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {name: json.loads((work / f"{name}.json").read_text()) for name in FLEET}
    direct = {(target["job"], target["host"]) for target in seen["monitoring-1"]["targets"]}
    return direct | {(relay["name"], name) for name, given in seen.items() for relay in given["relays"]}


def alerts() -> set[str]:
    """The names of all alerts that Prometheus computes and that it gives to an Alertmanager."""
    templates = role_templates.ROLES / "monitoring/templates"
    configured = yaml.safe_load(role_templates.render(templates / "prometheus.yml.j2"))
    tellers = [
        target
        for manager in configured["alerting"]["alertmanagers"]
        for one in manager["static_configs"]
        for target in one["targets"]
    ]
    if not tellers or not any(file.endswith("/rules.yml") for file in configured["rule_files"]):
        return set()
    rules = yaml.safe_load(role_templates.render(templates / "rules.yml.j2"))
    return {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
