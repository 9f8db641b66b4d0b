#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Show what a deployment has rented
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Lists the live instances of a deployment at the given providers.
  - A provider that fails takes nothing away from the others; RV(complete) tells whether all have answered.
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
  names:
    description: Only instances of these names. Empty means all.
    type: list
    elements: str
    default: []
  machines:
    description:
      - Machines that you own, as a fleet file has them (C(providers) is V([ssh]), with C(name) and C(address)). No
        provider lists these, so without it the provider V(ssh) has none.
    type: list
    elements: dict
    default: []
  certificates:
    description:
      - Also say which certificate those have whose server ends TLS itself, as RV(certificates).
      - What this controller remembers comes first, then what the rental's log says. Where neither does, the
        certificate with which it answers now is trusted, and C(origin) says so.
    type: bool
    default: false
  watches:
    description:
      - Also read, from the log of each rental that is to end itself, when it last looked at its expiry, as
        RV(instances[].lifetime_watched_at). That takes some seconds.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what runs
  gpuops.fleet.instance_info:
    deployment_id: acme-llm
    providers: [local]
  register: rented
  delegate_to: localhost
"""

RETURN = r"""
instances:
  description: The instances, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name in its deployment.
      type: str
      returned: always
      sample: vllm-1
    deployment_id:
      description: Whose it is.
      type: str
      returned: always
      sample: acme-llm
    peer_name:
      description: Name by which other instances of the deployment reach it.
      type: str
      returned: always
      sample: vllm-1.acme-llm.internal
    id:
      description: The provider's own id.
      type: str
      returned: always
      sample: 0ecfa1dd9090
    provider:
      description: Where it is rented.
      type: str
      returned: always
      sample: local
    status:
      description: One of V(pending), V(running), V(stopped), V(failed), V(terminating).
      type: str
      returned: always
      sample: running
    detail:
      description: The provider's own words about the status.
      type: str
      returned: always
      sample: Up 4 seconds
    outbid:
      description:
        - Whether it is stopped because others bid more for its machine.
        - Null when its provider says the same of what its user stopped, and this controller has ordered neither.
      type: bool
      returned: always
      sample: false
    runtime:
      description: V(vm) or V(container).
      type: str
      returned: always
      sample: vm
    owner:
      description: V(fleet) or the job that rented it.
      type: str
      returned: always
      sample: fleet
    gpu:
      description: Canonical name of its GPU; null without one.
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
    region:
      description: Where it stands; null if unknown.
      type: str
      returned: always
      sample: us-east1
    image:
      description: What it was made from.
      type: str
      returned: always
      sample: gpufleet/host:trixie
    price_per_hour_usd:
      description: US dollars per hour; null if unknown.
      type: float
      returned: always
      sample: 0.0
    cost_so_far_usd:
      description: What it cost so far in US dollars; null if unknown, as for a machine that you own.
      type: float
      returned: always
      sample: 0.0
    cost_source:
      description: V(bill) for what the provider charged, V(price_and_age) for an estimate.
      type: str
      returned: always
      sample: bill
    cost_complete:
      description: Whether RV(instances[].cost_so_far_usd) is all that it cost; an estimate of something paid never is.
      type: bool
      returned: always
      sample: true
    created_at:
      description: When it was rented (RFC 3339, UTC).
      type: str
      returned: always
      sample: "2026-11-21T10:00:00Z"
    expires_at:
      description: When its lifetime ends (RFC 3339, UTC); null if unlimited.
      type: str
      returned: always
      sample: "2026-11-21T18:00:00Z"
    lifetime_enforcer:
      description:
        - Who ends it when its lifetime is over. V(provider) is the provider by itself, V(machine) what runs there, with
          a key that its provider gives it for itself, V(sweep) the next run of the playbook C(gpuops.fleet.sweep) with
          C(fleet_confirm), V(nobody) means that it lives until it is destroyed.
      type: str
      returned: always
      sample: sweep
    lifetime_enforcer_reason:
      description: Why that is so.
      type: str
      returned: always
      sample: its lifetime is unlimited
    lifetime_watched_at:
      description:
        - When what runs there last looked at its expiry, by its provider's clock, as its log shows (RFC 3339).
        - Null where nothing there is to end it, where nobody asked, and where no log shows it. Then count on
          C(gpuops.fleet.sweep) alone.
      type: str
      returned: always
      sample: null
    address:
      description: Address that its peers use; null while unknown.
      type: str
      returned: always
      sample: 10.231.0.17
    ssh_host:
      description: Where SSH answers from the controller.
      type: str
      returned: always
      sample: 10.231.0.17
    ssh_port:
      description: Port of SSH.
      type: int
      returned: always
      sample: 22
    ssh_user:
      description: User to log in as.
      type: str
      returned: always
      sample: root
    endpoint_url:
      description: Where a container rental answers from outside; null for a machine, and while there is none.
      type: str
      returned: always
      sample: https://abc123-8000.proxy.runpod.net
    tls_fingerprint:
      description: >-
        Of the certificate that was pinned because the rental's server ends TLS itself; null where the provider does,
        and where nothing was pinned in this run.
      type: str
      returned: always
      sample: null
    host_key:
      description: SSH host key without comment; null while unknown.
      type: str
      returned: always
      sample: ssh-ed25519 AAAAC3Nz
    machine_id:
      description: The physical machine that it runs on, in the provider's words; null where the provider doesn't say.
      type: str
      returned: always
      sample: "101"
certificates:
  description: Of rentals whose server ends TLS itself; empty unless O(certificates) asks for them.
  returned: success
  type: list
  elements: dict
  sample:
    - name: vllm-1
      fingerprint: "sha256:9f0c0a"
      origin: remembered by this controller
unseen:
  description: >-
    What this controller rented in a region that its provider looks into no more, and whose end it does not know. It
    may still live and cost; no list says so. A warning says what to do.
  returned: success
  type: list
  elements: dict
  sample: [{name: vllm-1, provider: aws, id: i-0123456789abcdef0, region: us-west-2}]
complete:
  description: Whether all providers have answered. Only then the absence of an instance means something.
  returned: success
  type: bool
  sample: true
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
from ansible_collections.gpuops.fleet.plugins.module_utils._report import list_instances

INFO_SPEC = {
    "providers": {"type": "list", "elements": "str", "required": True},
    "names": {"type": "list", "elements": "str", "default": []},
    "machines": {"type": "list", "elements": "dict", "default": []},
    "certificates": {"type": "bool", "default": False},
    "watches": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec={**FLEET_SPEC, **INFO_SPEC}, supports_check_mode=True)
    run_module(module, lambda: list_instances(module.params))


if __name__ == "__main__":
    main()
