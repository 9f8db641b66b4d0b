# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a rented container is not ready: its own last words, from the provider, without its secrets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _journal, _log_tail, _readiness, _secret_words
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import Budget
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Instance,
    Marker,
    Request,
    Runtime,
    Status,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    EngineError,
    InvalidRequest,
    Provider,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as real_runpod
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai as real_vastai
from emulators import runpod, vastai
from emulators.machines import NoMachines
from emulators.server import serving
from emulators.world import World
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

KEY = "planted-key-5d21-of-the-model"
LOG = f"loading weights\n\n  with key {KEY}\nRuntimeError: CUDA out of memory\n"
WISH = Wish(
    "acme-llm",
    "vllm-1",
    providers=("fake",),
    runtime=Runtime.CONTAINER,
    wait="endpoint",
    env={"SHORT": "1"},
    secret_env={"VLLM_API_KEY": KEY},
)


class Talking(NoMachines):
    def log(self, rental_id: str) -> str:
        return LOG

    def problem(self, rental_id: str) -> str | None:
        return "pull access denied for own/image"


@pytest.mark.parametrize("name", ["runpod", "vastai"])
def test_a_provider_gives_the_log_of_what_it_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock().install(monkeypatch)
    world = World(name, scale=3600, machines=Talking())
    emulator: Any = {"runpod": runpod, "vastai": vastai}[name]
    make: Any = {"runpod": real_runpod.make, "vastai": real_vastai.make}[name]
    query = {"gpu": "A40", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 20}
    with serving(emulator.make(world), world) as url:
        provider: Provider = make({"api_key": "any", "api_url": url + emulator.URL_PATH})
        rented = provider.create(
            Request(Marker("acme-llm", "vllm-1", "abc123"), provider.offers(query)[0], image="a:1")
        )
        lines = provider.log(rented.id, "").splitlines()
        assert "RuntimeError: CUDA out of memory" in lines
        # At RunPod a failing pull is seen there alone.
        assert ("pull access denied for own/image" in lines) is (name == "runpod")
        assert provider.log(rented.id, "CUDA").splitlines() == ["RuntimeError: CUDA out of memory"]
        if name == "runpod":
            with pytest.raises(InvalidRequest):
                provider.log("pod00000000fff", "")


class Logging(FakeProvider):
    def __init__(self, text: str | None) -> None:
        super().__init__(FakeCloud())
        self.text = text

    def create(self, request: Request) -> Instance:
        return self._set(super().create(request).id, runtime=Runtime.CONTAINER)

    def log(self, instance_id: str, words: str) -> str:
        assert words == ""
        assert instance_id in self.cloud.instances, "read before it is ended"
        if self.text is None:
            raise ProviderUnavailable("no log", provider="fake")
        return self.text


def fail(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, on_unready: str) -> EngineError:
    FakeClock().install(monkeypatch)
    report = _readiness.Report(Budget(1, 1, 1))
    report.add(Probe("endpoint_starting", "502"), 1.0)
    monkeypatch.setattr(_readiness, "wait_until_ready", lambda provider, instance, *more: (instance, report))
    with pytest.raises(EngineError) as caught:
        Run({"fake": provider}, replace(WISH, on_unready=on_unready)).result()
    return caught.value


@pytest.mark.parametrize("on_unready", ["keep", "destroy"])
def test_the_evidence_has_its_last_lines_without_secrets(on_unready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = fail(Logging(LOG), monkeypatch, on_unready)
    (evidence,) = error.result["failed_rentals"]
    assert evidence["log_tail"] == ["loading weights", "with key ***", "RuntimeError: CUDA out of memory"]
    assert "Its log ends with: RuntimeError: CUDA out of memory" in error.message
    assert "planted" not in str([error.as_failure(), error.result])
    assert "CUDA" not in str(_journal.read("acme-llm"))


@pytest.mark.parametrize(
    "line",
    [
        "CONTAINER_API_KEY=hidden-1f",
        'export JUPYTER_TOKEN="hidden 1f"',
        "  http://127.0.0.1:8888/lab?a=b&token=hidden1f&c=d",
        "Authorization: Bearer hidden.1f",
        "non-default args: {'model': 'x', 'api_key': ['hidden-1f']}",
        '{"password": "hidden-1f", "port": 1}',
        "vllm serve --api-key hidden-1f --port 1",
        "mongodb://root:hidden-1f@db:1/",
        "OPEN_BUTTON_TOKEN='hidden-1f",
    ],
)
def test_what_looks_like_a_secret_is_hidden_whoever_made_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = fail(Logging(f"{line}\n"), monkeypatch, "keep")
    assert "Its log ends with" in error.message
    assert "********" in error.message
    assert "1f" not in str([error.as_failure(), error.result])


def test_what_says_why_it_failed_stays() -> None:
    why = "KeyError: the tokenizer of a/model has no chat template (max_num_seqs=256, gpu 0: 39.4 GiB) --port 8000"
    assert _secret_words.without_secrets(why) == why


@pytest.mark.parametrize("text", ["", None])
def test_without_a_log_it_is_said_where_to_look(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    error = fail(Logging(text), monkeypatch, "keep")
    assert error.result["failed_rentals"][0]["log_tail"] == []
    assert "No log of it could be read" in error.message
    assert "https://console.runpod.io/pods" in _log_tail.told("runpod", [])
    assert "https://cloud.vast.ai/instances/" in _log_tail.told("vastai", ["x"])


def test_only_the_end_of_a_long_log_is_shown_and_no_log_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    error = fail(Logging("\n".join(f"{number} {'x' * 900}" for number in range(90))), monkeypatch, "keep")
    tail = error.result["failed_rentals"][0]["log_tail"]
    assert (len(tail), tail[-1][:3], max(map(len, tail))) == (20, "89 ", 300)
    machine = Instance("fake", "1", Marker("acme-llm", "vllm-1", "abc123"), Status.RUNNING, runtime=Runtime.VM)
    assert _log_tail.read(Logging(LOG), machine, WISH) == []
