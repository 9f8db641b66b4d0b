# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which NVIDIA driver a host needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_driver import decide
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import read_host, sections
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_packages import REPOSITORIES, Wishes

DOCUMENTATION = r"""
name: nvidia_driver_decision
short_description: Decide which NVIDIA driver a host needs
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Reads what a host says about its GPUs, its driver and its packages, and returns what is to be done so that the GPUs
    can be used.
  - A driver that works is left and held, whoever brought it. What is broken is mended with what is installed. Only a
    host without a driver gets one.
  - Nothing is fetched or changed. The role C(gpuops.fleet.nvidia_driver) does what is decided here.
options:
  _input:
    description: >-
      What C(nvidia_facts.sh) of the role printed, a line C(@@ NAME) before each answer.
    type: str
    required: true
  planted:
    description: Answers by name that replace the host's own, as tests need them.
    type: dict
    default: {}
  branch:
    description: The driver's branch, such as V(580). Empty takes the one with long support.
    type: str
    default: ""
  minimum_version:
    description: The oldest version that is good enough, such as V(580.65). Empty takes any that works.
    type: str
    default: ""
  minimum_reason:
    description: What needs that version, for the sentence that refuses an older one. Empty where the user asks for it.
    type: str
    default: ""
  source:
    description: Where a missing driver comes from.
    type: str
    choices: [auto, ubuntu, cuda]
    default: auto
  module:
    description: Which kernel module. V(auto) takes the open one for Turing and newer.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  gpu_count:
    description: How many GPUs the host must have. V(0) accepts any number, none too.
    type: int
    default: 0
  replace:
    description: Whether a driver that works but is too old may be replaced, and what is held be changed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what would be done
  ansible.builtin.debug:
    msg: "{{ (facts.stdout | gpuops.fleet.nvidia_driver_decision(minimum_version='580.65')).reason }}"
"""

RETURN = r"""
_value:
  description: What to do.
  type: dict
  contains:
    action:
      description: One of C(none), C(leave), C(repair), C(reboot), C(install) and C(refuse).
      type: str
    reason:
      description: Why, in a sentence for people.
      type: str
    module:
      description: C(open) or C(proprietary), empty where it does not matter.
      type: str
    source:
      description: Where the packages come from, C(ubuntu) or C(cuda).
      type: str
    branch:
      description: The branch that is installed.
      type: str
    prebuilt:
      description: Whether the modules are built and signed by the distribution instead of DKMS.
      type: bool
    repository:
      description: The folder of NVIDIA's repository for this distribution, empty where there is none.
      type: str
    unhold:
      description: Packages whose hold is given up first.
      type: list
      elements: str
    configure:
      description: Whether dpkg has to finish what it began.
      type: bool
    remove:
      description: Packages to remove.
      type: list
      elements: str
    packages:
      description: Packages to install.
      type: list
      elements: str
    build:
      description: Whether DKMS has to build for the running kernel.
      type: bool
    load:
      description: Whether the module can be loaded without a reboot.
      type: bool
    reboot:
      description: Whether the host has to be rebooted, once.
      type: bool
    hold:
      description: Packages to hold, of those that are not held yet.
      type: list
      elements: str
    notes:
      description: What people should know besides.
      type: list
      elements: str
    in_container:
      description: Whether the host is a container, whatever is planted, so that its kernel is not its own.
      type: bool
    has_lists:
      description: Whether apt has lists of packages, without which nothing can be said about what could be installed.
      type: bool
    busy:
      description: What is still at work on the host's packages or modules.
      type: list
      elements: str
"""


def nvidia_driver_decision(
    facts: str,
    planted: Mapping[str, Any] | None = None,
    branch: str = "",
    minimum_version: str = "",
    source: str = "auto",
    module: str = "auto",
    gpu_count: int = 0,
    replace: bool = False,
    minimum_reason: str = "",
) -> dict[str, Any]:
    """What to do for this host, from its own answers and those that are planted."""
    own = sections(facts)
    answers: dict[str, Any] = {**own, **(planted or {})}
    host = read_host(answers)
    wishes = Wishes(
        branch=str(branch),
        minimum_version=str(minimum_version),
        minimum_reason=str(minimum_reason),
        source=source,
        module=module,
        gpu_count=int(gpu_count),
        replace=bool(replace),
    )
    repository = REPOSITORIES.get(host.distribution)
    return {
        **decide(host, wishes).as_dict(),
        "repository": repository.folder if repository else "",
        "in_container": read_host(own).container,
        "has_lists": str(own.get("lists", "")).strip() not in ("", "0"),
        "busy": [line for line in str(answers.get("busy") or "").splitlines() if line.strip()],
    }


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Any]:
        return {"nvidia_driver_decision": nvidia_driver_decision}
