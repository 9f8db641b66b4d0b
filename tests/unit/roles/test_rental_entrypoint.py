# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry point of a container rental, run for real: what it writes, what it prints, and what it becomes."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils import _endpoint, _readiness, _vllm
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import presented_fingerprint
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_checks import check_endpoint
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm_rental import pack
from support.free_port import free_port
from support.served_rental import Container

ROOT = Path(__file__).parents[3]
KEY = "planted-key-77c0-of-the-model"
MODEL = "Qwen/Qwen3-0.6B"
FORBIDDEN = ["/invocations", "/tokenize", "/version", "/load", "/ping", "/docs"]


def rental(directory: Path, *, tls: bool, **more: Any) -> Container:
    """The computed rental, as a process of this machine."""
    result = vllm_rental({"model": MODEL, "gpu": True}, "vllm/vllm-openai:v0.32.0", KEY)
    request = result["request"]
    command = request["entrypoint"] + request["args"] + (request["tls_args"] if tls else [])
    environment = {**request["public_env"], **request["secret_env"], **more.pop("environment", {})}
    return Container(directory, command, environment, **more)


def run(container: Container) -> int:
    return container.start().wait(timeout=60)


def seen(container: Container) -> dict[str, Any]:
    return dict(json.loads(container.record.read_text()))


def test_it_writes_the_list_of_routes_and_becomes_exactly_the_server_that_was_asked_for(tmp_path: Path) -> None:
    container = rental(tmp_path / "a", tls=False, serves=False)
    assert (run(container), container.log()) == (0, "")
    found = seen(container)
    settings = _vllm.Settings.from_mapping({"model": MODEL, "gpu": True})
    assert found["argv"] == ["serve", *_vllm.build_arguments(settings)]
    assert KEY not in str(found["argv"])
    assert found["environment"]["VLLM_API_KEY"] == KEY
    files = container.cache / "gpufleet"
    assert [one.name for one in files.iterdir()] == ["gpufleet_routes.py"], "and no certificate that nobody asked for"
    assert found["environment"]["PYTHONPATH"] == str(files)
    code = "import gpufleet_routes as g; print(len(g.ROUTES), g.AllowedRoutes.__name__)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(files)}, capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "7 AllowedRoutes\n"


def test_it_makes_one_certificate_and_says_which(tmp_path: Path) -> None:
    container = rental(tmp_path / "a", tls=True, serves=False)
    assert run(container) == 0
    first = container.log()
    assert re.fullmatch(r"gpuops-fleet-tls-fingerprint sha256:[0-9a-f]{64}\n", first)
    assert run(container) == 0
    assert container.log() == first, "the same after a restart: it lies on the container's disk"
    key = container.cache / "gpufleet" / "tls.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert seen(container)["argv"][-4:] == ["--ssl-keyfile", str(key), "--ssl-certfile", str(key.with_suffix(".crt"))]


def test_a_trial_model_is_made_once_before_the_server_starts(tmp_path: Path) -> None:
    settings = {"model": "gpuops/tiny", "model_source": "generated"}
    request = vllm_rental(settings, "own:1.0", KEY)["request"]
    # The real one needs torch, which only the image has; like the real one this ends with an exit.
    program = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'config.json').touch(); sys.exit(0)"
    environment = request["public_env"] | request["secret_env"] | {"GPUFLEET_MODEL_GENERATOR": pack(program)}
    container = Container(tmp_path / "a", request["entrypoint"] + request["args"], environment, serves=False)
    assert [run(container), run(container)] == [0, 0], container.log()
    assert (container.cache / "model" / "config.json").exists()
    assert seen(container)["argv"][:2] == ["serve", str(container.cache / "model")]
    assert "GPUFLEET_MODEL_GENERATOR" not in seen(container)["environment"]


@pytest.mark.parametrize("key", ["", "{{ RUNPOD_SECRET_gf--acme-llm--vllm-1--VLLM_API_KEY }}"])
def test_without_its_key_nothing_starts(tmp_path: Path, key: str) -> None:
    container = rental(tmp_path / "a", tls=False, serves=False, environment={"VLLM_API_KEY": key})
    assert run(container) != 0
    assert "VLLM_API_KEY is missing" in container.log()
    assert not container.record.exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A started rental that serves: its URL, and what its log says of its certificate."""
    port = free_port()
    container = rental(tmp_path / "a", tls=True, outside={8000: port})
    process = container.start()
    url = f"https://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                presented_fingerprint(url, 5)
                break
            except OSError:
                assert process.poll() is None, container.log()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        found = re.search(r"sha256:[0-9a-f]{64}", container.log())
        assert found
        yield url, found[0]
    finally:
        container.end()


def checks(url: str, **more: Any) -> dict[str, Any]:
    params = {
        "url": url,
        "api_key": KEY,
        "model": MODEL,
        "health_path": "/health",
        "prompt": "The sky is",
        "max_tokens": 4,
        "timeout_seconds": 10,
        "validate_certs": True,
        "use_proxy": False,
        "forbidden_paths": FORBIDDEN,
        **more,
    }
    return {check["name"]: check for check in check_endpoint(params)["checks"]}


def test_the_endpoint_is_verified_by_its_pinned_certificate_and_by_no_other(server: tuple[str, str]) -> None:
    url, fingerprint = server
    assert presented_fingerprint(url, 10) == fingerprint, "what the log says is what it has"
    found = checks(url, tls_fingerprint=fingerprint)
    assert [name for name, check in found.items() if not check["ok"]] == []
    assert "404 for /invocations" in found["forbidden_routes"]["detail"]
    # Not with another certificate, and not by trusting signers, because nobody signed it.
    other = "sha256:" + "0" * 64
    for more, words in (({"tls_fingerprint": other}, f"{other} is pinned"), ({}, "certificate verify failed")):
        refused = checks(url, **more)
        assert not any(check["ok"] for check in refused.values())
        assert words in refused["health"]["detail"]
    assert _readiness.probe_endpoint(url, fingerprint).kind == "ok"
    assert _readiness.probe_endpoint(url, other).kind == "endpoint_other_certificate"
    # The list of routes sees each request before anything else does.
    asked = _endpoint.Endpoint(url, timeout_seconds=10, validate_certs=False, use_proxy=False)
    assert [asked.ask("/metrics").status, asked.ask("/metrics", KEY).status] == [404, 200]
    assert [asked.ask("/v1/models").status, asked.ask("/v1/models", KEY).status] == [401, 200]
    assert {asked.ask(path, key).status for path in FORBIDDEN for key in (None, KEY)} == {404}
    assert asked.ask("/invocations", KEY, {"prompt": "x"}).status == 404


def test_the_producer_speaks_to_the_pinned_server_only(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "roles" / "processor" / "files" / "telemetry"))
    from gpuops_telemetry.completions import CompletionClient, CompletionError

    url, fingerprint = server
    assert CompletionClient(url, KEY, MODEL, 4, 10.0, fingerprint).complete("Hello").completion_tokens == 1
    for wrong in ("sha256:" + "0" * 64, ""):
        with pytest.raises(CompletionError, match="certificate"):
            CompletionClient(url, KEY, MODEL, 4, 10.0, wrong).complete("Hello")
