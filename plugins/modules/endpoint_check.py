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
  - Asks the health route, lists the models with, without and with a wrong key, asks for a completion at once and as a
    stream, measures how long completions take, and asks each known route without a key.
  - Of a server that embeds (O(task=embed)) it asks for embeddings instead, and for no stream.
  - Fails when one of the checks does. Needs nothing but Python where it runs.
  - Nothing is changed at the server. Routes that would pause or change it are asked by a method that they don't take.
extends_documentation_fragment:
  - gpuops.fleet.attributes
  - gpuops.fleet.attributes.actiongroup_fleet
  - gpuops.fleet.attributes.info_module
options:
  url:
    description: Base address of the endpoint, without C(/v1). Either this or O(address).
    type: str
  address:
    description: Name or IP address of the host, instead of O(url).
    type: str
  port:
    description: Port, with O(address). Without it the usual one of O(scheme).
    type: int
  scheme:
    description: How to speak to O(address).
    type: str
    choices: [https, http]
    default: https
  api_key:
    description: The key. It is sent in a header only. Either this or O(api_key_file).
    type: str
  api_key_file:
    description:
      - A file with the key, on the machine where the module runs. That is the controller with C(ansible localhost),
        with a local connection, or delegated to C(localhost).
    type: path
  model:
    description: Name of the model that must be served.
    type: str
    required: true
  health_path:
    description: Route that answers without a key.
    type: str
    default: /health
  task:
    description:
      - What the server is for. V(generate) asks for completions, V(embed) for embeddings at C(/v1/embeddings), each of
        which must be a list of finite numbers that is not empty.
    type: str
    choices: [generate, embed]
    default: generate
  prompt:
    description: Text to complete, or to embed.
    type: str
    default: Hello
  max_tokens:
    description: Most tokens to ask for in a completion.
    type: int
    default: 8
  requests:
    description: How many completions or embeddings to ask for, one after the other, to say how long they take.
    type: int
    default: 1
  streaming:
    description: Ask for a completion as a stream as well. It has no effect with O(task=embed).
    type: bool
    default: true
  probe_routes:
    description:
      - Ask each route that vLLM is known to have, and each that the server's own description names, without a key.
        None but O(health_path) and O(public_paths) may answer, and none may fail with 5xx.
      - Once the server limits the rate of who has no key, a route that is not there with the key either is not asked
        without it.
    type: bool
    default: true
  public_paths:
    description: Routes besides O(health_path) that may answer without a key.
    type: list
    elements: str
    default: []
  forbidden_paths:
    description: Routes that must answer 404, with the key too.
    type: list
    elements: str
    default: []
  timeout_seconds:
    description: Seconds to wait for each answer.
    type: int
    default: 60
  max_wait_seconds:
    description:
      - Seconds to wait, in all, when the server limits the rate of requests and says when to come back (429 with
        C(Retry-After)). Where it wants more, the check fails and says so.
    type: int
    default: 90
  validate_certs:
    description: Check the certificate of an C(https) address.
    type: bool
    default: true
  ca_certificate:
    description:
      - PEM text of the only certificate to trust, for a server whose certificate nobody known signed. It is the one of
        the signer, or the server's own. The names in the server's certificate count as ever.
    type: str
  ca_certificate_file:
    description: A file with that text, on the machine where the module runs.
    type: path
  tls_fingerprint:
    description:
      - C(sha256:) and the fingerprint of the only certificate to speak to, for a server whose certificate nobody
        signed.
      - It takes the place of O(validate_certs). Nothing is sent to who has another certificate.
    type: str
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

- name: Prove it from the controller, through the gateway with its self-signed certificate, and measure
  gpuops.fleet.endpoint_check:
    address: llm.example.org
    port: 443
    ca_certificate_file: gateway.pem
    api_key_file: ~/.config/gateway-key
    model: "{{ vllm_model }}"
    requests: 50
  delegate_to: localhost
  register: endpoint

- name: Refuse what is too slow
  ansible.builtin.assert:
    that: endpoint.latency.p95_milliseconds < 2000

- name: Prove it of a rented container that ends TLS itself
  gpuops.fleet.endpoint_check:
    url: "{{ fleet_endpoint_url }}"
    tls_fingerprint: "{{ fleet_tls_fingerprint }}"
    api_key: "{{ vllm_api_key }}"
    model: "{{ vllm_model }}"
    forbidden_paths: [/tokenize, /invocations]

- name: Prove that embeddings are served
  gpuops.fleet.endpoint_check:
    url: http://vllm-1.acme-llm.internal:8000
    api_key: "{{ vllm_api_key }}"
    model: Qwen/Qwen3-Embedding-0.6B
    task: embed

# From the command line, where the key stays in its file:
# ansible localhost -m gpuops.fleet.endpoint_check \
#   -a "url=https://llm.example.org ca_certificate_file=gateway.pem api_key_file=gateway-key model=Qwen/Qwen3-0.6B"
"""

RETURN = r"""
checks:
  description:
    - What was checked. After a mistake in an option only the mistakes, and nothing was sent.
    - Without any answer from the server there is only C(health); without a completion there is neither C(streaming) nor
      C(latency). With O(task=embed) there is C(embedding) instead of C(completion).
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
      sample: Look at the log of the server.
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
embedding:
  description: How many numbers an embedding has, tokens and seconds of the first one; null when there was none.
  returned: always
  type: dict
  sample: {dimensions: 1024, prompt_tokens: 2, latency_seconds: 0.02}
streaming:
  description: How many parts came, and when the first one did; null when it was not asked for, or was not right.
  returned: always
  type: dict
  sample: {chunks: 8, first_chunk_milliseconds: 61.2}
latency:
  description: How long completions or embeddings took, of those that did not fail; null when the first one failed.
  returned: always
  type: dict
  sample: {requests: 50, failed: 0, p50_milliseconds: 402.1, p95_milliseconds: 455.0, p99_milliseconds: 471.3}
open_routes:
  description: Routes that answered without a key, and should not; null when they were not asked.
  returned: always
  type: list
  elements: str
  sample: [GET /metrics, POST /tokenize]
mistakes:
  description: Sentences about options that are wrong; then nothing was sent.
  returned: always
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint

SPEC = {
    "url": {"type": "str"},
    "address": {"type": "str"},
    "port": {"type": "int"},
    "scheme": {"type": "str", "choices": ["https", "http"], "default": "https"},
    "api_key": {"type": "str", "no_log": True},
    "api_key_file": {"type": "path", "no_log": False},
    "model": {"type": "str", "required": True},
    "health_path": {"type": "str", "default": "/health"},
    "task": {"type": "str", "choices": ["generate", "embed"], "default": "generate"},
    "prompt": {"type": "str", "default": "Hello"},
    "max_tokens": {"type": "int", "default": 8, "no_log": False},
    "requests": {"type": "int", "default": 1},
    "streaming": {"type": "bool", "default": True},
    "probe_routes": {"type": "bool", "default": True},
    "public_paths": {"type": "list", "elements": "str", "default": []},
    "forbidden_paths": {"type": "list", "elements": "str", "default": []},
    "timeout_seconds": {"type": "int", "default": 60},
    "max_wait_seconds": {"type": "int", "default": 90},
    "validate_certs": {"type": "bool", "default": True},
    "ca_certificate": {"type": "str"},
    "ca_certificate_file": {"type": "path"},
    "tls_fingerprint": {"type": "str"},
    "use_proxy": {"type": "bool", "default": False},
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    result = check_endpoint(module.params)
    if result["mistakes"]:
        module.fail_json(msg=f"Nothing was asked. {' '.join(result['mistakes'])}", **result)
    failed = [check for check in result["checks"] if not check["ok"]]
    if failed:
        words = "; ".join(f"{check['name']}: {check['detail']}. {check['fix']}" for check in failed)
        where = module.params["url"] or module.params["address"]
        module.fail_json(msg=f"{where} is not as it should be: {words}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
