#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: offer_info
short_description: Show what can be rented now
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Asks several providers in parallel what they offer, filters the answers, and ranks them as
    M(gpuops.fleet.instance) would.
  - Answers of the last 5 minutes may be used, and up to 15 minutes when a provider can't be asked, with a warning.
    RV(answers) says how old each is. With E(GPUFLEET_CACHE=false) in the environment, every provider is asked.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.attributes.info_module
  - gpuops.fleet.fleet
options:
  deployment_id:
    description: Not used for offers; accepted so that C(module_defaults) of the action group work.
    required: false
  providers:
    description: Whom to ask.
    type: list
    elements: str
    required: true
  prefer_order:
    description: Rank by the order of O(providers) first, and by price only within a provider.
    type: bool
    default: false
  gpu:
    description: Canonical name of the GPU, such as V(L4). Without it, machines without GPU are shown.
    type: str
  gpu_count:
    description: How many GPUs.
    type: int
    default: 1
  instance_type:
    description: The provider's name of a machine size.
    type: str
  regions:
    description: Where it may stand, in the provider's words. Empty means anywhere.
    type: list
    elements: str
    default: []
  runtime:
    description:
      - V(vm) is a machine in which Docker works; V(container) runs one image and nothing else.
      - Default is V(vm) where all of O(providers) rent machines, else V(container) where all of them rent containers.
    type: str
    choices: [vm, container]
  max_price_per_hour_usd:
    description: Leave out what costs more US dollars per hour, or has no known price.
    type: float
  disk_gib:
    description: Size of the disk in GiB that it must be able to have.
    type: int
    default: 50
  interruptible:
    description: Show machines that the provider may take back at any time.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the sizes of local hosts
  gpuops.fleet.offer_info:
    providers: [local]
  register: market
  delegate_to: localhost
"""

RETURN = r"""
offers:
  description: Fitting offers, the best first.
  returned: success
  type: list
  elements: dict
  contains:
    provider:
      description: Who offers it.
      type: str
      returned: always
      sample: local
    id:
      description: The provider's id of the offer.
      type: str
      returned: always
      sample: medium
    gpu:
      description: Canonical name of the GPU; null without one.
      type: str
      returned: always
      sample: L4
    gpu_count:
      description: Number of GPUs.
      type: int
      returned: always
      sample: 1
    instance_type:
      description: The provider's size.
      type: str
      returned: always
      sample: medium
    memory_mib:
      description: Memory of the machine in MiB.
      type: int
      returned: always
      sample: 4096
    cpu_count:
      description: Number of CPUs.
      type: int
      returned: always
      sample: 4
    disk_gib:
      description: Largest disk in GiB; null if unknown.
      type: int
      returned: always
      sample: 100
    region:
      description: Where it stands.
      type: str
      returned: always
      sample: us-east1
    runtime:
      description: V(vm) or V(container).
      type: str
      returned: always
      sample: vm
    interruptible:
      description: Whether the provider may take it back.
      type: bool
      returned: always
      sample: false
    price_per_hour_usd:
      description: US dollars per hour; null if unknown.
      type: float
      returned: always
      sample: 0.0
answers:
  description: How old the answer of each provider is. Answers of the last minutes are kept (see C(docs/cache.md)).
  returned: success
  type: list
  elements: dict
  contains:
    provider:
      description: Who was asked.
      type: str
      returned: always
      sample: runpod
    age_seconds:
      description: Age of its answer in seconds; null if there is none.
      type: float
      returned: always
      sample: 12.5
    error:
      description: Why there is no newer answer, in the form of RV(failure); null if nothing went wrong.
      type: dict
      returned: always
      sample: {provider: runpod, code: unavailable, status: 503, request_id: null, message: It is down., fix: Wait.}
refused_offers:
  description: Offers that the price limit left out, with the reason.
  returned: success
  type: list
  elements: dict
  sample: []
errors:
  description: Failures of providers that did not answer, and of which no answer is kept.
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import FLEET_SPEC, INSTANCE_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import run_module
from ansible_collections.gpuops.fleet.plugins.module_utils._report import list_offers

SAME_AS_INSTANCE = (
    *("providers", "prefer_order", "gpu", "instance_type", "regions", "runtime"),
    *("max_price_per_hour_usd", "disk_gib", "interruptible"),
)
OFFER_SPEC: dict[str, Any] = {
    **FLEET_SPEC,
    **{name: INSTANCE_SPEC[name] for name in SAME_AS_INSTANCE},
    "gpu_count": {"type": "int", "default": 1},
    "deployment_id": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=OFFER_SPEC, supports_check_mode=True)
    run_module(module, lambda: list_offers(module.params))


if __name__ == "__main__":
    main()
