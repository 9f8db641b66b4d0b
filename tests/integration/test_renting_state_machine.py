# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting once, whatever happens: the instance module against an emulated provider, killed wherever it talks or writes.

Each step is one run of the module's main(), by a controller that remembers nothing it can rely on: its home may vanish
between any two steps. A run can be killed at any boundary (before a call is sent, after it took effect, around each
line of the journal), the provider can fail in its usual ways, and two controllers can run at the same time. TEST_SCALE
multiplies how many such lives are lived; a failing one is printed with what replays it.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _engine, _journal, _marker, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderError
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as provider
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport
from ansible_collections.gpuops.fleet.plugins.modules import instance
from emulators import runpod
from emulators.server import Server
from emulators.world import Fault, Rental, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

LIVES = 200 * int(os.environ.get("TEST_SCALE", "1"))
FASTER = 2000.0  # than life
DEPLOYMENT = "it-machine"
NAMES = ("a-1", "b-1")
SOLD_OUT = {"detail": "There are no longer any instances available with the requested specifications."}
FAULTS: dict[str, dict[str, Any]] = {
    "create answer lost": {"method": "POST", "path": "/pods$", "drop": "after"},
    "create never arrived": {"method": "POST", "path": "/pods$", "drop": "before"},
    "create sold out": {"method": "POST", "path": "/pods$", "status": 400, "body": SOLD_OUT},
    "create fails": {"method": "POST", "path": "/pods$", "status": 500},
    "list fails for good": {"method": "GET", "path": "/pods$", "status": 503, "times": 5},
    "list fails once": {"method": "GET", "path": "/pods$", "status": 502},
    "too many requests": {"status": 429, "times": 2},
    "delete answer lost": {"method": "DELETE", "drop": "after"},
    "delete never arrived": {"method": "DELETE", "drop": "before"},
    "no credit": {"method": "POST", "path": "/pods$", "status": 402},
}
# What the provider's code calls; a test below counts the calls in it, so that none is forgotten here.
CALLS = (
    "GET /catalog/gpus",
    "POST /pods",
    "GET /pods/{id}",
    "GET /pods",
    "POST /pods/{id}/action",
    "DELETE /pods/{id}",
)
# All events of renting and ending but host_key, which only machines have, and unready: nobody waits here.
EVENTS = ("claim", "created", "surplus_deleted", "deleted", "started", "stopped")
BOUNDARIES = {f"{what} {side}" for what in (*CALLS, *EVENTS) for side in ("before", "after")}
CROSSED: Counter[str] = Counter()


class Killed(BaseException):
    """The controller died: nothing of ours may catch this."""


class Crash:
    """Counts the boundaries that are crossed, and kills at the one that it was set to."""

    left: int | None = None

    def at(self, boundary: str) -> None:
        CROSSED[boundary] += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(boundary)


CRASH = Crash()
WORLD = World("runpod", scale=FASTER)


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    """The provider, a fast clock, and hooks at every boundary."""
    server = Server(runpod.make(WORLD), WORLD)
    server.start()
    send, record = Transport._send, _journal.record

    def sends(self: Transport, method: str, path: str, *rest: Any) -> Any:
        call = f"{method} {re.sub('/pod[0-9a-f]{11}', '/{id}', path)}"
        CRASH.at(f"{call} before")
        answer = send(self, method, path, *rest)
        CRASH.at(f"{call} after")
        return answer

    def records(event: str, *rest: Any, **details: Any) -> None:
        CRASH.at(f"{event} before")
        record(event, *rest, **details)
        CRASH.at(f"{event} after")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "_send", sends)
        patch.setattr(_journal, "record", records)
        patch.setattr(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / FASTER))
        patch.setattr(_clock, "monotonic", lambda: time.monotonic() * FASTER)
        patch.setattr(_clock, "now", WORLD.now)
        patch.setenv("RUNPOD_API_KEY", "any")
        patch.setenv("RUNPOD_REST_V2_URL", server.url + runpod.URL_PATH)
        yield
    server.stop()


def parameters(name: str, state: str) -> dict[str, Any]:
    return {
        "deployment_id": DEPLOYMENT,
        "name": name,
        "state": state,
        "providers": ["runpod"],
        "runtime": "container",
        "gpu": "A40",
        "image": "vllm/vllm-openai:v0.32.0",
        "max_lifetime": "8h",
        "wait": "none",
    }


def alive(name: str) -> list[Rental]:
    """What the provider's books say lives of that instance."""
    wanted = (DEPLOYMENT, name)
    markers = [(rental, _marker.parse(rental.wire["env"].get(provider.MARKER_VARIABLE))) for rental in WORLD.alive()]
    return [rental for rental, marker in markers if marker and (marker.deployment_id, marker.name) == wanted]


class Renting(RuleBasedStateMachine):
    """Controllers, a provider, and bad luck."""

    @initialize()
    def begin(self) -> None:
        CRASH.left = None
        WORLD.rentals.clear()
        WORLD.calls.clear()
        WORLD.faults.clear()
        self.homes = [tempfile.mkdtemp(prefix="gpufleet-home-") for _number in range(2)]
        self.foreign: list[Rental] = []
        self.killed = False

    def main(self, name: str, state: str, controller: int) -> dict[str, Any] | None:
        """One run of the module; its result, or None when the controller was killed."""
        os.environ["GPUFLEET_HOME"] = self.homes[controller]
        printed = io.StringIO()
        try:
            with patch_module_args(parameters(name, state)), redirect_stdout(printed):
                instance.main()
        except SystemExit:
            result: dict[str, Any] = json.loads(printed.getvalue())
            return result
        except Killed:
            self.killed = True
            return None
        finally:
            CRASH.left = None
        raise AssertionError("the module neither ended nor died")

    @rule(
        name=st.sampled_from(NAMES),
        state=st.sampled_from(["started", "stopped", "absent", "present"]),
        controller=st.sampled_from([0, 1]),
        killed_at=st.none() | st.integers(0, 15),
    )
    def run(self, name: str, state: str, controller: int, killed_at: int | None) -> None:
        CRASH.left = killed_at
        result = self.main(name, state, controller)
        assert len(alive(name)) <= 1, "rented twice"
        if result is None or result.get("failed"):
            return
        if state == "absent":
            assert alive(name) == []
        else:
            (one,) = alive(name)
            assert result["instance"]["id"] == one.id
            if state == "stopped":
                assert one.status == "EXITED"

    @rule(name=st.sampled_from(NAMES), states=st.sampled_from([("started", "started"), ("started", "absent")]))
    def two_controllers_at_once(self, name: str, states: tuple[str, str]) -> None:
        def one(state: str) -> dict[str, Any] | ProviderError:
            complete, errors = complete_instance(
                {key: value for key, value in parameters(name, state).items() if key not in ("deployment_id", "state")}
            )
            assert not errors
            params = {**complete, "deployment_id": DEPLOYMENT, "state": state, "provider_settings": {}}
            try:
                return _engine.run_instance(params, check_mode=False)
            except ProviderError as error:
                return error

        WORLD.faults.clear()
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(one, states))
        assert len(alive(name)) <= 1, "rented twice"
        if states == ("started", "started"):
            assert [result for result in results if isinstance(result, ProviderError)] == []
            assert len(alive(name)) == 1

    @rule(what=st.sampled_from(sorted(FAULTS)))
    def bad_luck(self, what: str) -> None:
        WORLD.faults = [Fault(**FAULTS[what])]

    @rule(controller=st.sampled_from([0, 1]))
    def a_home_is_lost(self, controller: int) -> None:
        shutil.rmtree(self.homes[controller], ignore_errors=True)

    @rule(kind=st.sampled_from(["no marker", "another deployment", "almost ours"]))
    def somebody_else_rents(self, kind: str) -> None:
        name = {
            "no marker": "jupyter",
            "another deployment": "gf--it-machine-2--a-1--abc123--0000",
            "almost ours": f"gf--{DEPLOYMENT}--a-1--abc123--0000 copy",
        }[kind]
        now, identity = WORLD.now(), f"pod{next(WORLD.numbers):011x}"
        wire = {
            "id": identity,
            "name": name,
            "image": "x",
            "env": {},
            "ports": [],
            "disk": 20,
            "_started": now,
            "gpu": {"id": "NVIDIA A40", "count": 1},
            "cloud": "SECURE",
            "dataCenterId": None,
            "createdAt": None,
        }
        self.foreign.append(Rental(identity, "runpod", name, "PROVISIONING", now, 0.4, wire))
        WORLD.rent(self.foreign[-1])

    @invariant()
    def what_is_not_ours_lives(self) -> None:
        assert [one.id for one in getattr(self, "foreign", []) if not one.alive or one.status == "EXITED"] == []

    def teardown(self) -> None:
        if not hasattr(self, "homes"):
            return
        WORLD.faults.clear()
        for name in NAMES:
            result = self.main(name, "absent", 0)
            assert result is not None
            assert not result.get("failed"), result
            assert alive(name) == []
        self.what_is_not_ours_lives()
        self._journal_is_true()
        for home in self.homes:
            shutil.rmtree(home, ignore_errors=True)

    def _journal_is_true(self) -> None:
        """What a journal that survived says was made was made, and what it says was ended has ended."""
        for home in self.homes:
            path = pathlib.Path(home) / "journal.jsonl"
            for line in path.read_text().splitlines() if path.exists() else []:
                told = json.loads(line)
                if told["event"] in ("created", "deleted", "surplus_deleted"):
                    assert told["id"] in WORLD.rentals, told
                    assert told["event"] == "created" or not WORLD.rentals[told["id"]].alive, told


Renting.TestCase.settings = settings(
    max_examples=LIVES,
    stateful_step_count=12,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


TestRenting = Renting.TestCase


def test_the_machine_knows_every_call_and_event_of_the_code() -> None:
    source = pathlib.Path(str(provider.__file__)).read_text()
    assert len(re.findall(r"_api\.call\(", source)) == len(CALLS)
    told = set()
    for module in (_rent, _engine):
        for line in re.findall(r"_journal\.record\((.*?)\)", pathlib.Path(str(module.__file__)).read_text(), re.DOTALL):
            told |= set(re.findall(r'"([a-z_]+)"', line.replace('"start"', "").replace('"stop"', "")))
    assert told == {*EVENTS, "host_key", "unready"}


def test_nearly_every_boundary_was_crossed() -> None:
    missed = sorted(BOUNDARIES - set(CROSSED))
    assert len(missed) <= 0.05 * len(BOUNDARIES), missed
