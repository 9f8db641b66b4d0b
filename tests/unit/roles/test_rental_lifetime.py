# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rented model server that ends itself: when, and when never."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker, _watch
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Request
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai as provider_vastai
from emulators import vastai
from emulators.server import serving
from emulators.world import World
from support.load_program import load_program
from support.served_rental import ProcessMachines

ROOT = Path(__file__).parents[3]
KEY = "planted-key-31aa-of-the-model"
NOW = 500_000 * 3600.0  # on the hour
OVER, LATER = 500_000, 500_001
MARKER = Marker("acme-llm", "vllm-1", "00abcd", LATER)


class End(BaseException):
    """Nobody waits five minutes here."""


@pytest.fixture
def entrypoint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file of the role, as the container runs it."""
    module: ModuleType = load_program(ROOT / "roles" / "vllm" / "files" / "rental_entrypoint.py")
    monkeypatch.setenv("GPUFLEET_VAST_URL", "https://vast.test")
    monkeypatch.setenv("GPUFLEET_MARKER", _marker.encode(MARKER))
    monkeypatch.setenv("CONTAINER_ID", "17")
    monkeypatch.setenv("CONTAINER_API_KEY", "own-key")
    return module


class Api:
    """What is answered, look by look, at a time of the provider's; what was asked."""

    def __init__(self, answers: list[tuple[int, Any]], now: float) -> None:
        self.answers, self.now = answers, now
        self.looks, self.ended = 0, 0

    def get(self, url: str, headers: dict[str, str], timeout: float) -> requests.Response:
        own = "https://vast.test/api/v0/instances/17/?owner=me"
        assert (url, headers) == (own, {"Authorization": "Bearer own-key"})
        status, body = self.answers[self.looks]
        self.looks += 1
        if isinstance(body, Exception):
            raise body
        answer = requests.Response()
        answer.status_code, answer._content = status, json.dumps(body).encode()
        answer.headers["Date"] = formatdate(self.now, usegmt=True)
        return answer

    def delete(self, url: str, headers: dict[str, str], json: Any, timeout: float) -> requests.Response:
        assert (url, headers, json) == (
            "https://vast.test/api/v0/instances/17/",
            {"Authorization": "Bearer own-key"},
            {},
        )
        self.ended += 1
        answer = requests.Response()
        answer.status_code = 200
        return answer

    def sleep(self, seconds: float) -> None:
        assert seconds == 300
        if self.looks == len(self.answers):
            raise End


def label(hours: int) -> tuple[int, Any]:
    return said(_marker.encode(replace(MARKER, expiry_epoch_hours=hours)))


def is_ours(body: dict[str, Any]) -> bool:
    told = str((body.get("instances") or {}).get("label"))
    return len(told) == len(_marker.encode(MARKER)) and told.startswith(_marker.identity(MARKER))


def said(text: str | None) -> tuple[int, Any]:
    return 200, {"instances": {"label": text}}


@pytest.mark.parametrize(
    ("answers", "now", "ended"),
    [
        ([label(LATER)], NOW, 0),
        ([label(OVER)], NOW, 1),
        ([label(OVER)], NOW - 1, 0),
        ([label(LATER), label(LATER)], NOW + 3600, 2),  # the first order had no effect, so it is given again
        ([label(LATER), label(LATER + 8)], NOW + 1800, 0),  # given more time meanwhile
        ([label(0)], NOW, 0),  # unlimited
        # Who gives it another label takes it away from the fleet.
        ([said("mine now"), said(None), said("gf--mine--1"), said("gf--acme-llm--vllm-1--00abcd--old")], NOW * 9, 0),
        ([said(_marker.identity(MARKER))], NOW * 9, 0),  # without an expiry: unlimited
        ([said(_marker.encode(replace(MARKER, nonce="zzzzzz", expiry_epoch_hours=OVER)))], NOW * 9, 0),
        ([said(f"{_marker.encode(replace(MARKER, expiry_epoch_hours=OVER))} copy")], NOW * 9, 0),
        ([(200, {"instances": None})], NOW, 0),
        ([(401, {}), label(OVER)], NOW, 1),
        ([(0, requests.ConnectionError("no way"))], NOW, 0),
    ],
)
def test_it_ends_itself_only_when_its_own_label_says_so_now(
    entrypoint: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[tuple[int, Any]],
    now: float,
    ended: int,
) -> None:
    api = Api(answers, now)
    monkeypatch.setattr(requests, "get", api.get)
    monkeypatch.setattr(requests, "delete", api.delete)
    monkeypatch.setattr(time, "sleep", api.sleep)
    monkeypatch.setattr(time, "time", lambda: NOW * 2)  # the clock of a stranger's machine counts for nothing
    with pytest.raises(End):
        entrypoint.end_when_over()
    assert api.ended == ended
    printed = capsys.readouterr().out
    assert "own-key" not in printed
    # What it read as its own expiry it says, with the provider's time; other people's labels and errors are no look.
    ours = [body for _status, body in answers if isinstance(body, dict) and is_ours(body)]
    assert printed.count(f"gpuops-fleet-watch {formatdate(now, usegmt=True)}\n") == len(ours)


@pytest.fixture
def vast(tmp_path: Path) -> Iterator[tuple[World, provider_vastai.VastaiProvider, ProcessMachines]]:
    machines = ProcessMachines(tmp_path)
    world = World("vastai", scale=3600, machines=machines)
    with serving(vastai.make(world, copies=2), world) as url:
        yield world, provider_vastai.make({"api_key": "any", "api_url": url}), machines
    machines.close()


def rent(provider: provider_vastai.VastaiProvider, name: str, expiry_epoch_hours: int) -> Instance:
    """The computed rental; its process starts at once."""
    request = vllm_rental({"model": "Qwen/Qwen3-0.6B", "gpu": True}, "vllm/vllm-openai:v0.32.0", KEY)["request"]
    offer = provider.offers({"gpu": "A40", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 50})[0]
    return provider.create(
        Request(
            Marker("acme-llm", name, "abc123", expiry_epoch_hours),
            offer,
            image=request["image"],
            entrypoint=tuple(request["entrypoint"]),
            args=tuple(request["args"]),
            env=request["public_env"],
            secret_env=request["secret_env"],
            ports=((8000, "http"),),
        )
    )


def test_a_container_whose_time_is_over_is_gone_and_another_one_serves_on(
    vast: tuple[World, provider_vastai.VastaiProvider, ProcessMachines],
) -> None:
    """With the key that it was given, which reaches nothing else."""
    world, provider, machines = vast
    hour = int(time.time() // 3600)
    lives, over = rent(provider, "vllm-1", hour + 5), rent(provider, "vllm-2", hour)
    deadline = time.monotonic() + 120
    while world.rentals[over.id].alive:
        assert time.monotonic() < deadline, machines.log(over.id)
        time.sleep(0.1)
    assert world.rentals[lives.id].alive
    calls = [(call["method"], call["path"]) for call in world.calls]
    assert ("DELETE", f"/api/v0/instances/{over.id}/") in calls
    # It looks before it serves, and serves.
    while not machines.containers[lives.id].record.exists():
        assert time.monotonic() < deadline, machines.log(lives.id)
        time.sleep(0.1)
    own = {"Authorization": f"Bearer {world.rentals[lives.id].wire['_own_key']}"}
    assert _watch.ask(provider, lives).watched_at == pytest.approx(time.time(), abs=120)
    base = machines.containers[lives.id].environment["GPUFLEET_VAST_URL"]
    assert requests.get(f"{base}/api/v0/instances/{lives.id}/", headers=own, timeout=10).status_code == 200
    assert requests.get(f"{base}/api/v1/instances/", headers=own, timeout=10).status_code == 401
