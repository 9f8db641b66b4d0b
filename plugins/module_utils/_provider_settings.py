# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What is wrong with what is said about a provider, beyond types. What Ansible opens only later is not looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _source_ranges
from ansible_collections.gpuops.fleet.plugins.module_utils._preflight import Problem

_AWS_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")


def check(name: str, settings: Mapping[str, Any]) -> list[Problem]:
    """Of that provider; empty when nothing is. Asks nobody."""
    checks = {"aws": _aws, "runpod": _runpod}
    return list(checks[name](settings)) if name in checks else []


def _aws(settings: Mapping[str, Any]) -> Iterator[Problem]:
    for one in _plain(settings, "source_ranges"):
        try:
            _source_ranges.check(one)
        except ValueError as problem:
            yield Problem("source_ranges", str(problem))
    for one in _plain(settings, "regions"):
        if not _AWS_REGION.fullmatch(one):
            yield Problem("regions", f"'{one}' is no region of AWS; write its name, such as 'us-east-1'.")
    for field in ("security_group_ids", "subnet_ids"):
        if settings.get(field) and len(settings.get("regions") or ()) != 1:
            yield Problem(
                field, f"{field} belong to one region; name it beside them, alone, such as 'regions: [us-east-1]'."
            )


def _runpod(settings: Mapping[str, Any]) -> Iterator[Problem]:
    url = settings.get("proxy_url")
    if not isinstance(url, str) or "{{" in url or "{%" in url:
        return
    try:
        url.format(id="abc", port=8000)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        yield Problem(
            "proxy_url",
            f"'{url}' has other braces than those of {{id}} and {{port}}; write it such as "
            "'https://{id}-{port}.proxy.runpod.net'.",
        )


def _plain(settings: Mapping[str, Any], field: str) -> list[str]:
    return [one for one in settings.get(field) or () if "{" not in one]
