# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting once, whatever happens: the instance module against emulated providers, killed wherever it talks or writes.

Each step is one run of the module's main(), by a controller that remembers nothing it can rely on: its home may vanish
between any two steps. A run can be killed at any boundary (before a call is sent, after it took effect, around each
line of the journal), the provider can fail in its usual ways, and two controllers can run at the same time. TEST_SCALE
multiplies how many such lives are lived. What chance decides follows from RENTING_SEED, which a failing run prints.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import random
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
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _clock,
    _engine,
    _host_keys,
    _journal,
    _rent,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderError
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport
from ansible_collections.gpuops.fleet.plugins.modules import instance
from emulators.world import Rental
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.emulated_clouds import Cloud, bad_luck, make_clouds

CLOUDS = make_clouds()
LIVES = 200 * int(os.environ.get("TEST_SCALE", "1")) // len(CLOUDS)  # of each
SEED = int(os.environ.get("RENTING_SEED") or random.SystemRandom().randrange(2**32))
FASTER = 2000.0  # than life
DEPLOYMENT = "it-machine"
NAMES = ("a-1", "b-1")
# All events of renting and ending but host_key, which is learnt by a login, and unready: nobody waits here.
EVENTS = ("claim", "created", "surplus_deleted", "deleted", "started", "stopped")
CROSSED: dict[str, Counter[str]] = {name: Counter() for name in CLOUDS}


class Killed(BaseException):
    """The controller died: nothing of ours may catch this."""


class Crash:
    """Counts the boundaries that are crossed, and kills at the one that it was set to."""

    left: int | None = None
    cloud: Cloud = CLOUDS["runpod"]  # where this life is lived

    def now(self) -> float:
        return self.cloud.world.now()

    def at(self, boundary: str) -> None:
        CROSSED[self.cloud.name][boundary] += 1
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(boundary)


CRASH = Crash()


@pytest.fixture(scope="module", autouse=True)
def _emulators() -> Iterator[None]:
    """The providers, a fast clock, and hooks at every boundary."""
    send, record = Transport._send, _journal.record

    def sends(self: Transport, method: str, path: str, *rest: Any) -> Any:
        call = f"{method} {CRASH.cloud.forget_ids(path)}"
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
        patch.setattr(_clock, "now", CRASH.now)
        for cloud in CLOUDS.values():
            cloud.start(FASTER)
            for name, value in cloud.variables.items():
                patch.setenv(name, value)
        yield
    for cloud in CLOUDS.values():
        cloud.server.stop()


class Renting(RuleBasedStateMachine):
    """Controllers, a provider, and bad luck."""

    cloud: Cloud

    @initialize()
    def begin(self) -> None:
        CRASH.left, CRASH.cloud = None, self.cloud
        self.cloud.reset()
        self.homes = [tempfile.mkdtemp(prefix="gpufleet-home-") for _number in range(2)]
        self.foreign: list[Rental] = []
        self.killed = False

    def parameters(self, name: str, state: str) -> dict[str, Any]:
        rest = {"providers": [self.cloud.name], "max_lifetime": "8h", "wait": "none", **self.cloud.wish}
        return {"deployment_id": DEPLOYMENT, "name": name, "state": state, **rest}

    def alive(self, name: str) -> list[Rental]:
        return self.cloud.alive(DEPLOYMENT, name)

    def main(self, name: str, state: str, controller: int) -> dict[str, Any] | None:
        """One run of the module; its result, or None when the controller was killed."""
        os.environ["GPUFLEET_HOME"] = self.homes[controller]
        printed = io.StringIO()
        try:
            with patch_module_args(self.parameters(name, state)), redirect_stdout(printed):
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
        assert len(self.alive(name)) <= 1, "rented twice"
        if result is None or result.get("failed"):
            return
        if state == "absent":
            assert self.alive(name) == []
        else:
            (one,) = self.alive(name)
            assert result["instance"]["id"] == one.id
            if state == "stopped":
                assert self.cloud.is_stopped(one)

    @rule(name=st.sampled_from(NAMES), killed_at=st.none() | st.integers(0, 8))
    def off_and_on(self, name: str, killed_at: int | None) -> None:
        """What chance alone rarely brings about: stopped by one run, started by the next."""
        self.run(name, "started", 0, None)
        self.run(name, "stopped", 1, None)
        self.run(name, "started", 0, killed_at)

    @rule(name=st.sampled_from(NAMES), states=st.sampled_from([("started", "started"), ("started", "absent")]))
    def two_controllers_at_once(self, name: str, states: tuple[str, str]) -> None:
        def one(state: str) -> dict[str, Any] | ProviderError:
            complete, errors = complete_instance(
                {
                    key: value
                    for key, value in self.parameters(name, state).items()
                    if key not in ("deployment_id", "state")
                }
            )
            assert not errors
            params = {**complete, "deployment_id": DEPLOYMENT, "state": state, "provider_settings": {}}
            try:
                return _engine.run_instance(params, check_mode=False)
            except ProviderError as error:
                return error

        self.cloud.world.faults.clear()
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(one, states))
        assert len(self.alive(name)) <= 1, "rented twice"
        if states == ("started", "started"):
            assert [result for result in results if isinstance(result, ProviderError)] == []
            assert len(self.alive(name)) == 1

    @rule(data=st.data())
    def bad_luck(self, data: st.DataObject) -> None:
        bad_luck(self.cloud, data.draw(st.sampled_from(sorted(self.cloud.faults))))

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
        self.foreign.append(self.cloud.rent_for_somebody_else(name))

    @invariant()
    def what_is_not_ours_lives(self) -> None:
        assert [one.id for one in getattr(self, "foreign", []) if not one.alive or self.cloud.is_stopped(one)] == []

    def teardown(self) -> None:
        if not hasattr(self, "homes"):
            return
        self.cloud.world.faults.clear()
        for name in NAMES:
            result = self.main(name, "absent", 0)
            assert result is not None
            assert not result.get("failed"), result
            assert self.alive(name) == []
        assert self.cloud.world.secrets == {}, "a key of a model server is left in the account"
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
                    assert told["id"] in self.cloud.world.rentals, told
                    assert told["event"] == "created" or not self.cloud.world.rentals[told["id"]].alive, told


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_it_is_rented_once_and_nothing_is_left(name: str) -> None:
    print(f"RENTING_SEED={SEED} pytest {pathlib.Path(__file__).name} -k {name} lives these lives again")
    machine = seed(SEED)(type(f"RentingFrom{name.title()}", (Renting,), {"cloud": CLOUDS[name]}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=10,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_nearly_every_boundary_was_crossed(name: str) -> None:
    boundaries = {f"{what} {side}" for what in (*CLOUDS[name].calls, *EVENTS) for side in ("before", "after")}
    missed = sorted(boundaries - set(CROSSED[name]))
    assert len(missed) <= 0.05 * len(boundaries), missed
    assert set(CROSSED[name]) <= boundaries  # what is crossed and not in the list would never be missed


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_the_machine_knows_every_call_of_the_code(name: str) -> None:
    assert CLOUDS[name].calls_in_code() == len(CLOUDS[name].calls) + len(CLOUDS[name].beside)


def test_the_machine_knows_every_event_of_the_code() -> None:
    told = set()
    for module in (_rent, _engine, _host_keys):
        for line in re.findall(r"_journal\.record\((.*?)\)", pathlib.Path(str(module.__file__)).read_text(), re.DOTALL):
            told |= set(re.findall(r'"([a-z_]+)"', line.replace('"start"', "").replace('"stop"', "")))
    assert told == {*EVENTS, "host_key", "unready"}
