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
      tensordock:
        description: Settings of the provider V(tensordock), which rents virtual machines of many hosts.
        type: dict
        suboptions:
          api_key:
            description: API token of the account. Default is E(TENSORDOCK_API_TOKEN).
            type: str
          api_url:
            description: Where version 2 of the API answers. Default is E(TENSORDOCK_API_URL), else
              V(https://dashboard.tensordock.com/api/v2).
            type: str
      gcp:
        description: Settings of the provider V(gcp), which rents machines of Google Cloud. Credentials come from the
          environment alone - E(GOOGLE_APPLICATION_CREDENTIALS), E(GCP_ACCESS_TOKEN), or what C(gcloud) has stored.
        type: dict
        suboptions:
          project:
            description: Id of the project that pays. Default is E(GCP_PROJECT), else E(GOOGLE_CLOUD_PROJECT), else the
              project of the credentials.
            type: str
          api_url:
            description: Where Compute v1 answers, for private and emulated APIs. Default is E(GCP_COMPUTE_URL), else
              V(https://compute.googleapis.com/compute/v1).
            type: str
          network:
            description: Name of the VPC network. Default is V(default).
            type: str
          subnetwork:
            description: Name of the subnetwork, which must exist in each region that is rented in. Needed for networks
              that make none by themselves.
            type: str
          network_tags:
            description: More network tags, beside V(gpuops-fleet) and the deployment's own. A machine that lives gets
              them, too.
            type: list
            elements: str
      aws:
        description:
          - Settings of the provider V(aws), which rents machines at EC2.
          - Credentials are no settings, they come from where boto3 looks for them, such as E(AWS_ACCESS_KEY_ID) with
            E(AWS_SECRET_ACCESS_KEY), E(AWS_PROFILE), or the role of the machine that runs Ansible.
        type: dict
        suboptions:
          api_url:
            description: Where all services answer, for an emulator or a private endpoint. Default is
              E(AWS_ENDPOINT_URL), else AWS's own.
            type: str
          regions:
            description:
              - The regions that are looked into, and in which may be rented. Default is every region that is enabled
                for the account.
              - The first is where an instance without regions of its own is rented; without this, E(AWS_REGION) or
                E(AWS_DEFAULT_REGION).
            type: list
            elements: str
          source_ranges:
            description:
              - The networks from which SSH and the ports of an instance can be reached, such as V(203.0.113.7/32).
              - Required where security groups of your own are not given; nobody is let in who is not named.
            type: list
            elements: str
          security_group_ids:
            description: Security groups of your own, instead of those that are made. They alone say what is let in.
            type: list
            elements: str
          subnet_ids:
            description: Subnets of your own, tried in this order. Default is the default VPC; AWS chooses the zone.
            type: list
            elements: str
requirements:
  - Python 3.11 or newer where the module runs, which is usually the controller
  - docker (Python library) for the provider V(local)
  - requests (Python library) for the providers V(runpod), V(vastai), V(tensordock) and V(gcp)
  - google-auth (Python library) for the provider V(gcp), unless E(GCP_ACCESS_TOKEN) is given
  - boto3 (Python library) for the provider V(aws)
"""
