# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all emulators share: started by one command, told what goes wrong, and honest about what happened."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

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


def set_faults(base: str, *faults: dict[str, object]) -> None:
    requests.put(f"{base}/_control/faults", json=list(faults), timeout=10).raise_for_status()


def test_one_command_starts_all_and_a_signal_ends_it() -> None:
    command = [sys.executable, "-m", "tests.emulators", "--light"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        urls = json.loads(running.stdout.readline())
        assert set(urls) == {"runpod", "vastai"}
        assert requests.get(f"{urls['runpod']}/pods", headers=KEY, timeout=10).json()["pods"] == []
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20) == 0


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
