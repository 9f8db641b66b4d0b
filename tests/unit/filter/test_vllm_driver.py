"""The driver that an image of vLLM needs."""

from __future__ import annotations

import pathlib

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_driver import FilterModule

ROOT = pathlib.Path(__file__).parents[3]
needs = FilterModule().filters()["vllm_driver"]


@pytest.mark.parametrize(
    ("image", "version", "reason"),
    [
        (
            "vllm/vllm-openai:v0.32.0",
            "580",
            "vllm_image vllm/vllm-openai:v0.32.0 is built for CUDA 13.0; v0.32.0-cu129 runs with 525",
        ),
        (
            "vllm/vllm-openai:v0.32.0-cu129",
            "525",
            "vllm_image vllm/vllm-openai:v0.32.0-cu129 is built for CUDA 12.9",
        ),
        ("vllm/vllm-openai:v0.12.0", "525", "vllm_image vllm/vllm-openai:v0.12.0 is built for CUDA 12.9"),
        ("vllm/vllm-openai-cpu:v0.32.0", "", ""),
        ("acme/server@sha256:" + 64 * "a", "", ""),
        (None, "", ""),
    ],
)
def test_what_an_image_needs(image: str | None, version: str, reason: str) -> None:
    assert needs(image) == {"version": version, "reason": reason}


def test_without_an_image_it_is_the_one_of_the_role() -> None:
    default = yaml.safe_load((ROOT / "roles/vllm/defaults/main.yml").read_text())["vllm_image"]
    assert needs("") == needs(default)
    assert default in needs("")["reason"]
