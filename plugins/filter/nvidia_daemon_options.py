# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which options Docker Engine needs so that containers get GPUs, and keep them."""

from __future__ import annotations

import json
import re
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: nvidia_daemon_options
short_description: Options that Docker Engine needs for NVIDIA GPUs
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes what C(nvidia-ctk runtime configure --dry-run) printed, and returns only what is its own of it, to be merged
    into C(daemon.json) by P(gpuops.fleet.daemon_options#filter).
  - With CDI, containers keep their GPUs when systemd reloads its units. An engine that is too old for CDI gets the
    cgroup driver C(cgroupfs) instead, with which they keep them too, unless its file names one.
positional: existing, engine_version
options:
  _input:
    description: What C(nvidia-ctk) printed.
    type: str
    required: true
  existing:
    description: Text of C(daemon.json) as it stands there. Empty where there is none.
    type: str
    required: true
  engine_version:
    description: The engine's version, such as V(28.5.1).
    type: str
    required: true
  cdi:
    description: Whether containers get their GPUs by CDI. V(auto) does so from Docker 26.1 on.
    type: str
    choices: [auto, 'true', 'false']
    default: auto
  default_runtime:
    description: Whether containers run with NVIDIA's runtime where they ask for none.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what would be merged
  ansible.builtin.debug:
    msg: "{{ printed.stdout | gpuops.fleet.nvidia_daemon_options(text, '28.5.1') }}"
"""

RETURN = r"""
_value:
  description: Options for the engine.
  type: dict
"""

# The first engine that reads CDI specifications of version 0.7, which the toolkit writes since 1.19.1. Source: Release
# notes of the NVIDIA Container Toolkit.
_CDI_SINCE = (26, 1)
_CGROUP_DRIVER = "native.cgroupdriver="


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    if not found:
        raise AnsibleFilterError(f"{text!r} is no version of Docker Engine; ask it with `docker version`.")
    return int(found[1]), int(found[2])


def nvidia_daemon_options(
    printed: str, existing: str, engine_version: str, cdi: Any = "auto", default_runtime: bool = False
) -> dict[str, Any]:
    """What daemon.json has to hold for GPUs."""
    try:
        runtime = json.loads(printed)["runtimes"]["nvidia"]
    except (ValueError, KeyError, TypeError) as problem:
        raise AnsibleFilterError(
            "nvidia-ctk printed no runtime named nvidia. Run `nvidia-ctk runtime configure --runtime=docker --dry-run` "
            "on the host and look at what it says."
        ) from problem
    options: dict[str, Any] = {"runtimes": {"nvidia": runtime}}
    able = _version(engine_version) >= _CDI_SINCE
    wished = str(cdi).lower()
    if wished == "true" and not able:
        raise AnsibleFilterError(
            f"CDI needs Docker {_CDI_SINCE[0]}.{_CDI_SINCE[1]} or newer, and {engine_version} runs. Set "
            "nvidia_container_toolkit_cdi to auto, or upgrade Docker."
        )
    if wished == "true" or (wished == "auto" and able):
        options["features"] = {"cdi": True}
    elif not any(
        str(option).startswith(_CGROUP_DRIVER) for option in json.loads(existing or "{}").get("exec-opts", [])
    ):
        options["exec-opts"] = [f"{_CGROUP_DRIVER}cgroupfs"]
    if default_runtime:
        options["default-runtime"] = "nvidia"
    return options


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"nvidia_daemon_options": nvidia_daemon_options}
