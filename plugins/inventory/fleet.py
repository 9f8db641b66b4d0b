# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet
short_description: The fleet file is the inventory
version_added: 0.1.0
author:
  - The gpuops.fleet contributors (@gpuops)
description:
  - Reads a fleet file, which says what a deployment wants, and asks the providers in it what lives.
  - The file's name must end in C(fleet.yml) or C(fleet.yaml).
  - The whole file is checked before any provider is asked. Every mistake is named with its line and field.
  - All providers of the file are asked at the same time. One that fails is a warning; its wanted instances stay in
    the group C(fleet_wanted), and C(fleet_complete) becomes V(false).
  - "Groups: C(fleet_wanted) has every instance of the file, living or not. C(fleet_ssh) has the running machines, with
    all that SSH needs. C(fleet_endpoints) has the running container rentals. C(fleet_orphans) has what lives with
    this deployment's marker and is not in the file. One group for each role has its running instances.
    C(provider_*), C(gpu_*) and C(runtime_*) have what lives."
  - "Variables of C(all): C(fleet_deployment_id), C(fleet_domain), C(fleet_complete), C(fleet_report_directory),
    C(fleet_file) and C(fleet_providers), which is all providers that the file, or each of several, names."
  - "Variables of a host: C(fleet_name), C(fleet_peer_name), C(fleet_status) (V(absent), V(unknown) when its provider
    failed, V(pending), V(running), V(stopped) or V(failed)) and, of a wanted one, C(fleet_wanted_instance), which is
    what the file says about it. What lives also has C(fleet_outbid) (whether it is stopped because others bid more;
    null when nobody can tell that from a stop by its user), C(fleet_provider), C(fleet_gpu), C(fleet_gpu_count),
    C(fleet_runtime), C(fleet_price_per_hour_usd) (null when unknown), C(fleet_expires_at) (null for unlimited),
    C(fleet_lifetime_enforcer) (who ends it then, V(provider), V(machine), V(sweep) or V(nobody)),
    C(fleet_instance_id), C(fleet_host_key), C(fleet_address) and C(fleet_inventory_age_seconds). A container rental has
    C(fleet_endpoint_url), C(fleet_own_tls) (whether its server ends TLS itself, so that its certificate has to be
    pinned), C(fleet_tls_fingerprint) (of that certificate; null while this controller knows none) and C(fleet_image)."
  - Hosts in C(fleet_ssh) are reached with their pinned host key and with no known-hosts file, so that it works as well
    from a controller that keeps no files.
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
requirements:
  - OpenSSH 8.5 or newer on the controller, for C(KnownHostsCommand).
notes:
  - Credentials of providers never become variables of hosts. Give them in O(provider_settings), encrypted, or in the
    environment variables that the providers' official clients read.
  - The lists are kept by this plugin itself, in files that only you can read, under E(GPUFLEET_HOME) (see O(cache)).
    Ansible's own caches can't be refreshed while they are used, so O(cache_plugin), O(cache_connection) and
    O(cache_prefix) change nothing.
options:
  cache:
    description:
      - Whether the list of a provider that is asked over the network may come from a file. The provider V(local) is
        always asked.
      - A list of the last minute is used as it is. An older one, up to O(cache_timeout), is used as well, and a process
        in the background asks for a newer one. An even older one is asked for while you wait, for 30 seconds at most.
      - When a provider can't be asked, its last list is used for up to an hour, with a warning that says how old it is
        and what went wrong; C(fleet_inventory_age_seconds) has the age.
      - What this controller rents, starts, stops or ends is never missed, because a list from before is not used after
        it. What other controllers do is seen when the list is refreshed.
      - C(--flush-cache), and C(meta) with C(refresh_inventory), ask all providers, as V(false) does.
      - With E(GPUFLEET_CACHE=false), nothing is written to files either, also not by the modules.
    type: bool
    default: true
    env:
      - name: ANSIBLE_INVENTORY_CACHE
      - name: GPUFLEET_CACHE
    ini:
      - section: inventory
        key: cache
  cache_plugin:
    description: Not used. Ansible loads it nevertheless, so it stays with the plugin that needs nothing.
    type: str
    default: memory
  cache_timeout:
    description: Up to which age, in seconds, a list is used while a newer one is asked for in the background.
    type: int
    default: 600
    env:
      - name: ANSIBLE_INVENTORY_CACHE_TIMEOUT
    ini:
      - section: inventory
        key: cache_timeout
  plugin:
    description: Says that this file is for this plugin.
    type: str
    required: true
    choices: [gpuops.fleet.fleet]
  deployment_id:
    description:
      - Decides which machines are yours. Required, without a default.
      - 3 to 24 lower-case letters, digits and single hyphens, beginning with a letter. Generic words such as V(test)
        are refused.
    type: str
    required: true
  instances:
    description: What this deployment wants. V([]) for nothing.
    type: list
    elements: dict
    required: true
    suboptions: &instance_options
      name:
        description:
          - The host's name; peers reach it as C(NAME.DEPLOYMENT_ID.internal).
          - 1 to 16 lower-case letters, digits and single hyphens, beginning with a letter, and not the name of a role.
          - Required, and not possible in O(defaults).
        type: str
      roles:
        description: What runs on it. Each is a group of the inventory. One word is accepted.
        type: list
        elements: str
        choices: [gateway, kafka, mongodb, monitoring, processor, producer, vllm]
      providers:
        description:
          - Who may rent it, the cheapest fitting offer first. Required, here or in O(defaults).
          - V([ssh]), which stands alone, means a machine that you own. It is used as it is, and never ended.
        type: list
        elements: str
        choices: [local, runpod, vastai, tensordock, gcp, aws, ssh]
      prefer_order:
        description: Take the providers in the order of the list instead of by price.
        type: bool
      gpu:
        description: The GPU's canonical name, such as V(A100_80GB). None when not given.
        type: str
      gpu_count:
        description: How many of them. One, when O(instances[].gpu) is given alone.
        type: int
      instance_type:
        description: The provider's own name of a machine type, where it has such names.
        type: str
      regions:
        description: Only in these regions. Any, when not given.
        type: list
        elements: str
      runtime:
        description:
          - A machine in which Docker works, or a container in which it can't.
          - V(vm) when not given and all of O(instances[].providers) rent machines, else V(container) when all of them
            rent containers.
        type: str
        choices: [vm, container]
      max_price_per_hour_usd:
        description: Nothing above this price, in US dollars an hour. An unknown price is refused then.
        type: float
      price_per_hour_usd:
        description: What it costs, in US dollars an hour, where no provider says so. Also of a machine that you own.
        type: float
      max_lifetime:
        description: V(8h), V(7d), V(2w) or V(unlimited). Required for what costs money.
        type: str
      image:
        description:
          - The provider's image, or the container image of a container rental.
          - A container rental with the role V(vllm) and without O(instances[].image), O(instances[].entrypoint) and
            O(instances[].args) gets all three, its environment and its port from the variables of the role.
        type: str
      entrypoint:
        description: The entry point of a container rental.
        type: list
        elements: str
      args:
        description: The arguments of a container rental.
        type: list
        elements: str
      env:
        description:
          - Environment of what is rented. Templates are opened only where the variable is used, so a secret can come
            from a lookup or a vault without standing here.
        type: dict
      tls_args:
        description: More arguments of a container rental, where the provider ends no TLS and the server has to.
        type: list
        elements: str
      public_env:
        description: Like O(instances[].env), for values that may be shown.
        type: dict
      secret_env:
        description: Like O(instances[].env), kept as a secret of the account where the provider has such.
        type: dict
      ports:
        description: What is reachable from outside.
        type: list
        elements: dict
        suboptions:
          port:
            description: 1 to 65535.
            type: int
            required: true
          protocol:
            description: How it is reached.
            type: str
            choices: [tcp, http]
      disk_gib:
        description: Disk size in GiB. 50 when not given.
        type: int
      interruptible:
        description: Whether the provider may take it back at any time, for a lower price.
        type: bool
      address:
        description: Where a machine that you own is, as a name or an IP address. Required for the provider V(ssh).
        type: str
      port:
        description: At which port its SSH server answers. 22 when not given. Only for the provider V(ssh).
        type: int
      user:
        description: Whom to log in as. V(root) when not given. Only for the provider V(ssh).
        type: str
      host_key:
        description:
          - Its SSH host key, as C(/etc/ssh/ssh_host_ed25519_key.pub) on the machine has it. Only for the provider
            V(ssh).
          - When not given, the first login of C(gpuops.fleet.provision) trusts what answers, and this controller
            remembers it.
        type: str
      ssh_public_key:
        description: The key that may log in, as text. By default the file beside O(instances[].ssh_private_key_file).
        type: str
      ssh_private_key_file:
        description: The key to log in with. A relative path begins at the folder of the fleet file.
        type: path
      wait:
        description: How far it must be before renting it is done.
        type: str
        choices: [none, running, ssh, gpu, endpoint]
      wait_timeout_seconds:
        description: How long that may take, in seconds. By provider, runtime and GPU when not given.
        type: int
      on_unready:
        description: What to do with what was rented and isn't usable in that time.
        type: str
        choices: [keep, stop, replace, destroy]
      on_drift:
        description: What to do when it differs from the file in something that can't be changed in place.
        type: str
        choices: [fail, replace]
  defaults:
    description:
      - Options of O(instances), for all of them. An option that an instance has itself replaces the default as a whole.
    type: dict
    default: {}
    suboptions: *instance_options
  provider_settings:
    description:
      - Settings of providers, by the provider's name. Its orphans are looked for even when no instance names it.
      - They never become variables of hosts.
    type: dict
    default: {}
    suboptions:
      local:
        description: Settings of the provider V(local), whose machines are containers of a Docker engine.
        type: dict
        suboptions:
          api_url:
            description: Where the engine answers. E(DOCKER_HOST) or the engine of this machine when not given.
            type: str
          image:
            description: The image of its hosts.
            type: str
          isolation:
            description: How its hosts get the rights that an engine inside needs.
            type: str
            choices: [auto, privileged, capabilities]
          subnet_pool:
            description: Where its networks are taken from, such as V(172.30.0.0/16).
            type: str
      runpod:
        description: Settings of the provider V(runpod).
        type: dict
        suboptions:
          api_key:
            description: API key of the account, from a vault. Default is the environment variable E(RUNPOD_API_KEY).
            type: str
          api_url:
            description: Where REST version 2 answers. Default is the environment variable E(RUNPOD_REST_V2_URL).
            type: str
          proxy_url:
            description: Where HTTP ports of a pod answer from outside, with V({id}) and V({port}) in it.
            type: str
      vastai:
        description: Settings of the provider V(vastai).
        type: dict
        suboptions:
          api_key:
            description: API key of the account, from a vault. Default is the environment variable E(VAST_API_KEY).
            type: str
          api_url:
            description: Where the API answers. Default is the environment variable E(VAST_URL).
            type: str
      tensordock:
        description: Settings of the provider V(tensordock).
        type: dict
        suboptions:
          api_key:
            description: API token of the account, from a vault. Default is the environment variable
              E(TENSORDOCK_API_TOKEN).
            type: str
          api_url:
            description: Where version 2 of the API answers. Default is the environment variable E(TENSORDOCK_API_URL).
            type: str
      gcp:
        description: Settings of the provider V(gcp). Its credentials come from the environment alone.
        type: dict
        suboptions:
          project:
            description: Id of the project that pays. Default is the environment variable E(GCP_PROJECT).
            type: str
          api_url:
            description: Where Compute v1 answers. Default is the environment variable E(GCP_COMPUTE_URL).
            type: str
          network:
            description: Name of the VPC network. Default is V(default).
            type: str
          subnetwork:
            description: Name of the subnetwork in each region, for networks that make none by themselves.
            type: str
          network_tags:
            description: More network tags, beside V(gpuops-fleet) and the deployment's own.
            type: list
            elements: str
      aws:
        description: Settings of the provider V(aws). Its credentials come from the environment alone.
        type: dict
        suboptions:
          api_url:
            description: Where all services answer. Default is the environment variable E(AWS_ENDPOINT_URL).
            type: str
          regions:
            description:
              - The regions that are looked into and rented in, the first where an instance names none. Default is every
                region that is enabled for the account, and E(AWS_REGION).
            type: list
            elements: str
          source_ranges:
            description: The networks from which what is rented can be reached, such as V(203.0.113.7/32).
            type: list
            elements: str
          security_group_ids:
            description: Security groups of your own, instead of those that are made.
            type: list
            elements: str
          subnet_ids:
            description: Subnets of your own, tried in this order. Default is the default VPC.
            type: list
            elements: str
  report_directory:
    description:
      - Where C(verify.json), C(report.json) and C(report.html) are written. A relative path begins at the folder of
        the fleet file.
      - When not given, C(build) in the current directory if that is a checkout of this collection, else
        C(reports/DEPLOYMENT_ID) under E(GPUFLEET_HOME).
    type: path
    env:
      - name: GPUFLEET_REPORT_DIRECTORY
"""

EXAMPLES = r"""
# fleet.yml
plugin: gpuops.fleet.fleet
deployment_id: acme-llm
defaults:
  providers: [local]
  ssh_private_key_file: ~/.ssh/id_ed25519
instances:
  - {name: vllm-1, roles: [vllm]}
  - {name: kafka-1, roles: [kafka]}
  - {name: mongo-1, roles: [mongodb]}
  - {name: processor-1, roles: [processor]}
  - {name: producer-1, roles: [producer]}

# ansible-inventory -i fleet.yml --graph
# ansible-playbook -i fleet.yml gpuops.fleet.site
---
# Groups and variables of your own.
plugin: gpuops.fleet.fleet
deployment_id: acme-llm
instances:
  - name: kafka-1
    roles: [kafka]
    providers: [local]
strict: true
keyed_groups:
  - {key: fleet_status, prefix: status}
groups:
  cheap: (fleet_price_per_hour_usd | default(none)) is not none and fleet_price_per_hour_usd < 1
compose:
  node_name: fleet_peer_name
"""

import inspect
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _fleet_file,
    _host_keys,
    _inventory,
    _journal,
    _listing,
    _owned,
    _ways,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import FleetFileError, shown_path
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_yaml import read_file

_LOADER_OPTIONS = inspect.signature(DataLoader.load_from_file).parameters


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):  # type: ignore[misc]
    """Wiring only: the file is read by _fleet_file, providers are asked by _listing, hosts are made by _inventory."""

    NAME = "gpuops.fleet.fleet"
    # What the user writes in the file may hold templates; what providers say is checked, so that it holds none.
    trusted_by_default = True

    def verify_file(self, path: str) -> bool:
        """Only the name decides, so that a mistake in a fleet file is reported by its own plugin."""
        return path.endswith(_fleet_file.FILE_ENDINGS) and bool(super().verify_file(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory, or raise with one sentence for each mistake in the file; then nothing was added."""
        super().parse(inventory, loader, path, cache)
        try:
            fleet = _fleet_file.parse(read_file(path), path, lambda: self._read_by_ansible(path))
        except FleetFileError as error:
            # Ansible wraps an exception in lines of its own, and tries other plugins: say it first, and plainly.
            for sentence in str(error).splitlines():
                self.display.error(sentence, wrap_text=False)
            raise AnsibleParserError(f"{shown_path(path)} can't be used; what to change is listed above.") from None
        self.set_options(direct=dict(fleet.document), var_options=self._vars)
        self._refuse_second_deployment(fleet)
        wanted_elsewhere = self._members(_inventory.WANTED_GROUP)
        twice = sorted(wanted_elsewhere.intersection(settings["name"] for settings in fleet.instances))
        if twice:
            raise AnsibleParserError(
                f"{shown_path(path)}: {', '.join(twice)} is also an instance of another fleet file of this "
                "run; remove it from one of them."
            )
        listings = _listing.list_all(
            fleet.providers,
            _owned.with_machines(fleet.provider_settings, fleet.deployment_id, fleet.instances),
            fresh=not (cache and self.get_option("cache")),
            stale_seconds=float(self.get_option("cache_timeout")),
        )
        listings = _host_keys.complete(fleet.deployment_id, listings)
        listings = _ways.complete(fleet.deployment_id, listings)
        built = _inventory.build(fleet, listings, self._report_directory(fleet), wanted_elsewhere)
        for warning in built.warnings:
            self.display.warning(warning)
        self._add(built)

    def _read_by_ansible(self, path: str) -> object:
        """What a large file is spared, where that makes no difference; never a file as it was before."""
        # ansible-core 2.18 trusts every template, and knows no word for it.
        trust = {"trusted_as_template": True} if "trusted_as_template" in _LOADER_OPTIONS else {}
        return self.loader.load_from_file(path, cache="none", unsafe=True, **trust)

    def _add(self, built: _inventory.Built) -> None:
        for name in _inventory.FIXED_GROUPS:
            self.inventory.add_group(name)
        before = dict(self.inventory.groups["all"].vars)
        for name, value in built.all_variables.items():
            self.inventory.set_variable("all", name, value)
        # Of several fleet files of one deployment: one missing answer leaves the whole incomplete, and what is in
        # no file may live at the providers of each.
        complete = built.all_variables["fleet_complete"] and before.get("fleet_complete", True)
        self.inventory.set_variable("all", "fleet_complete", complete)
        providers = [*before.get("fleet_providers", ()), *built.all_variables["fleet_providers"]]
        self.inventory.set_variable("all", "fleet_providers", list(dict.fromkeys(providers)))
        orphans = self._members(_inventory.ORPHANS_GROUP)
        for host in built.hosts:
            self.inventory.add_host(host.name)
            if host.name in orphans and _inventory.WANTED_GROUP in host.groups:
                self.inventory.groups[_inventory.ORPHANS_GROUP].remove_host(self.inventory.hosts[host.name])
            for group in host.groups:
                self.inventory.add_group(group)
                self.inventory.add_child(group, host.name)
            for name, value in host.variables.items():
                self.inventory.set_variable(host.name, name, value)
            self._construct(host, built.all_variables)

    def _construct(self, host: _inventory.HostEntry, all_variables: Mapping[str, Any]) -> None:
        if not any(self.get_option(name) for name in ("compose", "groups", "keyed_groups")):
            return  # a large fleet would wait for nothing
        strict = self.get_option("strict")
        variables = {**all_variables, **host.variables, "inventory_hostname": host.name}
        self._set_composite_vars(self.get_option("compose"), variables, host.name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host.name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host.name, strict=strict)

    def _members(self, group: str) -> set[str]:
        found = self.inventory.groups.get(group)
        return {host.name for host in found.hosts} if found else set()

    def _refuse_second_deployment(self, fleet: _fleet_file.Fleet) -> None:
        other = self.inventory.groups["all"].vars.get("fleet_deployment_id", fleet.deployment_id)
        if other != fleet.deployment_id:
            raise AnsibleParserError(
                f"{shown_path(fleet.path)}: deployment '{fleet.deployment_id}' can't be in one run with "
                f"deployment '{other}', because peers and settings would be mixed up. Run them one after the other."
            )

    def _report_directory(self, fleet: _fleet_file.Fleet) -> str:
        # The option is relative to the file in which it stands, the environment variable to where the user stands.
        if fleet.report_directory:
            return _fleet_file.resolve_path(fleet.report_directory, fleet.path)
        if self.get_option("report_directory"):
            return os.path.abspath(str(self.get_option("report_directory")))
        if _is_checkout(os.getcwd()):
            return os.path.join(os.getcwd(), "build")
        state = _journal.home()
        if state:
            return os.path.join(os.path.abspath(state), "reports", fleet.deployment_id)
        return os.path.abspath("build")


def _is_checkout(directory: str) -> bool:
    """Whether this is the source of this very collection."""
    try:
        with open(os.path.join(directory, "galaxy.yml"), encoding="utf-8") as stream:
            text = stream.read()
    except OSError:
        return False
    return all(re.search(rf"(?m)^{line}\s*$", text) for line in ("namespace: gpuops", "name: fleet"))
