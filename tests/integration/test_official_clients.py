# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulators, proven by the clients that the providers themselves publish.

They are installed as pinned in requirements/official-clients, into build/clients, by scripts/clients.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulators import runpod, vastai
from emulators.server import serving
from emulators.vastai_market import FIRST_OFFER
from emulators.world import Fault, World

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "build" / "clients"
SCALE = 60.0
OFFER = FIRST_OFFER + 105  # one RTX 4090


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    done = subprocess.run([ROOT / "scripts" / "clients"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Vastai:
    """The command line of Vast.ai. It exits with 0 whatever the API says, so what counts is what it prints."""

    def __init__(self, url: str, home: Path) -> None:
        self._environment = {"VAST_URL": url, "VAST_API_KEY": "any", "HOME": str(home), "VASTAI_NO_UPDATE_CHECK": "1"}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [CLIENTS / "vastai" / "bin" / "vastai", *arguments],
            env={"PATH": os.environ["PATH"], **self._environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def raw(self, *arguments: str) -> Any:
        said = self(*arguments, "--raw")
        try:
            return json.loads(said)
        except ValueError as error:
            raise AssertionError(f"no JSON: {said}") from error


@pytest.fixture
def vast(tmp_path: Path) -> Iterator[tuple[World, Vastai]]:
    world = World("vastai", scale=SCALE, limits=True)
    with serving(vastai.make(world), world) as url:
        yield world, Vastai(url, tmp_path)


def test_vastai_1_9_1_rents_looks_stops_starts_and_destroys(vast: tuple[World, Vastai]) -> None:
    world, client = vast
    found = client.raw("search", "offers", "gpu_name=RTX_4090 num_gpus=1", "-o", "dph")
    assert [offer["id"] for offer in found] == [OFFER + 2, OFFER], "the cheapest first"
    assert "RTX_4090" in client("search", "offers", "gpu_name=RTX_4090"), "as a table, too"

    order = [
        "--image",
        "debian:12",
        "--disk",
        "20",
        "--ssh",
        "--direct",
        "--label",
        "hello",
        "--env",
        "-e A=b -p 80:80",
    ]
    made = client.raw("create", "instance", str(OFFER), *order)
    assert made["success"] is True
    (rental,) = world.alive()
    identity = str(made["new_contract"])
    assert (rental.id, rental.owner) == (identity, "hello")
    assert {tuple(pair) for pair in rental.wire["extra_env"]} == {("A", "b"), ("-p 80:80", "1")}
    assert rental.wire["disk_space"] == 20

    world.skip(60)
    (one,) = client.raw("show", "instances")
    assert (one["id"], one["actual_status"], one["label"]) == (int(identity), "running", "hello")
    assert "debian:12" in client("show", "instances")
    one = client.raw("show", "instance", identity)
    port = int(one["ports"]["22/tcp"][0]["HostPort"])
    assert client("ssh-url", identity).strip() == f"ssh://root@{one['public_ipaddr'].strip()}:{port}"

    client("label", "instance", identity, "renamed")
    assert rental.owner == "renamed"
    for verb, status in (("stop", "exited"), ("start", "running")):
        client(verb, "instance", identity)
        world.skip(60)
        assert client.raw("show", "instance", identity)["actual_status"] == status
    assert int(client.raw("show", "instance", identity)["ports"]["22/tcp"][0]["HostPort"]) != port

    client("destroy", "instance", identity, "--yes")
    assert not rental.alive
    assert client.raw("show", "instances") == []


def test_vastai_1_9_1_understands_every_refusal(vast: tuple[World, Vastai]) -> None:
    world, client = vast
    order = ["--image", "debian:12", "--disk", "20"]
    assert "no_such_ask" in client("create", "instance", "1", *order), "an offer that never was"
    world.faults = [Fault(trouble="offer_gone", of=str(OFFER))]
    assert "no_such_ask" in client("create", "instance", str(OFFER), *order), "one that was taken"
    assert world.rentals == {}
    assert "404" in client("destroy", "instance", "9000001", "--yes", "--raw")
    world.faults = [Fault(status=429, body="API requests too frequent: endpoint threshold=1", times=1)]
    assert client.raw("show", "instances") == [], "it asks again after too many requests"
    world.faults = [
        Fault(status=401, body={"success": False, "error": "auth_error", "msg": "Invalid user key"}, times=None)
    ]
    assert "401" in client("show", "instances", "--raw")


class McpServer:
    """RunPod's server for the Model Context Protocol, spoken to over its standard input and output."""

    def __init__(self, url: str, home: Path) -> None:
        script = CLIENTS / "runpod" / "node_modules" / "@runpod" / "mcp-server" / "dist" / "stdio.mjs"
        base = url.removesuffix(runpod.URL_PATH)  # it adds the version itself
        environment = {"RUNPOD_API_KEY": "any", "RUNPOD_API_BASE_URL": base, "HOME": str(home)}
        self._process = subprocess.Popen(
            ["node", script],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._number = 0
        about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
        self.ask("initialize", about)
        self._send({"method": "notifications/initialized"})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self._process.stdin.flush()

    def ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": parameters})
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
        raise AssertionError("the server ended")

    def call(self, tool: str, **arguments: Any) -> tuple[bool, Any]:
        """Whether it succeeded, and what was answered."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        return not result["isError"], json.loads(result["content"][0]["text"])

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@pytest.fixture
def mcp(tmp_path: Path) -> Iterator[tuple[World, McpServer]]:
    world = World("runpod", scale=SCALE, limits=True)
    with serving(runpod.make(world), world) as url:
        server = McpServer(url + runpod.URL_PATH, tmp_path)
        yield world, server
        server.end()


def test_runpods_mcp_server_4_lists_creates_stops_and_deletes(mcp: tuple[World, McpServer]) -> None:
    world, server = mcp
    offered = {tool["name"] for tool in server.ask("tools/list", {})["tools"]}
    assert {"list-gpu-types", "list-pods", "create-pod", "get-pod", "pod-action", "delete-pod"} <= offered
    done, catalog = server.call("list-gpu-types", include=["AVAILABILITY"], product=["POD"], cloud="SECURE")
    assert done, catalog
    assert {one["id"]: one["availability"] for one in catalog["gpus"]}["NVIDIA A40"] == "LOW"

    wish = {"name": "hello", "image": "debian:12", "gpu": {"id": "NVIDIA A40", "count": 1}, "env": {"A": "b"}}
    done, pod = server.call("create-pod", body={**wish, "ports": ["22/tcp", "8000/http"], "disk": 20})
    assert done, pod
    (rental,) = world.alive()
    assert (rental.id, rental.owner, pod["status"], pod["cost"]) == (pod["id"], "hello", "PROVISIONING", 0.40)
    world.skip(120)
    done, one = server.call("get-pod", id=pod["id"])
    assert (done, one["status"], one["ssh"]["direct"]["username"], one["env"]) == (True, "RUNNING", "root", {"A": "b"})
    done, listed = server.call("list-pods")
    assert [one["id"] for one in listed["pods"]] == [pod["id"]]

    done, stopped = server.call("pod-action", id=pod["id"], body={"action": "stop"})
    assert (done, stopped["status"]) == (True, "EXITED")
    done, refused = server.call("pod-action", id=pod["id"], body={"action": "stop"})
    assert (done, refused["status"]) == (False, 409)
    assert server.call("pod-action", id=pod["id"], body={"action": "start"})[0]

    assert server.call("delete-pod", id=pod["id"])[0]
    assert not rental.alive
    done, gone = server.call("delete-pod", id=pod["id"])
    assert (done, gone["status"]) == (False, 404)


def test_runpods_mcp_server_4_understands_every_refusal(mcp: tuple[World, McpServer]) -> None:
    world, server = mcp
    wish = {"name": "hello", "image": "debian:12", "gpu": {"id": "NVIDIA A40"}}
    done, refused = server.call("create-pod", body=wish)
    assert (done, refused["status"]) == (False, 400), "without a count everything is sold out"
    assert "no longer any instances available" in refused["detail"]
    world.faults = [Fault(status=429, body={}, headers={"Retry-After": "1"}, times=1)]
    assert server.call("list-pods")[0], "it asks again after too many requests"
    assert len([call for call in world.calls if call["path"] == "/v2/pods" and call["method"] == "GET"]) == 2
    problem = {"title": "Unauthorized", "status": 401, "detail": "bad key"}
    world.faults = [Fault(status=401, body=problem, headers={"content-type": "application/problem+json"}, times=None)]
    done, refused = server.call("list-pods")
    assert (done, refused["status"]) == (False, 401)
    assert world.rentals == {}
