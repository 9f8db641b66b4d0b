# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make what a service finds on its host right again: the host's address and the owner of its data.

Runs at every boot before Docker starts, and whenever the role `service` runs. It needs no Docker and nothing
outside Python's own library. What it should do stands in DIRECTORY/service.json. On standard output it prints
one line of JSON, {"changed": bool, "address": str, "actions": [str]}, which the role reads.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import socket
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

METADATA_TIMEOUT_SECONDS = 2.0
# TEST-NET-1 (RFC 5737): nothing is sent there; connecting a datagram socket only asks the kernel for its route.
ROUTE_PROBE = ("192.0.2.1", 9)
# Re-owning one of these recursively would break the host, whatever a variable says.
SYSTEM_DIRECTORIES = (
    "/ /bin /boot /dev /etc /home /lib /lib32 /lib64 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr"
    " /usr/bin /usr/lib /usr/local /usr/sbin /usr/share /var /var/cache /var/lib /var/lib/docker /var/log"
)
FORBIDDEN_DATA_DIRECTORIES = frozenset(SYSTEM_DIRECTORIES.split())


class RefreshError(Exception):
    """Something that a person has to mend; the text says what."""


def _http(method: str, url: str, headers: dict[str, str]) -> str:
    # A metadata service is link-local: a proxy from the environment must never see the request.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 the URLs are constants below
    with opener.open(request, timeout=METADATA_TIMEOUT_SECONDS) as answer:
        return str(answer.read(4096).decode("ascii")).strip()


def aws_address(http: Callable[[str, str, dict[str, str]], str] = _http) -> str:
    """The private IPv4 address by the instance metadata service, version 2 (with a session token)."""
    base = "http://169.254.169.254/latest"
    token = http("PUT", f"{base}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return http("GET", f"{base}/meta-data/local-ipv4", {"X-aws-ec2-metadata-token": token})


def google_address(http: Callable[[str, str, dict[str, str]], str] = _http) -> str:
    """The internal IPv4 address of the first network interface by Google's metadata server."""
    return http(
        "GET",
        "http://169.254.169.254/computeMetadata/v1/instance/network-interfaces/0/ip",
        {"Metadata-Flavor": "Google"},
    )


def route_address() -> str:
    """The source address of the default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ROUTE_PROBE)
        return str(probe.getsockname()[0])


METADATA_SOURCES: dict[str, Callable[[], str]] = {"aws": aws_address, "google": google_address}


def find_address(
    metadata: str,
    wait_seconds: float,
    *,
    sources: dict[str, Callable[[], str]] | None = None,
    route: Callable[[], str] = route_address,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> str:
    """Ask the cloud's metadata (when configured), else the route; wait for the network up to a limit."""
    sources = METADATA_SOURCES if sources is None else sources
    if metadata != "none" and metadata not in sources:
        known = ", ".join(["none", *sorted(sources)])
        raise RefreshError(f"address_metadata is {metadata!r}; it must be one of: {known}.")
    deadline = monotonic() + wait_seconds
    while True:
        problems = []
        for name, source in ([(metadata, sources[metadata])] if metadata != "none" else []) + [("route", route)]:
            try:
                address = source()
                if not ipaddress.IPv4Address(address).is_loopback and address != "0.0.0.0":  # noqa: S104 compared, not bound
                    return address
                problems.append(f"{name}: answered {address!r}, which no other host can reach")
            except (OSError, ValueError, urllib.error.URLError) as problem:
                problems.append(f"{name}: {problem}")
        if monotonic() >= deadline:
            raise RefreshError(
                f"This host's address was not found within {wait_seconds:g} s ({'; '.join(problems)}). "
                "Check the network configuration (ip -4 route show default) and start this unit again."
            )
        sleep(1.0)


def write_atomically(path: str, text: str, mode: int = 0o644) -> bool:
    """Replace the file in one step, and only when the content differs; say whether it did."""
    try:
        with open(path, encoding="utf-8") as current:
            if current.read() == text:
                return False
    except FileNotFoundError:
        pass
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".refresh-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fchmod(new.fileno(), mode)
            os.fsync(new.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def checked_data_directory(path: str) -> str:
    """Refuse what must never be re-owned; follow a link only when root made it (a disk mounted elsewhere)."""
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        raise RefreshError(f"The data directory {path!r} must be an absolute path without '..' or a slash at its end.")
    if os.path.islink(path):
        if os.lstat(path).st_uid != 0:
            raise RefreshError(
                f"The data directory {path} is a link that root did not make; replace it by a directory."
            )
        path = os.path.realpath(path)
    if path in FORBIDDEN_DATA_DIRECTORIES:
        raise RefreshError(f"{path} belongs to the system and can't be a data directory; choose one below it.")
    return path


def mend_data_directory(path: str, uid: int, gid: int, mode: int) -> list[str]:
    """Create the directory if it is missing and re-own, recursively, only what has another owner."""
    path = checked_data_directory(path)
    actions = []
    if not os.path.isdir(path):
        os.makedirs(path, mode=0o755)
        actions.append(f"created {path}")
    mended = 0
    # File descriptors, not paths: whoever writes in there can't swap a directory for a link while root walks.
    for _root, directories, files, descriptor in os.fwalk(path, follow_symlinks=False):
        own = os.fstat(descriptor)
        if (own.st_uid, own.st_gid) != (uid, gid):
            os.fchown(descriptor, uid, gid)
            mended += 1
        for name in [*files, *directories]:
            try:
                entry = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if (entry.st_uid, entry.st_gid) != (uid, gid):
                    os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
                    mended += 1
            except FileNotFoundError:
                continue  # a running service removed it meanwhile
    if mended:
        actions.append(f"re-owned {mended} entries of {path} to {uid}:{gid}")
    if stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)
        actions.append(f"set the mode of {path} to {mode:04o}")
    return actions


def refresh(directory: str, wait_seconds: float, find: Callable[[str, float], str] = find_address) -> dict[str, Any]:
    """Do all of it for the service whose files stand in `directory`."""
    description = os.path.join(directory, "service.json")
    try:
        with open(description, encoding="utf-8") as source:
            wanted = json.load(source)
        metadata = str(wanted["address_metadata"])
        directories = [
            (str(entry["path"]), int(entry["uid"]), int(entry["gid"]), int(str(entry["mode"]), 8))
            for entry in wanted["data_directories"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RefreshError(f"{description} can't be used ({problem!r}); run the role `service` again.") from problem
    actions: list[str] = []
    # First the data: it needs no network, so it is right even where no address is found.
    for path, uid, gid, mode in directories:
        actions += mend_data_directory(path, uid, gid, mode)
    address = find(metadata, wait_seconds)
    if write_atomically(os.path.join(directory, "address.env"), f"HOST_ADDRESS={address}\n"):
        actions.append(f"wrote the address {address}")
    return {"changed": bool(actions), "address": address, "actions": actions}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Mend a service's address and data ownership.")
    parser.add_argument("directory", help="the service's directory, for example /opt/kafka")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="how long to wait for the network")
    options = parser.parse_args(arguments)
    try:
        result = refresh(options.directory, options.wait)
    except (RefreshError, OSError) as problem:
        print(f"env-refresh: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
