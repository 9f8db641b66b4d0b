# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What scripts/mutations says of faults that are seen, that nobody sees, and that can't be put back any more."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from support.fake_commands import ROOT

CODE = "port = 8000\nopen = False\n"
GUARD = """import code_of_ours

def test_closed():
    assert not code_of_ours.open

def test_other():
    assert code_of_ours.port != 1
"""
# number: name, its guard, the line that is there now, the line that is there then
FAULTS = {
    "01": ("seen", "test_closed", "open = False", "open = True"),
    "02": ("unseen", "test_other", "open = False", "open = True"),
    "03": ("gone", "test_other", "port = 80", "port = 1"),
}


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small one with these faults, in which somebody is at work: one change is not committed, one file is unknown."""
    copy = tmp_path / "checkout"
    for directory in ("scripts", "docs", "tests/mutations"):
        (copy / directory).mkdir(parents=True)
    for name in ("mutations", "in-collection-tree"):
        shutil.copy(ROOT / "scripts" / name, copy / "scripts" / name)
    (copy / "code_of_ours.py").write_text(CODE)
    (copy / "conftest.py").touch()  # pytest puts its directory onto the path
    (copy / ".gitignore").write_text("/build/\n")
    for number, (name, _guard, now, then) in FAULTS.items():
        line = 1 if now.startswith("port") else 2
        text = f"{name}\n\n--- a/code_of_ours.py\n+++ b/code_of_ours.py\n@@ -{line} +{line} @@\n-{now}\n+{then}\n"
        (copy / "tests" / "mutations" / f"{number}-{name}.patch").write_text(text)
    rows = [f"| {n} | {fault[0]} | it was | it is | `tests/test_it.py::{fault[1]}` |" for n, fault in FAULTS.items()]
    (copy / "docs" / "faults.md").write_text("\n".join(["| | fault |", "|---|---|", *rows, ""]))
    (copy / "tests" / "test_it.py").write_text("")
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
    (copy / "tests" / "test_it.py").write_text(GUARD)
    (copy / "note").write_text("mine")
    return copy


def mutations(checkout: pathlib.Path, *numbers: str) -> tuple[int, list[str], str]:
    before = {path: path.read_text() for path in sorted(checkout.glob("[!.]*")) if path.is_file()}
    done = subprocess.run(
        [checkout / "scripts" / "mutations", *numbers],
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert {path: path.read_text() for path in before} == before, "the checkout itself is left alone"
    assert not list((checkout / "build").iterdir()), "nothing is left behind"
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_one_line_a_fault_and_an_error_for_what_was_not_seen(checkout: pathlib.Path) -> None:
    status, lines, errors = mutations(checkout)
    assert lines == [
        "caught 01 seen by tests/test_it.py::test_closed",
        "missed 02 unseen by tests/test_it.py::test_other",
        "stale 03 gone: the patch doesn't fit the code any more",
    ]
    assert status == 1
    assert "patch does not apply" in errors


def test_seen_faults_alone_are_a_success(checkout: pathlib.Path) -> None:
    assert mutations(checkout, "01")[:2] == (0, ["caught 01 seen by tests/test_it.py::test_closed"])
    status, lines, errors = mutations(checkout, "15")
    assert (status, lines) == (1, [])
    assert "docs/faults.md lists no fault of the number 15." in errors


def test_a_guard_that_is_red_anyway_proves_nothing(checkout: pathlib.Path) -> None:
    (checkout / "code_of_ours.py").write_text("port = 8000\nopen = 'already'\n")
    status, lines, errors = mutations(checkout, "01")
    assert (status, lines) == (1, [])
    assert "Not all guards are green without a fault" in errors


def test_a_guard_that_can_not_begin_has_seen_nothing(checkout: pathlib.Path) -> None:
    patch = checkout / "tests" / "mutations" / "01-seen.patch"
    patch.write_text(patch.read_text().replace("+open = True", "+open = = True"))
    status, lines, _errors = mutations(checkout, "01")
    assert (status, lines) == (1, ["missed 01 seen by tests/test_it.py::test_closed"])
