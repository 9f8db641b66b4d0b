"""Settings of the tests of shell scripts."""

from __future__ import annotations

import pathlib

import pytest
from support.fake_commands import Commands


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Commands:
    return Commands(tmp_path / "commands")
