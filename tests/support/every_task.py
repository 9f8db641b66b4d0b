# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going through what is written in playbooks and in the task files of roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def every_task(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All tasks of plays or of a file of tasks, those in blocks too."""
    for entry in entries:
        yield entry
        for part in ("pre_tasks", "tasks", "post_tasks", "block", "rescue", "always"):
            yield from every_task(entry.get(part) or [])
