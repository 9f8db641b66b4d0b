# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""EC2 by corrected moto, behind the proxy, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws
from support import moto_cloud
from support.fake_clock import FakeClock
from support.moto_cloud import MotoServer, MotoWorld


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    server = MotoServer(MotoWorld("aws"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def world(server: MotoServer) -> MotoWorld:
    """An account in which nothing ever was."""
    moto_cloud.forget()
    server.world.calls.clear()
    server.world.faults.clear()
    assert isinstance(server.world, MotoWorld)
    return server.world


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_REGION", moto_cloud.REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return FakeClock().install(monkeypatch)


@pytest.fixture
def settings(server: MotoServer, world: MotoWorld) -> dict[str, Any]:
    return {"api_url": server.url, "regions": [moto_cloud.REGION], "source_ranges": ["203.0.113.7/32"]}


@pytest.fixture
def provider(settings: dict[str, Any]) -> aws.AwsProvider:
    return aws.make(settings)


@pytest.fixture
def ec2(server: MotoServer, world: MotoWorld) -> Any:
    """Another client of the account."""
    return moto_cloud.client(server.url)
