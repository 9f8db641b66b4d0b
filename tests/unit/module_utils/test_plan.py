# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action, make_plan


def instance(**values: Any) -> Instance:
    return Instance(**{"provider": "local", "id": "1", "marker": MARKER, "status": Status.RUNNING, **values})


MARKER = Marker("acme-llm", "vllm-1", "abc123")
RUNNING = instance()
STOPPED = instance(status=Status.STOPPED)
HALF_MADE = instance(status=Status.PENDING, needs_start=True)


@pytest.mark.parametrize(
    ("current", "state", "actions"),
    [
        (None, "present", [Action.CREATE]),
        (None, "started", [Action.CREATE]),
        (None, "absent", []),
        (RUNNING, "present", []),
        (RUNNING, "started", []),
        (RUNNING, "stopped", [Action.STOP]),
        (RUNNING, "absent", [Action.DELETE]),
        (STOPPED, "present", []),
        (STOPPED, "started", [Action.START]),
        (STOPPED, "stopped", []),
        (STOPPED, "absent", [Action.DELETE]),
        (HALF_MADE, "present", [Action.START]),
        (HALF_MADE, "started", [Action.START]),
        (HALF_MADE, "absent", [Action.DELETE]),
    ],
)
def test_states(current: Instance | None, state: str, actions: list[Action]) -> None:
    plan = make_plan(current, Wish("acme-llm", "vllm-1", state=state, providers=("local",)))
    assert list(plan.actions) == actions
    assert plan.changed is bool(actions)
    assert (plan.diff["before"] != plan.diff["after"]) is bool(actions)


def test_what_does_not_exist_can_not_be_stopped() -> None:
    plan = make_plan(None, Wish("acme-llm", "vllm-1", state="stopped"))
    assert "can't be stopped" in plan.refused
    assert not plan.changed


@pytest.mark.parametrize(
    ("now", "wanted", "field"),
    [
        ({"gpu": "L4", "gpu_count": 1}, {"gpu": "L40S", "gpu_count": 1}, "gpu"),
        ({"gpu": "L4", "gpu_count": 1}, {"gpu": "L4", "gpu_count": 2}, "gpu_count"),
        ({"image": "a:1"}, {"image": "a:2"}, "image"),
        ({"instance_type": "small"}, {"instance_type": "large"}, "instance_type"),
        ({"disk_gib": 50}, {"disk_gib": 100}, "disk_gib"),
        ({"region": "us"}, {"regions": ("eu",)}, "regions"),
        ({"ports": ((22, "tcp"),)}, {"ports": ((8000, "http"),)}, "ports"),
        ({}, {"providers": ("elsewhere",)}, "provider"),
    ],
)
def test_drift_is_listed_and_replaced_only_when_told(now: dict[str, Any], wanted: dict[str, Any], field: str) -> None:
    wish = {"providers": ("local",), **wanted}
    plan = make_plan(instance(**now), Wish("acme-llm", "vllm-1", **wish))
    assert [difference.field for difference in plan.differences] == [field]
    assert not plan.changed
    replaced = make_plan(instance(**now), Wish("acme-llm", "vllm-1", on_drift="replace", **wish))
    assert replaced.actions == (Action.DELETE, Action.CREATE)
    # Ending it needs no agreement about what it is.
    assert make_plan(instance(**now), Wish("acme-llm", "vllm-1", state="absent", **wish)).actions == (Action.DELETE,)


@pytest.mark.parametrize("on_drift", ["fail", "replace"])
def test_what_differs_is_stopped_as_told_and_not_replaced(on_drift: str) -> None:
    """It would go on costing, or another one would run in its place."""
    wish = Wish("acme-llm", "vllm-1", state="stopped", image="a:2", args=("--seed", "1"), on_drift=on_drift)
    lives = instance(image="a:1", started_with="v1.end", marker=replace(MARKER, expiry_epoch_hours=1))
    plan = make_plan(lives, wish)
    assert (plan.actions, plan.differences) == ((Action.STOP,), ())
    assert make_plan(replace(lives, status=Status.STOPPED), wish).actions == ()
    extended = make_plan(lives, replace(wish, extend_to_epoch_hours=500_008))
    assert extended.actions == (Action.RENEW, Action.STOP)


@pytest.mark.parametrize("region", ["is", "IS", "Is"])
def test_a_region_is_the_same_in_small_and_in_capital_letters(region: str) -> None:
    assert not make_plan(instance(region="IS"), Wish("acme-llm", "vllm-1", regions=("NO", region))).differences


def test_what_differs_gets_its_time_and_nothing_else() -> None:
    lives = instance(image="a:1", marker=replace(MARKER, expiry_epoch_hours=1), status=Status.STOPPED)
    wish = Wish("acme-llm", "vllm-1", image="a:2", extend_to_epoch_hours=500_008)
    plan = make_plan(lives, wish)
    assert plan.actions == (Action.RENEW,)
    assert [difference.field for difference in plan.differences] == ["image"]
    changed = {key for key, value in plan.diff["before"].items() if plan.diff["after"][key] != value}
    assert changed == {"image", "expires_at"}
    assert make_plan(lives, replace(wish, on_drift="replace")).actions == (Action.DELETE, Action.CREATE)


def test_what_was_not_said_and_what_is_not_known_is_no_drift() -> None:
    rich = instance(gpu="L4", gpu_count=1, image="a:1", instance_type="small", region="us")
    assert not make_plan(rich, Wish("acme-llm", "vllm-1", providers=("local",))).differences
    wish = Wish("acme-llm", "vllm-1", providers=("local",), image="a:1", disk_gib=80, ports=((8000, "tcp"),))
    assert not make_plan(RUNNING, wish).differences
    # A card whose name can't be read is no other card: replacing it would end a machine that nobody asked to end.
    unreadable = Wish("acme-llm", "vllm-1", providers=("local",), gpu="L4", gpu_count=1, on_drift="replace")
    assert not make_plan(instance(gpu=None, gpu_count=1), unreadable).changed


@pytest.mark.parametrize(
    ("expiry", "to", "actions"),
    [
        (500_000, 500_008, [Action.RENEW]),
        (500_000, None, []),
        (500_008, 500_008, []),
        (500_100, 500_008, []),  # what lives longer is not shortened
        (0, 500_008, []),  # and what lives for ever gets no end
    ],
)
def test_extending_never_shortens(expiry: int, to: int | None, actions: list[Action]) -> None:
    lives = instance(marker=replace(MARKER, expiry_epoch_hours=expiry))
    plan = make_plan(lives, Wish("acme-llm", "vllm-1", extend_to_epoch_hours=to))
    assert list(plan.actions) == actions
    changed = {key for key, value in (plan.before or {}).items() if (plan.after or {})[key] != value}
    assert changed == ({"expires_at"} if actions else set())


def test_what_is_extended_and_started_is_extended_first() -> None:
    lives = instance(marker=replace(MARKER, expiry_epoch_hours=1), status=Status.STOPPED)
    wish = Wish("acme-llm", "vllm-1", state="started", extend_to_epoch_hours=500_008)
    assert make_plan(lives, wish).actions == (Action.RENEW, Action.START)
    assert make_plan(lives, replace(wish, state="absent")).actions == (Action.DELETE,)
    assert make_plan(None, wish).actions == (Action.CREATE,)


def test_a_cheaper_offer_is_no_drift_and_a_create_shows_its_price() -> None:
    offer = Offer("local", "small", price_per_hour_usd=0.5)
    assert not make_plan(instance(price_per_hour_usd=2.0), Wish("acme-llm", "vllm-1"), offer).changed
    assert make_plan(None, Wish("acme-llm", "vllm-1"), offer).diff["after"]["price_per_hour_usd"] == 0.5
