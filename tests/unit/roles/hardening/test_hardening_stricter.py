# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's own SSH options demand already stays, at every look; with an sshd of this file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.load_program import load_program
from support.local_play import ROOT

hardening = load_program(ROOT / "roles/hardening/files/hardening.py")
WANTED = (ROOT / "roles/hardening/templates/sshd.conf.j2").read_text()
LOADED = "LoadState=loaded\nActiveState=active\n"
DEFAULTS = "PermitRootLogin prohibit-password\nAuthenticationMethods any\nLoginGraceTime 120\n"


class Host:
    """A host with files of sshd, and a login to it; runs what the role's program calls."""

    def __init__(self, directory: Path) -> None:
        self.places = hardening.Places(
            directory / "sshd_config.d/00-gpuops-fleet.conf",
            directory / "before.json",
            directory / "proc",
            directory / "shadow",
            directory / "sshd_config",
        )
        self.places.shadow.write_text("root:*:1::::::\n")
        self.places.drop_in.parent.mkdir()
        self.places.sshd_config.write_text("# Debian's\nInclude sshd_config.d/*.conf\n" + DEFAULTS)
        self.journal = self.refuses = ""
        self.comes("ubuntu", "publickey")

    def comes(self, user: str, method: str) -> None:
        process = self.places.proc / "self"
        process.mkdir(parents=True, exist_ok=True)
        (process / "environ").write_text(f"LOGNAME={user}\0SSH_CONNECTION=203.0.113.7 50412 10.0.0.5 22\0")
        (process / "status").write_text("Name:\tx\nPPid:\t0\n")
        self.journal = f"Accepted {method} for {user} from 203.0.113.7 port 50412 ssh2\n"

    def writes(self, text: str) -> None:
        """A file of the owner's, which sshd reads after ours."""
        (self.places.drop_in.parent / "50-own.conf").write_text(text)

    def _read(self, text: str, user: str, here: Path) -> tuple[dict[str, str], dict[str, str]]:
        """As sshd does: of each option the first value, and before it that of a Match for this user."""
        first: dict[str, str] = {}
        matched: dict[str, str] = {}
        into: dict[str, str] = first
        for line in text.splitlines():
            name, _space, value = line.strip().partition(" ")
            if name == "Include":
                for word in value.split():
                    pattern = word.strip('"')
                    paths = [Path(pattern)] if Path(pattern).is_absolute() else sorted(here.glob(pattern))
                    for path in paths:
                        included, theirs = self._read(path.read_text(), user, here)
                        first |= included | first
                        matched |= theirs | matched
            elif name == "Match":
                into = matched if value == f"User {user}" else {}
            elif name and name[0] != "#":
                into.setdefault(name.lower(), value)
        return first, matched

    def execute(self, arguments: list[str], may_fail: bool = False, text: str | None = None) -> str:
        if arguments[0] == "systemctl":
            return LOADED
        if arguments[0] == "journalctl":
            return self.journal
        if arguments[:2] != ["sshd", "-T"]:
            return ""
        user = next((match[1] for word in arguments if (match := re.match("user=([^,]+),", word))), "")
        config = self.places.sshd_config.read_text() if text is None else text
        first, matched = self._read(config, user, self.places.sshd_config.parent)
        if self.refuses:
            raise hardening.HardeningError(self.refuses)
        return "".join(f"{name} {value}\n" for name, value in (first | matched).items())

    def look(self) -> dict[str, Any]:
        file = {"path": str(self.places.drop_in), "text": WANTED, "mode": "0644"}
        seen: dict[str, Any] = hardening.look(
            {"files": [file], "sysctl": {}, "at_least": [], "units": ["ssh.service"]}, self.places
        )
        return seen

    def hardens(self) -> dict[str, str]:
        """What our file says after a run, of which a second one must change nothing and be content."""
        seen = self.look()
        assert seen["ssh_pending"]
        assert (seen["login_method"], seen["ssh_demands"]) == ("publickey", "")
        self.places.drop_in.write_text(seen["ssh_text"])
        self.places.drop_in.chmod(0o644)
        again = self.look()
        assert (again["ssh_pending"], again["sshd_differs"], again["ssh_text"]) == (False, [], seen["ssh_text"])
        found: dict[str, str] = hardening.options(seen["ssh_text"])
        return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(hardening, "execute", made.execute)
    return made


def differs(found: dict[str, str]) -> dict[str, str]:
    """From what the role wants of every host."""
    return {name: value for name, value in found.items() if value != hardening.options(WANTED)[name]}


def test_what_is_looser_becomes_what_the_role_wants(host: Host) -> None:
    host.writes("PermitRootLogin yes\nAuthenticationMethods publickey password\nLoginGraceTime 0\n")
    host.hardens()
    assert host.places.drop_in.read_text() == WANTED


@pytest.mark.parametrize("word", ["no", "forced-commands-only"])
def test_root_stays_out_unless_ansible_comes_as_root(host: Host, word: str) -> None:
    host.writes(f"PermitRootLogin {word}\n")
    assert differs(host.hardens()) == {"permitrootlogin": word}
    host.comes("root", "publickey")
    assert differs(host.hardens()) == {}


@pytest.mark.parametrize(
    ("methods", "switched_on"),
    [
        ("publickey,keyboard-interactive", ["kbdinteractiveauthentication"]),
        (
            "publickey,password publickey,keyboard-interactive:pam",
            ["kbdinteractiveauthentication", "passwordauthentication"],
        ),
        ("hostbased,publickey", ["hostbasedauthentication"]),
        ("publickey,publickey", []),
    ],
)
def test_methods_that_demand_a_key_and_more_stay_with_what_they_need(
    host: Host, methods: str, switched_on: list[str]
) -> None:
    """Ansible's own user gets in by a key, as a Match says; for others nothing becomes easier."""
    host.writes(f"AuthenticationMethods {methods}\nMatch User ubuntu\n AuthenticationMethods publickey\n")
    assert differs(host.hardens()) == {"authenticationmethods": methods, **dict.fromkeys(switched_on, "yes")}


@pytest.mark.parametrize("methods", ["publickey publickey,password", "password,keyboard-interactive", "any"])
def test_methods_of_which_one_demands_no_more_than_a_key_do_not_stay(host: Host, methods: str) -> None:
    host.writes(f"AuthenticationMethods {methods}\n")
    assert differs(host.hardens()) == {}


def test_a_match_that_lets_root_in_by_a_key_is_enough_for_root(host: Host) -> None:
    text = "PermitRootLogin no\nAuthenticationMethods publickey,keyboard-interactive\nMatch User root\n"
    host.writes(text + " PermitRootLogin without-password\n AuthenticationMethods publickey\n")
    host.comes("ubuntu", "keyboard-interactive/pam")
    kept = {"authenticationmethods": "publickey,keyboard-interactive", "kbdinteractiveauthentication": "yes"}
    assert differs(host.hardens()) == {"permitrootlogin": "no", **kept}
    host.comes("root", "publickey")
    assert differs(host.hardens()) == kept


def test_a_login_by_all_that_is_demanded_is_none_by_password(host: Host) -> None:
    host.writes("AuthenticationMethods publickey,keyboard-interactive\n")
    host.comes("ubuntu", "keyboard-interactive/pam")
    assert host.hardens()["authenticationmethods"] == "publickey,keyboard-interactive"
    # Root must end with a key, or prohibit-password keeps it out.
    host.comes("root", "keyboard-interactive/pam")
    host.places.drop_in.unlink()
    assert host.look()["login_method"] == "keyboard-interactive/pam"


def test_who_comes_by_a_key_alone_only_because_of_our_file_is_told(host: Host) -> None:
    """Or the trial would lock Ansible out, and be taken back, at every run."""
    host.hardens()
    host.writes("AuthenticationMethods publickey,keyboard-interactive\n")
    seen = host.look()
    assert (seen["ssh_pending"], seen["ssh_demands"]) == (True, "publickey,keyboard-interactive")
    assert "AuthenticationMethods publickey\n" in host.places.drop_in.read_text()


@pytest.mark.parametrize(("seconds", "then"), [("30", "30"), ("60", "60"), ("0", "60"), ("120", "60")])
def test_a_shorter_time_to_log_in_stays(host: Host, seconds: str, then: str) -> None:
    host.writes(f"LoginGraceTime {seconds}\n")
    assert host.hardens()["logingracetime"] == then


def test_what_was_stricter_only_for_a_while_does_not_stay(host: Host) -> None:
    """Our own file is no wish of the owner's."""
    host.writes("LoginGraceTime 30\nPermitRootLogin no\n")
    host.hardens()
    host.writes("")
    assert differs(host.hardens()) == {}


def test_options_that_only_our_file_makes_work_are_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.refuses = "`sshd -T -f /dev/stdin` failed with 255: Disabled method"
    file = {"path": str(host.places.drop_in), "text": WANTED, "mode": "0644"}
    wishes = {"files": [file], "sysctl": {}, "at_least": [], "units": ["ssh.service"]}
    assert hardening.main(["look", json.dumps(wishes)], host.places) == 1
    said = capsys.readouterr().err
    assert said == f"hardening: Mend this host's own SSH options, without {host.places.drop_in}: {host.refuses}\n"


def test_our_file_alone_is_left_out(tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    directory.mkdir()
    for name in ("10-a.conf", "00-ours.conf", "20-b.conf", "30-c.txt", ".hidden.conf"):
        (directory / name).touch()
    config = tmp_path / "sshd_config"
    config.write_text(f'Port 22\n include = "{directory}/*.conf" none/* # all\nIncludes\nInclude "{directory}/00*"\n')
    text = hardening.without(config, directory / "00-ours.conf")
    assert text.splitlines() == [
        "Port 22",
        f'Include "{directory}/10-a.conf" "{directory}/20-b.conf"',
        "Includes",
        "",
    ]
