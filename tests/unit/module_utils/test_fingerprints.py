# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rental that was started otherwise than it is wanted now: every controller sees it, and none replaces it unasked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _cached,
    _engine,
    _pairs,
    _rent,
    _vllm,
    _vllm_rental,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance, wish_from
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action, make_plan
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, Provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as real_runpod
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai as real_vastai
from emulators import runpod, vastai
from emulators.server import serving
from emulators.world import World
from support.fake_clock import FakeClock

KEY = "planted-key-5d21-of-the-model"
NOTHING: dict[str, Any] = {"image": "own:1.0", "wait": "none"}
OWN: dict[str, Any] = {**NOTHING, "args": ["--seed", "1"], "env": {"MODE": "planted-mode"}}


@pytest.fixture(params=["runpod", "vastai"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[World, Provider]]:
    FakeClock().install(monkeypatch)
    world = World(request.param, scale=3600)
    if request.param == "runpod":
        with serving(runpod.make(world), world) as url:
            yield world, real_runpod.make({"api_key": "any", "api_url": url + runpod.URL_PATH})
    else:
        with serving(vastai.make(world), world) as url:
            yield world, real_vastai.make({"api_key": "any", "api_url": url})


def wish(provider: Provider, **more: Any) -> Wish:
    given = {"name": "vllm-1", "providers": [provider.name], "runtime": "container", "gpu": "A100_80GB", **more}
    computed_from = json.loads(json.dumps(given.pop("computed_from", None)))  # as Ansible hands it over
    complete, errors = complete_instance({"max_lifetime": "8h", **given})
    assert not errors
    return wish_from({**complete, "deployment_id": "acme-llm", "state": "started", "computed_from": computed_from})


def computed(provider: Provider, settings: dict[str, Any] | None = None, key: str = KEY) -> Wish:
    wanted = {"model": "Qwen/Qwen3-0.6B", "gpu": True, **(settings or {})}
    return from_role(provider, wanted, "vllm/vllm-openai:v0.32.0", key)


def from_role(provider: Provider, settings: dict[str, Any], image: str, key: str = KEY, **more: Any) -> Wish:
    request = vllm_rental(settings, image, key)["request"]
    return wish(provider, **request, **more)


def rented(provider: Provider, wanted: Wish) -> Instance:
    """As another controller finds it, which knows nothing but what the provider lists."""
    query = {"gpu": "A100_80GB", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 50}
    offers = provider.offers({**query, "interruptible": wanted.interruptible})
    _rent._claim({provider.name: provider}, wanted, offers[0], _rent.Claims())
    (listed,) = provider.list()
    return listed


def fields(current: Instance, wanted: Wish) -> list[str]:
    return [difference.field for difference in make_plan(current, wanted).differences]


def test_what_is_wanted_as_before_is_no_drift(cloud: tuple[World, Provider]) -> None:
    _world, provider = cloud
    current = rented(provider, computed(provider))
    assert fields(current, computed(provider)) == []
    got = provider.get(current.id)
    assert got
    assert got.started_with == current.started_with != ""
    assert fields(replace(current, started_with=""), computed(provider, {"model": "other/one"})) == [], "not known"


@pytest.mark.parametrize(
    ("settings", "key", "changed"),
    [
        ({"model": "Qwen/Qwen3-1.7B"}, KEY, ["settings"]),
        ({"extra_arguments": ["--seed", "1"]}, KEY, ["settings"]),
        ({"extra_environment": {"VLLM_LOGGING_LEVEL": "DEBUG"}}, KEY, ["settings"]),
        ({"port": 9000}, KEY, ["ports", "settings"]),
        ({}, "another-key-of-the-model", ["secret_env"]),
    ],
)
def test_another_model_argument_variable_port_or_key_is_drift(
    cloud: tuple[World, Provider], settings: dict[str, Any], key: str, changed: list[str]
) -> None:
    _world, provider = cloud
    current, wanted = rented(provider, computed(provider)), computed(provider, settings, key)
    assert fields(current, wanted) == changed
    plan = make_plan(current, replace(wanted, on_drift="replace"))
    assert plan.actions == (Action.DELETE, Action.CREATE)
    for diff in (plan.diff, make_plan(current, wanted).diff):
        assert {field for field in changed if diff["before"][field] != diff["after"][field]} == set(changed)
        assert "-key-" not in str(diff)


def test_the_start_that_a_user_wrote_counts_too(cloud: tuple[World, Provider]) -> None:
    _world, provider = cloud
    current = rented(provider, wish(provider, **OWN))
    assert fields(current, wish(provider, **OWN)) == []
    assert fields(current, wish(provider, **OWN, entrypoint=["sh"])) == ["entrypoint"]
    assert fields(current, wish(provider, **{**OWN, "env": {"MODE": "other"}})) == ["env"]
    assert fields(current, wish(provider, **NOTHING)) == [], "what is not said is left as it is"


def test_what_was_rented_with_nothing_said_is_seen_to_differ(cloud: tuple[World, Provider]) -> None:
    _world, provider = cloud
    current = rented(provider, wish(provider, **NOTHING))
    assert fields(current, wish(provider, **NOTHING)) == []
    assert fields(current, wish(provider, **OWN)) == ["args", "env"]


def test_what_is_not_whole_is_no_drift(cloud: tuple[World, Provider]) -> None:
    """Nobody has proven that a provider keeps all of it, and every character."""
    _world, provider = cloud
    current = rented(provider, computed(provider))
    wanted = computed(provider, {"model": "Qwen/Qwen3-1.7B"}, "another-key-of-the-model")
    whole = current.started_with
    assert fields(current, wanted) == ["settings", "secret_env"]
    assert re.fullmatch(r"[A-Za-z0-9:._-]+", whole)
    for strange in (whole[:-1], whole[:40], whole.split(".end")[0], whole.replace(".", " "), "args:1 env:2"):
        assert fields(replace(current, started_with=strange), wanted) == []


def test_a_bid_is_no_rental_on_demand(cloud: tuple[World, Provider]) -> None:
    _world, provider = cloud
    current = rented(provider, computed(provider))
    assert current.interruptible is False
    assert fields(current, replace(computed(provider), interruptible=True)) == ["interruptible"]
    assert fields(replace(current, interruptible=None), replace(computed(provider), interruptible=True)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "Qwen/Qwen3-0.6B", "gpu": True},
        {"model": "gpuops/tiny", "model_source": "generated", "gpu": False, "extra_environment": {"A": "1", "B": "2"}},
    ],
)
def test_what_the_collection_brings_itself_is_no_wish_of_the_user(
    cloud: tuple[World, Provider], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """A new version has other programs, flags, defaults and environment; another Python packs a program otherwise."""
    _world, provider = cloud
    first = from_role(provider, settings, "own:1.0", env={"MODE": "planted-mode"})
    current = rented(provider, first)
    pack, arguments, environment = _vllm_rental.pack, _vllm.build_arguments, _vllm.build_environment
    monkeypatch.setattr(_vllm_rental, "pack", lambda text: pack(f"{text}\npass"))
    monkeypatch.setattr(_vllm_rental, "build_arguments", lambda settings: [*arguments(settings), "--new-flag"])
    monkeypatch.setattr(
        _vllm_rental, "build_environment", lambda settings: environment(settings) | {"DO_NOT_TRACK": "2"}
    )
    later = {**settings, "extra_environment": dict(reversed(settings.get("extra_environment", {}).items()))}
    second = from_role(provider, later, "own:1.0", env={"MODE": "planted-mode"})
    assert (second.entrypoint, second.args, second.env) != (first.entrypoint, first.args, first.env)
    assert fields(current, second) == []
    assert fields(current, from_role(provider, settings, "own:1.0", env={"MODE": "other"})) == ["env"]


def test_no_secret_can_be_read_from_it(cloud: tuple[World, Provider]) -> None:
    world, provider = cloud
    current = rented(provider, replace(computed(provider), env={"MODE": "planted-mode"}))
    assert "planted" not in current.started_with
    assert current.started_with not in repr(current)
    assert current.started_with not in json.dumps(_cached._plain([current]))
    # Not even that two rentals have the same one.
    first = current.started_with
    provider.delete(current.id)
    now = _pairs.split(rented(provider, computed(provider)).started_with)
    before = _pairs.split(first)
    assert now
    assert before
    assert [name for name, _value in before] == ["settings", "env", "secret_env"]
    assert dict(now)["secret_env"] != dict(before)["secret_env"]
    assert len(first) < 256, "Vast.ai may take no longer one"
    assert world.rentals


def test_the_module_names_the_fields_and_ends_nothing_by_itself(cloud: tuple[World, Provider]) -> None:
    world, provider = cloud
    rented(provider, computed(provider))
    wanted = computed(provider, {"model": "Qwen/Qwen3-1.7B"}, "another-key-of-the-model")
    for check_mode in (True, False):
        with pytest.raises(EngineError) as caught:
            _engine.Run({provider.name: provider}, wanted, check_mode).result()
        failure = caught.value
        assert failure.code == "drift"
        assert (
            "settings was changed after it was rented; secret_env was changed after it was rented." in failure.message
        )
        assert "on_drift: replace" in failure.fix
        assert [one["field"] for one in failure.result["differences"]] == ["settings", "secret_env"]
        assert failure.result["diff"]["before"]["settings"] != failure.result["diff"]["after"]["settings"]
        assert "-key-" not in str([failure.as_failure(), failure.result])
    assert len([one for one in world.rentals.values() if one.alive]) == 1
