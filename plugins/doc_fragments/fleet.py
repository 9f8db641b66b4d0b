# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that say whose machines are meant and where the providers are."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  deployment_id:
    description:
      - Decides which rented machines are yours. 3 to 24 lower-case letters, digits and single hyphens.
      - It has no default, and generic words such as V(test) are refused, because somebody else in the same account
        may use them too.
    type: str
    required: true
  provider_settings:
    description:
      - Addresses and settings of the providers, by the name of the provider.
      - An instance is looked for at every provider that is named here, and at its own. Name one that needs no settings
        with V({}), so that what was rented there before is found.
      - Credentials are better given in the environment variables that the providers' own clients use.
    type: dict
    default: {}
    suboptions:
      local:
        description: Settings of the provider V(local), which makes hosts as containers of a Docker Engine.
        type: dict
        suboptions:
          api_url:
            description: Where the Docker Engine answers, such as V(unix:///var/run/docker.sock). Default is
              E(DOCKER_HOST), else this machine's engine.
            type: str
          image:
            description: Host image for instances that don't name one. Default is V(gpufleet/host:trixie), which
              C(make setup) makes.
            type: str
          isolation:
            description:
              - How the hosts get what systemd and a Docker Engine need.
              - V(auto) chooses by what the engine reports - privileged on cgroup v2, named capabilities on cgroup v1.
            type: str
            choices: [auto, privileged, capabilities]
            default: auto
          subnet_pool:
            description: Range from which each deployment takes a subnet of 256 addresses. Default is V(10.231.0.0/16).
            type: str
      runpod:
        description: Settings of the provider V(runpod), which rents pods.
        type: dict
        suboptions:
          api_key:
            description: API key of the account. Default is E(RUNPOD_API_KEY).
            type: str
          api_url:
            description: Where REST version 2 answers. Default is E(RUNPOD_REST_V2_URL), else
              V(https://api.runpod.io/v2).
            type: str
          proxy_url:
            description: Where HTTP ports of a pod answer from outside, with V({id}) and V({port}) in it. Default is
              V(https://{id}-{port}.proxy.runpod.net).
            type: str
      vastai:
        description: Settings of the provider V(vastai), which rents containers of hosts all over the world.
        type: dict
        suboptions:
          api_key:
            description: API key of the account. Default is E(VAST_API_KEY).
            type: str
          api_url:
            description: Where the API answers, without C(/api/v0). Default is E(VAST_URL), else
              V(https://console.vast.ai).
            type: str
requirements:
  - Python 3.11 or newer where the module runs, which is usually the controller
  - docker (Python library) for the provider V(local)
  - requests (Python library) for the providers V(runpod) and V(vastai)
"""
