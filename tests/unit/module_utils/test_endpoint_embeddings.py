# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoint check of a server that embeds: the same proofs, with vectors instead of completions."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint
from support.fake_endpoint import KEY, Faults, serving

VECTOR = [0.6, -0.8, 0, 1e-9]


def checked(url: str, **values: Any) -> dict[str, Any]:
    given = {"api_key": KEY, "model": "tiny", "url": url, "timeout_seconds": 5, "task": "embed"}
    result = check_endpoint({**given, **values})
    assert KEY not in json.dumps(result)
    return result


def failed(result: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: f"{check['detail']}. {check['fix']}" for check in result["checks"] if not check["ok"]}


def test_a_right_server_passes_and_nothing_is_streamed() -> None:
    with serving(Faults(embedding=VECTOR)) as server:
        result = checked(server.url, requests=5, prompt="The sky is", probe_routes=False)
    assert [check["name"] for check in result["checks"] if check["ok"]] == [
        *("health", "refused_without_key", "refused_with_wrong_key", "model", "embedding", "latency"),
    ]
    assert (result["embedding"]["dimensions"], result["embedding"]["prompt_tokens"]) == (4, 3)
    assert (result["completion"], result["streaming"]) == (None, None)
    assert (result["latency"]["requests"], result["latency"]["failed"]) == (5, 0)
    assert "over 5 embeddings" in result["checks"][-1]["detail"]
    assert server.count("/v1/completions") == 0
    # The two without a right key come before, and are no questions.
    asked = [json.loads(body) for _method, path, _headers, body in server.asked if path == "/v1/embeddings"]
    assert asked == [[], []] + [{"model": "tiny", "input": "The sky is"}] * 5


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        ([], "the embedding is empty"),
        ("AACAPw==", "no list of numbers"),
        ({}, "no list of numbers"),
        ([0.1, None, 0.2], "1 of the embedding's 3 numbers are none, such as None"),
        ([math.nan, 0.2], "1 of the embedding's 2 numbers are none, such as nan"),
        ([math.inf, -math.inf], "2 of the embedding's 2 numbers are none, such as inf"),
        (["0.1"], "1 of the embedding's 1 numbers are none"),
        ([True], "1 of the embedding's 1 numbers are none"),
    ],
)
def test_what_is_no_vector_of_finite_numbers_is_none(embedding: Any, words: str) -> None:
    with serving(Faults(embedding=embedding)) as server:
        result = checked(server.url)
    assert list(failed(result)) == ["embedding"]
    assert failed(result)["embedding"].startswith("it answers /health but fails embeddings: ")
    assert words in failed(result)["embedding"]
    assert (result["embedding"], result["latency"]) == (None, None)


def test_a_number_of_any_length_is_one() -> None:
    with serving(Faults(embedding=[10**400])) as server:
        assert failed(checked(server.url)) == {}


@pytest.mark.parametrize(
    ("faults", "names"),
    [
        ({"key": None}, ["refused_without_key", "refused_with_wrong_key", "open_routes"]),
        ({"open": {("POST", "/v1/embeddings"): 400}}, ["refused_without_key", "open_routes"]),
        ({"model": "other"}, ["model"]),
        ({"answering_model": "other"}, ["embedding"]),
        ({"always_fails": 500}, ["embedding"]),
        ({"key": "another"}, ["model", "embedding"]),
    ],
)
def test_what_is_wrong_is_named(faults: dict[str, Any], names: list[str]) -> None:
    with serving(Faults(embedding=VECTOR, **faults)) as server:
        assert list(failed(checked(server.url))) == names


def test_embeddings_that_fail_later_count() -> None:
    with serving(Faults(embedding=VECTOR, completion_statuses=[200, 500, 200])) as server:
        result = checked(server.url, requests=4)
    assert "1 of 4 embeddings failed, the last one: status 500" in failed(result)["latency"]


def test_who_is_asked_for_what_it_was_not_started_for_is_named_with_the_way_out() -> None:
    with serving(Faults(embedding=VECTOR)) as server:
        completions = failed(checked(server.url, task="generate"))
    with serving() as server:
        embeddings = failed(checked(server.url))
    assert (list(completions), list(embeddings)) == (["completion"], ["embedding"])
    assert "fails completions: status 404" in completions["completion"]
    assert "fails embeddings: status 404" in embeddings["embedding"]
    for words in (completions["completion"], embeddings["embedding"]):
        assert words.endswith(
            "Ask with the task that the server was started for (generate or embed), or look at its log."
        )
