# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificate is the right one: what is remembered, else the log, else the first one, and that is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _inventory, _journal, _pins
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_file import Fleet
from ansible_collections.gpuops.fleet.plugins.module_utils._listing import Listing
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from support.fake_provider import FakeCloud, FakeProvider

SEEN, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
RENTAL = Instance(
    "vastai",
    "9000001",
    Marker("acme-llm", "vllm-1", "abc123"),
    Status.RUNNING,
    runtime=Runtime.CONTAINER,
    urls=((8000, "https://203.0.113.20:40000"),),
    own_tls=True,
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))


class Logging(FakeProvider):
    """A provider that shows this log, or fails to."""

    def __init__(self, text: str | None) -> None:
        super().__init__(FakeCloud())
        self.text = text

    def log(self, instance_id: str, words: str) -> str:
        assert (instance_id, words) == (RENTAL.id, "gpuops-fleet-tls-fingerprint")
        if self.text is None:
            raise ProviderUnavailable("no log", provider="vastai")
        return self.text


def printed(*fingerprints: str) -> str:
    return "".join(f"2026-11-21 gpuops-fleet-tls-fingerprint {one}\n" for one in fingerprints)


def test_the_log_says_which_certificate_it_is_and_that_is_remembered() -> None:
    pin = _pins.judge(Logging(printed(OTHER, SEEN)), RENTAL, SEEN)
    assert pin == (SEEN, f"its log says that its certificate is {SEEN}")
    assert _pins.recorded(RENTAL) == SEEN
    assert _pins.find(Logging(None), RENTAL) == (SEEN, "remembered by this controller")


def test_who_answers_with_another_one_is_never_pinned() -> None:
    pin = _pins.judge(Logging(printed(OTHER)), RENTAL, SEEN)
    assert pin.fingerprint == OTHER
    assert pin.said.endswith(f"but who answers has {SEEN}")
    assert _pins.recorded(RENTAL) is None


@pytest.mark.parametrize("log", ["", None, "gpuops-fleet-tls-fingerprint sha256:short\n"])
def test_without_a_log_the_first_connection_is_trusted_and_that_is_said(log: str | None) -> None:
    pin = _pins.judge(Logging(log), RENTAL, SEEN)
    assert pin.fingerprint == SEEN
    assert "this first connection is trusted from now on" in pin.said
    assert _pins.recorded(RENTAL) == SEEN


def test_an_id_that_is_used_again_is_another_rental() -> None:
    _pins.judge(Logging(""), RENTAL, SEEN)
    again = Instance("vastai", RENTAL.id, Marker("acme-llm", "vllm-1", "zzz999"), Status.RUNNING)
    assert _pins.recorded(again) is None
    _journal.record("other", RENTAL, fingerprint=OTHER)
    assert _pins.recorded(RENTAL) == SEEN


def test_the_inventory_has_what_is_remembered_and_asks_nobody() -> None:
    settings = {"name": "vllm-1", "providers": ["vastai", "runpod"], "roles": ["vllm"]}
    fleet = Fleet("/x/fleet.yml", "acme-llm", (settings,), ("vastai",))

    def host() -> dict[str, object]:
        return _inventory.build(fleet, [Listing("vastai", (RENTAL,))], "/x").hosts[0].variables

    assert (host()["fleet_own_tls"], host()["fleet_tls_fingerprint"]) == (True, None)
    _pins.judge(Logging(""), RENTAL, SEEN)
    assert host()["fleet_tls_fingerprint"] == SEEN
    assert host()["fleet_wanted_instance"] == {**settings, "runtime": "container"}


def test_a_large_inventory_reads_the_journal_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each host: a journal is as long as its deployment is old."""
    reads: list[str] = []
    read = _journal.read

    def counted(deployment_id: str) -> list[dict[str, object]]:
        reads.append(deployment_id)
        return read(deployment_id)

    monkeypatch.setattr(_journal, "read", counted)
    names = [f"vllm-{number}" for number in range(5)]
    rentals = tuple(replace(RENTAL, id=name, marker=Marker("acme-llm", name, "abc123")) for name in names)
    settings = tuple({"name": name, "providers": ["vastai"], "runtime": "container"} for name in names)
    _journal.record("tls_fingerprint", rentals[2], fingerprint=SEEN)
    fleet = Fleet("/x/fleet.yml", "acme-llm", settings, ("vastai",))
    hosts = _inventory.build(fleet, [Listing("vastai", rentals)], "/x").hosts
    assert [host.variables["fleet_tls_fingerprint"] for host in hosts] == [None, None, SEEN, None, None]
    assert reads == ["acme-llm"]
