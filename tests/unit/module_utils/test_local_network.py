# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controllers that remove a deployment's network while others use it. What real engines answered is replayed here."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.local_network import (
    DEFAULT_SUBNET_POOL,
    DeploymentNetwork,
    NetworkGone,
)
from support.fake_clock import FakeClock


class Refused(Exception):
    """Shaped like docker.errors.APIError."""

    def __init__(self, status_code: int, explanation: str) -> None:
        super().__init__(explanation)
        self.status_code = status_code
        self.explanation = explanation


NOT_FOUND = Refused(404, "No such container")
TAR_FAILED = Refused(500, "error processing tar file: Error after fallback to chroot: no such file or directory")


class FakeEngine:
    """An engine whose resolver is in one state, and which answers each call as it is told, the last answer for ever."""

    def __init__(self, resolver: str | None, *archive_answers: Exception | None) -> None:
        self.resolver = resolver
        self.archive_answers = list(archive_answers)
        self.written = 0
        self.made: list[str] = []

    def put_archive(self, _container: str, _path: str, _data: bytes) -> None:
        answer = self.archive_answers.pop(0) if len(self.archive_answers) > 1 else self.archive_answers[0]
        if answer:
            raise answer
        self.written += 1

    def kill(self, _container: str, _signal: str) -> None:
        return None

    def inspect_container(self, _name: str) -> dict[str, Any]:
        if self.resolver is None:
            raise NOT_FOUND
        return {"State": {"Status": self.resolver, "Running": self.resolver == "running"}}

    def networks(self, **_filters: Any) -> list[dict[str, Any]]:
        config = {"Subnet": "10.231.7.0/24", "Gateway": "10.231.7.1"}
        return [{"Id": "n1", "Name": "gpufleet-d-1", "Created": "1", "IPAM": {"Config": [config]}}]

    def containers(self, **_filters: Any) -> list[dict[str, Any]]:
        return []

    def create_host_config(self, **_options: Any) -> dict[str, Any]:
        return {}

    def create_networking_config(self, _endpoints: Any) -> dict[str, Any]:
        return {}

    create_endpoint_config = create_host_config

    def create_container(self, *_arguments: Any, **_options: Any) -> None:
        self.made.append("resolver")
        self.resolver = "created"

    def start(self, _name: str) -> None:
        self.resolver = "running"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock().install(monkeypatch)


def network(engine: FakeEngine) -> DeploymentNetwork:
    return DeploymentNetwork(engine, "d-1", "image", DEFAULT_SUBNET_POOL)  # type: ignore[arg-type]


@pytest.mark.parametrize("resolver", [None, "removing", "dead"])
def test_a_name_is_taken_back_also_from_a_resolver_that_goes(resolver: str | None) -> None:
    network(FakeEngine(resolver, TAR_FAILED)).unpublish("a-1")


def test_a_name_is_not_published_by_a_resolver_that_goes() -> None:
    with pytest.raises(NetworkGone, match="was removed while"):
        network(FakeEngine("removing", TAR_FAILED)).publish("a-1", "10.231.7.9")


def test_an_engine_that_is_broken_is_not_taken_for_a_resolver_that_goes() -> None:
    with pytest.raises(Refused):
        network(FakeEngine("running", TAR_FAILED)).unpublish("a-1")


def test_an_engine_that_loses_sight_of_the_files_for_a_moment_is_asked_again() -> None:
    """It does when several archives of one container are on their way at once."""
    engine = FakeEngine("running", TAR_FAILED, TAR_FAILED, None)
    network(engine).publish("a-1", "10.231.7.9")
    assert engine.written == 1


def test_what_vanishes_while_it_is_made_is_made_again() -> None:
    engine = FakeEngine(None, NOT_FOUND, None)
    network(engine).ensure()
    assert engine.resolver == "running"
    assert engine.written == 1


def test_a_resolver_that_never_stays_is_an_error_in_the_end() -> None:
    with pytest.raises(Refused):
        network(FakeEngine(None, NOT_FOUND)).ensure()
