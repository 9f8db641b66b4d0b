# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge options for Docker Engine into the file that is there."""

from __future__ import annotations

DOCUMENTATION = r"""
name: daemon_options
short_description: Merge options into Docker's C(daemon.json)
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Merges options for Docker Engine into the text of its C(daemon.json), so that nobody's settings are lost.
  - Dictionaries are merged, lists are joined without duplicates. Other values come from O(options), then from the
    file, then from O(defaults).
options:
  _input:
    description: Text of the file. Empty where there is none.
    type: str
    required: true
  defaults:
    description: Options that apply unless the file or O(options) says otherwise.
    type: dict
    default: {}
  options:
    description: Options that win.
    type: dict
    default: {}
  swarm:
    description: Whether the engine is part of a swarm, where the default V(live-restore) is impossible.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the merged file
  ansible.builtin.debug:
    msg: "{{ '{\"debug\": true}' | gpuops.fleet.daemon_options(defaults={'live-restore': true}) }}"
    # => {"debug": true, "live-restore": true}
"""

RETURN = r"""
_value:
  description: The merged options.
  type: dict
"""

import json
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

# Other log drivers refuse the options of these two, and no container would start.
ROTATING_LOG_DRIVERS = ("json-file", "local")


def merge(below: Any, above: Any) -> Any:
    """Dictionaries merge, lists join without duplicates, anything else: `above` wins."""
    if isinstance(below, dict) and isinstance(above, dict):
        result = dict(below)
        for key, value in above.items():
            result[key] = merge(below[key], value) if key in below else value
        return result
    if isinstance(below, list) and isinstance(above, list):
        return below + [value for value in above if value not in below]
    return above


def daemon_options(
    text: str, defaults: dict[str, Any] | None = None, options: dict[str, Any] | None = None, swarm: bool = False
) -> dict[str, Any]:
    """What should stand in daemon.json."""
    defaults, options = dict(defaults or {}), options or {}
    try:
        existing = json.loads(text) if text.strip() else {}
    except ValueError as problem:
        raise AnsibleFilterError(
            f"/etc/docker/daemon.json is not JSON ({problem}). Mend it by hand; it is not overwritten."
        ) from problem
    if not isinstance(existing, dict):
        raise AnsibleFilterError(
            "/etc/docker/daemon.json holds no JSON object. Mend it by hand; it is not overwritten."
        )
    wished: dict[str, Any] = merge(existing, options)
    if wished.get("log-driver", defaults.get("log-driver", "json-file")) not in ROTATING_LOG_DRIVERS:
        defaults.pop("log-opts", None)
    if swarm:
        defaults.pop("live-restore", None)
    # A default that is a list is only a proposal: it gives way to any list that stands there.
    for key in list(defaults):
        if isinstance(defaults[key], list) and key in wished:
            del defaults[key]
    result: dict[str, Any] = merge(defaults, wished)
    return result


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"daemon_options": daemon_options}
