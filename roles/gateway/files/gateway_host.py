# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role gateway does on its host beyond files and units. Needs nothing but Python and openssl.

    keys DIRECTORY [--dry-run] NAME…          generate what is missing, remove what isn't named
    certificate FILE [--dry-run] NAME…        a self-signed one with its key, where none is usable
    server SOCKET NAME ready|drain SECONDS PLACE [--dry-run] [--if-there]
                                              take a server out of the balance and wait for its requests, or back and
                                              wait for its health; PLACE (ADDRESS:PORT or nothing): where it is now

Each prints one JSON object. A failure is one sentence on stderr, and exit status 1.
"""

from __future__ import annotations

import contextlib
import csv
import ipaddress
import json
import os
import pathlib
import secrets
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

KEY_LENGTH = 40
CERTIFICATE_DAYS = 825
RENEWED_BEFORE_SECONDS = 30 * 86400
# By this a certificate is known as one that this role signed itself, so that a given one is never taken for it.
ORGANISATION = "gpuops.fleet gateway (self-signed)"
# One that is down is looked at every 5 s, and a look takes as long at most.
HEALTHY_AFTER_SECONDS = 60
# What `set server state drain` sets in HAProxy's srv_admin_state; a weight of 0 (drain: true) is something else.
FORCED_DRAIN = 0x08


class Problem(Exception):
    """A sentence for people."""


class Absent(Problem):
    """HAProxy doesn't run here, or has no such server."""


def keys(directory: str, *arguments: str) -> dict[str, Any]:
    """A key that is gone from the settings must not come to life again with its old value."""
    dry_run, names = _dry_run(arguments)
    place = pathlib.Path(directory)
    there = {path.name: path.lstat().st_size for path in place.iterdir()} if place.is_dir() else {}
    # An empty one is no key.
    missing, left = sorted(name for name in set(names) if not there.get(name)), sorted(there.keys() - set(names))
    if not dry_run:
        for name in left:
            (place / name).unlink()
        for name in missing:
            letters = string.ascii_letters + string.digits
            _write(place / name, "".join(secrets.choice(letters) for _letter in range(KEY_LENGTH)), 0o600)
    return {"changed": bool(missing or left), "generated": missing, "removed": left}


def certificate(path: str, *arguments: str) -> dict[str, Any]:
    dry_run, names = _dry_run(arguments)
    wanted = sorted(f"IP:{_canonical(name)}" if _is_address(name) else f"DNS:{name}" for name in names)
    place = pathlib.Path(path)
    reason = _unusable(place, pathlib.Path(f"{place}.key"), wanted)
    if reason and not dry_run:
        # Made beside it and moved: who reads meanwhile finds a whole one.
        with tempfile.TemporaryDirectory(dir=place.parent) as directory:
            new, new_key = pathlib.Path(directory, "certificate"), pathlib.Path(directory, "key")
            name = next((name for name in names if not _is_address(name) and len(name) <= 64), "gateway")
            _openssl(
                *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"),
                *("-days", str(CERTIFICATE_DAYS), "-subj", f"/O={ORGANISATION}/CN={name}"),
                *("-addext", f"subjectAltName={','.join(wanted)}", "-addext", "extendedKeyUsage=serverAuth"),
                *("-keyout", str(new_key), "-out", str(new)),
            )
            new_key.chmod(0o640)
            os.chown(new_key, -1, place.parent.joinpath("secrets").stat().st_gid)
            new.chmod(0o644)
            new_key.replace(f"{place}.key")
            new.replace(place)
    return {"changed": bool(reason), "reason": reason}


def _unusable(place: pathlib.Path, key: pathlib.Path, wanted: list[str]) -> str:
    """Why a certificate has to be made; empty where it needn't."""
    if not (place.is_file() and key.is_file()):
        return "there is none"
    try:
        if ORGANISATION not in _openssl("x509", "-noout", "-issuer", "-nameopt", "multiline", "-in", str(place)):
            return "it was not made here"
        if _openssl("x509", "-noout", "-pubkey", "-in", str(place)) != _openssl("pkey", "-pubout", "-in", str(key)):
            return "it does not match its key"
        text = _openssl("x509", "-noout", "-ext", "subjectAltName", "-in", str(place))
    except Problem:
        return "it can't be read"
    names = [word.strip().replace("IP Address:", "IP:") for word in text.splitlines()[-1].split(",")]
    if sorted(f"IP:{_canonical(name[3:])}" if name.startswith("IP:") else name for name in names) != wanted:
        return "it is good for other names"
    with contextlib.suppress(Problem):
        _openssl("x509", "-noout", "-checkend", str(RENEWED_BEFORE_SECONDS), "-in", str(place))
        return ""
    return "it expires soon"


def server(path: str, name: str, state: str, seconds: str, place: str, *arguments: str) -> dict[str, Any]:
    """Requests that run are never cut: a server that still has some when the time is over is a failure, and drained.

    One that gets requests again is waited for until HAProxy finds it healthy: only then may the next one be drained.
    Not where HAProxy looks for it at another place than it is now: it will be told when its configuration is written.
    """
    dry_run, options = _dry_run(arguments)
    try:
        was = _server_row(path, name)["status"]
        drained, known = _server_state(path, name)
    except Absent:
        if "--if-there" not in options:
            raise
        return {"changed": False, "was": ""}
    changed = drained != (state == "drain")
    if changed and not dry_run:
        answer = _admin(path, f"set server vllm/{name} state {state}").strip()
        if answer:
            raise Problem(f"HAProxy did not set {name} to {state}: {answer}")
    if state == "drain" and not dry_run:
        _wait_for_requests(path, name, float(seconds))
    elif changed and not dry_run and place in ("", known):
        _wait_for_health(path, name, HEALTHY_AFTER_SECONDS)
    return {"changed": changed, "was": was}


def _wait_for_requests(path: str, name: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while running := int(_server_row(path, name)["scur"]):
        if time.monotonic() >= ends:
            raise Problem(
                f"{name} takes no new requests, but {running} still run after {seconds:g} s. Wait longer, or try again."
            )
        time.sleep(0.2)


def _wait_for_health(path: str, name: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    # "UP 1/2" is up, "DOWN 1/2" is not yet; DRAIN is healthy, and drained by gateway_servers.
    while not (row := _server_row(path, name))["status"].startswith(("UP", "DRAIN", "no check")):
        if time.monotonic() >= ends:
            raise Problem(
                f"{name} may get requests again, but the gateway still finds it {row['status']} after {seconds:g} s "
                f"({row.get('last_chk') or row.get('check_status') or 'nothing more is known'}). Look whether it is "
                "healthy, and whether it can be reached from the gateway's host."
            )
        time.sleep(0.2)


def _server_row(path: str, name: str) -> dict[str, str]:
    rows = csv.DictReader(_admin(path, "show stat vllm 4 -1").lstrip("# ").splitlines())
    return _row_of(name, rows, "svname")


def _server_state(path: str, name: str) -> tuple[bool, str]:
    """Whether it was drained by hand, also while it is down, when its status doesn't say so; and ADDRESS:PORT."""
    _version, header, *lines = _admin(path, "show servers state vllm").splitlines()
    rows = csv.DictReader([header.lstrip("# "), *lines], delimiter=" ")
    row = _row_of(name, rows, "srv_name")
    address = row["srv_addr"] if row["srv_fqdn"] == "-" else row["srv_fqdn"]
    return bool(int(row["srv_admin_state"]) & FORCED_DRAIN), f"{address}:{row['srv_port']}"


def _row_of(name: str, rows: Iterable[dict[str, str]], column: str) -> dict[str, str]:
    for row in rows:
        if row[column] == name:
            return row
    raise Absent(f"The gateway has no server {name}; gateway_servers names those that it has.")


def _admin(path: str, command: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            parts = iter(lambda: connection.recv(65536), b"")
            return b"".join(parts).decode()
    except OSError as problem:
        nobody = isinstance(problem, (FileNotFoundError, ConnectionRefusedError))
        raise (Absent if nobody else Problem)(
            f"HAProxy does not answer at {path} ({problem.strerror}). Look at: journalctl -u gateway"
        ) from problem


def _dry_run(arguments: tuple[str, ...]) -> tuple[bool, list[str]]:
    return "--dry-run" in arguments, [word for word in arguments if word != "--dry-run"]


def _write(path: pathlib.Path, text: str, mode: int) -> None:
    """All or nothing, and never readable by more than mode says."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"openssl {arguments[0]} failed: {' '.join(done.stderr.split())[:300]}")
    return done.stdout


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _canonical(address: str) -> str:
    """One spelling: openssl writes IPv6 in capitals and unshortened."""
    return str(ipaddress.ip_address(address))


def main(arguments: list[str]) -> int:
    commands: dict[str, Any] = {"keys": keys, "certificate": certificate, "server": server}
    try:
        print(json.dumps(commands[arguments[0]](*arguments[1:])))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
