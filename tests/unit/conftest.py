# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all unit tests."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, not about us; print_blob shows how to replay a failure.
settings.register_profile("fleet", deadline=None, print_blob=True)
settings.load_profile("fleet")


@pytest.fixture(autouse=True)
def _home_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What one test keeps (caches, limits, the journal) is not there for the next one, nor in the user's home."""
    home = tmp_path_factory.mktemp("gpufleet-home")
    monkeypatch.setenv("GPUFLEET_HOME", str(home))
    return home
