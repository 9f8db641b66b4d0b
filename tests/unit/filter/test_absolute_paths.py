# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.absolute_paths import absolute_paths


def test_a_relative_path_leads_to_the_first_folder_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, project = tmp_path / "here", tmp_path / "project"
    for file in (here / "both.yml", project / "both.yml", project / "theirs.yml"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["both.yml", " theirs.yml", "neither.yml", str(project / "both.yml"), "~/mine.yml"]
    assert absolute_paths(given, [str(here), str(project)]) == [
        str(here / "both.yml"),
        str(project / "theirs.yml"),
        str(here / "neither.yml"),
        str(project / "both.yml"),
        str(tmp_path / "mine.yml"),
    ]
