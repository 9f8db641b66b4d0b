# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.gateway_problems."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gateway_problems
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: What can't work in the settings of the gateway
description:
  - Says in one sentence each what can't work in the settings of the role P(gpuops.fleet.gateway#role).
  - It needs no HAProxy and no network. No sentence holds a key.
options:
  _input:
    description: The settings, named as the variables of the role without their prefix C(gateway_).
    type: dict
    required: true
  keys:
    description: All API keys, as P(gpuops.fleet.gateway_keys#filter) gives them.
    type: list
    elements: dict
    required: true
  keys_file:
    description: The file on the controller with API keys; empty for none.
    type: str
    default: ""
  keys_text:
    description: What stands in that file.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ settings | gpuops.fleet.gateway_problems(keys=[]) }}"
  vars:
    settings: {https_port: 99999}
"""

RETURN = r"""
_value:
  description: Sentences; none where nothing is wrong.
  type: list
  elements: str
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.gpuops.fleet.plugins.filter.gateway_keys import key_lines
from ansible_collections.gpuops.fleet.plugins.module_utils import _settings, _source_ranges

# What HAProxy itself needs, and what one connection can take: two buffers of 16 KiB, TLS, and the same to a server.
MEMORY_BESIDE_CONNECTIONS_MIB = 96
MEMORY_OF_A_CONNECTION_KIB = 128

# Name: smallest, largest, unit.
LIMITS: dict[str, tuple[int, int, str]] = {
    "rate_limit_per_minute": (0, 1_000_000, "requests; 0 means no limit"),
    "max_connections": (10, 100_000, "connections"),
    "max_connections_per_client": (1, 100_000, "connections"),
    "max_body_bytes": (1024, 1_073_741_824, "bytes"),
    "timeout_seconds": (1, 86_400, "seconds"),
    "drain_timeout_seconds": (1, 86_400, "seconds"),
    "stop_timeout_seconds": (1, 3_600, "seconds"),
    "health_interval_seconds": (1, 3_600, "seconds"),
    "memory_mib": (128, 1_048_576, "MiB"),
}
CIDR_LISTS = ("allowed_cidrs", "metrics_allowed_cidrs", "rate_limit_exempt_cidrs")
SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
KEY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
KEY = re.compile(r"[!-~]{16,512}")
ORIGIN = re.compile(r"https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")


def gateway_problems(
    settings: Mapping[str, Any], keys: Sequence[Mapping[str, Any]], keys_file: str = "", keys_text: str = ""
) -> list[str]:
    """One sentence for each thing that can't work; settings that are missing are not looked at."""
    parts = (_servers, _networks, _listening, _numbers, _names, _origins)
    found = [sentence for part in parts for sentence in part(settings)]
    return found + list(_keys(keys, keys_file, keys_text))


def _servers(settings: Mapping[str, Any]) -> Iterator[str]:
    if "servers" not in settings:
        return
    servers = settings["servers"]
    if not servers:
        yield "gateway_servers is empty: name at least one vLLM server, as {name: vllm-1, address: 10.0.0.5}."
    for server in servers:
        name, address = str(server.get("name", "")), str(server.get("address", ""))
        if not SERVER_NAME.fullmatch(name):
            yield f"gateway_servers: '{name}' can't be a server's name; use up to 63 letters, digits, '.', '_' or '-'."
        if not _settings.is_host(address):
            yield f"gateway_servers: the address of {name} is '{address}'; it must be a host name or an address."
        if _settings.port(server.get("port", 8000)) is None:
            yield f"gateway_servers: the port of {name} is {server.get('port')}; it must be between 1 and 65535."
    yield from _settings.repeated("gateway_servers", "servers", (server.get("name", "") for server in servers))
    if servers and all(boolean(server.get("drain") or False) for server in servers):
        yield "gateway_servers: all servers have drain: true, so nobody would be served; leave at least one."


def _networks(settings: Mapping[str, Any]) -> Iterator[str]:
    for option in CIDR_LISTS:
        for cidr in settings.get(option, []):
            try:
                _source_ranges.check(str(cidr))
            except ValueError as error:
                yield f"gateway_{option}: {error}"
    if not settings.get("metrics_allowed_cidrs", True):
        yield (
            "gateway_metrics_allowed_cidrs is empty, so nobody could read the metrics; name at least one network, for "
            'the host itself 127.0.0.0/8 and "::1/128".'
        )


def _listening(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from _settings.ports("gateway", settings, ("https_port", "http_port", "metrics_port"), optional="http_port")
    addresses = settings.get("addresses", ["*"])
    if not addresses:
        yield 'gateway_addresses is empty: name addresses of this host, or "*" for all.'
    listed = [("addresses", str(one)) for one in addresses]
    for option, address in [*listed, ("metrics_address", str(settings.get("metrics_address", "*")))]:
        if address != "*":
            yield from _settings.listening_address(f"gateway_{option}", address, '"[::]" or "*"')


def _numbers(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from _settings.numbers("gateway", settings, LIMITS)
    connections, memory = (
        _settings.within(settings.get(option), *LIMITS[option][:2]) for option in ("max_connections", "memory_mib")
    )
    if connections and memory:
        needed = MEMORY_BESIDE_CONNECTIONS_MIB + -(-connections * MEMORY_OF_A_CONNECTION_KIB // 1024)
        if memory < needed:
            yield (
                f"gateway_memory_mib is {memory}, but {connections} connections can take {needed}. Raise it or lower "
                "gateway_max_connections."
            )


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    names = settings.get("tls_names", ["localhost"])
    if not names:
        yield "gateway_tls_names is empty: a self-signed certificate needs a name or an address that it is good for."
    for name in names:
        if not _settings.is_host(str(name)):
            yield f"gateway_tls_names: '{name}' is neither a host name nor an address."


def _origins(settings: Mapping[str, Any]) -> Iterator[str]:
    for origin in settings.get("cors_origins", []):
        if not ORIGIN.fullmatch(str(origin)):
            yield (
                f"gateway_cors_origins: '{origin}' is no origin; write it as a browser does, in lower case and without "
                "a path: https://chat.example.org or http://localhost:3000."
            )


def _keys(keys: Sequence[Mapping[str, Any]], keys_file: str, keys_text: str) -> Iterator[str]:
    lines = list(key_lines(keys_text))
    if keys_file and not lines:
        yield f"gateway_api_keys_file is {keys_file}, and there is no key in it; write lines of NAME KEY."
    for number, words in lines:
        if len(words) != 2:
            yield f"{keys_file}: line {number} is not a name, white space and a key."
    if not keys and not keys_file:
        yield "gateway_api_keys is empty, so nobody could ask; name at least one, as {name: producer}."
    for key in keys:
        if not KEY_NAME.fullmatch(str(key["name"])):
            yield (
                f"gateway_api_keys: '{key['name'][:40]}' can't be the name of a key; use up to 32 lower-case letters, "
                "digits, '.', '_' or '-'."
            )
        if key["key"] and not KEY.fullmatch(str(key["key"])):
            yield (
                f"The key {key['name'][:40]} of the gateway is not usable: it needs at least 16 letters, digits and "
                "punctuation marks, without spaces. Leave it out to have one generated on the host."
            )
    generated = Counter(str(key["name"]) for key in keys if not key["key"])
    for name, times in generated.items():
        if times > 1:
            yield f"gateway_api_keys: {times} keys of {name} are to be generated; give all but one, or other names."
    values = Counter(str(key["key"]) for key in keys if key["key"])
    if values and max(values.values()) > 1:
        twice = sorted({str(key["name"]) for key in keys if values[str(key["key"])] > 1})
        yield f"gateway_api_keys: one key stands there twice, under {' and '.join(twice)}; give each its own."


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gateway_problems": gateway_problems}
