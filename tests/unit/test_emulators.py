# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all emulators share: started by one command, told what goes wrong, and honest about what happened."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from emulators import runpod
from emulators.server import serving
from emulators.world import World

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = {"Authorization": "Bearer any"}
POD = {"name": "a", "image": "b", "gpu": {"id": "NVIDIA A40", "count": 1}}


@pytest.fixture
def base() -> Iterator[str]:
    world = World("runpod", scale=3600)
    with serving(runpod.make(world), world) as url:
        yield url


@pytest.fixture
def slow() -> Iterator[tuple[World, str]]:
    """A world whose time passes only when a test says so, but for the tests' own."""
    world = World("runpod", scale=1)
    with serving(runpod.make(world), world) as url:
        yield world, url


def set_faults(base: str, *faults: dict[str, object]) -> None:
    requests.put(f"{base}/_control/faults", json=list(faults), timeout=10).raise_for_status()


def test_one_command_starts_all_and_a_signal_ends_it() -> None:
    command = [sys.executable, "-m", "tests.emulators", "--light"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        urls = json.loads(running.stdout.readline())
        assert set(urls) == {"runpod", "vastai", "tensordock", "gcp"}
        assert requests.get(f"{urls['runpod']}/pods", headers=KEY, timeout=10).json()["pods"] == []
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0


def test_without_an_engine_it_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.emulators"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": "tcp://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "or use --light" in done.stderr


def test_the_books_show_what_was_rented_and_what_it_cost(base: str) -> None:
    pod = requests.post(f"{base}/v2/pods", json=POD, headers=KEY, timeout=10).json()
    requests.delete(f"{base}/v2/pods/{pod['id']}", headers=KEY, timeout=10).raise_for_status()
    state = requests.get(f"{base}/_control/state", timeout=10).json()
    (one,) = state["instances"]
    assert (one["id"], one["provider"], one["owner"], one["status"]) == (pod["id"], "runpod", "a", "deleted")
    assert one["deleted_at"] > one["created_at"]
    assert one["billed_usd"] == pytest.approx(0.40 * (one["deleted_at"] - one["created_at"]) / 3600, rel=0.1)
    assert [(call["method"], call["path"]) for call in state["calls"]] == [
        ("POST", "/v2/pods"),
        ("DELETE", f"/v2/pods/{pod['id']}"),
    ]


def test_a_fault_strikes_as_often_as_it_was_told(base: str) -> None:
    set_faults(base, {"method": "GET", "path": "/pods", "status": 503, "times": 2})
    answers = [requests.get(f"{base}/v2/pods", headers=KEY, timeout=10).status_code for _number in range(3)]
    assert answers == [503, 503, 200]
    assert requests.get(f"{base}/_control/faults", timeout=10).json()[0]["times"] == 0


@pytest.mark.parametrize(("drop", "rented"), [("before", 0), ("after", 1)])
def test_an_answer_is_lost_before_or_after_the_effect(base: str, drop: str, rented: int) -> None:
    set_faults(base, {"method": "POST", "drop": drop})
    with pytest.raises(requests.exceptions.RequestException):
        requests.post(f"{base}/v2/pods", json=POD, headers=KEY, timeout=10)
    assert len(requests.get(f"{base}/_control/state", timeout=10).json()["instances"]) == rented


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**POD, "gpuCount": 1}, 422),
        ({**POD, "gpu": {"id": "NVIDIA A40"}}, 400),
        ({**POD, "args": "x", "cmd": ["y"]}, 422),
        ({"image": "b"}, 422),
        (POD, 201),
    ],
)
def test_runpod_takes_only_what_its_schema_takes(base: str, body: dict[str, object], status: int) -> None:
    answer = requests.post(f"{base}/v2/pods", json=body, headers=KEY, timeout=10)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_runpod_wants_a_key_and_no_default_user_agent(base: str) -> None:
    assert requests.get(f"{base}/v2/pods", timeout=10).status_code == 401
    refused = requests.get(f"{base}/v2/pods", headers={**KEY, "User-Agent": "Python-urllib/3.11"}, timeout=10)
    assert (refused.status_code, refused.text) == (403, "error code: 1010")


def pods(base: str, path: str = "") -> Any:
    return requests.get(f"{base}/v2/pods{path}", headers=KEY, timeout=10).json()


def rent_pod(base: str, **more: Any) -> str:
    return str(requests.post(f"{base}/v2/pods", json=POD | more, headers=KEY, timeout=10).json()["id"])


def act(base: str, pod: str, action: str) -> requests.Response:
    return requests.post(f"{base}/v2/pods/{pod}/action", json={"action": action}, headers=KEY, timeout=10)


def later(world: World, seconds: float = 600) -> None:
    world.skip(seconds)


def test_a_pod_is_provisioned_then_starts_then_runs_then_can_be_reached(slow: tuple[World, str]) -> None:
    world, base = slow
    pod = rent_pod(base, ports=["22/tcp"])
    seen = []
    for seconds in (0, 11, 60, 20):
        later(world, seconds)
        one = pods(base, f"/{pod}")
        seen.append((one["status"], one["ssh"]["direct"] is not None, one["runtime"] is not None))
    assert seen == [
        ("PROVISIONING", False, False),
        ("STARTING", False, False),
        ("RUNNING", False, True),
        ("RUNNING", True, True),
    ]


def test_a_boot_can_be_stuck_for_ever(slow: tuple[World, str]) -> None:
    world, base = slow
    pod = rent_pod(base)
    set_faults(base, {"trouble": "boot_stuck", "of": pod})
    later(world, 86_400)
    other = rent_pod(base)
    later(world)
    assert [pods(base, f"/{one}")["status"] for one in (pod, other)] == ["STARTING", "RUNNING"]
    set_faults(base)
    assert pods(base, f"/{pod}")["status"] == "RUNNING"


def reached(host: str, port: int) -> str:
    """What a client meets there, within half a second."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.settimeout(0.5)
            return "closed" if connection.recv(1) == b"" else "spoken to"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"


@pytest.mark.parametrize(("trouble", "met"), [("port_refused", "refused"), ("silent_server", "silence")])
def test_what_an_ssh_client_meets_where_no_machine_is(slow: tuple[World, str], trouble: str, met: str) -> None:
    world, base = slow
    pod = rent_pod(base, ports=["22/tcp"])
    later(world)
    set_faults(base, {"trouble": trouble, "of": "^a$"})  # by its owner
    direct = pods(base, f"/{pod}")["ssh"]["direct"]
    assert direct["host"] == "127.0.0.1"
    assert reached(direct["host"], direct["port"]) == met
    set_faults(base)
    assert pods(base, f"/{pod}")["ssh"]["direct"]["host"] == "203.0.113.7", "an address that nobody has"


def test_a_port_is_another_one_after_each_start(slow: tuple[World, str]) -> None:
    world, base = slow
    pod = rent_pod(base, ports=["22/tcp"])
    ports = set()
    for _number in range(3):
        later(world)
        ports.add(pods(base, f"/{pod}")["ssh"]["direct"]["port"])
        later(world)
        assert act(base, pod, "stop").json()["ssh"]["direct"] is None
        assert act(base, pod, "start").json()["status"] == "PROVISIONING"
    assert len(ports) == 3


def test_a_program_that_ends_is_started_again_and_goes_on_costing(slow: tuple[World, str]) -> None:
    world, base = slow
    pod = rent_pod(base, ports=["8000/http"])
    set_faults(base, {"trouble": "exits", "seconds": 60, "of": pod})
    later(world, 36_000)
    one = pods(base, f"/{pod}")
    assert (one["status"], one["cost"]) == ("RUNNING", 0.40)
    assert one["runtime"]["uptime"] <= 60
    assert requests.get(f"{base}/proxy/{pod}/8000/health", timeout=10).status_code == 502
    assert world.state()["instances"][0]["billed_usd"] == pytest.approx(4.0, rel=0.01)


def test_a_new_pod_can_be_missing_from_lists_for_a_while(slow: tuple[World, str]) -> None:
    world, base = slow
    set_faults(base, {"trouble": "list_late", "seconds": 30})
    pod = rent_pod(base)
    assert pods(base)["pods"] == []
    assert pods(base, f"/{pod}")["id"] == pod
    later(world, 31)
    assert [one["id"] for one in pods(base)["pods"]] == [pod]


def test_a_stopped_pod_costs_its_mount_and_may_have_lost_its_gpu(slow: tuple[World, str]) -> None:
    world, base = slow
    bare, kept = rent_pod(base), rent_pod(base, mounts={"persistent": {"size": 365, "path": "/data"}})
    for pod in (bare, kept):
        assert act(base, pod, "stop").json()["cost"] == 0.0, "what the API says, though a mount does cost"
    before = {one["id"]: one["billed_usd"] for one in world.state()["instances"]}
    later(world, 36_000)
    after = {one["id"]: one["billed_usd"] for one in world.state()["instances"]}
    assert after[bare] == before[bare]
    assert after[kept] - before[kept] == pytest.approx(1.0, rel=0.01)  # 365 GB for 10 of 730 hours, 0.20 USD a month
    set_faults(base, {"trouble": "no_gpu"})
    assert act(base, bare, "start").status_code == 400
    bills = requests.get(f"{base}/v2/billing/pods?podId={kept}", headers=KEY, timeout=10).json()
    assert bills["metadata"]["totals"]["totalAmount"] == pytest.approx(after[kept], rel=0.01)


def test_the_list_of_pods_has_pages(base: str) -> None:
    rented = [rent_pod(base) for _number in range(5)]
    found: list[str] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        page = pods(base, f"?limit=2{cursor}")
        found += [one["id"] for one in page["pods"]]
        pages += 1
        cursor = f"&cursor={page['pagination']['nextCursor']}" if page["pagination"]["hasNextPage"] else ""
    assert (found, pages) == (rented, 3)
    assert requests.get(f"{base}/v2/pods?limit=1001", headers=KEY, timeout=10).status_code == 422


def test_runpod_counts_calls_in_windows_and_says_what_is_left() -> None:
    world = World("runpod", scale=1, limits=True)
    with serving(runpod.make(world), world) as base:
        answers = [requests.get(f"{base}/v2/pods", headers=KEY, timeout=10) for _number in range(61)]
        assert [answer.status_code for answer in answers] == [200] * 60 + [429]
        assert answers[0].headers["RateLimit"].startswith('"minute";r=59;t=60, "hour";r=2999;t=')
        assert answers[0].headers["RateLimit-Policy"].startswith('"minute";q=60;w=60, ')
        refused = answers[-1]
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert '"minute";r=0;t=' in refused.headers["RateLimit"]
        assert refused.json()["detail"] == "rate limit exceeded for the minute window"
        assert requests.get(f"{base}/v2/pods", timeout=10).headers.get("RateLimit") is None, "nobody is counted"
        later(world, 61)
        assert requests.get(f"{base}/v2/pods", headers=KEY, timeout=10).status_code == 200


def test_version_one_is_gone(base: str) -> None:
    assert requests.get(f"{base}/v1/pods", headers=KEY, timeout=10).status_code == 410


def test_a_body_can_be_of_another_status_than_the_answer(base: str) -> None:
    body = {"title": "Unauthorized", "status": 401, "detail": "bad key"}
    set_faults(base, {"status": 404, "body": body, "headers": {"x-request-id": "planted"}, "times": None})
    answer = requests.get(f"{base}/v2/pods", headers=KEY, timeout=10)
    assert (answer.status_code, answer.json(), answer.headers["x-request-id"]) == (404, body, "planted")


def test_time_can_be_skipped_from_outside(slow: tuple[World, str]) -> None:
    _world, base = slow
    pod = rent_pod(base)
    requests.post(f"{base}/_control/time", json={"skip_seconds": 3600}, timeout=10).raise_for_status()
    assert pods(base, f"/{pod}")["status"] == "RUNNING"
