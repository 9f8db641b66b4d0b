# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role monitoring refuses what can't work in one sentence, before it changes anything; a host a case."""

from __future__ import annotations

import pathlib
import socket
from typing import Any

import pytest
from support.free_port import free_port
from support.refusals import refusals, said

EXPORTER = {"tried_entry_point": "exporter"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"monitoring_retention_days": 0}, "monitoring_retention_days is 0; it must be between 1 and"),
    "port": ({"monitoring_alertmanager_port": "taken"}, "or choose another monitoring_alertmanager_port."),
    "everywhere": (
        {"monitoring_prometheus_port": "taken", "monitoring_prometheus_address": "0.0.0.0"},  # noqa: S104 (refused)
        "of everywhere is in use by py",
    ),
    "address": ({"monitoring_prometheus_address": "192.0.2.7"}, "monitoring_prometheus_address names 192.0.2.7, and"),
    "exporter": ({**EXPORTER, "monitoring_exporter_port": "taken"}, "or choose another monitoring_exporter_port."),
    "no-systemd": ({"tried_as_if_systemd_ran": False}, "instead of systemd"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("monitoring")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        good: dict[str, Any] = {
            "tried_as_if_systemd_ran": True,
            **{f"monitoring_{name}_port": free_port() for name in ("prometheus", "alertmanager", "exporter")},
        }
        # Somebody else's port at an address that nobody wants.
        beside = {"monitoring_prometheus_port": taken, "monitoring_prometheus_address": "127.0.0.2"}
        cases = {"good": {**good, **beside}, "good-exporter": {**good, **EXPORTER}}
        for name, (values, _sentence) in BAD.items():
            cases[name] = {**good, **{key: taken if value == "taken" else value for key, value in values.items()}}
        hosts = {name: ("monitoring", values) for name, values in cases.items()}
        return refusals(work, hosts, {"__monitoring_directory": str(work), "__monitoring_unit_directory": str(work)})


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_sentence(refused: pathlib.Path, name: str) -> None:
    assert BAD[name][1] in said(refused, name)


@pytest.mark.parametrize("name", ["good", "good-exporter"])
def test_what_can_work_is_accepted(refused: pathlib.Path, name: str) -> None:
    assert not (refused / f"{name}.refused").exists()


def test_nothing_was_changed(refused: pathlib.Path) -> None:
    assert not list(refused.glob("*.yml"))
    assert not list(refused.glob("*.service*"))
