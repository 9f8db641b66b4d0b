# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting once: claim and confirm, over a provider in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _journal, _marker, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._engine import Run
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Instance,
    Marker,
    Offer,
    Request,
    Status,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    Capability,
    EngineError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
)
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider, Killed

WISH = Wish("acme-llm", "vllm-1", providers=("fake",), look_at=("fake",), wait="none")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClock:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))
    return FakeClock().install(monkeypatch)


def run(provider: FakeProvider, wish: Wish = WISH, check_mode: bool = False) -> dict[str, Any]:
    return Run({provider.name: provider}, wish, check_mode).result()


BOTH_KINDS = pytest.mark.parametrize("unique_names", [True, False])


@BOTH_KINDS
def test_create_then_nothing_then_absent_twice(unique_names: bool) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=unique_names)
    first = run(provider)
    assert first["changed"]
    assert first["actions"] == ["create"]
    assert first["instance"]["price_per_hour_usd"] == 1.0
    assert not run(provider)["changed"]
    gone = run(provider, replace(WISH, state="absent"))
    assert (gone["changed"], gone["instance"], cloud.alive()) == (True, None, [])
    assert not run(provider, replace(WISH, state="absent"))["changed"]


@BOTH_KINDS
def test_check_mode_calls_nothing_that_changes(unique_names: bool) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=unique_names)
    result = run(provider, check_mode=True)
    assert result["changed"]
    assert result["offer"]["price_per_hour_usd"] == 1.0
    assert set(cloud.calls) == {"list", "offers"}


def test_without_unique_names_it_returns_only_after_two_looks_ten_seconds_apart(clock: FakeClock) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud)
    began = clock.now()
    run(provider)
    assert clock.now() - began >= 10
    assert cloud.calls.count("list") == 3  # one to find, two to confirm


def boundaries(unique_names: bool, wish: Wish, prepare: bool) -> Iterator[tuple[str, str]]:
    """Each boundary that a run crosses: (call, before or after), as often as it is crossed."""
    cloud = FakeCloud()
    provider = FakeProvider(cloud, unique_names=unique_names)
    if prepare:
        run(provider)
    crossed: list[tuple[str, str]] = []
    provider.at_boundary = lambda call, when: crossed.append((call, when))
    run(provider, wish)
    return iter(crossed)


def killing_at(deadly: int) -> Callable[[str, str], None]:
    """Lets so many boundaries pass and kills the controller at the next one."""
    left = itertools.count(deadly, -1)

    def die(call: str, when: str) -> None:
        if next(left) <= 0:
            raise Killed

    return die


@BOTH_KINDS
@pytest.mark.parametrize("wish", [WISH, replace(WISH, state="absent"), replace(WISH, state="stopped")])
def test_killed_at_any_boundary_a_rerun_ends_as_if_nothing_happened(unique_names: bool, wish: Wish) -> None:
    prepare = wish.state != "started"
    count = len(list(boundaries(unique_names, wish, prepare)))
    assert count >= 4
    for deadly in range(count):
        cloud = FakeCloud()
        provider = FakeProvider(cloud, unique_names=unique_names)
        if prepare:
            run(provider)
        provider.at_boundary = killing_at(deadly)
        with pytest.raises(Killed):
            run(provider, wish)
        other = FakeProvider(cloud, unique_names=unique_names)  # another controller, which knows nothing
        run(other, wish)
        assert len(cloud.alive()) == (0 if wish.state == "absent" else 1)
        assert not run(other, wish)["changed"]


@BOTH_KINDS
@pytest.mark.parametrize("at", [("list", "after"), ("offers", "before"), ("create", "before"), ("create", "after")])
def test_two_controllers_that_share_nothing_end_with_one_rental(unique_names: bool, at: tuple[str, str]) -> None:
    """The second controller runs as a whole at one boundary of the first: the worst interleavings of two runs."""
    cloud = FakeCloud()
    first, second = (FakeProvider(cloud, unique_names=unique_names) for index in range(2))
    results: list[dict[str, Any]] = []

    def interleave(call: str, when: str) -> None:
        if (call, when) == at and not results:
            results.append({})
            results[0] = run(second)

    first.at_boundary = interleave
    results.append(run(first))
    assert len(cloud.alive()) == 1
    assert {result["instance"]["id"] for result in results} == {cloud.alive()[0].id}


def test_two_controllers_whose_looks_are_interleaved_end_with_one_rental(clock: FakeClock) -> None:
    cloud = FakeCloud()
    first, second = FakeProvider(cloud), FakeProvider(cloud)
    results: list[dict[str, Any]] = []

    def second_runs_while_first_sleeps() -> None:
        clock.on_sleep = lambda: None
        results.append(run(second))

    clock.on_sleep = second_runs_while_first_sleeps
    results.append(run(first))
    assert {result["instance"]["id"] for result in results} == {cloud.alive()[0].id}
    assert len(cloud.alive()) == 1


def test_two_claims_that_have_the_same_nonce_by_chance_end_with_one_rental(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few nonces, where they say when they were made. Who was first looks before the other one does."""
    monkeypatch.setattr(_marker, "dated_nonce", lambda: "abc123")
    cloud = FakeCloud()
    first, second = FakeProvider(cloud), FakeProvider(cloud)
    made: list[Instance] = []

    def interleave(call: str, when: str) -> None:
        if (call, when) == ("create", "before"):
            made.append(first.create(Request(Marker("acme-llm", "vllm-1", "abc123"), Offer("fake", "offer-1"))))
        elif (call, when) == ("create", "after"):
            claims = _rent.Claims({"abc123": Offer("fake", "offer-1")})
            claims.tell(made)
            made.append(_rent._confirm({"fake": first}, WISH, made[0], claims))

    second.at_boundary = interleave
    result = run(second)
    assert [one.id for one in cloud.alive()] == [result["instance"]["id"]] == [made[1].id]


def test_an_ambiguous_create_that_took_effect_is_found_not_repeated() -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud)

    def lose_the_answer(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            raise Ambiguous("no answer", provider="fake")

    provider.at_boundary = lose_the_answer
    result = run(provider)
    assert [one.id for one in cloud.alive()] == [result["instance"]["id"]]
    assert cloud.calls.count("create") == 1
    told = [line["id"] for line in _journal.read("acme-llm") if line["event"] == "created"]
    assert told == [result["instance"]["id"]], "what it will have cost is in no journal"


def test_an_ambiguous_create_without_effect_is_looked_for_twice_then_repeated(clock: FakeClock) -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud)
    failures = [Ambiguous("no answer", provider="fake")]

    def fail_once(call: str, when: str) -> None:
        if (call, when) == ("create", "before") and failures:
            raise failures.pop()

    provider.at_boundary = fail_once
    run(provider)
    assert len(cloud.alive()) == 1
    assert sum(clock.slept) >= 20  # the looks before the second create, and those that confirm it


def test_what_was_rented_is_told_when_another_provider_can_not_be_asked_any_more() -> None:
    cloud = FakeCloud()
    down, good = FakeProvider(cloud, name="vastai"), FakeProvider(cloud, name="runpod")
    down.refuse["offers"] = ProviderUnavailable("Vast.ai can't be asked.", provider="vastai")
    providers, wish = {"vastai": down, "runpod": good}, replace(WISH, providers=("vastai", "runpod"))

    def then_it_is_down(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            down.refuse["list"] = down.refuse["offers"]

    good.at_boundary = then_it_is_down
    lives = (
        "Instance 'vllm-1' lives at runpod (runpod-1, see https://console.runpod.io/pods) and goes on costing "
        "1 USD per hour. Vast.ai can't be asked."
    )
    for actions in (["create"], []):  # and so says the next run, which can't know whether there is an older one
        with pytest.raises(ProviderUnavailable) as failure:
            Run(providers, wish).result()
        down.refuse["list"] = ProviderUnavailable("Vast.ai can't be asked.", provider="vastai")
        assert failure.value.message == lives
        result = failure.value.result
        assert (result["changed"], result["actions"]) == (bool(actions), actions)
        assert result["instance"]["id"] == "runpod-1"
    assert [one.id for one in cloud.alive()] == ["runpod-1"]


def test_a_younger_rental_that_can_not_be_given_back_is_told() -> None:
    cloud = FakeCloud()
    first, second = FakeProvider(cloud), FakeProvider(cloud)
    second.refuse["delete"] = ProviderUnavailable("It is still there.", provider="fake")

    def interleave(call: str, when: str) -> None:
        if (call, when) == ("create", "before") and not cloud.alive():
            run(first)

    second.at_boundary = interleave
    with pytest.raises(ProviderUnavailable, match=r"lives at fake \(fake-2\) and goes on costing") as failure:
        run(second)
    assert failure.value.result["actions"] == ["create"]
    assert failure.value.result["instance"]["id"] == "fake-2"


def test_what_was_rented_without_an_answer_or_a_look_is_ours_at_the_next_provider_too(clock: FakeClock) -> None:
    cloud = FakeCloud()
    first, second = FakeProvider(cloud, name="first"), FakeProvider(cloud, name="second", prices=(5.0,))

    def lose_everything(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            first.refuse["list"] = ProviderUnavailable("first is down.", provider="first")
            raise Ambiguous("no answer.", provider="first")

    def it_comes_back(call: str, when: str) -> None:
        if (call, when) == ("create", "before"):
            first.refuse.clear()
            clock.time += 5

    first.at_boundary, second.at_boundary = lose_everything, it_comes_back
    result = Run({"first": first, "second": second}, replace(WISH, providers=("first", "second"))).result()
    assert [one.id for one in cloud.alive()] == [result["instance"]["id"]] == ["first-1"]
    told = [(line["event"], line["id"]) for line in _journal.read("acme-llm") if "id" in line]
    assert told == [("created", "second-2"), ("created", "first-1"), ("surplus_deleted", "second-2")]


def test_that_something_may_have_been_rented_is_not_lost_with_the_answer() -> None:
    provider = FakeProvider(FakeCloud())

    def lose_everything(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            provider.refuse["list"] = ProviderUnavailable("It is down.", provider="fake")
            raise Ambiguous("No answer came.", provider="fake")

    provider.at_boundary = lose_everything
    said = "fake may have rented 'vllm-1': No answer came. Nobody could look: It is down."
    with pytest.raises(ProviderUnavailable, match=said):
        run(provider)


def test_that_something_may_have_been_rented_is_told_with_what_lives_elsewhere(clock: FakeClock) -> None:
    cloud = FakeCloud()
    first, second = FakeProvider(cloud, name="first"), FakeProvider(cloud, name="second", prices=(5.0,))

    def lose_everything(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            first.refuse["list"] = ProviderUnavailable("first is down.", provider="first")
            raise Ambiguous("no answer.", provider="first")

    first.at_boundary = lose_everything
    with pytest.raises(ProviderUnavailable, match=r"first may have rented 'vllm-1': no answer\.") as caught:
        Run({"first": first, "second": second}, replace(WISH, providers=("first", "second"))).result()
    assert "lives at second (second-2" in str(caught.value)


def test_that_something_may_have_been_rented_is_told_with_what_another_provider_refuses() -> None:
    first, second = (FakeProvider(FakeCloud(), name=name) for name in ("first", "second"))

    def lose_everything(call: str, when: str) -> None:
        if (call, when) == ("create", "after"):
            first.refuse["list"] = ProviderUnavailable("first is down.", provider="first")
            raise Ambiguous("no answer.", provider="first")

    first.at_boundary = lose_everything
    second.refuse["create"] = InvalidRequest("second can't read it.", provider="second")
    with pytest.raises(InvalidRequest) as caught:
        Run({"first": first, "second": second}, replace(WISH, providers=("first", "second"))).result()
    assert caught.value.message == "first may have rented 'vllm-1': no answer. second can't read it."


def test_where_one_can_not_be_ended_the_others_are_and_it_is_told_what_it_costs(clock: FakeClock) -> None:
    cloud = FakeCloud()
    first, second = FakeProvider(cloud, name="first"), FakeProvider(cloud, name="second", prices=(5.0,))
    for provider in (first, second):
        Run({provider.name: provider}, replace(WISH, providers=(provider.name,))).result()
        clock.time += 5
    first.refuse["delete"] = ProviderUnavailable("first can't be asked.", provider="first")
    wish = replace(WISH, providers=("first", "second"), state="absent")
    with pytest.raises(ProviderUnavailable, match=r"lives at first \(first-1.* first can't be asked") as caught:
        Run({"first": first, "second": second}, wish).result()
    assert [one.id for one in cloud.alive()] == ["first-1"]
    assert caught.value.result["instance"]["id"] == "first-1"


@pytest.mark.parametrize(
    ("dates", "status", "seconds", "rented"),
    [
        (False, None, 60, 1),
        (False, 502, 60, 1),
        (False, 504, 60, 1),  # what stands before it gave up, not it
        (False, 524, 60, 1),
        (False, 500, 60, 2),
        (False, 503, 60, 2),
        (True, None, 60, 2),
        (True, 504, 60, 2),
    ],
)
def test_what_comes_late_is_waited_for_where_nobody_says_when_it_was_rented(
    dates: bool, status: int | None, seconds: float, rented: int, clock: FakeClock
) -> None:
    """Its nonce makes it the older one, so what was rented instead would be ended while it is in use."""
    cloud = FakeCloud()
    provider = FakeProvider(cloud)
    provider.capabilities |= {Capability.DATES} if dates else set()
    late: list[Instance] = []

    def take_long(call: str, when: str) -> None:
        if (call, when) == ("create", "after") and not late:
            late.append(cloud.instances.popitem()[1])
            raise Ambiguous("no answer", provider="fake", status=status)

    def show() -> None:
        if late and clock.now() - (late[0].created_at or 0) >= seconds:
            cloud.instances[late[0].id] = late[0]

    provider.at_boundary, clock.on_sleep = take_long, show
    run(provider)
    assert cloud.calls.count("create") == rented


def two_rentals(clock: FakeClock) -> FakeCloud:
    cloud = FakeCloud()
    run(FakeProvider(cloud))
    older = cloud.alive()[0]
    younger = replace(older, id="fake-99", marker=replace(older.marker, nonce="zzzzzz"), created_at=clock.now())
    cloud.instances[younger.id] = younger
    return cloud


def test_surplus_is_reported_until_it_is_old_enough_then_deleted(clock: FakeClock) -> None:
    cloud = two_rentals(clock)
    result = run(FakeProvider(cloud))
    assert [one["id"] for one in result["surplus"]] == ["fake-99"]
    assert not result["changed"]
    clock.time += 601
    assert not cloud.deleted
    looks = cloud.calls.count("list")
    result = run(FakeProvider(cloud))
    assert result["actions"] == ["delete_surplus"]
    assert cloud.calls.count("list") == looks + 2
    (warning,) = result["warnings"]
    assert "the younger rental (fake fake-99) was ended" in warning
    assert "fake fake-1 is older and stays" in warning
    assert [one.id for one in cloud.alive()] == ["fake-1"]


def test_nothing_is_replaced_while_another_of_its_name_lives(clock: FakeClock) -> None:
    """That one would be the oldest then, and would count, whatever it is like."""
    cloud = two_rentals(clock)
    cloud.instances |= {one.id: replace(one, image="a:1") for one in cloud.alive()}
    wish = replace(WISH, image="a:2", on_drift="replace")
    with pytest.raises(EngineError, match="exists and differs") as caught:
        run(FakeProvider(cloud), wish)
    assert "gpuops.fleet.sweep" in caught.value.fix
    assert not cloud.deleted
    del cloud.instances["fake-99"]
    assert run(FakeProvider(cloud), wish)["actions"] == ["delete", "create"]
    assert [one.image for one in cloud.alive()] != ["a:1"]


def test_absent_deletes_the_surplus_too(clock: FakeClock) -> None:
    cloud = two_rentals(clock)
    run(FakeProvider(cloud), replace(WISH, state="absent"))
    assert not cloud.alive()


def test_what_somebody_ordered_to_end_is_waited_for_until_it_is_gone(clock: FakeClock) -> None:
    """Whoever gave that order may have been killed, or have waited in vain: what is listed may still be paid for."""
    cloud = two_rentals(clock)
    first = cloud.alive()[0]
    cloud.instances[first.id] = replace(first, status=Status.TERMINATING)
    provider, absent = FakeProvider(cloud), replace(WISH, state="absent")
    assert run(provider, absent, check_mode=True)["actions"] == ["delete"]
    provider.refuse["delete"] = ProviderUnavailable("fake still has it.", provider="fake")
    with pytest.raises(ProviderUnavailable, match="fake still has it") as caught:
        run(provider, absent)
    assert {one.id for one in cloud.alive()} == {"fake-1", "fake-99"}
    assert "lives at fake (fake-1)" in str(caught.value)
    assert {line["event"] for line in _journal.read("acme-llm")} == {"claim", "created"}, "nobody saw an end of it"
    provider.refuse.clear()
    assert run(provider, absent)["actions"] == ["delete", "delete"]
    assert not cloud.alive()
    assert not run(provider, absent)["changed"]


def test_what_ends_does_not_count_as_the_one_that_is_wanted(clock: FakeClock) -> None:
    provider = FakeProvider(FakeCloud(), name="runpod")
    wish = replace(WISH, providers=("runpod",))
    run(provider, wish)
    ending = replace(provider.cloud.alive()[0], status=Status.TERMINATING)
    provider.cloud.instances[ending.id] = ending
    result = run(provider, wish)
    assert (result["instance"]["id"], result["warnings"]) == ("runpod-2", [])
    assert not provider.cloud.deleted
    for one in provider.cloud.alive():
        del provider.cloud.instances[one.id]
    (warning,) = run(provider, wish)["warnings"]
    assert "vllm-1 at runpod (runpod-2) is no longer there. Nobody here ended it." in warning


def test_what_is_not_exactly_ours_is_never_touched(clock: FakeClock) -> None:
    cloud = two_rentals(clock)
    foreign = replace(cloud.alive()[0], id="f", marker=replace(cloud.alive()[0].marker, deployment_id="acme-llm-2"))
    cloud.instances = {"f": foreign}
    run(FakeProvider(cloud), replace(WISH, state="absent"))
    assert cloud.alive() == [foreign]


def test_a_failed_list_proves_nothing() -> None:
    provider = FakeProvider(FakeCloud())
    provider.refuse["list"] = ProviderUnavailable("down", provider="fake")
    for state in ("started", "absent"):
        with pytest.raises(ProviderUnavailable):
            run(provider, replace(WISH, state=state))
    assert "create" not in provider.cloud.calls


@pytest.mark.parametrize("error", [OfferGone("gone", provider="fake"), NoCapacity("sold out", provider="fake")])
def test_the_next_offer_is_taken_when_one_is_gone(error: ProviderError) -> None:
    provider = FakeProvider(FakeCloud())
    provider.refuse["create offer-1"] = error
    assert run(provider)["instance"]["price_per_hour_usd"] == 2.0


def test_a_sold_out_provider_is_not_asked_for_its_other_offers() -> None:
    provider = FakeProvider(FakeCloud())
    provider.refuse["create"] = NoCapacity("sold out", scope="provider", provider="fake")
    with pytest.raises(NoCapacity):
        run(provider)
    assert provider.cloud.calls.count("create") == 1


def test_another_provider_is_taken_when_the_cheapest_is_down_for_offers() -> None:
    cloud = FakeCloud()
    broken, good = FakeProvider(cloud, name="broken"), FakeProvider(cloud, name="good")
    broken.refuse["offers"] = ProviderUnavailable("down", provider="broken")
    wish = replace(WISH, providers=("broken", "good"), look_at=("broken", "good"))
    result = Run({"broken": broken, "good": good}, wish).result()
    assert result["instance"]["provider"] == "good"


def test_ending_does_not_wait_for_a_provider_that_is_down_and_claims_nothing_about_it() -> None:
    cloud = FakeCloud()
    broken, good = FakeProvider(cloud, name="broken"), FakeProvider(cloud, name="good")
    wish = replace(WISH, providers=("good",), look_at=("good", "broken"))
    Run({"broken": broken, "good": good}, wish).result()
    broken.refuse["list"] = broken.refuse["clean_up"] = ProviderUnavailable("it is down", provider="broken")
    ending = replace(wish, state="absent")
    with pytest.raises(ProviderError, match="it is down"):
        Run({"broken": broken, "good": good}, ending, check_mode=True).result()
    assert len(cloud.alive()) == 1
    with pytest.raises(ProviderUnavailable, match="it is down") as failure:
        Run({"broken": broken, "good": good}, ending).result()
    assert cloud.alive() == []
    assert (failure.value.result["changed"], failure.value.result["actions"]) == (True, ["delete"])
    assert failure.value.provider == "broken"
    with pytest.raises(ProviderError, match="it is down"):
        Run({"broken": broken, "good": good}, wish).result()
    assert cloud.alive() == [], "it may live where nobody answers"


def test_nothing_is_rented_above_the_maximum_or_at_an_unknown_price() -> None:
    provider = FakeProvider(FakeCloud(), prices=(3.0,))
    with pytest.raises(ProviderError, match="1 refused for their price"):
        run(provider, replace(WISH, max_price_per_hour_usd=2.0))
    provider.prices = (None,)  # type: ignore[assignment]
    with pytest.raises(ProviderError, match="1 refused for their price"):
        run(provider, replace(WISH, max_price_per_hour_usd=2.0))
    assert not provider.cloud.alive()


def test_drift_fails_and_replace_leaves_one() -> None:
    cloud = FakeCloud()
    run(FakeProvider(cloud), replace(WISH, image="a:1"))
    with pytest.raises(ProviderError, match="image is 'a:1', wanted 'a:2'"):
        run(FakeProvider(cloud), replace(WISH, image="a:2"))
    result = run(FakeProvider(cloud), replace(WISH, image="a:2", on_drift="replace"))
    assert result["actions"] == ["delete", "create"]
    assert [one.image for one in cloud.alive()] == ["a:2"]


def test_without_a_usable_home_everything_works_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", "/proc/nowhere")
    assert run(FakeProvider(FakeCloud()))["changed"]


def test_what_a_job_rented_under_that_name_is_neither_the_instance_nor_surplus() -> None:
    cloud = FakeCloud()
    provider = FakeProvider(cloud)
    run(provider)
    (fleet,) = cloud.alive()
    job = replace(fleet, id="fake-job", marker=replace(fleet.marker, nonce="job001", owner="job:7"), created_at=1.0)
    cloud.instances[job.id] = job
    result = run(provider)
    assert (result["changed"], result["instance"]["id"], result["surplus"]) == (False, fleet.id, [])
    run(provider, replace(WISH, state="absent"))
    assert cloud.alive() == [job]
    assert run(provider)["actions"] == ["create"]
    assert len(cloud.alive()) == 2


def test_the_oldest_stays_and_ties_go_by_nonce() -> None:
    cloud = FakeCloud()
    run(FakeProvider(cloud))
    one = cloud.alive()[0]
    other = replace(one, id="x", marker=replace(one.marker, nonce="000000"))
    for order in ([one, other], [other, one]):
        assert _rent.settle(order).current == other
    unknown = replace(one, id="y", created_at=None, marker=replace(one.marker, nonce="000000"))
    assert _rent.settle([unknown, one]).current == one
