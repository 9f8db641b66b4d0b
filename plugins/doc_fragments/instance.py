# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user can say about one instance, in a task as in the fleet file."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  name:
    description:
      - Name of the instance in its deployment. 1 to 16 lower-case letters, digits and single hyphens.
      - Together with O(deployment_id) it identifies the instance at every provider.
    type: str
    required: true
  roles:
    description:
      - What runs on it. The inventory plugin makes one group of each role; renting does not depend on it.
    type: list
    elements: str
    default: []
  providers:
    description:
      - Where it may be rented. The cheapest fitting offer of all is taken first.
      - V([ssh]), which stands alone, means a machine that you own. It is used as it is, and never created or ended.
        What would have no effect on it is refused.
    type: list
    elements: str
    required: true
  prefer_order:
    description: Take offers in the order of O(providers), and by price only within a provider.
    type: bool
    default: false
  gpu:
    description: Canonical name of the GPU, such as V(L4) or V(A100_80GB). Unknown names are refused. Without it, a
      machine without GPU is rented.
    type: str
  gpu_count:
    description: How many GPUs. Default is 1 when O(gpu) is given.
    type: int
  instance_type:
    description: The provider's name of a machine size. For the provider V(local) one of V(small), V(medium),
      V(large), V(xlarge).
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
        So a list never gives a machine today and a container tomorrow; a list without a runtime in common is refused.
    type: str
    choices: [vm, container]
  max_price_per_hour_usd:
    description:
      - Refuse offers above this price in US dollars per hour, and offers whose price is unknown.
      - What was rented and turns out to cost more (by over one percent) than this is a drift. By default it is kept and
        the run fails, naming both prices; with O(on_drift=replace) it is given back at once, and the next offer is
        taken.
    type: float
  price_per_hour_usd:
    description: Price in US dollars per hour, for offers whose provider does not tell one, and for a machine that you
      own.
    type: float
  max_lifetime:
    description:
      - How long it may live at most, in hours, days or weeks (V(8h), V(7d), V(2w); V(3650d) is the most), or the word
        V(unlimited).
      - Required where the provider costs money; there is no default.
      - It is written on the rental. V(gcp) itself ends a machine then, after V(120d) at the latest.
      - None of V(runpod), V(vastai) and V(tensordock) looks at it, so the playbook
        C(gpuops.fleet.sweep), run by a timer or a schedule with C(fleet_confirm), has to end what is over. Only a model
        server in a container of V(vastai) also tries to end itself, and a machine of V(aws) does by a timer.
    type: str
  image:
    description: Image to boot or to run. Default is the provider's own. For the provider V(local) a host image.
    type: str
  entrypoint:
    description: Entry point of the image of a container rental. Refused where the provider can't set it.
    type: list
    elements: str
  args:
    description: Arguments of the image of a container rental.
    type: list
    elements: str
  tls_args:
    description:
      - Arguments to add to O(args) where the provider ends no TLS itself (V(vastai)), with which the server does. Its
        certificate is pinned then.
    type: list
    elements: str
  env:
    description: Environment variables of a container rental. The values are never shown.
    type: dict
  public_env:
    description:
      - Like O(env), which comes after it, for values that may be shown. A short value in O(env), such as V(1), hides
        every V(1) in what this module says.
    type: dict
  secret_env:
    description:
      - Like O(env), for secrets. V(runpod) keeps them as secrets of the account, which the environment only names, and
        which end with the instance. Elsewhere they stand in the environment, where whoever may look at the rental reads
        them.
    type: dict
  ports:
    description: Ports that must be reachable from outside.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: Port number, 1 to 65535.
        type: int
        required: true
      protocol:
        description: V(http) lets the provider's proxy answer where it has one.
        type: str
        choices: [tcp, http]
        default: tcp
  disk_gib:
    description: Size of the disk in GiB.
    type: int
    default: 50
  interruptible:
    description: Take cheaper machines that the provider may take back at any time.
    type: bool
    default: false
  address:
    description: Name or IP address of a machine that you own. Required for the provider V(ssh), and only for that.
    type: str
  port:
    description: Port of SSH of a machine that you own. Default is 22. Only for the provider V(ssh).
    type: int
  user:
    description: User to log in as on a machine that you own. Default is V(root). Only for the provider V(ssh).
    type: str
  host_key:
    description:
      - SSH host key of a machine that you own, as C(/etc/ssh/ssh_host_ed25519_key.pub) on it has it. Only for the
        provider V(ssh).
      - When not given, the first login trusts the key that answers, and the controller remembers it in its journal.
    type: str
  ssh_public_key:
    description: Text of the public key that may log in. Default is the file O(ssh_private_key_file) with C(.pub)
      appended, if it exists.
    type: str
  ssh_private_key_file:
    description: Private key to log in with. Default is the agent and ssh's own choice.
    type: path
  wait:
    description:
      - When the module returns. V(none) returns as soon as it is certain that this rental counts.
      - V(running) waits for the provider, V(ssh) for a login, V(gpu) until C(nvidia-smi) lists the GPUs, V(endpoint)
        for the served endpoint.
      - Default is V(ssh) for machines and V(endpoint) for container rentals.
    type: str
    choices: [none, running, ssh, gpu, endpoint]
  wait_timeout_seconds:
    description:
      - Seconds to wait for O(wait) after the provider said that the instance runs. What the provider does before, such
        as pulling an image, has a time of its own.
      - When not given, it depends on provider, runtime and GPU, as the guide to each provider says.
    type: int
  on_unready:
    description:
      - What to do with an instance that did not become ready in time. All but V(replace) end in a failure.
      - V(keep) costs on, but loses nothing; running again goes on waiting.
      - V(replace) destroys it and takes the next offer on another machine, three times at most.
      - An instance whose host key has changed is always kept.
    type: str
    choices: [keep, stop, replace, destroy]
    default: keep
  on_drift:
    description:
      - What to do when the instance differs from the wish in something that can't be changed in place, such as its
        GPU, image, ports or arguments, its environment, or whether it is interruptible.
      - What it was started with is compared by fingerprints that stand on the rental itself, so a changed O(secret_env)
        is seen too, and never shown. For a model server that the role P(gpuops.fleet.vllm#role) describes, these are of
        its variables, so what the collection makes of them does not count.
      - With O(state=stopped) nothing of this counts.
      - It is not replaced while another rental of its name lives.
      - V(replace) destroys it and rents another.
    type: str
    choices: [fail, replace]
    default: fail
"""
