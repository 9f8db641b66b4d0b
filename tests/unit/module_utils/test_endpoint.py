# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoint check against small servers that are right, open, or wrong."""

from __future__ import annotations

import ast
import datetime
import email.utils
import json
import pathlib
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _endpoint, _endpoint_checks, _endpoint_routes
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint
from support.certificates import DAY, pair
from support.fake_clock import FakeClock
from support.fake_endpoint import KEY, STREAM, Faults, serving
from support.local_play import ROOT

ALL = [
    *("health", "refused_without_key", "refused_with_wrong_key", "model", "completion"),
    *("streaming", "latency", "open_routes"),
]
# How long the playbook verify lets a gateway keep it waiting.
(OF_VERIFY,) = (
    task["gpuops.fleet.endpoint_check"]["max_wait_seconds"]
    for task in yaml.safe_load((ROOT / "playbooks/tasks/verify/gateway.yml").read_text())
    if "gpuops.fleet.endpoint_check" in task
)


def checked(url: str | None, **values: Any) -> dict[str, Any]:
    result = check_endpoint({"api_key": KEY, "model": "tiny", "url": url, "timeout_seconds": 5, **values})
    assert KEY not in json.dumps(result)
    assert all(check["fix"] for check in result["checks"] if not check["ok"])
    return result


def failed(url: str | None, **values: Any) -> list[str]:
    return [check["name"] for check in checked(url, **values)["checks"] if not check["ok"]]


def detail(result: dict[str, Any], name: str) -> str:
    (found,) = [check for check in result["checks"] if check["name"] == name]
    return str(found["detail"])


def test_a_right_endpoint_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # instances are reached directly
    with serving() as server:
        result = checked(server.url + "/", requests=5)
    assert [check["name"] for check in result["checks"] if check["ok"]] == ALL
    assert result["models"] == ["tiny"]
    assert result["completion"]["completion_tokens"] == 4
    assert result["streaming"]["chunks"] == 3
    assert result["latency"]["requests"] == 5
    assert result["open_routes"] == result["mistakes"] == []
    assert all(KEY not in path and KEY.encode() not in body for _method, path, _headers, body in server.asked)


def test_what_is_wrong_is_named() -> None:
    for faults, names in (
        (Faults(key=None), ["refused_without_key", "refused_with_wrong_key", "open_routes"]),
        (Faults(open={("POST", "/v1/completions"): 400}), ["refused_without_key", "open_routes"]),
        (Faults(model="other"), ["model"]),
        (Faults(answering_model="other"), ["completion"]),
        (Faults(key="another"), ["model", "completion"]),
        (Faults(tokens=0), ["completion"]),
        (Faults(health_status=503), ["health", "open_routes"]),
    ):
        with serving(faults) as server:
            assert failed(server.url) == names, faults


def test_health_without_completions_is_reported_as_exactly_that() -> None:
    with serving(Faults(always_fails=500)) as server:
        result = checked(server.url, requests=20)
    assert [check["name"] for check in result["checks"] if not check["ok"]] == ["completion"]
    assert detail(result, "completion").startswith("it answers /health but fails completions: status 500")
    assert "EngineCore died" in detail(result, "completion")
    assert [result["completion"], result["streaming"], result["latency"]] == [None, None, None]


def test_nobody_there_is_said_once_and_not_tried_again() -> None:
    result = checked("http://127.0.0.1:9", timeout_seconds=1)
    assert [(check["name"], check["ok"]) for check in result["checks"]] == [("health", False)]


def test_a_server_that_sends_a_byte_now_and_then_does_not_keep_us() -> None:
    with serving(Faults(drips=True)) as server:
        assert "not complete after 1 s" in detail(checked(server.url, timeout_seconds=1), "completion")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (None, "not as a stream"),
        (STREAM[:-1], "broke off after 3 parts, without [DONE]"),
        (("[DONE]",), "no part of a completion"),
        (('{"error": {"message": "EngineCore died"}}', "[DONE]"), "EngineCore died"),
        (("{torn", "[DONE]"), "no JSON: {torn"),
    ],
)
def test_a_stream_has_parts_and_an_end(stream: tuple[str, ...] | None, words: str) -> None:
    with serving(Faults(stream=stream)) as server:
        result = checked(server.url)
        assert [check["name"] for check in result["checks"] if not check["ok"]] == ["streaming"]
        assert words in detail(result, "streaming")
        assert result["streaming"] is None
        assert failed(server.url, streaming=False) == []


def test_latency_is_of_so_many_completions_and_of_those_that_came() -> None:
    with serving() as server:
        checked(server.url, requests=7, streaming=False, probe_routes=False)
    # The two without a right key come before.
    assert server.count("/v1/completions") == 2 + 7
    with serving(Faults(completion_statuses=[200, 500, 200])) as server:
        result = checked(server.url, requests=4, streaming=False)
    assert result["latency"]["failed"] == 1
    assert "1 of 4 completions failed, the last one: status 500" in detail(result, "latency")
    with serving(Faults(completion_statuses=[200], always_fails=503)) as server:
        result = checked(server.url, requests=1000, streaming=False)
    assert (result["latency"]["requests"], result["latency"]["failed"]) == (4, 3)
    assert "the rest was not tried" in detail(result, "latency")


def test_percentiles_are_values_that_were_measured() -> None:
    seconds = [number / 1000 for number in range(100, 0, -1)]
    assert [_endpoint_checks._percentile(seconds, part) for part in (50, 95, 99)] == [0.05, 0.095, 0.099]
    assert [_endpoint_checks._percentile([0.2, 0.1], part) for part in (50, 95, 99)] == [0.1, 0.2, 0.2]
    assert _endpoint_checks._percentile([3.0], 99) == 3.0


def test_open_routes_are_named_and_what_acts_is_never_called() -> None:
    acting = {route.path for route in _endpoint_routes.KNOWN if route.acts}
    assert {"/pause", "/sleep", "/update_weights", "/collective_rpc", "/abort_requests"} <= acting
    there = {("GET", "/metrics"): 200, ("POST", "/tokenize"): 400, ("GET", "/pause"): 405, ("POST", "/score"): 422}
    with serving(Faults(open=there)) as server:
        result = checked(server.url)
        assert result["open_routes"] == ["GET /metrics", "POST /tokenize", "POST /score", "POST /pause"]
        assert "POST /pause (405)" in detail(result, "open_routes")
        assert failed(server.url, public_paths=["/metrics", "/tokenize", "/pause", "/score"]) == []
    assert {method for method, path, _headers, _body in server.asked if path in acting} == {"GET"}
    questions = {body for method, path, _headers, body in server.asked if method == "POST" and path == "/tokenize"}
    assert questions == {b"[]"}, "which is no question, so that nothing is computed"


def test_a_route_that_fails_is_a_finding_but_not_called_open() -> None:
    with serving(Faults(open={("GET", "/metrics"): 503, ("POST", "/score"): 500})) as server:
        result = checked(server.url)
    (check,) = [check for check in result["checks"] if not check["ok"]]
    assert check["name"] == "open_routes"
    assert check["detail"].endswith(
        "routes asked without a key, failed with 5xx: GET /metrics (503), POST /score (500)"
    )
    assert "Look at the log of the server" in check["fix"]
    assert "gateway" not in check["fix"]
    assert result["open_routes"] == []
    with serving(Faults(open={("GET", "/metrics"): 503, ("POST", "/score"): 422})) as server:
        result = checked(server.url)
    (check,) = [check for check in result["checks"] if not check["ok"]]
    assert "open: POST /score (422), failed with 5xx: GET /metrics (503)" in check["detail"]
    assert "Put the gateway in front of it" in check["fix"]
    assert "Look at the log of the server" in check["fix"]


def test_routes_that_the_server_names_itself_are_asked_too() -> None:
    paths: dict[str, Any] = {
        "/v1/own": {"get": {}},
        "/own/{identity}/erase": {"delete": {}, "post": {}},
        "no-path": {"get": {}},
    }
    faults = Faults(description={"paths": paths}, open={("GET", "/own/x/erase"): 405, ("GET", "/v1/own"): 200})
    with serving(faults) as server:
        assert checked(server.url)["open_routes"] == ["GET /v1/own", "DELETE /own/x/erase", "POST /own/x/erase"]
    assert {method for method, path, _headers, _body in server.asked if path == "/own/x/erase"} == {"GET"}
    useless: list[Any] = [[], {"paths": []}, {"paths": {"/x": None}}, "text"]
    for description in useless:
        with serving(Faults(description=description)) as server:
            assert failed(server.url) == []


def test_a_rate_limit_is_waited_for_as_it_says_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock().install(monkeypatch)
    date = email.utils.format_datetime(datetime.datetime.fromtimestamp(clock.now() + 12 + 7 + 5, tz=datetime.UTC))
    with serving(Faults(limited=["12", "", date])) as server:
        assert failed(server.url, max_wait_seconds=60) == []
    assert [round(seconds) for seconds in clock.slept] == [12, 5, 7]
    clock.slept.clear()
    with serving(Faults(limited=["0"] * 99)) as server:
        assert "health" in failed(server.url, max_wait_seconds=3)
        assert len(clock.slept) == 3, "also a server that says 0 is left a moment"
    clock.slept.clear()
    with serving(Faults(limited=["60"] * 99)) as server:
        result = checked(server.url, max_wait_seconds=90)
    assert clock.slept == [60]
    words = "status 429: it limits the rate and says to come back in 60 s, which is longer than may be waited"
    assert detail(result, "health") == words
    assert "max_wait_seconds" in result["checks"][0]["fix"]


@pytest.mark.parametrize("opened", [False, True])
def test_a_small_limit_for_who_has_no_key_leaves_the_check_what_it_is(
    monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    """As a gateway with gateway_rate_limit_per_minute 5, whose key for this check is unlimited; twice in a row."""
    faults = Faults(keyless_left=5, open={("POST", "/v1/completions"): 400} if opened else {})
    clock = FakeClock().install(monkeypatch)

    def a_minute_later() -> None:
        faults.keyless_left = 5

    clock.on_sleep = a_minute_later
    with serving(faults) as server:
        for _time in range(2):
            result = checked(server.url, max_wait_seconds=OF_VERIFY)
            names = [check["name"] for check in result["checks"] if not check["ok"]]
            assert names == (["refused_without_key", "open_routes"] if opened else [])
            assert result["open_routes"] == (["POST /v1/completions"] if opened else [])
        keyless = [asked for asked in server.asked if KEY not in asked[2].get("Authorization", "")]
    assert set(clock.slept) == {60}
    assert sum(clock.slept) <= 240
    # Those that a key finds are asked without it, whatever the limit.
    assert sum(method == "POST" and path == "/v1/completions" for method, path, *_rest in keyless) >= 3 * 2
    assert "not, as it limits the rate and they are not there even with the key" in detail(result, "open_routes")


def test_a_limit_that_lasts_is_no_proof_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock().install(monkeypatch)
    with serving(Faults(keyless_left=5)) as server:
        result = checked(server.url, max_wait_seconds=OF_VERIFY)
    assert [check["name"] for check in result["checks"] if not check["ok"]] == ["open_routes"]
    assert "then stopped at GET /v1/models: status 429" in detail(result, "open_routes")


def test_a_key_that_a_server_repeats_is_taken_out(tmp_path: pathlib.Path) -> None:
    """Ansible does that only for a key that was given as an option's value."""
    (tmp_path / "key").write_text(KEY + "\n")
    with serving(Faults(text=f"your key is {KEY}")) as server:
        result = checked(server.url, api_key=None, api_key_file=str(tmp_path / "key"))
    assert result["completion"]["text"] == "your key is ********"


def test_no_redirect_is_followed_with_the_key() -> None:
    with serving() as other, serving(Faults(redirect_to=other.url)) as server:
        assert "health" in failed(server.url)
    assert other.asked == []


def test_a_certificate_that_nobody_known_signed_is_trusted_when_it_is_given(tmp_path: pathlib.Path) -> None:
    now = datetime.datetime.now(tz=datetime.UTC)
    own, other = pair(now - DAY, now + DAY), pair(now - DAY, now + DAY)
    (tmp_path / "certificate.pem").write_text(own[0])
    with serving(certificate=own) as server:
        assert failed(server.url, ca_certificate=own[0]) == []
        assert failed(server.url, ca_certificate_file=str(tmp_path / "certificate.pem")) == []
        port = int(server.url.rpartition(":")[2])
        assert failed(None, address="localhost", port=port, ca_certificate=own[0]) == []
        pin = _endpoint.presented_fingerprint(server.url, 5)
        assert failed(server.url, tls_fingerprint=pin) == []
        before = len(server.asked)
        for values in (
            {},
            {"ca_certificate": other[0]},
            {"url": f"https://127.0.0.1:{port}", "ca_certificate": own[0]},
        ):
            (check,) = checked(**{"url": server.url, **values})["checks"]
            assert "certificate verify failed" in check["detail"]
            assert "ca_certificate" in check["fix"]
        assert len(server.asked) == before, "nothing was sent"


def test_it_needs_nothing_but_python_and_ansible() -> None:
    """As in AWX, whose execution environment has what the collection declares, and no more."""
    folder = pathlib.Path(_endpoint.__file__).resolve().parent
    prefix = "ansible_collections.gpuops.fleet.plugins.module_utils"
    for name in ("_endpoint", "_endpoint_checks", "_endpoint_options", "_endpoint_routes", "_clock"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            foreign = [one for one in modules if not one.startswith(prefix)]
            assert {one.partition(".")[0] for one in foreign} <= sys.stdlib_module_names, name
