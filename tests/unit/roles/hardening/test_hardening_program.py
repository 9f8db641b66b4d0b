# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program on the host: what it sees, and that a trial of SSH options ends well; with an sshd of this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.load_program import load_program

SCRIPT = Path(__file__).parents[4] / "roles/hardening/files/hardening.py"
OLD, NEW = "PasswordAuthentication yes\n", "# ours\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
OWN_LINES = (
    "Accepted publickey for root from 203.0.113.7 port 50412 ssh2: ED25519 SHA256:abc\n"
    "Accepted password for ubuntu from 203.0.113.7 port 50413 ssh2\n"
    "Accepted publickey for root from 2001:db8::7 port 50414 ssh2: RSA SHA256:abc\n"
)
# What sshd gives the shell of a login.
SHELL = "A=b\0LOGNAME=ubuntu\0SSH_CONNECTION=c 1 h 22\0"
LOADED = "LoadState=loaded\nActiveState=active\n"


hardening = load_program(SCRIPT)


class Server:
    """What systemctl and sshd would do: the options that sshd read at its last start, and the timer."""

    def __init__(self, places: Any) -> None:
        self.places = places
        self.timer = False
        self.works_with = self._on_disk()
        self.starts = 0
        self.refuses = self.breaks = ""
        self.first_file = ""

    def _on_disk(self) -> str:
        return str(self.places.drop_in.read_text()) if self.places.drop_in.exists() else ""

    def execute(self, arguments: list[str]) -> str:
        if arguments == ["sshd", "-t"] and self.refuses and self.refuses in self._on_disk():
            raise hardening.HardeningError("sshd said no")
        if arguments[0] == "sshd":
            text = self.first_file + self._on_disk() if "-T" in arguments else ""
            # As it prints them: small letters, and the older word.
            return text.replace("prohibit-password", "without-password").lower()
        assert arguments[0] == "systemctl"
        if arguments[-1] == "gpuops-fleet-hardening-rollback.timer":
            self.timer = arguments[1] == "restart"
        else:
            assert arguments[-1] == "ssh.service"
            assert self.timer, "sshd never starts with options that nobody would take back"
            self.starts += 1
            if self.breaks and self.breaks in self._on_disk():
                raise hardening.HardeningError("ssh.service did not start")
            self.works_with = self._on_disk()
        return ""


@pytest.fixture
def places(tmp_path: Path) -> Any:
    return hardening.Places(
        tmp_path / "sshd_config.d/00-gpuops-fleet.conf",
        tmp_path / "state/before.json",
        tmp_path / "proc",
        tmp_path / "shadow",
        tmp_path / "sshd_config",
    )


@pytest.fixture
def server(places: Any) -> Server:
    return Server(places)


@pytest.fixture
def trial(places: Any, server: Server) -> Any:
    return hardening.Trial(places, server.execute)


def start_with(places: Any, server: Server, text: str) -> None:
    places.drop_in.parent.mkdir()
    places.drop_in.write_text(text)
    server.works_with = text


# The trial ------------------------------------------------------------------------------------------------------


def test_options_that_are_confirmed_stay(trial: Any, server: Server, places: Any) -> None:
    trial.apply(NEW)
    assert (server.works_with, server.timer) == (NEW, True)
    trial.confirm()
    assert server.timer is False
    trial.rollback()
    assert (server.works_with, places.drop_in.read_text(), server.starts) == (NEW, NEW, 1)


@pytest.mark.parametrize("before", [OLD, None])
def test_options_that_nobody_confirms_are_taken_back(
    trial: Any, server: Server, places: Any, before: str | None
) -> None:
    if before:
        start_with(places, server, before)
    trial.apply(NEW)
    trial.rollback()
    assert server.works_with == (before or "")
    assert places.drop_in.exists() == (before is not None)
    with pytest.raises(hardening.HardeningError, match="taken back before they were confirmed"):
        trial.confirm()


def test_options_that_sshd_refuses_never_reach_it(trial: Any, server: Server, places: Any) -> None:
    start_with(places, server, OLD)
    server.refuses = "prohibit"
    with pytest.raises(hardening.HardeningError, match="sshd said no"):
        trial.apply(NEW)
    assert (places.drop_in.read_text(), server.starts, server.timer) == (OLD, 0, False)


def test_options_that_another_file_overrides_are_named(trial: Any, server: Server, places: Any) -> None:
    server.first_file = "PasswordAuthentication yes\n"
    with pytest.raises(hardening.HardeningError, match="passwordauthentication is yes all the same"):
        trial.apply(NEW)
    assert (places.drop_in.exists(), server.starts, server.timer) == (False, 0, False)


def test_sshd_that_does_not_start_gets_its_old_options(trial: Any, server: Server, places: Any) -> None:
    start_with(places, server, OLD)
    server.breaks = "prohibit"
    with pytest.raises(hardening.HardeningError, match="did not start"):
        trial.apply(NEW)
    assert (server.works_with, places.drop_in.read_text(), server.starts, server.timer) == (OLD, OLD, 2, False)


def test_a_trial_that_was_cut_goes_back_to_what_was_confirmed(trial: Any, server: Server, places: Any) -> None:
    start_with(places, server, OLD)
    trial.apply("PasswordAuthentication maybe\n")
    trial.apply(NEW)
    trial.rollback()
    assert server.works_with == OLD


def test_what_was_there_before_is_nobody_elses_business(trial: Any, server: Server, places: Any) -> None:
    start_with(places, server, OLD)
    trial.apply(NEW)
    assert places.before.stat().st_mode & 0o777 == 0o600
    assert json.loads(places.before.read_text()) == {"text": OLD}


# Looking --------------------------------------------------------------------------------------------------------


def test_the_first_of_each_option_counts() -> None:
    assert (
        hardening.not_effective(
            NEW, "passwordauthentication no\npasswordauthentication yes\npermitrootlogin without-password"
        )
        == []
    )
    assert hardening.not_effective(NEW, "passwordauthentication no\n") == ["permitrootlogin is not known"]


@pytest.mark.parametrize(
    ("connection", "method"),
    [
        ("203.0.113.7 50412 10.0.0.5 22", "publickey"),
        ("203.0.113.7 50413 10.0.0.5 22", "password"),
        ("2001:db8::7 50414 2001:db8::5 22", "publickey"),
        ("203.0.113.7 5041 10.0.0.5 22", ""),
        ("203.0.113.70 50412 10.0.0.5 22", ""),
        ("", ""),
    ],
)
def test_how_a_login_was_proven_is_read_from_the_journal(connection: str, method: str) -> None:
    assert hardening.login_method(connection, OWN_LINES) == method


def test_the_connection_is_found_behind_sudo(tmp_path: Path) -> None:
    for process, parent, environment in (("self", "7", b"HOME=/root"), ("7", "1", SHELL.encode())):
        (tmp_path / process).mkdir()
        (tmp_path / process / "environ").write_bytes(environment)
        (tmp_path / process / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
    assert hardening.own_connection(tmp_path) == "c 1 h 22"
    assert hardening.login_user(tmp_path) == "ubuntu"
    assert hardening.own_connection(tmp_path / "none") == hardening.login_user(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("word", "means"), [("$y$j9T$abc", "set"), ("", "empty"), ("*", "none"), ("!", "none"), ("!$y$j9T$abc", "none")]
)
def test_passwords_of_root(word: str, means: str) -> None:
    assert hardening.root_password(f"daemon:$y$x:1::::::\nroot:{word}:20000:0:99999:7:::\n") == means


def look(monkeypatch: pytest.MonkeyPatch, places: Any, answers: dict[str, str], **wishes: Any) -> dict[str, Any]:
    """Look at a host whose commands give these answers, by their first words."""
    places.shadow.write_text("root:*:1::::::\n")
    places.sshd_config.write_text(f"Include {places.drop_in.parent}/*.conf\n")

    def execute(arguments: list[str], may_fail: bool = False, text: str | None = None) -> str:
        words = " ".join(arguments)
        return next((answer for beginning, answer in answers.items() if words.startswith(beginning)), "")

    monkeypatch.setattr(hardening, "execute", execute)
    seen: dict[str, Any] = hardening.look({"files": [], "sysctl": {}, "at_least": [], "units": [], **wishes}, places)
    return seen


def test_files_that_differ(monkeypatch: pytest.MonkeyPatch, places: Any, tmp_path: Path) -> None:
    for name, mode in (("same", 0o644), ("wide", 0o666), ("other", 0o644)):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(mode)
    files = [{"path": str(tmp_path / name), "text": name, "mode": "0644"} for name in ("same", "wide", "none/missing")]
    files.append({"path": str(tmp_path / "other"), "text": "wanted", "mode": "0644"})
    seen = look(monkeypatch, places, {}, files=files)
    assert [Path(path).name for path in seen["stale"]] == ["wide", "missing", "other"]
    assert seen["directories"] == [str(tmp_path)]
    assert seen["container"] == "none"


def test_kernel_settings_that_differ(monkeypatch: pytest.MonkeyPatch, places: Any) -> None:
    for name, value in (("net/ipv4/ip_forward", "0\n"), ("kernel/printk", "4\t4\t1\t7\n")):
        file = places.proc / "sys" / name
        file.parent.mkdir(parents=True)
        file.write_text(value)
    wanted = {"net.ipv4.ip_forward": 1, "kernel.printk": "4 4 1 7", "kernel.yama.ptrace_scope": 1}
    seen = look(monkeypatch, places, {"systemd-detect-virt": "docker\n"}, sysctl=wanted)
    assert seen["sysctl_differs"] == ["net.ipv4.ip_forward is 0"]
    assert seen["sysctl_unknown"] == ["kernel.yama.ptrace_scope"]
    assert seen["container"] == "docker"


@pytest.mark.parametrize(
    ("now", "written", "differs"),
    [("0", "1", ["kernel.yama.ptrace_scope is 0"]), ("1", "1", []), ("2", "2", []), ("3", "3", []), ("", "1", [])],
)
def test_a_kernel_that_is_stricter_already_stays_so(
    monkeypatch: pytest.MonkeyPatch, places: Any, tmp_path: Path, now: str, written: str, differs: list[str]
) -> None:
    """One that can't be lowered (3) would make sysctl fail, and no file of ours loosens any at the next boot."""
    settings = {"fs.suid_dumpable": 0, "kernel.yama.ptrace_scope": 1}
    for name, value in {"fs/suid_dumpable": "0", "kernel/yama/ptrace_scope": now}.items():
        (places.proc / "sys" / name).parent.mkdir(parents=True)
        if value:
            (places.proc / "sys" / name).write_text(f"{value}\n")
    text = "fs.suid_dumpable = 0\nkernel.yama.ptrace_scope = {}\n"
    file = tmp_path / "99-ours.conf"
    wishes: dict[str, Any] = {
        "files": [{"path": str(file), "text": text.format(1), "mode": "0644"}],
        "sysctl": settings,
        "at_least": ["kernel.yama.ptrace_scope"],
    }
    seen = look(monkeypatch, places, {}, **wishes)
    assert (seen["texts"], seen["stale"]) == ({str(file): text.format(written)}, [str(file)])
    assert seen["sysctl_differs"] == differs
    file.write_text(text.format(written))
    file.chmod(0o644)
    assert look(monkeypatch, places, {}, **wishes)["stale"] == []


def test_units_are_told_apart(monkeypatch: pytest.MonkeyPatch, places: Any) -> None:
    shown = (
        "LoadState=loaded\nActiveState=active\n\n"
        "LoadState=masked\nActiveState=inactive\n\n"
        "LoadState=not-found\nActiveState=inactive\n"
    )
    seen = look(monkeypatch, places, {"systemctl show": shown}, units=["ssh.service", "apt-daily.timer", "ntp.service"])
    assert {name: unit["load"] for name, unit in seen["units"].items()} == {
        "ssh.service": "loaded",
        "apt-daily.timer": "masked",
        "ntp.service": "not-found",
    }
    assert seen["units"]["ssh.service"]["active"] == "active"


def test_options_in_place_must_also_hold(monkeypatch: pytest.MonkeyPatch, places: Any) -> None:
    places.drop_in.parent.mkdir()
    places.drop_in.write_text(NEW)
    places.drop_in.chmod(0o644)
    files = [{"path": str(places.drop_in), "text": NEW, "mode": "0644"}]
    said = "permitrootlogin without-password\npasswordauthentication yes\n"
    wishes: dict[str, Any] = {"files": files, "units": ["ssh.service"]}
    seen = look(monkeypatch, places, {"systemctl show": LOADED, "sshd -T -C": said}, **wishes)
    assert (seen["ssh_pending"], seen["sshd_differs"]) == (False, ["passwordauthentication is yes"])
    places.before.parent.mkdir()
    places.before.write_text('{"text": null}')
    seen = look(monkeypatch, places, {"systemctl show": LOADED}, **wishes)
    assert seen["ssh_pending"], "a trial that was cut is still to be made"
    assert not look(monkeypatch, places, {}, **wishes)["ssh_pending"], "there is no server that could try it"
