# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider of containers is asked to rent, from the settings of the role."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import FilterModule, vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils import _preflight, _rent, _vllm
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance, wish_from
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, Provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as real_runpod
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai as real_vastai
from emulators import runpod, vastai
from emulators.server import serving
from emulators.world import World

MODEL = "Qwen/Qwen3-0.6B"
KEY, TOKEN = "planted-key-5d21-of-the-model", "planted-token"
SETTINGS: dict[str, Any] = {"model": MODEL, "gpu": True, "max_model_len": 8192, "extra_arguments": ["--seed", "1"]}
ARGUMENTS = [
    *("vllm", "serve", MODEL, "--served-model-name", MODEL),
    *("--host", "0.0.0.0", "--port", "8000", "--max-model-len", "8192"),  # noqa: S104 - a container's own address
    *("--gpu-memory-utilization", "0.9", "--shutdown-timeout", "60"),
    *("--disable-fastapi-docs", "--disable-access-log-for-endpoints", "/health,/metrics"),
    *("--middleware", "gpufleet_routes.AllowedRoutes", "--seed", "1"),
]
TLS = ["--ssl-keyfile", "/cache/gpufleet/tls.key", "--ssl-certfile", "/cache/gpufleet/tls.crt"]
IMAGE = "vllm/vllm-openai:v0.32.0"
ENVIRONMENT = {"PYTHONPATH": "/cache/gpufleet", "HOME": "/cache", "VLLM_NO_USAGE_STATS": "1"}


def computed(settings: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    result = vllm_rental(settings or SETTINGS, **{"image": IMAGE, "api_key": KEY, **more})
    assert result["problem"] == ""
    return dict(result["request"])


def options(**more: Any) -> dict[str, Any]:
    """Those that a fleet file could have too."""
    return {name: value for name, value in computed(**more).items() if name != "computed_from"}


def test_the_server_of_a_rental_downloads_its_model_itself() -> None:
    """No task of the role runs there, so nothing is fetched before, and the hub is asked, with the token."""
    assert computed({**SETTINGS, "prefetch": True}) == computed()
    assert "HF_HUB_OFFLINE" not in computed({**SETTINGS, "prefetch": True})["public_env"]


def test_it_is_the_command_line_of_the_role_and_one_packed_program() -> None:
    request = computed()
    assert (request["image"], request["args"], request["tls_args"]) == (IMAGE, ARGUMENTS, TLS)
    assert request["ports"] == [{"port": 8000, "protocol": "http"}]
    assert ENVIRONMENT.items() <= request["public_env"].items()
    assert request["secret_env"] == {"VLLM_API_KEY": KEY}
    assert request["entrypoint"][:2] == ["python3", "-c"]
    program = zlib.decompress(base64.b64decode(request["entrypoint"][3])).decode()
    assert "class AllowedRoutes" in program
    assert "os.execvp(command[0], command)" in program
    # The same code as for a host: only where things lie in the container is another place.
    there = _vllm.Settings.from_mapping(SETTINGS)
    assert request["args"][2:] == _vllm.build_arguments(there)
    inside = dataclasses.replace(there, tls=True, files_directory="/cache/gpufleet")
    assert request["args"][2:] + request["tls_args"] == _vllm.build_arguments(inside)


def test_the_key_is_nowhere_but_among_the_secrets() -> None:
    request = computed(hub_token=TOKEN)
    assert request.pop("secret_env") == {"VLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}
    assert "planted" not in str(request)


def test_an_image_that_brings_the_list_begins_by_itself() -> None:
    request = computed(image_has_routes=True)
    assert (request["entrypoint"], request["tls_args"], request["args"]) == (None, None, ARGUMENTS[2:])
    assert "GPUFLEET_ENDS_ITSELF" not in request["public_env"], "nobody knows what that image does"


def test_a_trial_model_is_made_inside() -> None:
    request = computed({"model": "gpuops/tiny", "model_source": "generated", "cpu_kv_cache_gib": 1}, image="own:1.0")
    assert request["args"][2] == "/cache/model"
    assert (
        "VOCABULARY_SIZE"
        in zlib.decompress(base64.b64decode(request["public_env"]["GPUFLEET_MODEL_GENERATOR"])).decode()
    )


@pytest.mark.parametrize(
    ("settings", "more", "words"),
    [
        ({}, {"api_key": ""}, "vllm_api_key is missing: a rented container has no host"),
        ({}, {"api_key": "too short"}, "vllm_api_key is not usable"),
        ({"model_source": "directory"}, {}, "no directory of yours"),
        ({}, {"image": "vllm/vllm-openai:latest"}, "doesn't say which version"),
        ({"gpu": False}, {}, "which needs a GPU, and this rental has none"),
        ({"model": "x/y-GGUF"}, {}, "no longer reads GGUF"),
        ({"extra_arguments": ["--ssl-keyfile=x"]}, {}, "makes its own key"),
    ],
)
def test_what_can_not_work_is_one_sentence_before_anything_is_rented(
    settings: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    result = FilterModule().filters()["vllm_rental"](SETTINGS | settings, **{"image": IMAGE, "api_key": KEY, **more})
    assert words in result["problem"]
    assert result["request"] == {}


@pytest.fixture
def worlds() -> Iterator[dict[str, tuple[World, Provider]]]:
    one, other = World("runpod", scale=3600), World("vastai", scale=3600)
    with serving(runpod.make(one), one) as runpod_url, serving(vastai.make(other), other) as vastai_url:
        yield {
            "runpod": (one, real_runpod.make({"api_key": "any", "api_url": runpod_url + runpod.URL_PATH})),
            "vastai": (other, real_vastai.make({"api_key": "any", "api_url": vastai_url})),
        }


def rent(providers: dict[str, tuple[World, Provider]], name: str, **more: Any) -> tuple[World, Provider, Instance]:
    """What the module would do with the computed request, without its waiting."""
    world, provider = providers[name]
    given = {"name": "vllm-1", "providers": [name], "runtime": "container", "gpu": "A100_80GB", "max_lifetime": "8h"}
    complete, errors = complete_instance({**given, **options(**more)})
    assert not errors
    wish = wish_from({**complete, "deployment_id": "acme-llm", "state": "started"})
    query = {"gpu": "A100_80GB", "gpu_count": 1, "runtime": "container", "regions": [], "disk_gib": 50}
    claimed = _rent._claim({name: provider}, wish, provider.offers(query)[0], _rent.Claims())
    return world, provider, claimed


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"memory_mib": 16384},
        {"shared_memory_mib": 2048},
        {"cpu_kv_cache_gib": 8},
        {"gpu_memory_utilization": 0.8},
        {"served_model_name": "m"},
        {"model_revision": "v1"},
        {"model_source": "generated"},
        {"port": 9000},
        {"task": "embed"},
        {"dtype": "half"},
        {"quantization": "fp8"},
        {"max_model_len": 4096},
        {"max_num_seqs": 8},
        {"enforce_eager": True},
        {"shutdown_timeout_seconds": 5},
        {"extra_arguments": ["--seed", "1"]},
        {"extra_environment": {"A": "1"}},
    ],
)
def test_another_rental_is_wanted_where_its_start_is_another_one(said: dict[str, Any], gpu: bool) -> None:
    plain = {"model": "Qwen/Qwen3-0.6B", "gpu": gpu}
    first, second = computed(plain, image="own:1.0"), computed(plain | said, image="own:1.0")
    start = ("entrypoint", "args", "tls_args", "public_env", "ports")
    differs = [first[name] for name in start] != [second[name] for name in start]
    assert (first["computed_from"] != second["computed_from"]) is differs


def test_a_default_is_the_same_as_nothing_said() -> None:
    plain = {"model": "Qwen/Qwen3-0.6B", "gpu": True}
    said = {"served_model_name": "Qwen/Qwen3-0.6B", "port": "8000", "max_num_seqs": 0, "extra_arguments": []}
    said["task"] = "generate"
    assert computed(plain | said)["computed_from"] == computed(plain)["computed_from"] == plain


def test_runpod_gets_exactly_this_and_the_key_as_a_reference(worlds: dict[str, tuple[World, Provider]]) -> None:
    world, provider, instance = rent(worlds, "runpod", hub_token=TOKEN)
    wire = world.rentals[instance.id].wire
    assert (wire["image"], wire["cmd"], wire["ports"]) == (IMAGE, ARGUMENTS, ["8000/http"])
    assert wire["entrypoint"] == computed()["entrypoint"]
    assert not wire["args"]
    assert wire["env"]["VLLM_API_KEY"] == "{{ RUNPOD_SECRET_gf--acme-llm--vllm-1--VLLM_API_KEY }}"
    assert ENVIRONMENT.items() <= wire["env"].items()
    assert "planted" not in str(wire), "the account's secrets hold it, and no answer shows them"
    held = {one["name"].rpartition("--")[2]: one["value"] for one in world.secrets.values()}
    assert held == {"VLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}
    assert not instance.own_tls
    assert not instance.ends_itself, "nobody gives it a key for that"
    assert provider.delete(instance.id)
    assert world.secrets == {}


def test_vastai_gets_exactly_this_and_ends_tls_itself(worlds: dict[str, tuple[World, Provider]]) -> None:
    world, provider, instance = rent(worlds, "vastai")
    wire = world.rentals[instance.id].wire
    request = computed()
    assert (wire["image_uuid"], wire["onstart"], wire["image_runtype"]) == (IMAGE, "python3", "args")
    assert wire["image_args"] == [*request["entrypoint"][1:], *ARGUMENTS, *TLS]
    environment = dict(wire["extra_env"])
    assert request["public_env"].items() <= environment.items()
    assert (environment["VLLM_API_KEY"], environment["-p 8000:8000"]) == (KEY, "1")
    assert environment["GPUFLEET_VAST_URL"].startswith("http://127.0.0.1:"), "the API where it was rented"
    assert instance.ends_itself
    world.skip(600)
    running = provider.get(instance.id)
    assert running
    assert running.ends_itself
    assert running.own_tls
    assert running.urls[0][1].startswith("https://203.0.113.20:")
    assert KEY not in repr(running)


def test_what_others_still_need_is_not_removed(worlds: dict[str, tuple[World, Provider]]) -> None:
    world, provider, first = rent(worlds, "runpod")
    second = rent(worlds, "runpod")[2]
    assert len(world.secrets) == 1, "renewed, not doubled"
    assert provider.delete(second.id)
    assert len(world.secrets) == 1
    assert not provider.clean_up("acme-llm")
    world.delete(world.rentals[first.id])  # as if a run had been killed between the pod's end and its secret's
    assert provider.clean_up("acme-llm")
    assert world.secrets == {}
    assert not provider.clean_up("acme-llm")


def test_more_than_vastai_takes_is_refused_offline_with_the_number_of_characters() -> None:
    """What is computed too: plan and check mode make the same check."""
    given = {"name": "vllm-1", "providers": ["vastai"], "runtime": "container", "gpu": "L4", "max_lifetime": "8h"}
    wanted = {**given, "roles": ["vllm"]}
    assert not _preflight.check_instance({**wanted, **options()})
    request = options(settings={**SETTINGS, "extra_arguments": ["--x", "y" * 2000]})
    length = len(json.dumps([*request["entrypoint"], *request["args"], *request["tls_args"]]))
    (problem,) = _preflight.check_instance({**wanted, **request})
    assert problem.field == "args"
    words = f"have {length} characters together, {length - 4096} more than the 4096 that provider 'vastai' takes"
    assert words in problem.message
    assert "vllm_extra_arguments" in problem.message
    assert not _preflight.check_instance({**wanted, **request, "providers": ["runpod"]}), "the others take it"


def test_the_longest_start_is_what_the_emulated_vastai_takes_too(worlds: dict[str, tuple[World, Provider]]) -> None:
    world = worlds["vastai"][0]
    request = computed()
    used = len(json.dumps([*request["entrypoint"], *request["args"], *request["tls_args"]]))
    assert used < 4096 - 300, "and there is room for arguments of a user's own"
    with pytest.raises(InvalidRequest, match="more than 4096 characters together"):
        rent(worlds, "vastai", settings={**SETTINGS, "extra_arguments": ["y" * 4096]})
    assert not world.rentals
    long = {**SETTINGS, "extra_arguments": [*SETTINGS["extra_arguments"], "y" * (4096 - used - 8)]}
    assert rent(worlds, "vastai", settings=long)[2].id in world.rentals
