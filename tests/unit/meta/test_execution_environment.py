# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An execution environment has what the collection needs on the controller: no less, and no more."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def names(path: Path) -> set[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {line.split("~=")[0].split(" ")[0] for line in lines if line}


def test_python_packages_are_those_that_are_locked_and_tested() -> None:
    dependencies = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())["dependencies"]
    # The environment brings ansible-core itself.
    assert names(ROOT / dependencies["python"]) == names(ROOT / "requirements/runtime.in") - {"ansible-core"}


def test_the_files_that_it_names_are_in_the_artifact() -> None:
    dependencies = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())["dependencies"]
    ignored = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
    for path in dependencies.values():
        assert (ROOT / path).is_file()
        assert not [pattern for pattern in ignored if fnmatch.fnmatch(path, pattern)]
