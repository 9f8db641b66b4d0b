# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program on the host: what it loads, keeps, takes back and looks up; with an nft and a resolver of this file."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[4] / "roles/firewall/files/firewall.py"
OLD, NEW = "# the old rules\n", "# the new rules\n"
PEERS = {"kafka_peers": ["processor-1.x", "producer-1.x"]}
KNOWN = {"processor-1.x": ["10.0.0.5"], "producer-1.x": ["10.0.0.6", "fd00::6"]}


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("firewall", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


firewall = _load()


class Kernel:
    """What nft and systemctl would do: our table with its sets, and the timer."""

    def __init__(self) -> None:
        self.rules: str | None = None
        self.sets: dict[str, set[str]] = {}
        self.timer = False
        self.broken = False
        self.loads = 0
        self.changes: list[str] = []
        self.addresses: dict[str, list[str]] = dict(KNOWN)

    def look_up(self, names: Iterable[str]) -> dict[str, list[str]]:
        return {name: self.addresses[name] for name in names if name in self.addresses}

    def execute(self, arguments: list[str], text: str = "") -> str:
        if arguments[0] == "systemctl":
            assert arguments[2] == "gpuops-fleet-firewall-rollback.timer"
            self.timer = arguments[1] == "restart"
            return ""
        if arguments[1] == "--json":
            return json.dumps({"nftables": self._tables() if arguments[3] == "tables" else self._table()})
        assert arguments == ["nft", "--file", "-"]
        if self.broken:
            raise firewall.FirewallError("nft said no")
        self._obey(text)
        return ""

    def _tables(self) -> list[dict[str, Any]]:
        ours = [{"table": {"family": "inet", "name": "gpuops_fleet"}}] if self.rules is not None else []
        return [{"metainfo": {}}, {"table": {"family": "ip", "name": "nat"}}, *ours]

    def _table(self) -> list[dict[str, Any]]:
        networks = {"name": "kafka_networks_ipv4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}
        sets = [{"name": name, "elem": sorted(content)} for name, content in self.sets.items()]
        chains = [{"chain": {"name": name}} for name in ("input", "forward", "services")]
        return [*chains, *({"set": entry} for entry in [networks, *sets])]

    def _obey(self, text: str) -> None:
        self.changes.append(text)
        if "delete table" in text:
            self.rules = None
        if text.startswith("# the "):
            self.rules = text.splitlines()[0] + "\n"
            self.sets = {"kafka_peers_ipv4": set(), "kafka_peers_ipv6": set()}
            self.loads += 1
        for name in re.findall(r"flush set inet gpuops_fleet (\S+)", text):
            self.sets[name] = set()
        for name, content in re.findall(r"add element inet gpuops_fleet (\S+) { (.+) }", text):
            self.sets[name] |= set(content.split(", "))


class Machine:
    """A host whose kernel forgets and whose files stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kernel = Kernel()
        self.boots = 0

    @property
    def places(self) -> Any:
        return firewall.Places(
            self.directory / "etc", self.directory / "lib/firewall", self.directory / f"run{self.boots}"
        )

    def want(self, rules: str, peers: dict[str, list[str]] | None = None) -> None:
        self.places.wanted.mkdir(exist_ok=True)
        (self.places.wanted / "rules.nft").write_text(rules)
        (self.places.wanted / "peers.json").write_text(json.dumps(PEERS if peers is None else peers))

    def do(self, command: str) -> int:
        host = firewall.Host(self.places, execute=self.kernel.execute, lookup=self.kernel.look_up)
        status: int = firewall.main([command], host)
        return status

    def reboot(self) -> None:
        self.boots += 1
        self.kernel.rules, self.kernel.sets, self.kernel.timer = None, {}, False


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def confirmed(machine: Machine) -> Machine:
    machine.want(OLD)
    assert machine.do("apply") == 0
    assert machine.do("confirm") == 0
    machine.kernel.changes.clear()
    return machine


# New rules ----------------------------------------------------------------------------------------------------


def test_new_rules_come_with_their_addresses_in_one_step(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.want(NEW)
    assert machine.do("apply") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": True}
    assert len(machine.kernel.changes) == 1
    assert machine.kernel.sets == {"kafka_peers_ipv4": {"10.0.0.5", "10.0.0.6"}, "kafka_peers_ipv6": {"fd00::6"}}
    assert machine.kernel.timer, "nobody would take them back"


def test_confirmed_rules_are_not_applied_again(confirmed: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert confirmed.do("apply") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}
    assert confirmed.kernel.changes == []
    assert not confirmed.kernel.timer


def test_rules_that_an_interrupted_run_left_on_trial_are_applied_again(machine: Machine) -> None:
    machine.want(NEW)
    machine.do("apply")
    machine.do("apply")
    assert machine.kernel.loads == 2


def test_unconfirmed_rules_go_back_to_the_confirmed_ones(confirmed: Machine) -> None:
    confirmed.want(NEW)
    confirmed.do("apply")
    assert confirmed.kernel.rules == NEW
    assert confirmed.do("rollback") == 0
    assert confirmed.kernel.rules == OLD
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.5", "10.0.0.6"}


def test_the_first_rules_unconfirmed_go_back_to_none(machine: Machine) -> None:
    machine.want(NEW)
    machine.do("apply")
    machine.do("rollback")
    assert machine.kernel.rules is None
    machine.do("refresh")
    assert machine.kernel.rules is None


def test_a_confirmation_that_comes_too_late_confirms_nothing(
    confirmed: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    confirmed.want(NEW)
    confirmed.do("apply")
    confirmed.do("rollback")
    assert confirmed.do("confirm") == 1
    assert "The rules on trial were taken back before they were confirmed." in capsys.readouterr().err
    confirmed.reboot()
    confirmed.do("load")
    assert confirmed.kernel.rules == OLD


def test_rules_that_nft_refuses_change_nothing(confirmed: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    confirmed.want(NEW)
    confirmed.kernel.broken = True
    assert confirmed.do("apply") == 1
    assert "nft said no" in capsys.readouterr().err
    assert confirmed.kernel.rules == OLD
    assert not confirmed.kernel.timer


def test_missing_wishes_are_a_sentence(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.do("apply") == 1
    assert "run the role `firewall` again" in capsys.readouterr().err


# Boot ---------------------------------------------------------------------------------------------------------


def test_only_confirmed_rules_come_back_at_boot(confirmed: Machine) -> None:
    confirmed.want(NEW)
    confirmed.do("apply")
    confirmed.reboot()
    confirmed.do("load")
    assert confirmed.kernel.rules == OLD


def test_at_boot_the_addresses_are_those_of_last_time(confirmed: Machine) -> None:
    confirmed.reboot()
    confirmed.kernel.addresses = {}  # no network yet
    confirmed.do("load")
    assert confirmed.kernel.sets == {"kafka_peers_ipv4": {"10.0.0.5", "10.0.0.6"}, "kafka_peers_ipv6": {"fd00::6"}}
    confirmed.do("refresh")
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.5", "10.0.0.6"}


def test_nothing_is_loaded_where_nothing_was_confirmed(machine: Machine) -> None:
    assert machine.do("load") == 0
    assert machine.do("refresh") == 0
    assert machine.kernel.changes == []


def test_confirmed_rules_that_nobody_can_read_are_a_failure_of_the_unit(
    confirmed: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    confirmed.reboot()
    (confirmed.places.state / "confirmed.json").write_text('{"rules": "# cut o')
    for command in ("load", "refresh"):
        assert confirmed.do(command) == 1
        assert "everything is open" in capsys.readouterr().err
    assert confirmed.do("apply") == confirmed.do("confirm") == 0, "the role mends it"
    confirmed.reboot()
    assert confirmed.do("load") == 0
    assert confirmed.kernel.rules == OLD


# Peers --------------------------------------------------------------------------------------------------------


def test_a_peer_with_another_address_replaces_the_old_one(confirmed: Machine) -> None:
    confirmed.kernel.addresses["processor-1.x"] = ["10.0.0.77"]
    confirmed.do("refresh")
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.6", "10.0.0.77"}
    assert confirmed.kernel.loads == 1, "only the set had to change"
    assert "kafka_peers_ipv6" not in confirmed.kernel.changes[0]


def test_a_name_that_is_not_found_keeps_its_old_entry(confirmed: Machine) -> None:
    confirmed.kernel.addresses = {"producer-1.x": ["10.0.0.66"]}
    confirmed.do("refresh")
    assert confirmed.kernel.sets == {"kafka_peers_ipv4": {"10.0.0.5", "10.0.0.66"}, "kafka_peers_ipv6": set()}


def test_same_addresses_change_nothing(confirmed: Machine) -> None:
    confirmed.do("refresh")
    assert confirmed.kernel.changes == []


def test_what_somebody_added_by_hand_is_taken_out(confirmed: Machine) -> None:
    confirmed.kernel.sets["kafka_peers_ipv4"].add("192.0.2.1")
    confirmed.do("refresh")
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.5", "10.0.0.6"}


def test_rules_that_somebody_flushed_are_loaded_again(confirmed: Machine) -> None:
    confirmed.kernel.rules, confirmed.kernel.sets = None, {}
    confirmed.do("refresh")
    assert confirmed.kernel.rules == OLD
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.5", "10.0.0.6"}


def test_a_refresh_during_a_trial_keeps_what_is_on_trial(confirmed: Machine) -> None:
    confirmed.want(NEW)
    confirmed.do("apply")
    confirmed.kernel.addresses["processor-1.x"] = ["10.0.0.77"]
    confirmed.do("refresh")
    assert confirmed.kernel.rules == NEW
    assert confirmed.do("confirm") == 0


def test_a_name_that_nobody_names_any_more_is_forgotten(confirmed: Machine) -> None:
    confirmed.want(OLD, {"kafka_peers": ["producer-1.x"]})
    confirmed.do("apply")
    assert confirmed.kernel.sets["kafka_peers_ipv4"] == {"10.0.0.6"}
    assert json.loads((confirmed.places.state / "addresses.json").read_text()).keys() == {"producer-1.x"}


def test_a_name_that_never_answers_holds_up_no_other() -> None:
    never = threading.Event()

    def one(name: str) -> list[str]:
        if name == "silent.x":
            never.wait()
        if name == "unknown.x":
            raise OSError("Name or service not known")
        return ["10.0.0.5"]

    assert firewall.resolve(["silent.x", "unknown.x", "good.x"], one, seconds=0.5) == {"good.x": ["10.0.0.5"]}
    never.set()


def test_addresses_of_the_host_itself_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["127.0.1.1", "10.0.0.5", "fe80::1%eth0", "::1", "10.0.0.5"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_words, **_options: [(0, 0, 0, "", (a, 0)) for a in answers])
    assert firewall.look_up("processor-1.x") == ["10.0.0.5", "fe80::1"]


# The end ------------------------------------------------------------------------------------------------------


def test_removed_rules_stay_away(confirmed: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    confirmed.do("remove")
    confirmed.do("refresh")
    confirmed.reboot()
    confirmed.do("load")
    assert confirmed.kernel.rules is None
    assert confirmed.do("remove") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"changed": True},
        {"changed": False},
    ]
