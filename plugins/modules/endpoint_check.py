#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: endpoint_check
short_description: Prove that an OpenAI-compatible endpoint serves the right model, and only with its key
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Asks the health route, lists the models with and without the key, and asks for a short completion.
  - Fails when one of the checks does. Needs nothing but Python where it runs.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.attributes.info_module
options:
  url:
    description: Base address of the endpoint, without C(/v1).
    type: str
    required: true
  api_key:
    description: The key. It is sent in a header only.
    type: str
    required: true
  model:
    description: Name of the model that must be served.
    type: str
    required: true
  health_path:
    description: Route that answers without a key.
    type: str
    default: /health
  prompt:
    description: Text to complete.
    type: str
    default: Hello
  max_tokens:
    description: Most tokens to ask for.
    type: int
    default: 8
  timeout_seconds:
    description: Seconds to wait for each answer.
    type: int
    default: 60
  validate_certs:
    description: Check the certificate of an C(https) address.
    type: bool
    default: true
  tls_fingerprint:
    description:
      - C(sha256:) and the fingerprint of the only certificate to speak to, for a server whose certificate nobody
        signed.
      - It takes the place of O(validate_certs). Nothing is sent to who has another certificate.
    type: str
  forbidden_paths:
    description: Routes that must answer 404, with the key too.
    type: list
    elements: str
    default: []
  use_proxy:
    description: Go through the proxy that the environment names. Instances are usually reached directly.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Prove that the model is served
  gpuops.fleet.endpoint_check:
    url: http://vllm-1.acme-llm.internal:8000
    api_key: "{{ vllm_api_key }}"
    model: "{{ vllm_model }}"

- name: Prove it of a rented container that ends TLS itself
  gpuops.fleet.endpoint_check:
    url: "{{ fleet_endpoint_url }}"
    tls_fingerprint: "{{ fleet_tls_fingerprint }}"
    api_key: "{{ vllm_api_key }}"
    model: "{{ vllm_model }}"
    forbidden_paths: [/tokenize, /invocations]
"""

RETURN = r"""
checks:
  description: What was checked.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was checked.
      type: str
      returned: always
      sample: completion
    ok:
      description: Whether it is as it should be.
      type: bool
      returned: always
      sample: true
    detail:
      description: What was seen.
      type: str
      returned: always
      sample: 8 tokens in 0.41 s
    fix:
      description: What to do when it is not.
      type: str
      returned: always
      sample: Look at the log of vllm.
models:
  description: Names of the served models.
  returned: always
  type: list
  elements: str
  sample: [tiny-llama]
completion:
  description: Text, tokens and seconds of the completion; null when there was none.
  returned: always
  type: dict
  sample: {text: " world", prompt_tokens: 3, completion_tokens: 8, latency_seconds: 0.41}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import check_endpoint

SPEC = {
    "url": {"type": "str", "required": True},
    "api_key": {"type": "str", "required": True, "no_log": True},
    "model": {"type": "str", "required": True},
    "health_path": {"type": "str", "default": "/health"},
    "prompt": {"type": "str", "default": "Hello"},
    "max_tokens": {"type": "int", "default": 8, "no_log": False},
    "timeout_seconds": {"type": "int", "default": 60},
    "validate_certs": {"type": "bool", "default": True},
    "tls_fingerprint": {"type": "str"},
    "forbidden_paths": {"type": "list", "elements": "str", "default": []},
    "use_proxy": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    result = check_endpoint(module.params)
    failed = [check for check in result["checks"] if not check["ok"]]
    if failed:
        words = "; ".join(f"{check['name']}: {check['detail']}. {check['fix']}" for check in failed)
        module.fail_json(msg=f"{module.params['url']} is not as it should be: {words}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
