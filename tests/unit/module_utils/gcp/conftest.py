# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The provider gcp over real HTTP, against the emulator, in which time passes as fast as ours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp
from emulators import gcp as emulator
from emulators.server import serving
from emulators.world import World
from support.gcp_calls import PLANTED

FASTER = 2000.0


@pytest.fixture
def world() -> World:
    return World("gcp", scale=FASTER)


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with serving(emulator.make(world), world) as base:
        yield base + emulator.URL_PATH


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    for name in [one for one in os.environ if one.startswith(("GCP_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GCP_ACCESS_TOKEN", PLANTED)
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / FASTER))
    monkeypatch.setattr(_clock, "monotonic", lambda: time.monotonic() * FASTER)
    monkeypatch.setattr(_clock, "now", world.now)


@pytest.fixture
def provider(url: str) -> gcp.GcpProvider:
    return gcp.make({"project": emulator.PROJECT, "api_url": url})
