#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Rent a machine once, and end it
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Brings one instance of a deployment to the wanted state at one of several providers, and waits until it can be used.
  - An instance is identified by O(deployment_id) and O(name), by a marker on the rented thing itself. The module
    keeps no state of its own,
    so it can be interrupted, repeated, and run from several controllers at once, and one rental is left.
  - What does not carry the whole marker is never touched.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.fleet
  - gpuops.fleet.instance
attributes:
  check_mode:
    support: full
    details: Shows the offer that would be taken now, and its price.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) makes sure that it exists, whatever its power state.
      - V(started) and V(stopped) also decide that. Only what exists can be stopped.
      - V(absent) destroys it, and returns only when the provider says that it is gone. What is already gone is no
        change.
      - A machine that you own (provider V(ssh)) exists and runs as far as this module is concerned, so V(present) and
        V(started) wait until it can be used, and V(stopped) is refused. V(absent) changes nothing on it and says so; it
        forgets the host key that this controller remembers.
    type: str
    choices: [present, started, stopped, absent]
    default: present
  extend:
    description:
      - Give what lives at least so much time from now on (V(8h), V(7d), V(2w)), where its provider can change the
        expiry in place. That is V(vastai) so far; elsewhere it is refused before anything is changed.
      - Never shortens. What lives longer or for ever, and what is only being rented now, is left as it is.
      - The expiry is rounded up to a full hour.
      - What differs from the wish gets its time too, before the run fails for that.
    type: str
  computed_from:
    description:
      - What a role computed O(entrypoint), O(args), O(tls_args) and O(public_env) from, as
        P(gpuops.fleet.vllm_rental#filter) returns it.
      - When given, a changed wish is seen by it, and not by those options, which a new version of this collection may
        compute otherwise.
    type: dict
seealso:
  - module: gpuops.fleet.instance_info
  - module: gpuops.fleet.offer_info
"""

EXAMPLES = r"""
- name: Rent a host for the broker on this machine
  gpuops.fleet.instance:
    deployment_id: acme-llm
    name: kafka-1
    providers: [local]
    instance_type: medium
    ssh_private_key_file: build/ssh/id_ed25519
  delegate_to: localhost

- name: Show what a larger one would be, without renting it
  gpuops.fleet.instance:
    deployment_id: acme-llm
    name: vllm-1
    providers: [local]
    instance_type: large
  check_mode: true
  delegate_to: localhost

- name: Give it eight hours from now on
  gpuops.fleet.instance:
    deployment_id: acme-llm
    name: train-1
    providers: [vastai]
    gpu: A100_80GB
    max_lifetime: 8h
    extend: 8h
  delegate_to: localhost

- name: Wait until a machine that you own can be used
  gpuops.fleet.instance:
    deployment_id: acme-llm
    name: gpu-1
    providers: [ssh]
    address: 203.0.113.20
    user: ubuntu
    price_per_hour_usd: 0.4
    state: started
  delegate_to: localhost

- name: Destroy it
  gpuops.fleet.instance:
    deployment_id: acme-llm
    name: kafka-1
    providers: [local]
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
instance:
  description: The instance as its provider describes it after the run; null when it does not exist.
  returned: success, and on failure when one exists
  type: dict
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
      description: Price times age in US dollars; null if unknown.
      type: float
      returned: always
      sample: 0.0
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
actions:
  description: What was done, or would be done in check mode, in this order.
  returned: success, and when it fails amid its work
  type: list
  elements: str
  sample: [create]
lifetime_enforcer:
  description: Who ends what lives, or what would be rented, when its lifetime is over (V(provider), V(machine),
    V(sweep) or V(nobody)).
  returned: success, when something lives or would be rented
  type: str
  sample: sweep
lifetime_enforcer_reason:
  description: Why that is so.
  returned: success, when something lives or would be rented
  type: str
  sample: its lifetime is unlimited
offer:
  description: The offer that was preferred when something had to be rented.
  returned: success
  type: dict
  sample: {provider: local, id: medium, memory_mib: 4096, cpu_count: 4, price_per_hour_usd: 0.0}
refused_offers:
  description: Offers that were not considered, with the reason.
  returned: success
  type: list
  elements: dict
  sample: [{provider: local, id: large, reason: "its price is not known, and max_price_per_hour_usd is set"}]
readiness:
  description: How waiting went. Null when nothing was waited for. The same is counted as Prometheus text in
    C(metrics/gpufleet_readiness.prom) under E(GPUFLEET_HOME).
  returned: success, and when the instance did not become ready
  type: dict
  contains: &readiness
    ready:
      description: Whether it became ready.
      type: bool
      returned: always
      sample: true
    attempts:
      description: How often it was tried to reach it.
      type: int
      returned: always
      sample: 3
    seconds:
      description: How long it took, in seconds.
      type: float
      returned: always
      sample: 63.2
    provider_seconds:
      description: How many of these seconds it took until the provider said that it runs.
      type: float
      returned: always
      sample: 60.1
    budget_seconds:
      description: How long each part may take, in seconds - until the provider says that it runs, then until it is
        ready, and from the first refusal of the key until that counts as final.
      type: dict
      returned: always
      sample: {provider: 3600, ready: 600, key: 60}
    classes:
      description: What came of the tries, by class, each with C(count), C(first_seconds) and C(last_seconds).
        TROUBLESHOOTING.md says what each class means.
      type: dict
      returned: always
      sample: {refused: {count: 2, first_seconds: 60.1, last_seconds: 61.2}}
    endpoints:
      description: Where it was tried, with the number of tries and the last class at each.
      type: list
      elements: dict
      returned: always
      sample: [{address: "203.0.113.20:40022", kind: direct, attempts: 3, last_class: ok}]
    last_class:
      description: The class of the last try.
      type: str
      returned: always
      sample: ok
    last_message:
      description: The words behind the last try.
      type: str
      returned: always
      sample: ""
host_key_trust:
  description: Where the host key comes from - V(provider), V(given) as O(host_key), V(journal) of this
    controller, or V(first_use), when the key that answered was trusted just now. Null when no login was tried.
  returned: success, outside check mode
  type: str
  sample: provider
surplus:
  description:
    - Younger rentals with the same deployment and name, which are deleted when they are older than 10 minutes. A
      warning says so then.
  returned: success
  type: list
  elements: dict
  sample: []
failed_rentals:
  description:
    - Rentals of this run that did not become ready, or turned out to be too dear and were given back, with the evidence
      for a refund.
  returned: outside check mode
  type: list
  elements: dict
  contains:
    provider:
      description: Where it was rented.
      type: str
      returned: always
      sample: vastai
    id:
      description: The provider's own id.
      type: str
      returned: always
      sample: "9000001"
    name:
      description: Name in its deployment.
      type: str
      returned: always
      sample: vllm-1
    machine_id:
      description: The physical machine, which is not rented again in this run; null where the provider doesn't say.
      type: str
      returned: always
      sample: "101"
    region:
      description: Where it stood; null if unknown.
      type: str
      returned: always
      sample: CA
    gpu:
      description: Canonical name of its GPU; null without one.
      type: str
      returned: always
      sample: A100_80GB
    gpu_count:
      description: Number of GPUs.
      type: int
      returned: always
      sample: 1
    price_per_hour_usd:
      description: US dollars per hour; null if unknown.
      type: float
      returned: always
      sample: 1.21
    cost_usd:
      description: What it cost until it was given up, in US dollars - price times age; null if unknown.
      type: float
      returned: always
      sample: 0.21
    rented_at:
      description: When it was rented (RFC 3339, UTC); null if unknown.
      type: str
      returned: always
      sample: "2026-11-21T10:00:00Z"
    given_up_at:
      description: When it was given up (RFC 3339, UTC).
      type: str
      returned: always
      sample: "2026-11-21T10:10:21Z"
    ended:
      description: What became of it - V(kept), V(stopped), V(destroyed), or V(unknown) when its provider did not obey.
      type: str
      returned: always
      sample: destroyed
    detail:
      description: The provider's last words about it, or what it costs and what its offer had said.
      type: str
      returned: always
      sample: running
    log_tail:
      description:
        - The last lines of a container's log, without the secrets that it was given and without what looks like one.
          Empty for machines, for what was given back because of its price, and where the provider shows no log.
      type: list
      elements: str
      returned: always
      sample: ["torch.OutOfMemoryError: CUDA out of memory."]
    readiness:
      description: How waiting for it went; empty for what was given back before.
      type: dict
      returned: always
      contains: *readiness
differences:
  description:
    - What differs from the wish and can't be changed in place.
    - Of C(entrypoint), C(args), C(env), C(secret_env) and C(settings), which are those of O(computed_from), only the
      name is told, with V(as rented) and V(changed).
  returned: on failure for drift
  type: list
  elements: dict
  sample: [{field: instance_type, current: small, wanted: large}]
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
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import FLEET_SPEC, INSTANCE_SPEC
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import run_instance, run_module

STATE_SPEC = {
    "state": {"type": "str", "choices": ["present", "started", "stopped", "absent"], "default": "present"},
    "extend": {"type": "str"},
    "computed_from": {"type": "dict"},
}


def main() -> None:
    module = AnsibleModule(argument_spec={**FLEET_SPEC, **INSTANCE_SPEC, **STATE_SPEC}, supports_check_mode=True)
    run_module(module, lambda: run_instance(module.params, module.check_mode))


if __name__ == "__main__":
    main()
