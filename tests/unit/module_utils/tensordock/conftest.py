# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The provider tensordock over real HTTP, against the emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock
from emulators import tensordock as emulator
from emulators.server import serving
from emulators.world import World
from support.fake_clock import FakeClock
from support.tensordock_calls import PLANTED


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[World, str]]:
    """One server for all tests here, as starting one takes longer than most of them."""
    world = World("tensordock")
    with serving(emulator.make(world), world) as base:
        yield world, base + emulator.URL_PATH


@pytest.fixture
def world(stage: tuple[World, str]) -> World:
    """The server's world, as new."""
    vars(stage[0]).update(vars(World("tensordock", scale=3600)))
    return stage[0]


@pytest.fixture
def url(stage: tuple[World, str], world: World) -> str:
    return stage[1]


@pytest.fixture
def provider(url: str) -> tensordock.TensordockProvider:
    return tensordock.make({"api_key": PLANTED, "api_url": url})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Ours stands still until somebody sleeps; the world's runs on, an hour in each second."""
    for name in ("TENSORDOCK_API_TOKEN", "TENSORDOCK_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return FakeClock().install(monkeypatch)
