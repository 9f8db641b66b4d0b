# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting once, whatever happens: the modules against emulated providers, killed wherever they talk or write.

Each step is one run of a module's main(), by a controller that remembers nothing it can rely on: its home may vanish
between any two steps. A run can be killed at any boundary (before a call is sent, after it took effect, around each
line of the journal), the provider can fail in its usual ways, and two controllers that share nothing, each a process
with a home of its own, can run at the same time. TEST_SCALE multiplies how many such lives are lived. What chance
decides follows from RENTING_SEED, which a failing run prints.
"""

from __future__ import annotations

import ast
import json
import math
import os
import pathlib
import random
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, Capability
from emulators.world import Fault, Rental
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.clouds import Cloud
from support.emulated_clouds import bad_luck, make_clouds
from support.mortal_controller import FASTER, Controller, Elsewhere, Job, Result, World

CLOUDS = make_clouds()
LIVES = math.ceil(200 * int(os.environ.get("TEST_SCALE", "1")) / len(CLOUDS))  # of each
STEPS = 6  # of a life
SEED = int(os.environ.get("RENTING_SEED") or random.SystemRandom().randrange(2**32))
DEPLOYMENT = "it-machine"
NAMES = ("a-1", "b-1")
HOUR = 3600
MOST_USD = 0.7  # more than what is wanted costs an hour, and less than twice that
ENGINE = pathlib.Path(str(_engine.__file__)).parent
# Behind these rentals nobody ends TLS; tests/integration/test_rented_models.py writes and reads that line. What is
# forgotten is of a machine that somebody owns: tests/unit/module_utils/test_owned.py. What was seen to look at its
# expiry is a container that answers: tests/unit/module_utils/test_watch.py.
EVENTS_ELSEWHERE = {"tls_fingerprint", "host_key_forgotten", "watched"}
CONTROLLERS: dict[str, Controller] = {}
OTHERS: list[Elsewhere] = []


@pytest.fixture(scope="module", autouse=True)
def _providers_and_controllers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for cloud in CLOUDS.values():
            cloud.start(FASTER / cloud.slowness)
            CONTROLLERS[cloud.name] = Controller(cloud.world.now, FASTER / cloud.slowness)
            for name, value in cloud.variables.items():
                patch.setenv(name, value)
        OTHERS.extend(Elsewhere(dict(os.environ)) for _number in range(2))
        yield
    for other in OTHERS:
        other.close()
    for cloud in CLOUDS.values():
        cloud.server.stop()


@dataclass
class Home:
    """A controller's home, and what the runs in it did by the provider's books: its journal has to say the same.

    A run that was killed or failed may not have come to write down what it did.
    """

    path: pathlib.Path
    made: set[str] = field(default_factory=set)
    surely_made: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    surely_ended: set[str] = field(default_factory=set)

    def lines(self) -> list[dict[str, Any]]:
        journal = self.path / "journal.jsonl"
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def told(self, *events: str, what: str = "id") -> set[str]:
        return {line[what] for line in self.lines() if line["event"] in events}

    def lose(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.surely_made.clear()
        self.surely_ended.clear()


class Renting(RuleBasedStateMachine):
    """Controllers, a provider, and bad luck."""

    cloud: Cloud

    @initialize()
    def begin(self) -> None:
        self.controller = CONTROLLERS[self.cloud.name]
        self.cloud.reset()
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="gpufleet-life-"))
        self.homes = [Home(self.work / f"home-{number}") for number in range(2)]
        self.foreign: list[Rental] = []
        self.can_renew = Capability.RENEW in CAPABILITIES[self.cloud.name]

    def alive(self, name: str) -> list[Rental]:
        return self.cloud.alive(DEPLOYMENT, name)

    def ids(self, rentals: Iterable[Rental]) -> list[str]:
        return [self.cloud.our_id(one) for one in rentals]

    def wish(self, name: str) -> dict[str, Any]:
        return {"name": name, "providers": [self.cloud.name], "max_lifetime": "8h", "wait": "none", **self.cloud.wish}

    def instance(self, name: str, state: str, controller: int, killed_at: int | None = None, **more: Any) -> Job:
        parameters = {"deployment_id": DEPLOYMENT, "state": state, **self.wish(name), **more}
        parameters["provider_settings"] = {self.cloud.name: self.cloud.settings}
        return Job("instance", parameters, str(self.homes[controller].path), killed_at)

    def orphan(
        self, wanted: Iterable[str], confirm: bool, controller: int, killed_at: int | None = None, grace: int = 900
    ) -> Job:
        file = self.work / "fleet.yml"
        fleet = {
            "plugin": "gpuops.fleet.fleet",
            "deployment_id": DEPLOYMENT,
            "provider_settings": {self.cloud.name: self.cloud.settings},
        }
        file.write_text(json.dumps({**fleet, "instances": [self.wish(name) for name in sorted(wanted)]}))
        parameters = {"deployment_id": DEPLOYMENT, "fleet_files": [str(file)], "grace_seconds": grace}
        parameters["provider_settings"] = fleet["provider_settings"]
        confirmation = {"confirm": DEPLOYMENT} if confirm else {}
        return Job("orphan", {**parameters, **confirmation}, str(self.homes[controller].path), killed_at)

    def play(self, *jobs: Job) -> list[Result | None]:
        """Run them, several at the same time in processes of their own; then the journals must say what was done."""
        before = self.cloud.rentals(DEPLOYMENT)
        living = {identity for identity, (rental, _marker) in before.items() if rental.alive}
        if len(jobs) == 1:
            results = [self.controller.run(jobs[0])]
        else:
            clock = self.cloud.world
            world = World(clock.began, faster=self.controller.faster)
            world = replace(world, ahead_seconds=clock.now() - world.now())
            for other, job in zip(OTHERS, jobs, strict=True):
                other.begin(job, world)
            results = []
            for result, crossed in [other.end() for other in OTHERS]:
                results.append(result)
                self.controller.crossed.update(crossed)
        after = self.cloud.rentals(DEPLOYMENT)
        made = {identity: marker.nonce for identity, (_rental, marker) in after.items() if identity not in before}
        gone = {identity: rental for identity, (rental, _marker) in after.items() if not rental.alive}
        ended = {one for one in {*living, *made} & set(gone) if not self.cloud.ended_itself(gone[one])}
        homes = [home for home in self.homes if str(home.path) in [job.home for job in jobs]]
        self._journals_are_true(homes, made, ended, sure=all(result and not result.get("failed") for result in results))
        return results

    def _journals_are_true(self, homes: list[Home], made: dict[str, str], ended: set[str], *, sure: bool) -> None:
        unclaimed = set(made.values()).difference(*(home.told("claim", what="nonce") for home in homes))
        assert not unclaimed, "rented without a claim in the journal"
        for home in homes:
            claimed = home.told("claim", what="nonce")
            home.made |= {identity for identity, nonce in made.items() if nonce in claimed}
            home.ended |= ended
            if sure:
                home.surely_made |= home.made & set(made)
            if sure and len(homes) == 1:
                home.surely_ended |= ended
            told_made, told_ended = home.told("created"), home.told("deleted", "surplus_deleted")
            assert home.surely_made <= told_made <= home.made, "the journal and the books differ in what was rented"
            assert home.surely_ended <= told_ended <= home.ended, "the journal and the books differ in what was ended"
        if sure:
            assert ended <= set().union(*(home.told("deleted", "surplus_deleted") for home in homes))

    def run_once(
        self, name: str, state: str, controller: int, killed_at: int | None = None, **more: Any
    ) -> Result | None:
        """One run of the module instance, and what holds after it."""
        before = set(self.cloud.rentals(DEPLOYMENT))
        (result,) = self.play(self.instance(name, state, controller, killed_at, **more))
        living = self.alive(name)
        assert len(living) <= 1, "rented twice"
        if result is None:
            return None
        in_vain = set(self.cloud.rentals(DEPLOYMENT)) - before - set(self.ids(living))
        in_vain -= self.homes[controller].told("surplus_deleted")
        assert in_vain <= {one["id"] for one in result.get("failed_rentals", [])}, "paid for, and not told"
        if result.get("failed"):
            made = set(self.ids(living)) - before
            assert made <= {(result.get("instance") or {}).get("id")}, "it lives and costs, and nobody is told"
        if state == "absent" and not result.get("failed"):
            assert living == []
        elif not result.get("failed"):
            assert [result["instance"]["id"]] == self.ids(living)
            if state == "stopped":
                assert self.cloud.is_stopped(living[0])
        return result

    @rule(
        name=st.sampled_from(NAMES),
        state=st.sampled_from(["started", "stopped", "absent", "present"]),
        controller=st.sampled_from([0, 1]),
        killed_at=st.none() | st.integers(0, 15),
    )
    def run(self, name: str, state: str, controller: int, killed_at: int | None) -> None:
        self.run_once(name, state, controller, killed_at)

    @rule(name=st.sampled_from(NAMES), killed_at=st.none() | st.integers(0, 8), blind=st.booleans())
    def off_and_on(self, name: str, killed_at: int | None, blind: bool) -> None:
        """What chance alone rarely brings about: stopped by one run, started by the next."""
        if blind:
            self.then_nobody_can_look(name)
        self.run_once(name, "started", 0)
        self.run_once(name, "stopped", 1)
        self.run_once(name, "started", 0, killed_at)

    def then_nobody_can_look(self, name: str) -> None:
        """From the moment on that something is rented, until the run gives up."""

        def fail_lists(boundary: str) -> None:
            if boundary == "created after":
                self.cloud.world.faults = [Fault(**{**self.cloud.faults["list fails for good"], "times": None})]

        self.cloud.world.faults.clear()
        living = self.alive(name)
        self.controller.meanwhile = fail_lists
        result = self.run_once(name, "started", 0)
        self.controller.meanwhile = lambda _boundary: None
        self.cloud.world.faults.clear()
        assert result
        assert result.get("failed", False) is not bool(living)

    @rule(
        name=st.sampled_from(NAMES),
        stuck=st.booleans(),
        on_unready=st.sampled_from(["keep", "stop", "replace", "destroy"]),
        killed_at=st.none() | st.integers(0, 40),
    )
    def wait(self, name: str, stuck: bool, on_unready: str, killed_at: int | None) -> None:
        """What is rented is waited for; it may hang in its boot for ever."""
        if stuck:
            self.cloud.world.faults = [Fault(trouble="boot_stuck", of=f"--{name}--")]
        stage = "ssh" if self.cloud.wish["runtime"] == "vm" else "running"
        result = self.run_once(name, "started", 0, killed_at, wait=stage, on_unready=on_unready)
        if result and result.get("failure", {}).get("code") == "not_ready":
            assert len(self.alive(name)) == (on_unready in ("keep", "stop"))
        self.cloud.world.faults.clear()

    @rule(
        name=st.sampled_from(NAMES),
        on_drift=st.sampled_from(["fail", "replace"]),
        dearer=st.booleans(),
        controller=st.sampled_from([0, 1]),
        killed_at=st.none() | st.integers(0, 40),
    )
    def change(self, name: str, on_drift: str, dearer: bool, controller: int, killed_at: int | None) -> None:
        """Another disk is wanted, and a new rental may cost more than is allowed; what is left of that is ended."""
        before = self.ids(self.alive(name))
        if dearer:
            self.cloud.world.faults = [Fault(trouble="dearer", of=f"--{name}--")]
        disk_gib = self.cloud.wish.get("disk_gib", 50) + 10
        more = {"disk_gib": disk_gib, "on_drift": on_drift, "max_price_per_hour_usd": MOST_USD}
        result = self.run_once(name, "started", controller, killed_at, **more)
        if before and on_drift == "fail":
            assert self.ids(self.alive(name)) == before, "replaced unasked"
            assert result is None or result["failed"]
        elif before and result and not result.get("failed"):
            assert self.ids(self.alive(name)) != before, "not replaced"
        self.cloud.world.faults.clear()
        result = self.run_once(name, "absent", controller)
        assert result
        assert not result.get("failed"), result

    @rule(
        name=st.sampled_from(NAMES),
        hours=st.sampled_from([1, 9, 30]),
        controller=st.sampled_from([0, 1]),
        killed_at=st.none() | st.integers(0, 12),
    )
    def extend(self, name: str, hours: int, controller: int, killed_at: int | None) -> None:
        if not self.alive(name):
            self.run_once(name, "started", controller)
        before = {self.cloud.our_id(one): self.cloud.expiry(one) for one in self.alive(name)}
        calls, until = len(self.cloud.world.calls), self.cloud.world.now() + hours * HOUR
        result = self.run_once(name, "started", controller, killed_at, extend=f"{hours}h")
        if not self.can_renew:
            assert result
            assert (result["failed"], len(self.cloud.world.calls)) == (True, calls), "refused, but not before any call"
        for one in self.alive(name):
            expiry = self.cloud.expiry(one)
            assert expiry >= before.get(self.cloud.our_id(one), 0), "shortened"
            if self.cloud.our_id(one) in before and result and not result.get("failed"):
                assert expiry * HOUR >= until
                if expiry > before[self.cloud.our_id(one)]:
                    lines = [line for line in self.homes[controller].lines() if line["event"] == "renewed"]
                    assert (lines[-1]["id"], lines[-1]["expiry_epoch_hours"]) == (self.cloud.our_id(one), expiry)

    @rule(
        wanted=st.sets(st.sampled_from(NAMES)),
        name=st.sampled_from(NAMES),
        rival=st.booleans(),
        hours=st.sampled_from([0, 1, 9]),
        grace=st.sampled_from([900, 4 * HOUR]),
        confirm=st.booleans(),
        controller=st.sampled_from([0, 1]),
        killed_at=st.none() | st.integers(0, 12),
    )
    def sweep(
        self,
        wanted: set[str],
        name: str,
        rival: bool,
        hours: int,
        grace: int,
        confirm: bool,
        controller: int,
        killed_at: int | None,
    ) -> None:
        """Some time later what is over, there twice or in no file is ended, and nothing else; then once more."""
        self.run_once(name, "started", controller)
        if rival and hours and self.alive(name):
            self.a_rival_rents(name, hours + 8)
        self.cloud.world.skip(hours * HOUR)
        for job in (
            self.orphan(wanted, confirm, controller, killed_at, grace),
            self.orphan(wanted, True, 0, None, grace),
        ):
            living, first_call = self.living(), len(self.cloud.world.calls)
            before = self.ending(living, wanted, grace)
            (result,) = self.play(job)
            ended = set(self.ids(one for named in living.values() for one in named if not one.alive))
            after = self.ending(living, wanted, grace)  # what has come of age meanwhile may be ended, or not yet
            calls = self.cloud.world.calls[first_call:]
            assert ended <= before | after, "somebody wants that"
            if "confirm" not in job.parameters:
                assert all(map(self.cloud.is_question, calls))
            elif result and not result.get("failed"):
                assert before & after <= ended, "left behind"
            ends = [call["time"] for call in calls if self.cloud.is_end(call)]
            if ends:
                looks = [time for time in self.cloud.lists() if calls[0]["time"] <= time <= ends[0]]
                assert looks[-1] - looks[0] >= 60, "one look is none"
            self.cloud.world.faults.clear()
        assert result
        assert not result.get("failed"), result
        assert [name for name in NAMES if len(self.alive(name)) > 1] == []

    def a_rival_rents(self, name: str, hours: int) -> None:
        expiry = int(self.cloud.world.now() // HOUR) + hours
        self.cloud.rent_as_we_do(_marker.encode(Marker(DEPLOYMENT, name, self.cloud.new_nonce(), expiry)))

    def living(self) -> dict[str, list[Rental]]:
        return {name: self.alive(name) for name in NAMES}

    def ending(self, living: dict[str, list[Rental]], wanted: Collection[str], grace: int) -> set[str]:
        """What of these a sweep has to end now: the rules once more, by the provider's books."""
        now = self.cloud.world.now()
        ending = set()
        for name, rentals in living.items():
            over = [one for one in rentals if self.cloud.expiry(one) * HOUR <= now]
            rest = [one for one in rentals if one not in over]
            ending |= set(self.ids(over))
            ending |= set(self.ids(one for one in rest[1:] if now - self.cloud.began(one) > 600))
            if name not in wanted:
                ending |= set(self.ids(one for one in rest[:1] if now - self.cloud.began(one) > grace))
        return ending

    @rule(
        name=st.sampled_from(NAMES),
        states=st.sampled_from([("started", "started"), ("started", "absent"), ("started", "sweep")]),
        killed_at=st.none() | st.integers(0, 24),
    )
    def two_controllers_at_once(self, name: str, states: tuple[str, str], killed_at: int | None) -> None:
        """They share nothing, and the first may be killed; then a third one, with an empty home, settles it."""
        self.cloud.world.faults.clear()
        second = self.orphan(NAMES, True, 1) if states[1] == "sweep" else self.instance(name, states[1], 1)
        living = self.living()
        results = self.play(self.instance(name, states[0], 0, killed_at), second)
        assert results[1] is not None
        if results[0] is not None:
            assert len(self.alive(name)) <= 1, "rented twice"
        if states[1] != "absent" and not self.ending(living, NAMES, 900):
            assert [result for result in results if result and result.get("failed")] == []
            assert len(self.alive(name)) >= (results[0] is not None)
        if results[0] is None:
            self.cloud.world.skip(660)  # until it is certain that nobody is about to settle it
            self.homes[0].lose()
            state = "absent" if states[1] == "absent" else "started"
            result = self.run_once(name, state, 0)
            assert result
            assert not result.get("failed"), result

    @rule(data=st.data())
    def bad_luck(self, data: st.DataObject) -> None:
        bad_luck(self.cloud, data.draw(st.sampled_from(sorted(self.cloud.faults))))

    @rule(controller=st.sampled_from([0, 1]))
    def a_home_is_lost(self, controller: int) -> None:
        self.homes[controller].lose()

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
        foreign: list[Rental] = getattr(self, "foreign", [])
        assert [one.id for one in foreign if not one.alive or self.cloud.is_stopped(one)] == []

    def teardown(self) -> None:
        if not hasattr(self, "homes"):
            return
        self.cloud.world.faults.clear()
        for name in NAMES:
            result = self.run_once(name, "absent", 0)
            assert result is not None
            assert not result.get("failed"), result
            assert self.alive(name) == []
        assert self.cloud.world.secrets == {}, "a key of a model server is left in the account"
        self.what_is_not_ours_lives()
        shutil.rmtree(self.work, ignore_errors=True)


def live_what_is_rare(life: Renting) -> None:
    """What chance brings about in some of the lives, and not in all sets of them."""
    life.begin()
    life.wait(NAMES[0], True, "keep", None)
    life.off_and_on(NAMES[0], None, False)
    life.wait(NAMES[1], False, "keep", None)
    life.extend(NAMES[1], 30, 0, None)
    life.a_rival_rents(NAMES[1], 9)
    life.cloud.world.skip(660)  # until it is certain that nobody is about to settle it
    life.run_once(NAMES[1], "started", 1)
    life.change(NAMES[0], "replace", False, 0, None)
    life.change(NAMES[0], "fail", True, 1, None)
    # What is left halfway of one order is taken up by the next.
    for killed_at in range(12):
        life.run_once(NAMES[0], "started", 0, killed_at)
    # What somebody else ended is gone for who rented it, if its journal knows of the rental: one that was killed may
    # not have come to write that.
    life.run_once(NAMES[0], "absent", 0)
    life.run_once(NAMES[0], "started", 0)
    life.run_once(NAMES[0], "absent", 1)
    life.run_once(NAMES[0], "started", 0)
    life.teardown()


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_it_is_rented_once_and_nothing_is_left(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"RENTING_SEED={SEED} pytest {pathlib.Path(__file__).name} -k {name} lives these lives again")
    CONTROLLERS[name].install(monkeypatch.setattr)
    machine = seed(SEED)(type(f"RentingFrom{name.title()}", (Renting,), {"cloud": CLOUDS[name]}))
    live_what_is_rare(machine())
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, LIVES // CLOUDS[name].slowness),
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_nearly_every_boundary_was_crossed(name: str) -> None:
    cloud, crossed = CLOUDS[name], CONTROLLERS[name].crossed
    boundaries = {f"{what} {side}" for what in (*cloud.calls, *cloud.events) for side in ("before", "after")}
    missed = sorted(boundaries - set(crossed))
    assert len(missed) <= 0.05 * len(boundaries), missed
    assert set(crossed) <= boundaries  # what is crossed and not in the list would never be missed


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_the_machine_knows_every_call_of_the_code(name: str) -> None:
    assert CLOUDS[name].calls_in_code() == len(CLOUDS[name].calls) + len(CLOUDS[name].beside)


def test_the_machine_knows_every_module_that_calls() -> None:
    """A provider, that is: what probes a rental leaves nothing behind, and a firewall costs nothing."""
    caller = re.compile(r"\b(Transport|ComputeApi|aws_api|import boto3)\b")
    calling = {path.name for path in ENGINE.rglob("*.py") if caller.search(path.read_text())}
    known = {pathlib.Path(str(module.__file__)).name for cloud in CLOUDS.values() for module in cloud.code}
    assert calling == known | {"_transport.py", "gcp_firewall.py"}


def test_the_machine_knows_every_event_of_the_code() -> None:
    told = {event for path in ENGINE.rglob("*.py") for event in events_in(path)}
    assert told == {event for cloud in CLOUDS.values() for event in cloud.events} | EVENTS_ELSEWHERE


def events_in(path: pathlib.Path) -> Iterator[str]:
    """The events with which this module calls the journal, whichever way it writes them."""
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_journal.record":
            event: ast.expr = node.args[0]
            if isinstance(event, ast.Name):
                event = constants[event.id]
            if isinstance(event, ast.Call) and isinstance(event.func, ast.Attribute):  # {...}.get(word, default)
                assert isinstance(event.func.value, ast.Dict)
                values = [*event.func.value.values, event.args[1]]
            else:
                values = [event]
            for value in values:
                assert isinstance(value, ast.Constant), f"{path.name}: {ast.unparse(node)} is not understood"
                yield str(value.value)
