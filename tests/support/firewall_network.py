# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small network in namespaces of its own, in which real rules are tried by real connections.

Run as a program inside `unshare --net --mount`, so that nothing of it is left: host (this namespace, with a container
behind docker0 whose port 80 is published as 8080, by IPv4 and IPv6, as Docker does it), and two neighbours, peer and
other. Takes the directory with rules.nft and peers.json; prints {"who family port": whether it answered} as one line of
JSON.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "roles/firewall/files/firewall.py"
NEIGHBOURS = {"peer": 1, "other": 2}
ADDRESSES = {"peer": ["10.9.1.2", "fd09:1::2"], "other": ["10.9.2.2", "fd09:2::2"]}
CONTAINER = {"ipv4": "172.30.0.2", "ipv6": "fd09:30::2"}
LISTENERS = {"": (22, 8443, 9092, 9093, 9150, 9999), "container": (80,), "other": (7000,)}
PUBLISH = """
table ip nat {
  chain PREROUTING { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 172.30.0.2:80; }
}
table ip6 nat {
  chain PREROUTING { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to [fd09:30::2]:80; }
}
"""
LISTEN = """
import select, socket, sys
both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
listeners = [socket.create_server(("::", int(port)), **both) for port in sys.argv[1:]]
print("ready", flush=True)
while True:
    for ready in select.select(listeners, [], [])[0]:
        ready.accept()[0].close()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()"


def command(*words: str, text: str = "") -> str:
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def inside(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


def wire(namespace: str, device: str) -> None:
    command("ip", "netns", "add", namespace)
    command("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    command("ip", "link", "set", device, "up")
    for name in ("lo", "eth0"):
        command(*inside(namespace), "ip", "link", "set", name, "up")


def build() -> None:
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    command("mount", "-t", "tmpfs", "none", "/run/netns")
    command("ip", "link", "set", "lo", "up")
    for name, number in NEIGHBOURS.items():
        wire(name, f"veth-{name}")
        for address, prefix in ((f"10.9.{number}.", 24), (f"fd09:{number}::", 64)):
            command("ip", "address", "add", f"{address}1/{prefix}", "dev", f"veth-{name}", *no_detection(address))
            own = f"{address}2/{prefix}"
            command(*inside(name), "ip", "address", "add", own, "dev", "eth0", *no_detection(address))
            command(*inside(name), "ip", "route", "add", "default", "via", f"{address}1")
    wire("container", "veth-container")
    command("ip", "link", "add", "docker0", "type", "bridge")
    command("ip", "link", "set", "veth-container", "master", "docker0")
    command("ip", "link", "set", "docker0", "up")
    for address, prefix in (("172.30.0.", 24), ("fd09:30::", 64)):
        command("ip", "address", "add", f"{address}1/{prefix}", "dev", "docker0", *no_detection(address))
        own = f"{address}2/{prefix}"
        command(*inside("container"), "ip", "address", "add", own, "dev", "eth0", *no_detection(address))
        command(*inside("container"), "ip", "route", "add", "default", "via", f"{address}1")
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        pathlib.Path("/proc/sys/net", switch).write_text("1")
    command("nft", "--file", "-", text=PUBLISH)


def no_detection(address: str) -> list[str]:
    """An address of IPv6 is of use at once where nobody asks first whether it is somebody else's."""
    return ["nodad"] if ":" in address else []


def listen() -> list[subprocess.Popen[str]]:
    started = []
    for namespace, ports in LISTENERS.items():
        words = [*inside(namespace), sys.executable, "-c", LISTEN, *map(str, ports)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return started


def load(directory: pathlib.Path) -> None:
    """By the program of the role, with a resolver and a timer of ours."""
    spec = importlib.util.spec_from_file_location("firewall", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    firewall: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(firewall)

    def execute(words: list[str], text: str = "") -> str:
        return str(firewall.run(words, text)) if words[0] == "nft" else ""

    def lookup(names: Iterable[str]) -> dict[str, list[str]]:
        return {name: ADDRESSES[name.partition(".")[0]] for name in names}

    places = firewall.Places(directory, directory / "state", directory / "run")
    host = firewall.Host(places, execute=execute, lookup=lookup)
    assert host.apply()
    assert host.confirm()
    assert not host.apply()
    command("nft", "flush", "ruleset")
    command("nft", "--file", "-", text=PUBLISH)
    assert host.refresh(), "what was flushed is loaded again"
    assert not host.refresh(), "and then all is right"


def answers(namespace: str, address: str, port: int) -> bool:
    words = [*inside(namespace), sys.executable, "-c", CONNECT, address, str(port)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def attempts() -> dict[str, tuple[str, str, int]]:
    found = {}
    for name, number in NEIGHBOURS.items():
        for port in (22, 8080, 8443, 9092, 9093, 9150, 9999):
            found[f"{name} ipv4 {port}"] = (name, f"10.9.{number}.1", port)
            found[f"{name} ipv6 {port}"] = (name, f"fd09:{number}::1", port)
        for family, address in CONTAINER.items():
            found[f"{name} {family} past the published port"] = (name, address, 80)
    found["container to its host"] = ("container", "172.30.0.1", 9999)
    found["container to its host by ipv6"] = ("container", "fd09:30::1", 9999)
    found["container to the outside"] = ("container", "10.9.2.2", 7000)
    found["container to the outside by ipv6"] = ("container", "fd09:2::2", 7000)
    found["host to the outside"] = ("", "fd09:2::2", 7000)
    found["host to itself"] = ("", "10.9.1.1", 9999)
    found["host to its container"] = ("", CONTAINER["ipv4"], 80)
    found["host to its container by ipv6"] = ("", CONTAINER["ipv6"], 80)
    return found


def main(directory: pathlib.Path, guarded: bool) -> None:
    build()
    listeners = listen()
    try:
        # The links need a moment until they carry IPv6.
        deadline = time.monotonic() + 20
        first = [("peer", "fd09:1::1", 22), ("other", "fd09:2::1", 22), ("container", "fd09:30::1", 22)]
        while not all(answers(*attempt) for attempt in first):
            assert time.monotonic() < deadline, "The network was never there."
        if guarded:
            load(directory)
        tried = attempts()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            results = list(pool.map(lambda attempt: answers(*attempt), tried.values()))
        print(json.dumps(dict(zip(tried, results, strict=True))))
    finally:
        for process in listeners:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2] == "guarded")
