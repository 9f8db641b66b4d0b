# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an instance is looked for, by the parameters as Ansible's own argument spec hands them over."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _offers
from ansible_collections.gpuops.fleet.plugins.modules.instance import STATE_SPEC

SPEC = {**_arguments.FLEET_SPEC, **_arguments.INSTANCE_SPEC, **STATE_SPEC}


@pytest.mark.parametrize(
    ("provider_settings", "look_at"),
    [
        ({}, ("runpod",)),
        ({"vastai": {}}, ("runpod", "vastai")),
        ({"runpod": {}, "local": {}, "vastai": {"api_key": "any"}}, ("runpod", "local", "vastai")),
        # Ansible makes the same of this one as of a provider that isn't named.
        ({"vastai": None}, ("runpod",)),
    ],
)
def test_it_is_looked_for_at_its_own_providers_and_at_those_with_settings_even_empty_ones(
    provider_settings: dict[str, Any], look_at: tuple[str, ...]
) -> None:
    task = {"deployment_id": "acme-llm", "name": "vllm-1", "providers": ["runpod"]}
    result = ArgumentSpecValidator(SPEC).validate({**task, "provider_settings": provider_settings})
    assert result.error_messages == []
    assert set(_arguments.wish_from(result.validated_parameters).look_at) == set(look_at)


def test_settings_that_nobody_completed_count_as_well() -> None:
    task = {"deployment_id": "acme-llm", "name": "vllm-1", "providers": ["runpod"]}
    params = ArgumentSpecValidator(SPEC).validate(task).validated_parameters
    assert _arguments.wish_from({**params, "provider_settings": {"vastai": {}}}).look_at == ("runpod", "vastai")


def test_completing_the_arguments_of_one_task_leaves_those_of_the_next_alone() -> None:
    before = copy.deepcopy(SPEC)
    task = {"deployment_id": "acme-llm", "name": "vllm-1", "providers": ["runpod"]}
    params = ArgumentSpecValidator(SPEC).validate(task).validated_parameters
    assert before == SPEC
    assert _arguments.wish_from(params).look_at == ("runpod",)


@pytest.mark.parametrize(
    ("said", "cuda"),
    [
        ({"runtime": "container", "image": "vllm/vllm-openai:v0.32.0"}, "13.0"),
        ({"runtime": "container", "image": "registry.example.org/mirror/vllm-openai:v0.32.0-cu129"}, "12.9"),
        # Of these nobody knows it, and a machine's driver is no matter of its offer.
        ({"runtime": "container", "image": "example.org/own:1"}, None),
        ({"runtime": "container", "image": "vllm/vllm-openai@sha256:" + 64 * "0"}, None),
        ({"runtime": "container"}, None),
        ({"runtime": "vm", "image": "vllm/vllm-openai:v0.32.0"}, None),
    ],
)
def test_a_container_is_looked_for_where_the_driver_is_new_enough_for_its_image(
    said: dict[str, Any], cuda: str | None
) -> None:
    task = {"deployment_id": "acme-llm", "name": "vllm-1", "providers": ["vastai"], "gpu": "L4", **said}
    params = ArgumentSpecValidator(SPEC).validate(task).validated_parameters
    assert _offers.query_from(_arguments.wish_from(params)).get("minimum_cuda_version") == cuda


@pytest.mark.parametrize("max_lifetime", ["5000d", "soon"])
def test_what_is_only_ended_needs_no_lifetime_that_can_be_rented(max_lifetime: str) -> None:
    """It may have been rented when such a one was still taken."""
    task = {"deployment_id": "acme-llm", "name": "vllm-1", "providers": ["runpod"], "max_lifetime": max_lifetime}
    params = ArgumentSpecValidator(SPEC).validate({**task, "state": "absent"}).validated_parameters
    assert _arguments.wish_from(params).lifetime_seconds is None
    with pytest.raises(ValueError, match="max_lifetime"):
        _arguments.wish_from({**params, "state": "started"})
