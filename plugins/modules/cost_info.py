#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cost_info
short_description: Show what a fleet costs, and did
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Adds up what the live instances of a deployment cost per hour and have cost so far, and what those cost that the
    journal on this controller remembers and that are gone.
  - What a provider has charged comes from its own bill where it writes one (V(runpod)). Elsewhere it is price times
    age, or what the journal knows, and RV(complete) says that it is incomplete.
  - Nobody here knows of instances that other controllers rented and ended. The provider's own bill does.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.attributes.info_module
  - gpuops.fleet.fleet
options:
  providers:
    description: Where to look.
    type: list
    elements: str
    required: true
  machines:
    description:
      - Machines that you own, as a fleet file has them (C(providers) is V([ssh]), with C(name) and C(address)). No
        provider lists these, so without it the provider V(ssh) has none.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show what the fleet costs
  gpuops.fleet.cost_info:
    deployment_id: acme-llm
    providers: [local]
  register: cost
  delegate_to: localhost
"""

RETURN = r"""
price_per_hour_usd:
  description: US dollars per hour of all live instances; null when one of the prices is unknown.
  returned: success
  type: float
  sample: 1.6
cost_so_far_usd:
  description: US dollars that live instances and those in the journal have cost, as far as it is known.
  returned: success
  type: float
  sample: 12.8
complete:
  description: Whether all providers answered, and each amount is from a provider's bill or of a provider that costs
    nothing.
  returned: success
  type: bool
  sample: true
live:
  description: Live instances with endpoint, price and cost so far, where that is from (V(bill) or V(price_and_age)),
    since when they live, when they end, and who ends them.
  returned: success
  type: list
  elements: dict
  sample: [{name: vllm-1, provider: runpod, id: 0ecfa1dd9090, status: running, price_per_hour_usd: 1.6,
    cost_so_far_usd: 12.8, cost_source: bill, cost_complete: true}]
past:
  description: Instances in the journal that are gone; their cost is from the V(bill) or from the V(journal).
  returned: success
  type: list
  elements: dict
  sample: [{name: vllm-1, provider: runpod, id: 1ecfa1dd9090, hours: 8.0, cost_usd: 12.8, cost_source: bill,
    cost_complete: true}]
errors:
  description: Failures of providers that did not answer.
  returned: success
  type: list
  elements: dict
  sample: []
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
from ansible_collections.gpuops.fleet.plugins.module_utils._report import sum_up_cost

COST_SPEC = {
    "providers": {"type": "list", "elements": "str", "required": True},
    "machines": {"type": "list", "elements": "dict", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec={**FLEET_SPEC, **COST_SPEC}, supports_check_mode=True)
    run_module(module, lambda: sum_up_cost(module.params))


if __name__ == "__main__":
    main()
