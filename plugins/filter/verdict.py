# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put together what was found on all hosts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: verdict
short_description: Put together what was found on all hosts
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes the variables of the hosts that C(gpuops.fleet.verify) went through and returns the content of C(verify.json).
  - A host that was due and whose verification did not come to its end is a failed check. Ansible leaves a host out of
    everything after the task that failed on it, so the host itself can't say so.
options:
  _input:
    description: The variables of each host.
    type: list
    elements: dict
    required: true
  services:
    description: The services that were asked for.
    type: list
    elements: str
    required: true
  everything:
    description: Whether all hosts were asked for, also those without a service.
    type: bool
    required: true
"""

EXAMPLES = r"""
- name: Show the verdict
  ansible.builtin.debug:
    msg: "{{ groups['kafka'] | map('extract', hostvars) | gpuops.fleet.verdict(services=['kafka'], everything=false) }}"
"""

RETURN = r"""
_value:
  description: C(ok), and C(checks) with C(name), C(ok), C(detail) and C(fix) each. That nothing was due is a
    failed check, too.
  type: dict
"""


def verdict(hosts: Sequence[Mapping[str, Any]], services: Collection[str], everything: bool) -> dict[str, Any]:
    """What was found, host by host."""
    checks: list[dict[str, Any]] = []
    there: set[str] = set()
    for host in hosts:
        roles = (host.get("fleet_wanted_instance") or {}).get("roles") or []
        there.update(roles)
        if not everything and not set(roles).intersection(services):
            continue
        checks += host.get("__verify_checks") or []
        if not host.get("__verify_done"):
            checks.append(
                {
                    "name": f"{host['inventory_hostname']}: was verified",
                    "ok": False,
                    "detail": f"no: it is {host.get('fleet_status') or 'absent'}, or an earlier step failed on it",
                    "fix": f"Run 'ansible-playbook -i {host.get('fleet_file')} gpuops.fleet.site' and see what it says "
                    "about this host.",
                }
            )
    if not checks:
        services_there = " or ".join(sorted(there))
        known = f"Ask by --tags for {services_there}, or" if there else "Give an instance of the fleet file a role, and"
        checks.append(
            {
                "name": "something was verified",
                "ok": False,
                "detail": "no: what was asked for is on no host of this fleet",
                "fix": f"{known} leave --tags out.",
            }
        )
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"verdict": verdict}
