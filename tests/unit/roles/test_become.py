# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task that must not become root says so twice: ansible_become of an inventory wins over the task's own become."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.every_task import every_task

ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"


def _without_root() -> Iterator[Any]:
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        for task in every_task(yaml.safe_load(path.read_text()) or []):
            if task.get("become") is False:
                yield pytest.param(task, id=f"{path.parents[1].name}/{path.stem}: {task['name']}")


@pytest.mark.parametrize("task", list(_without_root()))
def test_no_inventory_makes_it_root_all_the_same(task: dict[str, Any]) -> None:
    assert task.get("vars", {}).get("ansible_become") is False
