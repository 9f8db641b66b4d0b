#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_firewall
short_description: Say who may reach machines of Google Cloud
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Makes, changes or removes one firewall rule that lets somebody in.
  - Who may come in and to which machines is said in full. The whole internet is refused unless
    O(allow_everybody=true).
  - The rule is named C(gf--DEPLOYMENT--NAME), and its description says the same. A rule of that name with another
    description is somebody else's, and not touched.
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
  name:
    description: Name of the rule in its deployment. 1 to 16 lower-case letters, digits and single hyphens.
    type: str
    required: true
  state:
    description: Whether there is such a rule.
    type: str
    choices: [present, absent]
    default: present
  network:
    description: Name of the VPC network. It can't be changed.
    type: str
    default: default
  allow:
    description: What is let in. Required for O(state=present).
    type: list
    elements: dict
    default: []
    suboptions:
      protocol:
        description: Such as V(tcp), V(udp) or V(icmp).
        type: str
        required: true
      ports:
        description: Ports (V("22")) and ranges of ports (V("8000-8010")). Empty means all of them.
        type: list
        elements: str
        default: []
  source_ranges:
    description: Who may come in, as ranges of addresses (V(203.0.113.0/24)). Required for O(state=present).
    type: list
    elements: str
    default: []
  allow_everybody:
    description: Insist on the whole internet (V(0.0.0.0/0) or V(::/0)) in O(source_ranges).
    type: bool
    default: false
  target_tags:
    description:
      - Which machines it is about, by their network tags. Required for O(state=present).
      - The provider V(gcp) gives each of its machines C(gpuops-fleet) and C(gpuops-fleet-DEPLOYMENT).
    type: list
    elements: str
    default: []
  priority:
    description: Of several rules the one with the lowest number holds.
    type: int
    default: 1000
seealso:
  - module: gpuops.fleet.instance
"""

EXAMPLES = r"""
- name: Let the office reach the machines of this deployment by SSH
  gpuops.fleet.gcp_firewall:
    deployment_id: acme-llm
    provider_settings:
      gcp:
        project: acme-gpus
    name: ssh
    allow:
      - protocol: tcp
        ports: ["22"]
    source_ranges: [203.0.113.0/24]
    target_tags: [gpuops-fleet-acme-llm]

- name: Let nobody do that any more
  gpuops.fleet.gcp_firewall:
    deployment_id: acme-llm
    name: ssh
    state: absent
"""

RETURN = r"""
rule:
  description: The rule as it is; in check mode as it would be.
  returned: success
  type: dict
  sample:
    name: gf--acme-llm--ssh
    network: default
    priority: 1000
    allow: [{protocol: tcp, ports: ["22"]}]
    source_ranges: [203.0.113.0/24]
    target_tags: [gpuops-fleet-acme-llm]
failure:
  description: Why it failed.
  returned: on failure
  type: dict
  contains:
    provider:
      description: Who refused.
      type: str
      returned: always
      sample: gcp
    code:
      description: What kind, such as V(auth), V(quota), V(unavailable), V(invalid_request), V(invalid_input).
      type: str
      returned: always
      sample: auth
    status:
      description: HTTP status of the provider's answer.
      type: int
      returned: always
      sample: 403
    request_id:
      description: The provider's id of the call.
      type: str
      returned: always
      sample: req-1
    message:
      description: What happened.
      type: str
      returned: always
      sample: "gcp refuses: Required 'compute.firewalls.create' permission."
    fix:
      description: What to do next.
      type: str
      returned: always
      sample: Set GCP_ACCESS_TOKEN.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import FLEET_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import run_module
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_firewall import run_firewall

RULE_SPEC = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "network": {"type": "str", "default": "default"},
    "allow": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "protocol": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "str", "default": []},
        },
    },
    "source_ranges": {"type": "list", "elements": "str", "default": []},
    "allow_everybody": {"type": "bool", "default": False},
    "target_tags": {"type": "list", "elements": "str", "default": []},
    "priority": {"type": "int", "default": 1000},
}


def main() -> None:
    module = AnsibleModule(argument_spec={**FLEET_SPEC, **RULE_SPEC}, supports_check_mode=True)
    run_module(module, lambda: run_firewall(module.params, module.check_mode))


if __name__ == "__main__":
    main()
