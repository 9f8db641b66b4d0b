# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the results of a loop of probes into checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: probe_checks
short_description: Turn the results of a loop of probes into checks
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Takes the C(results) of a task that looped over probes with M(ansible.builtin.command), and returns one check
    per probe.
  - A probe is ok when its command ended with status 0 and, where it has C(expect), when that regular expression is
    found in what the command printed.
options:
  _input:
    description: >-
      The C(results) of the registered task. Each has C(rc), C(stdout), C(stderr) and C(item), the probe, a
      dictionary with C(name), C(fix) and optionally C(expect).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Judge the probes
  ansible.builtin.set_fact:
    checks: "{{ __verify_probes.results | gpuops.fleet.probe_checks }}"
"""

RETURN = r"""
_value:
  description: One check per probe.
  type: list
  elements: dict
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it holds.
      type: bool
    detail:
      description: The last line that the probe printed, at most 300 characters of it.
      type: str
    fix:
      description: What to do when it does not hold. Empty when it holds.
      type: str
"""

_DETAIL_CHARACTERS = 300


def _detail(result: Mapping[str, Any], ok: bool) -> str:
    """The most telling line: the last of what was printed; of a failure, the last of the errors first."""
    streams = ("stdout", "stderr", "msg") if ok else ("stderr", "stdout", "msg")
    for stream in streams:
        lines = [line.strip() for line in str(result.get(stream) or "").splitlines() if line.strip()]
        if lines:
            return lines[-1][:_DETAIL_CHARACTERS]
    return "nothing was printed"


def probe_checks(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One check per probe that ran; a probe that was skipped is none."""
    checks = []
    for result in results:
        if result.get("skipped"):
            continue
        probe = result["item"]
        ok = result.get("rc") == 0
        detail = _detail(result, ok)
        expected = probe.get("expect")
        if ok and expected and not re.search(expected, str(result.get("stdout") or ""), re.MULTILINE):
            ok, detail = False, f"'{expected}' was expected, found: {detail}"
        checks.append(
            {
                "name": str(probe["name"]),
                "ok": ok,
                "detail": detail,
                "fix": "" if ok else str(probe.get("fix") or ""),
            }
        )
    return checks


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"probe_checks": probe_checks}
