"""Which references of images say what runs."""

from __future__ import annotations

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._images import says_version

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "reference",
    [
        "apache/kafka:3.9.1",
        "mongo:7.0.37",
        "vllm/vllm-openai:v0.32.0",
        "vllm/vllm-openai:v0.32.0-cu129",
        "gpuops/telemetry:git-0a1b2c3d4e5f",
        "gpuops/telemetry:abcdefabcdef",
        "registry.acme.internal:5000/own/image:2026-11-22",
        f"registry.acme.internal:5000/own/image@{DIGEST}",
        f"mongo:latest@{DIGEST}",
    ],
)
def test_a_version_a_commit_or_a_digest_says_it(reference: str) -> None:
    assert says_version(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "mongo",
        "mongo:",
        "mongo:latest",
        "vllm/vllm-openai:latest-cu129",
        "mongo:7",
        "own/image:v2",
        "own/image:stable",
        # A port is no tag, and its digits are no version.
        "registry.acme.internal:5000/own/image",
        "registry.acme.internal:5000/own/image:latest",
        "10.0.0.1:5000/own1.2/image",
        "mongo@sha256:0123",
        "two words:1.0",
    ],
)
def test_what_can_be_another_image_tomorrow_does_not(reference: str) -> None:
    assert not says_version(reference)
