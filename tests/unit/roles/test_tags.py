# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tags of a role reach the tasks that it includes: an include alone is chosen by a tag, what is in it is not."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.every_task import every_task

ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
INCLUDES = ("ansible.builtin.include_role", "ansible.builtin.include_tasks")


def _includes() -> Iterator[Any]:
    tagged = [path.parents[1] for path in sorted(ROLES.glob("*/tasks/main.yml")) if "tags:" in path.read_text()]
    for path in [path for role in tagged for path in sorted(role.glob("tasks/*.yml"))]:
        for task in every_task(yaml.safe_load(path.read_text())):
            for module in INCLUDES:
                if module in task:
                    role = path.parents[1].name
                    yield pytest.param(role, task[module], id=f"{role}/{path.stem}: {task['name']}")


@pytest.mark.parametrize(("role", "include"), list(_includes()))
def test_an_include_hands_on_the_tags_of_its_role(role: str, include: dict[str, Any]) -> None:
    tags = include.get("apply", {}).get("tags", [])
    assert f"{role}_run" in tags or f"{role}_install" in tags
