# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose files the engine can't remove at once, because something still holds a mount of it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.local_network import DeploymentNetwork


class Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status_code, self.explanation = status, why


class Engine:
    """Removes its one container after so many refusals."""

    def __init__(self, refusals: int, status: int = 500) -> None:
        self.refusals, self.status = refusals, status
        self.there = True

    def containers(self, **_filters: Any) -> list[dict[str, Any]]:
        labels = {"gpuops.fleet.deployment": "acme-llm", "gpuops.fleet.name": "a-1"}
        return [{"Id": "c1", "Labels": labels}] if self.there else []

    def remove_container(self, _container: str, **_options: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Refused(self.status, "failed to remove root filesystem: unlinkat: read-only file system")
        self.there = False


@pytest.fixture(autouse=True)
def _without_a_network_or_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(DeploymentNetwork, "unpublish", lambda self, name: None)
    monkeypatch.setattr(DeploymentNetwork, "remove_if_empty", lambda self: True)
    monkeypatch.setattr(_clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(_clock, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def delete(engine: Engine) -> bool:
    provider = local.make({})
    connection: Any = engine
    provider._connection = connection
    return provider.delete("c1")


def test_the_engine_is_asked_again_until_it_is_gone() -> None:
    engine = Engine(refusals=3)
    assert delete(engine)
    assert not engine.there


def test_what_stays_is_told_with_what_the_engine_says() -> None:
    with pytest.raises(ProviderUnavailable, match=r"60 s after its removal \(failed to remove root filesystem"):
        delete(Engine(refusals=1000))


def test_what_is_refused_for_another_reason_is_not_asked_again() -> None:
    engine = Engine(refusals=1, status=403)
    with pytest.raises(Refused):
        delete(engine)
    assert engine.there
