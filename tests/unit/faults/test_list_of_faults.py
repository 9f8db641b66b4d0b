# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/faults.md, the patches that put the faults back, and the tests that see them are one list."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess

import pytest
import yaml
from support.local_play import ROOT

PATCHES = sorted((ROOT / "tests" / "mutations").iterdir())
# As scripts/mutations reads it.
ROW = re.compile(r"^\| ([0-9]{2}) \| ([a-z0-9-]+) \|.*\| `([^`|]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "faults.md").read_text())


def test_there_are_fourteen_and_each_has_its_patch() -> None:
    assert [number for number, _name, _guard in ROWS] == [f"{number:02}" for number in range(1, 15)]
    assert [path.name for path in PATCHES] == [f"{number}-{name}.patch" for number, name, _guard in ROWS]


def test_every_change_that_is_pushed_is_tried_with_them() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert "make mutations" in commands, "a list that nobody tries grows old"


@pytest.mark.parametrize("guard", [guard for _number, _name, guard in ROWS])
def test_the_named_test_exists(guard: str) -> None:
    file, _colons, function = guard.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_the_patch_fits_the_code_and_touches_no_test(patch: pathlib.Path) -> None:
    touched = re.findall(r"^(?:--- a/|rename from )(.+)$", patch.read_text(), re.MULTILINE)
    assert touched
    assert not [name for name in touched if name.startswith("tests/")]
    command = ["git", "apply", "--check", "--unidiff-zero", str(patch)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}Make it anew, with the same fault."
