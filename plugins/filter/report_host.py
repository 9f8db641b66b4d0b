# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host and its services, as the report shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

DOCUMENTATION = r"""
name: report_host
short_description: One host and its services, as the report shows them
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes the variables of a host, as the inventory plugin P(gpuops.fleet.fleet#inventory) sets them, and what
    the playbook C(gpuops.fleet.report) asked the host, and returns what the report shows.
  - A host that could not be asked is shown without services and versions.
options:
  _input:
    description:
      - The host's variables, such as C(hostvars['kafka-1']).
      - C(__report_containers) holds the lines of C(docker ps --format '{{json .}}'), C(__report_host_versions) the
        operating system and Docker's version, C(__report_gateway) what C(haproxy -v) says, and then the state of
        the gateway's unit.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the services of a host
  ansible.builtin.debug:
    msg: "{{ (hostvars['kafka-1'] | gpuops.fleet.report_host).services }}"
"""

RETURN = r"""
_value:
  description: The host and its services.
  type: dict
  contains:
    host:
      description: >-
        C(name), C(roles), C(provider), C(status), C(address), C(gpu), C(gpu_count), C(price_per_hour_usd) (null when
        unknown), C(expires_at) (null for unlimited), C(lifetime_enforcer) (who ends it then), C(operating_system) and
        C(docker).
      type: dict
    services:
      description: >-
        For each container, and for the gateway, C(service), C(host), C(state), C(health) (the state, where it does not
        run or has no health check), C(image), C(since) and C(url) (as the controller sees it, empty when
        nothing is published).
      type: list
      elements: dict
"""

_HTTP_SERVICES = ("vllm", "processor")
_PUBLISHED = re.compile(r"(?<!127\.0\.0\.1):(\d+)->\d+/tcp")
_HAPROXY = re.compile(r"^HAProxy version (\d[\d.]*)", re.MULTILINE)
_HEALTH = re.compile(r"\((?:health: )?(healthy|unhealthy|starting)\)")


def report_host(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows of one host."""
    name = str(variables["inventory_hostname"])
    address = variables.get("ansible_host")
    lines = (variables.get("__report_containers") or {}).get("stdout_lines") or []
    services = [_service(json.loads(line), name, address) for line in lines]
    services += _rented_services(variables, name) + _gateway(variables, name, address)
    versions = [*((variables.get("__report_host_versions") or {}).get("stdout_lines") or []), None, None]
    host = {
        "name": name,
        "roles": list((variables.get("fleet_wanted_instance") or {}).get("roles") or []),
        "provider": variables.get("fleet_provider"),
        "status": variables.get("fleet_status", "absent"),
        "address": variables.get("fleet_address"),
        "gpu": variables.get("fleet_gpu"),
        "gpu_count": variables.get("fleet_gpu_count", 0),
        "price_per_hour_usd": variables.get("fleet_price_per_hour_usd"),
        "expires_at": variables.get("fleet_expires_at"),
        "lifetime_enforcer": variables.get("fleet_lifetime_enforcer"),
        "operating_system": versions[0],
        "docker": versions[1],
    }
    return {"host": host, "services": sorted(services, key=lambda service: service["service"])}


def _rented_services(variables: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """What a container rental serves: there is no Docker to ask, so this is what its provider knows."""
    wanted = variables.get("fleet_wanted_instance") or {}
    status = str(variables.get("fleet_status", "absent"))
    if variables.get("fleet_runtime") != "container" or status != "running":
        return []
    rows = {"host": name, "state": status, "health": status, "since": ""}
    url = str(variables.get("fleet_endpoint_url") or "")
    image = str(variables.get("fleet_image") or "")
    return [{"service": str(role), "image": image, "url": url} | rows for role in wanted.get("roles") or ()]


def _gateway(variables: Mapping[str, Any], name: str, address: str | None) -> list[dict[str, str]]:
    """The gateway is a unit of systemd and no container."""
    lines = (variables.get("__report_gateway") or {}).get("stdout_lines") or []
    if not lines:
        return []
    state = str(lines[-1])
    version = _HAPROXY.search("\n".join(lines[:-1]))
    return [
        {
            "service": "gateway",
            "host": name,
            "state": state,
            "health": "healthy" if state == "active" else state,
            "image": f"haproxy {version[1]}" if version else "",
            "since": "",
            "url": f"https://{_host(address)}:{variables.get('gateway_https_port', 443)}" if address else "",
        }
    ]


def _host(address: str) -> str:
    """As it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def _service(container: Mapping[str, Any], host: str, address: str | None) -> dict[str, str]:
    labels = dict(label.partition("=")[::2] for label in str(container.get("Labels") or "").split(","))
    service = labels.get("com.docker.compose.service", str(container.get("Names", "")))
    status = str(container.get("Status") or "")
    state = str(container.get("State") or "unknown")
    health = _HEALTH.search(status)
    published = _PUBLISHED.search(str(container.get("Ports") or ""))
    url = ""
    if published and address:
        url = f"{'http://' if service in _HTTP_SERVICES else ''}{_host(address)}:{published[1]}"
    return {
        "service": service,
        "host": host,
        "state": state,
        "health": health[1] if health and state == "running" else state,
        "image": str(container.get("Image") or ""),
        "since": _HEALTH.sub("", status).strip(),
        "url": url,
    }


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"report_host": report_host}
