# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role monitoring refuses what can't work in one sentence, before it changes anything; a host a case."""

from __future__ import annotations

import os
import pathlib
import socket
from typing import Any

import pytest
from support.fake_commands import Commands
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

# What `systemctl show` says of the two units.
SHOWN = """case "$*" in show*) cat <<'END'
Id=prometheus.service
ActiveState={prometheus}
DropInPaths={drop_ins}

Id=prometheus-alertmanager.service
ActiveState=inactive
DropInPaths=
END
esac"""
# And of the third one, when it is asked for.
SHOWN_EXPORTER = """case "$*" in *" prometheus-node-exporter.service") cat <<'END'
Id=prometheus-node-exporter.service
ActiveState={exporter}
DropInPaths={drop_ins}
END
esac"""


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """A PATH with a systemctl that knows neither of the two."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    commands.fake("systemctl", SHOWN.format(prometheus="inactive", drop_ins=""))
    return commands


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, systemd: Commands) -> pathlib.Path:
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
        places = {"__monitoring_directory": str(work), "__monitoring_unit_directory": str(work)}
        return refusals(work, hosts, places, PATH=f"{systemd.bin}:{os.environ['PATH']}")


@pytest.mark.parametrize("name", BAD)
def test_refused_in_one_sentence(refused: pathlib.Path, name: str) -> None:
    assert BAD[name][1] in said(refused, name)


@pytest.mark.parametrize("name", ["good", "good-exporter"])
def test_what_can_work_is_accepted(refused: pathlib.Path, name: str) -> None:
    assert not (refused / f"{name}.refused").exists()


def test_nothing_was_changed(refused: pathlib.Path) -> None:
    assert not list(refused.glob("*.yml"))
    assert not list(refused.glob("*.service*"))


@pytest.mark.parametrize(
    ("prometheus", "drop_ins", "taken"),
    [
        ("active", "", True),
        ("active", "/etc/systemd/system/prometheus.service.d/override.conf", True),
        ("active", "{work}/prometheus.service.d/gpuops-fleet.conf", False),
        ("failed", "", False),
    ],
)
def test_a_prometheus_of_somebody_else_keeps_its_settings_and_what_it_measured(
    tmp_path: pathlib.Path, systemd: Commands, prometheus: str, drop_ins: str, taken: bool
) -> None:
    systemd.fake("systemctl", SHOWN.format(prometheus=prometheus, drop_ins=drop_ins.format(work=tmp_path)))
    ports = {f"monitoring_{name}_port": free_port() for name in ("prometheus", "alertmanager")}
    hosts = {"watcher": ("monitoring", {"tried_as_if_systemd_ran": True, **ports})}
    places = {"__monitoring_directory": str(tmp_path), "__monitoring_unit_directory": str(tmp_path)}
    refusals(tmp_path, hosts, places, PATH=f"{systemd.bin}:{os.environ['PATH']}")
    if taken:
        assert said(tmp_path, "watcher").count("watcher runs prometheus.service already, with settings of somebody") > 0
    else:
        assert not (tmp_path / "watcher.refused").exists()


@pytest.mark.parametrize(
    ("exporter", "drop_ins", "taken"),
    [
        ("active", "", True),
        ("active", "/etc/systemd/system/prometheus-node-exporter.service.d/args.conf", True),
        ("active", "/etc/x.conf {work}/prometheus-node-exporter.service.d/gpuops-fleet.conf", False),
        ("inactive", "", False),
    ],
)
def test_a_node_exporter_of_somebody_else_keeps_its_settings(
    tmp_path: pathlib.Path, systemd: Commands, exporter: str, drop_ins: str, taken: bool
) -> None:
    systemd.fake("systemctl", SHOWN_EXPORTER.format(exporter=exporter, drop_ins=drop_ins.format(work=tmp_path)))
    values = {"tried_as_if_systemd_ran": True, "monitoring_exporter_port": free_port(), **EXPORTER}
    places = {"__monitoring_directory": str(tmp_path), "__monitoring_unit_directory": str(tmp_path)}
    refusals(tmp_path, {"watched": ("monitoring", values)}, places, PATH=f"{systemd.bin}:{os.environ['PATH']}")
    if taken:
        sentence = said(tmp_path, "watched")
        assert "watched runs prometheus-node-exporter.service already, with settings of somebody else" in sentence
        assert "`systemctl disable --now prometheus-node-exporter.service`" in sentence
    else:
        assert not (tmp_path / "watched.refused").exists()
