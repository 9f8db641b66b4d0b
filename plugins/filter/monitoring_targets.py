# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.monitoring_targets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: monitoring_targets
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: What Prometheus shall ask, as it reads it from a file
description:
  - Makes target groups for Prometheus's C(file_sd_configs) of the targets of the role P(gpuops.fleet.monitoring#role).
  - Job, scheme and path are labels of each target, so a change of any of them needs neither a restart nor a reload.
options:
  _input:
    description: The targets, as O(gpuops.fleet.monitoring#role:main:monitoring_targets) has them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the target groups
  ansible.builtin.debug:
    msg: "{{ [{'job': 'node', 'host': 'vllm-1', 'address': 'vllm-1.acme.internal', 'port': 9100}]
             | gpuops.fleet.monitoring_targets }}"
"""

RETURN = r"""
_value:
  description: Target groups, in a steady order.
  type: list
  elements: dict
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def monitoring_targets(targets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One group for each target, ordered by job and host, so that the same targets make the same file."""
    groups = [_group(target) for target in targets]
    return sorted(groups, key=lambda group: (group["labels"]["job"], group["labels"]["host"], group["targets"]))


def _group(target: Mapping[str, Any]) -> dict[str, Any]:
    address = str(target["address"])
    bracketed = f"[{address}]" if ":" in address else address
    return {
        "targets": [f"{bracketed}:{target['port']}"],
        "labels": {
            "job": str(target["job"]),
            "host": str(target["host"]),
            "__scheme__": str(target.get("scheme") or "http"),
            "__metrics_path__": str(target.get("path") or "/metrics"),
        },
    }


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"monitoring_targets": monitoring_targets}
