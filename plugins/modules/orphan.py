#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: orphan
short_description: Report, and when told so end, what nobody wants any more
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Judges every live rental that carries the marker of this deployment.
  - V(expired) is one whose lifetime is over, also when a fleet file names it. V(surplus) is one that is older than 10
    minutes and has the same name as an even older one. V(orphan) is one that no fleet file names.
  - V(young) is surplus or an orphan, but so young that somebody may be about to settle it, or of unknown age. V(job)
    was rented by a job and is not expired. Everything else is V(wanted).
  - Without O(confirm) it only reports. With it, what is V(expired), V(surplus) or V(orphan) is ended when two complete
    lists at least 60 seconds apart show it so, and a last look at it says the same.
  - A provider that does not answer completely proves nothing, so nothing at all is ended then, and the module fails.
  - Rentals of other deployments, and those without our whole marker, are never touched.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  fleet_files:
    description:
      - All fleet files of this deployment, or folders that have them. What none of them names is not wanted, so leave
        none out, and give them as they are now - what an old copy doesn't name would be ended.
      - The playbooks give every fleet file among the sources of the inventory (C(-i)).
    type: list
    elements: path
    required: true
  providers:
    description:
      - Where to look. Default is every provider that O(fleet_files) name, also those under C(provider_settings).
      - One that rents must be among them. Machines that you own (V(ssh)) are no place to look.
    type: list
    elements: str
    default: []
  confirm:
    description: End what is V(expired), V(surplus) or V(orphan). Must be the same text as O(deployment_id).
    type: str
  grace_seconds:
    description: Orphans younger than this are only reported, as are those of unknown age.
    type: int
    default: 900
  max_deletions:
    description: End nothing, and fail, when more than this would have to be ended.
    type: int
    default: 5
"""

EXAMPLES = r"""
- name: Show what nobody wants
  gpuops.fleet.orphan:
    deployment_id: acme-llm
    fleet_files: [fleet.yml]
  delegate_to: localhost

- name: End it
  gpuops.fleet.orphan:
    deployment_id: acme-llm
    fleet_files: [fleet.yml]
    confirm: acme-llm
  delegate_to: localhost
"""

RETURN = r"""
rentals:
  description: Every rental of the deployment, as M(gpuops.fleet.instance_info) returns it, with its verdict. That of
    what is listed although its end was ordered is V(ending).
  returned: success, and on failure after the first list
  type: list
  elements: dict
  sample: [{name: old-1, provider: runpod, id: 0ecfa1dd9090, status: running, verdict: orphan}]
orphans:
  description: Those among them that no fleet file names, also young and expired ones, without those of jobs.
  returned: success, and on failure after the first list
  type: list
  elements: dict
  sample: [{name: old-1, provider: runpod, id: 0ecfa1dd9090, status: running, verdict: orphan}]
deleted:
  description: What was ended, or would be in check mode.
  returned: success, and on failure after the first list
  type: list
  elements: dict
  sample: [{name: old-1, provider: runpod, id: 0ecfa1dd9090, verdict: orphan, cost_so_far_usd: 1.6}]
failure:
  description: Why it failed.
  returned: on failure
  type: dict
  contains:
    provider:
      description: Who refused.
      type: str
      returned: always
      sample: local
    code:
      description: What kind, such as V(auth), V(quota), V(no_capacity), V(drift), V(not_ready), V(unavailable),
        V(invalid_input).
      type: str
      returned: always
      sample: drift
    status:
      description: HTTP status of the provider's answer.
      type: int
      returned: always
      sample: 409
    request_id:
      description: The provider's id of the call.
      type: str
      returned: always
      sample: req-1
    message:
      description: What happened.
      type: str
      returned: always
      sample: No Docker Engine answers.
    fix:
      description: What to do next.
      type: str
      returned: always
      sample: Run make setup.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import FLEET_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import run_module
from ansible_collections.gpuops.fleet.plugins.module_utils._orphans import run_orphan

ORPHAN_SPEC = {
    "fleet_files": {"type": "list", "elements": "path", "required": True},
    "providers": {"type": "list", "elements": "str", "default": []},
    "confirm": {"type": "str"},
    "grace_seconds": {"type": "int", "default": 900},
    "max_deletions": {"type": "int", "default": 5},
}


def main() -> None:
    module = AnsibleModule(argument_spec={**FLEET_SPEC, **ORPHAN_SPEC}, supports_check_mode=True)
    run_module(module, lambda: run_orphan(module.params, module.check_mode))


if __name__ == "__main__":
    main()
