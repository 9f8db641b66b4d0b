# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two controllers that start the same host at once: its address changes once, at the start that starts it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.local_network import DeploymentNetwork

MARKER = Marker("acme-llm", "a-1", "abc123")


class Engine:
    """Its one container has the next of these states each time somebody looks; the last one for ever."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.moved = 0
        self.started = 0

    def containers(self, **_filters: Any) -> list[dict[str, Any]]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        labels = {
            "gpuops.fleet.marker": _marker.encode(MARKER),
            "gpuops.fleet.deployment": MARKER.deployment_id,
            "gpuops.fleet.name": MARKER.name,
        }
        endpoint = {"NetworkID": "n1", "IPAMConfig": {"IPv4Address": "10.231.7.20"}, "IPAddress": "10.231.7.20"}
        return [
            {
                "Id": "c1",
                "State": state,
                "Status": state,
                "Created": 1,
                "Image": "image",
                "Labels": labels,
                "NetworkSettings": {"Networks": {"one": endpoint}},
            }
        ]

    def get_archive(self, _container: str, _path: str) -> Any:
        error = Exception("no such file")
        error.status_code = 404  # type: ignore[attr-defined]
        raise error

    def disconnect_container_from_network(self, *_arguments: Any, **_options: Any) -> None:
        self.moved += 1

    def connect_container_to_network(self, *_arguments: Any, **_options: Any) -> None:
        return None

    def start(self, _container: str) -> None:
        self.started += 1
        self.states = ["running"]


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeploymentNetwork, "ensure", lambda self: setattr(self, "id", "n1"))
    monkeypatch.setattr(DeploymentNetwork, "publish", lambda self, name, address: None)
    monkeypatch.setattr(DeploymentNetwork, "free_address", lambda self, not_this=None: "10.231.7.21")


def start(engine: Engine) -> Any:
    provider = local.make({})
    connection: Any = engine
    provider._connection = connection
    return provider.start("c1")


def test_what_another_controller_started_meanwhile_keeps_its_address() -> None:
    engine = Engine("created", "running")
    assert start(engine).status is Status.RUNNING
    assert (engine.moved, engine.started) == (0, 0)


def test_what_was_created_only_gets_the_address_that_it_was_promised() -> None:
    engine = Engine("created")
    assert start(engine).address == "10.231.7.20"
    assert (engine.moved, engine.started) == (0, 1)


def test_what_was_stopped_gets_another_address() -> None:
    engine = Engine("exited")
    start(engine)
    assert (engine.moved, engine.started) == (1, 1)
