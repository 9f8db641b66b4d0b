# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role hardening asks of a host, and the trial of its SSH options.

look WISHES: answer in JSON how far the host is from the wishes (JSON: files, sysctl, at_least, units); changes nothing.
apply CANDIDATE: give sshd these options on trial. confirm: keep them. rollback: put back what was there before.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

ROLLBACK = "gpuops-fleet-hardening-rollback"
# Both words mean the same; `sshd -T` prints the older one.
SAME = {"prohibit-password": "without-password"}
# As for root from anywhere: what `Match` says about others is somebody's own decision.
EFFECTIVE = ["sshd", "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"]
# What the host would say without our file, given as text.
WITHOUT_OURS = ["sshd", "-T", "-f", "/dev/stdin"]
# Of whoever a `Match` is about. Where more stays for the others, it may still be what the role itself wants.
ENOUGH = {
    "permitrootlogin": "without-password",
    "authenticationmethods": "publickey",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "hostbasedauthentication": "no",
}
# What is switched on where one of the methods that stay needs it: sshd refuses what nobody could satisfy.
NEEDS = {
    "password": "passwordauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
    "hostbased": "hostbasedauthentication",
}
# What says that audit rules are ours.
AUDIT_KEY = "gpuops-"


class HardeningError(Exception):
    """One sentence for people."""


class Places(NamedTuple):
    drop_in: pathlib.Path = pathlib.Path("/etc/ssh/sshd_config.d/00-gpuops-fleet.conf")
    # There while options are on trial, with what they replaced.
    before: pathlib.Path = pathlib.Path("/var/lib/gpuops-fleet/hardening/ssh-before.json")
    proc: pathlib.Path = pathlib.Path("/proc")
    shadow: pathlib.Path = pathlib.Path("/etc/shadow")
    sshd_config: pathlib.Path = pathlib.Path("/etc/ssh/sshd_config")


def execute(arguments: list[str], may_fail: bool = False, text: str | None = None) -> str:
    """Run a command with this text as its input and return what it prints; nothing where it may fail and does."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            [shutil.which(arguments[0], path=path) or arguments[0], *arguments[1:]],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=60,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        if may_fail:
            return ""
        raise HardeningError(f"`{' '.join(arguments)}` did not work: {problem}.") from None
    if done.returncode and not may_fail:
        said = (done.stderr or done.stdout).strip().replace("\n", " ")
        raise HardeningError(f"`{' '.join(arguments)}` failed with {done.returncode}: {said}")
    return done.stdout


def write_atomically(path: pathlib.Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# SSH ------------------------------------------------------------------------------------------------------------


def options(text: str) -> dict[str, str]:
    """The options of a text of sshd, as of its drop-in or of `sshd -T`: the first of each counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _space, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            found.setdefault(name.lower(), SAME.get(value.strip(), value.strip()))
    return found


def not_effective(wanted: str, effective: str) -> list[str]:
    """The wanted options that do not hold, as `name is value`."""
    holds = options(effective)
    return [
        f"{name} is {holds.get(name, 'not known')}"
        for name, value in options(wanted).items()
        if holds.get(name, "").lower() not in (value.lower(), ENOUGH.get(name))
    ]


def without(config: pathlib.Path, left_out: pathlib.Path) -> str:
    """sshd's configuration, less one of the files that it includes."""
    lines = []
    for line in config.read_text(encoding="utf-8", errors="replace").splitlines():
        include = re.match(r"\s*include[\s=]+(.+)", line, re.IGNORECASE)
        if include:
            patterns = shlex.split(include[1], comments=True)
            # In the order in which sshd takes them; a name that is not absolute is one beside the configuration.
            files = [name for pattern in patterns for name in sorted(glob.glob(str(config.parent / pattern)))]
            names = [f'"{name}"' for name in files if pathlib.Path(name).resolve() != left_out.resolve()]
            line = f"Include {' '.join(names)}" if names else ""
        lines.append(f"{line}\n")
    return "".join(lines)


def beyond_a_key(theirs: dict[str, str]) -> list[list[str]]:
    """The ways in, each a list of methods, where each of them demands a key and more; else none."""
    words = theirs.get("authenticationmethods", "").split()
    ways = [[method.partition(":")[0] for method in word.split(",")] for word in words]
    return ways if all("publickey" in way and len(way) > 1 for way in ways) else []


def stricter(wanted: str, theirs: dict[str, str], as_root: bool) -> str:
    """The wanted text, with what is stricter of theirs in its place; as_root says that Ansible itself comes as root."""
    stays = {}
    if theirs.get("permitrootlogin") in ("no", "forced-commands-only") and not as_root:
        stays["permitrootlogin"] = theirs["permitrootlogin"]
    ways = beyond_a_key(theirs)
    if ways:
        stays["authenticationmethods"] = theirs["authenticationmethods"]
        stays.update({NEEDS[method]: "yes" for way in ways for method in way if method in NEEDS})
    seconds, ours = theirs.get("logingracetime", ""), options(wanted).get("logingracetime", "")
    # 0 would be forever.
    if seconds.isdigit() and ours.isdigit() and 0 < int(seconds) < int(ours):
        stays["logingracetime"] = seconds
    lines = []
    for line in wanted.split("\n"):
        name = line.partition(" ")[0]
        lines.append(f"{name} {stays[name.lower()]}" if name.lower() in stays else line)
    return "\n".join(lines)


class Trial:
    """New options of sshd, which are taken back unless somebody confirms them. Open sessions outlive all of it."""

    def __init__(self, places: Places, run: Any = execute) -> None:
        self._places, self._run = places, run

    def _restore(self) -> None:
        text = json.loads(self._places.before.read_text(encoding="utf-8"))["text"]
        if text is None:
            self._places.drop_in.unlink(missing_ok=True)
        else:
            write_atomically(self._places.drop_in, text, 0o644)

    def _over(self) -> None:
        self._places.before.unlink(missing_ok=True)
        self._run(["systemctl", "stop", f"{ROLLBACK}.timer"])

    def apply(self, candidate: str) -> None:
        """Let sshd work with the candidate; raises HardeningError, with the old options in effect, where it can't."""
        # After a run that was cut, what was confirmed last is what has to come back.
        if not self._places.before.exists():
            there = self._places.drop_in.read_text(encoding="utf-8") if self._places.drop_in.exists() else None
            write_atomically(self._places.before, json.dumps({"text": there}), 0o600)
        # Before the options: from here on, nobody has to come for the host to be open again.
        self._run(["systemctl", "restart", f"{ROLLBACK}.timer"])
        restarted = False
        try:
            write_atomically(self._places.drop_in, candidate, 0o644)
            self._run(["sshd", "-t"])
            wrong = not_effective(candidate, self._run(EFFECTIVE))
            if wrong:
                raise HardeningError(
                    f"With {self._places.drop_in} in place, {', '.join(wrong)} all the same. Let /etc/ssh/sshd_config"
                    " begin with the line `Include /etc/ssh/sshd_config.d/*.conf`, and let no other file there set"
                    " these before it."
                )
            restarted = True
            # Not a reload, which returns before sshd has read anything: the next connection must be under these.
            self._run(["systemctl", "restart", "ssh.service"])
        except HardeningError:
            self._restore()
            if restarted:
                self._run(["systemctl", "restart", "ssh.service"])
            self._over()
            raise

    def confirm(self) -> None:
        if not self._places.before.exists():
            raise HardeningError(
                "The SSH options on trial were taken back before they were confirmed. Run the role `hardening` again,"
                " with a larger hardening_ssh_rollback_seconds where the connection is slow."
            )
        self._over()

    def rollback(self) -> None:
        """By the timer, or at boot before sshd."""
        if self._places.before.exists():
            self._restore()
            # Nothing is waited for: at boot, sshd itself waits for this.
            self._run(["systemctl", "--no-block", "try-restart", "ssh.service"])
            self._places.before.unlink()


def environments(proc: pathlib.Path) -> Iterator[dict[str, str]]:
    """Of this process, then of each of its parents, as far as they can be read."""
    process = "self"
    while process != "0":
        try:
            entries = (proc / process / "environ").read_bytes().decode(errors="replace").split("\0")
            status = (proc / process / "status").read_text(encoding="utf-8")
        except OSError:
            return
        yield dict(entry.partition("=")[::2] for entry in entries)
        process = status.partition("PPid:")[2].split()[0]


def own_connection(proc: pathlib.Path) -> str:
    """SSH_CONNECTION of this session, read from its parents too, because sudo takes it away; empty without SSH."""
    return next((found["SSH_CONNECTION"] for found in environments(proc) if "SSH_CONNECTION" in found), "")


def login_user(proc: pathlib.Path) -> str:
    """Who logged in by SSH for this session: what the outermost of its processes got from sshd; empty without SSH."""
    users = [found.get("LOGNAME", "") for found in environments(proc) if "SSH_CONNECTION" in found]
    return users[-1] if users else ""


def login_method(connection: str, journal: str) -> str:
    """How the login of this connection was proven (publickey, password, …), by sshd's journal; empty if unknown."""
    words = connection.split()
    if len(words) < 2:
        return ""
    said = re.findall(rf"Accepted (\S+) for .* from {re.escape(words[0])} port {re.escape(words[1])}\b", journal)
    return str(said[-1]) if said else ""


# Looking --------------------------------------------------------------------------------------------------------


def stale(file: dict[str, str]) -> bool:
    path = pathlib.Path(file["path"])
    try:
        there = path.stat()
        return path.read_text(encoding="utf-8") != file["text"] or there.st_mode & 0o7777 != int(file["mode"], 8)
    except (OSError, UnicodeDecodeError):
        return True


def setting(proc: pathlib.Path, name: str) -> str | None:
    """A setting of the kernel, or None where this kernel has none of that name."""
    try:
        return " ".join((proc / "sys" / name.replace(".", "/")).read_text(encoding="utf-8").split())
    except OSError:
        return None


def beyond(names: list[str], wanted: dict[str, Any], now: dict[str, str | None]) -> dict[str, str]:
    """Of these settings, each the stricter the higher it is, those that the kernel has higher than wanted."""
    found = {name: now[name] or "" for name in names}
    return {name: value for name, value in found.items() if value.isdigit() and int(value) > int(wanted[name])}


def with_settings(text: str, settings: dict[str, str]) -> str:
    """A text of sysctl.d, with these settings in the place of its own."""
    for name, value in settings.items():
        text = re.sub(rf"(?m)^{re.escape(name)} = .*$", f"{name} = {value}", text)
    return text


def units(names: list[str]) -> dict[str, dict[str, str]]:
    shown = execute(["systemctl", "show", "--property=LoadState,ActiveState", *names], may_fail=True)
    found = {}
    for name, block in zip(names, shown.strip().split("\n\n"), strict=False):
        words = dict(line.partition("=")[::2] for line in block.splitlines())
        found[name] = {"load": words.get("LoadState", ""), "active": words.get("ActiveState", "")}
    return found


def root_password(shadow: str) -> str:
    """Whether root has a password: set, empty (anybody is let in at the console) or none."""
    found = re.search(r"(?m)^root:([^:\n]*)", shadow)
    word = found[1] if found else "*"
    return "empty" if not word else "none" if word[0] in "*!" else "set"


def look_at_ssh(wanted: dict[str, str] | None, places: Places, server: bool) -> dict[str, Any]:
    """The drop-in for this host, whether it is to be tried, and how Ansible came; server: whether there is an sshd."""
    answer: dict[str, Any] = {"ssh_pending": False, "ssh_text": "", "login_method": "", "ssh_demands": ""}
    answer["sshd_differs"] = []
    if wanted is None or not server:
        return answer
    connection, user = own_connection(places.proc), login_user(places.proc)
    # Without our file: what it says is no wish of anybody else's, and would hide what is.
    config = without(places.sshd_config, places.drop_in)
    try:
        theirs = options(execute(WITHOUT_OURS, text=config))
    except HardeningError as problem:
        raise HardeningError(f"Mend this host's own SSH options, without {places.drop_in}: {problem}") from None
    text = stricter(wanted["text"], theirs, user == "root")
    pending = stale({**wanted, "text": text}) or places.before.exists()
    answer.update({"ssh_text": text, "ssh_pending": pending})
    if not pending:
        answer["sshd_differs"] = not_effective(text, execute(EFFECTIVE))
        return answer
    # The journal is only asked when SSH is about to change: it may be long.
    journal = ["journalctl", "--quiet", "--boot", "--output=cat", "--identifier=sshd", "--identifier=sshd-session"]
    method = login_method(connection, execute(journal, may_fail=True))
    ways = beyond_a_key(theirs)
    if ways and method == "publickey":
        # By a key alone: a `Match` of theirs lets it in so, or else nothing but our file did.
        address = connection.split()[0]
        for_us = options(execute([*WITHOUT_OURS, "-C", f"user={user},host={address},addr={address}"], text=config))
        own_ways = beyond_a_key(for_us)
        if own_ways and all(set(way) != {"publickey"} for way in own_ways):
            answer["ssh_demands"] = for_us["authenticationmethods"]
    elif user != "root" and any(method.partition("/")[0] in way for way in ways):
        # sshd names the last of several methods. Root would not get in by this one any more.
        method = "publickey"
    answer["login_method"] = method
    return answer


def look(wishes: dict[str, Any], places: Places) -> dict[str, Any]:
    container = execute(["systemd-detect-virt", "--container"], may_fail=True).strip()
    found = units(wishes["units"])
    wanted = next((file for file in wishes["files"] if file["path"] == str(places.drop_in)), None)
    ssh = look_at_ssh(wanted, places, found.get("ssh.service", {}).get("load") == "loaded")
    now = {name: setting(places.proc, name) for name in wishes["sysctl"]}
    stays = beyond(wishes["at_least"], wishes["sysctl"], now)
    settings = {name: " ".join(str(value).split()) for name, value in {**wishes["sysctl"], **stays}.items()}
    files = [{**file, "text": with_settings(file["text"], stays)} for file in wishes["files"]]
    path = "/usr/bin:/usr/sbin:/bin:/sbin"
    known = {name: shutil.which(name, path=path) is not None for name in ("unattended-upgrade", "augenrules")}
    parents = [pathlib.Path(file["path"]).parent for file in files]
    return {
        "container": container or "none",
        "stale": [file["path"] for file in files if file["path"] != str(places.drop_in) and stale(file)],
        "texts": {file["path"]: file["text"] for file in files},
        "directories": sorted({str(parent) for parent in parents if parent.is_dir()}),
        "docker": pathlib.Path("/etc/docker").is_dir(),
        "sysctl_differs": sorted(
            f"{name} is {is_now}" for name, is_now in now.items() if is_now is not None and is_now != settings[name]
        ),
        "sysctl_unknown": sorted(name for name, is_now in now.items() if is_now is None),
        "units": found,
        "programs": known,
        **ssh,
        "root_password": root_password(places.shadow.read_text(encoding="utf-8")),
        # Without auditd there is none of these programs, and they answer nothing.
        "audit_possible": bool(execute(["auditctl", "-s"], may_fail=True)),
        "audit_merged": "No change" in execute(["augenrules", "--check"], may_fail=True),
        "audit_loaded": execute(["auditctl", "-l"], may_fail=True).count(AUDIT_KEY),
    }


def main(arguments: list[str] | None = None, places: Places | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look at this host, or try options of its SSH server.")
    parser.add_argument("command", choices=["look", "apply", "confirm", "rollback"])
    parser.add_argument("given", nargs="?", default="", help="the wishes (look), or the file with the options (apply)")
    parsed = parser.parse_args(arguments)
    places = places or Places()
    try:
        if parsed.command == "look":
            print(json.dumps(look(json.loads(parsed.given), places)))
        elif parsed.command == "apply":
            Trial(places).apply(pathlib.Path(parsed.given).read_text(encoding="utf-8"))
        elif parsed.command == "confirm":
            Trial(places).confirm()
        else:
            Trial(places).rollback()
    except (HardeningError, OSError, ValueError) as problem:
        print(f"hardening: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
