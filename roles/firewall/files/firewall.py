# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load the rules of this host's firewall, and keep the addresses of its peers right.

It needs nothing outside Python's own library but the program nft. What is wanted stands in two files that the role
`firewall` writes: rules.nft, and peers.json with the names of peers by the beginning of the names of their sets.

    apply      load what is wanted, on trial: the timer takes it back unless `confirm` comes before it
    confirm    keep what is on trial, also at the next boot
    rollback   go back to what was confirmed last (to no rules where nothing was)
    load       load what was confirmed last (at boot)
    refresh    look the peers up again; also load the rules again where somebody removed them
    remove     take the rules away and forget them

On standard output `apply`, `confirm` and `remove` print one line of JSON, {"changed": bool}.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import ipaddress
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

TABLE = "gpuops_fleet"
CHAINS = frozenset({"input", "forward", "services"})
FAMILIES = {4: "ipv4", 6: "ipv6"}
ROLLBACK_TIMER = "gpuops-fleet-firewall-rollback.timer"
RESOLVE_SECONDS = 8.0

Addresses = dict[str, list[str]]


class FirewallError(Exception):
    """Something that a person has to mend; the text says what."""


class Firewall(NamedTuple):
    """One state of the rules: their text, and who belongs into which sets."""

    rules: str
    peers: dict[str, list[str]]


class Places(NamedTuple):
    wanted: pathlib.Path = pathlib.Path("/etc/gpuops-fleet/firewall")
    state: pathlib.Path = pathlib.Path("/var/lib/gpuops-fleet/firewall")
    runtime: pathlib.Path = pathlib.Path("/run/gpuops-fleet-firewall")


def run(arguments: list[str], text: str = "") -> str:
    """Standard output of a program; FirewallError with what it said when it fails."""
    # Not in every PATH of an ordinary user's session.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            arguments, input=text, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        )
    except OSError as problem:
        raise FirewallError(f"{arguments[0]} can't be run ({problem}); install it again.") from problem
    if done.returncode != 0:
        raise FirewallError(f"`{' '.join(arguments)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def look_up(name: str) -> list[str]:
    """The addresses of a peer. Those of this host itself are of no use: what comes from itself is let in anyway."""
    found = set()
    for answer in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(answer[4][0]).partition("%")[0])
        if not (address.is_loopback or address.is_unspecified or address.is_multicast):
            found.add(str(address))
    return sorted(found)


def resolve(
    names: Iterable[str], one: Callable[[str], list[str]] = look_up, seconds: float = RESOLVE_SECONDS
) -> Addresses:
    """The addresses of those names that were found in time, all looked up at once."""
    found: Addresses = {}

    def look(name: str) -> None:
        with contextlib.suppress(OSError, UnicodeError, ValueError):
            addresses = one(name)
            if addresses:
                found[name] = addresses

    # Daemons: an answer that never comes must not keep this program from its end.
    threads = [threading.Thread(target=look, args=(name,), daemon=True) for name in sorted(set(names))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replace a file in one step, unless it says that already."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".firewall-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def elements(firewall: Firewall, addresses: Addresses) -> dict[str, set[str]]:
    """What belongs into each set of peers, by its whole name."""
    wished: dict[str, set[str]] = {
        f"{begin}_{family}": set() for begin in firewall.peers for family in FAMILIES.values()
    }
    for begin, names in firewall.peers.items():
        for name in names:
            for address in addresses.get(name, ()):
                wished[f"{begin}_{FAMILIES[ipaddress.ip_address(address).version]}"].add(address)
    return wished


def commands(wished: dict[str, set[str]]) -> str:
    """Text for nft that replaces the content of these sets; nft does all of one text, or nothing."""
    lines = []
    for name, content in sorted(wished.items()):
        lines.append(f"flush set inet {TABLE} {name}")
        if content:
            lines.append(f"add element inet {TABLE} {name} {{ {', '.join(sorted(content))} }}")
    return "".join(f"{line}\n" for line in lines)


class Host:
    """The firewall of one host: its files, and the kernel by way of nft."""

    def __init__(
        self,
        places: Places,
        *,
        execute: Callable[[list[str], str], str] = run,
        lookup: Callable[[Iterable[str]], Addresses] = resolve,
    ) -> None:
        self._places = places
        self._execute = execute
        self._lookup = lookup
        self._confirmed = places.state / "confirmed.json"
        self._addresses = places.state / "addresses.json"
        self._active = places.runtime / "active.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One at a time: the refresh must not fill sets that a rollback is replacing."""
        self._places.runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
        with open(self._places.runtime / "lock", "w", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    # Files ----------------------------------------------------------------------------------------------------

    def wanted(self) -> Firewall:
        try:
            rules = (self._places.wanted / "rules.nft").read_text(encoding="utf-8")
            peers = json.loads((self._places.wanted / "peers.json").read_text(encoding="utf-8"))
            return Firewall(rules, {str(begin): [str(name) for name in names] for begin, names in peers.items()})
        except (OSError, ValueError, AttributeError, TypeError) as problem:
            raise FirewallError(
                f"{self._places.wanted} can't be used ({problem!r}); run the role `firewall` again."
            ) from problem

    @staticmethod
    def _read(path: pathlib.Path) -> Firewall | None:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Firewall(kept["rules"], kept["peers"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as problem:
            # As if it were not there, or `apply` could never mend it.
            print(f"firewall: {path} can't be used ({problem!r}); run the role `firewall` again.", file=sys.stderr)
            return None

    def _known(self) -> Addresses:
        try:
            known: Addresses = json.loads(self._addresses.read_text(encoding="utf-8"))
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            return {}  # the next look-up finds them again

    def _look_up(self, firewall: Firewall) -> Addresses:
        """The addresses of all peers; a name that is not found keeps those that it had last."""
        names = {name for names in firewall.peers.values() for name in names}
        known = {name: addresses for name, addresses in self._known().items() if name in names}
        known.update(self._lookup(sorted(names)))
        write_atomically(self._addresses, json.dumps(known, sort_keys=True))
        return known

    # Kernel ---------------------------------------------------------------------------------------------------

    def _loaded(self) -> dict[str, set[str]] | None:
        """The sets in the kernel with what is in them, or None where the table is missing or not whole."""
        tables = json.loads(self._execute(["nft", "--json", "list", "tables"], ""))["nftables"]
        if {"inet", TABLE} not in (
            {entry["table"]["family"], entry["table"]["name"]} for entry in tables if "table" in entry
        ):
            return None
        listed = json.loads(self._execute(["nft", "--json", "list", "table", "inet", TABLE], ""))["nftables"]
        if not {entry["chain"]["name"] for entry in listed if "chain" in entry} >= CHAINS:
            return None
        sets: list[dict[str, Any]] = [entry["set"] for entry in listed if "set" in entry]
        # Networks and ports are dictionaries; they are part of the rules, and not looked at here.
        return {one["name"]: {element for element in one.get("elem", ()) if isinstance(element, str)} for one in sets}

    def _install(self, firewall: Firewall, addresses: Addresses) -> None:
        self._execute(["nft", "--file", "-"], firewall.rules + commands(elements(firewall, addresses)))
        write_atomically(self._active, json.dumps(firewall._asdict()))

    def _drop_table(self) -> None:
        # Declared first: deleting what is not there would be an error.
        self._execute(["nft", "--file", "-"], f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        self._active.unlink(missing_ok=True)

    def _timer(self, verb: str) -> None:
        self._execute(["systemctl", verb, ROLLBACK_TIMER], "")

    # Commands -------------------------------------------------------------------------------------------------

    def apply(self) -> bool:
        wanted = self.wanted()
        if self._read(self._confirmed) == wanted == self._read(self._active) and self._loaded() is not None:
            return False
        addresses = self._look_up(wanted)
        # Before the rules: from here on, nobody has to come for the host to be open again.
        self._timer("restart")
        try:
            self._install(wanted, addresses)
        except FirewallError:
            self._timer("stop")  # nft does all or nothing: what was loaded still is
            raise
        return True

    def confirm(self) -> bool:
        self._timer("stop")
        active = self._read(self._active)
        if active is None or active != self.wanted():
            raise FirewallError(
                "The rules on trial were taken back before they were confirmed. Run the role `firewall` again, with a"
                " larger firewall_rollback_seconds where the connection is slow."
            )
        changed = self._read(self._confirmed) != active
        write_atomically(self._confirmed, json.dumps(active._asdict()))
        return changed

    def rollback(self) -> bool:
        confirmed = self._read(self._confirmed)
        if confirmed is None:
            self._drop_table()
        else:
            self._install(confirmed, self._known())
        return True

    def _must_read_confirmed(self) -> Firewall | None:
        """None where nothing was confirmed. A file that can't be used must not pass for that: all would be open."""
        confirmed = self._read(self._confirmed)
        if confirmed is None and self._confirmed.exists():
            raise FirewallError(f"{self._confirmed} can't be used, so no rules are loaded and everything is open.")
        return confirmed

    def load(self) -> bool:
        """At boot there may be no network yet: the addresses are those of last time."""
        confirmed = self._must_read_confirmed()
        if confirmed is not None:
            self._install(confirmed, self._known())
        return confirmed is not None

    def refresh(self) -> bool:
        firewall = self._read(self._active) or self._must_read_confirmed()
        if firewall is None:
            return False
        addresses = self._look_up(firewall)
        loaded = self._loaded()
        wished = elements(firewall, addresses)
        if loaded is None or not loaded.keys() >= wished.keys():
            print("the rules were gone, and are loaded again")
            self._install(firewall, addresses)
            return True
        different = {name: content for name, content in wished.items() if loaded[name] != content}
        if different:
            self._execute(["nft", "--file", "-"], commands(different))
            for name, content in sorted(different.items()):
                print(f"{name}: {', '.join(sorted(content)) or 'nobody'}")
        return bool(different)

    def remove(self) -> bool:
        there = self._loaded() is not None or self._confirmed.exists() or self._active.exists()
        self._drop_table()
        for path in (self._confirmed, self._addresses):
            path.unlink(missing_ok=True)
        return there


def main(arguments: list[str] | None = None, host: Host | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Load this host's firewall, and keep the addresses of its peers right."
    )
    parser.add_argument("command", choices=["apply", "confirm", "rollback", "load", "refresh", "remove"])
    command = parser.parse_args(arguments).command
    host = host or Host(Places())
    try:
        with host.lock():
            changed = getattr(host, command)()
    except (FirewallError, OSError) as problem:
        print(f"firewall: {problem}", file=sys.stderr)
        return 1
    if command in ("apply", "confirm", "remove"):
        print(json.dumps({"changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
