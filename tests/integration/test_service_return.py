# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a service doesn't get well with a new image the last good one runs again: the role's steps, a false engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from support.fake_endpoint import KEY, Faults, serving
from support.tiny_service import BAD, GOOD, Tiny, tiny

# Fixtures are used by their names.
__all__ = ["tiny"]


def test_an_image_that_does_not_get_healthy_is_followed_by_the_last_good_one(tiny: Tiny) -> None:
    kept = tiny.run("keep")
    assert kept.returncode == 0, kept.stdout
    assert "changed=0" in kept.stdout
    tiny.configure(BAD)
    tiny.start()
    done = tiny.run("verify", __service_status={"stdout": json.dumps({"current": False, "healthy": False})})
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert f"does not work, so the last good one runs again ({GOOD}). What was wrong with the new one:" in said
    assert "tiny is not healthy after 1 s: tiny runs, its health check says unhealthy" in said
    assert tiny.runs() == f"image: {GOOD}"
    assert (tiny.work / "restarts").read_text().count("restart") == 1


def test_what_the_caller_found_out_is_told_and_what_runs_is_left_alone_where_it_is_the_last_good_one(
    tiny: Tiny,
) -> None:
    tiny.run("keep")
    done = tiny.run("return", service_problem="No completion came.")
    assert done.returncode != 0
    assert "No completion came." in done.stdout
    assert "runs again" not in done.stdout
    assert not (tiny.work / "restarts").exists()


def test_a_first_deployment_has_nothing_to_return_to(tiny: Tiny) -> None:
    tiny.configure(BAD)
    tiny.start()
    done = tiny.run("verify", __service_status={"stdout": json.dumps({"current": False, "healthy": False})})
    assert done.returncode != 0
    assert "tiny is not healthy after 1 s" in done.stdout
    assert tiny.runs() == f"image: {BAD}"


class Server(BaseHTTPRequestHandler):
    """Says that it is well, like vLLM whose engine dies at the first completion."""

    broken = False

    def do_POST(self) -> None:
        body = json.dumps({"usage": {"completion_tokens": 4}, "detail": "EngineCore died"}).encode()
        status = 500 if self.broken else 200
        self.send_response(status if self.headers.get("Authorization") else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    listening = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield listening
    listening.shutdown()
    listening.server_close()


def test_only_a_model_server_that_answers_a_completion_is_a_good_one(
    tiny: Tiny, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny.work / "secrets").mkdir()
    (tiny.work / "secrets/api_key").write_text("planted-key-0123456789")
    vllm = {
        "service_name": "vllm",
        "vllm_model": "acme/tiny",
        "vllm_listen_address": "127.0.0.1",
        "vllm_port": server.server_port,
        "vllm_healthy_timeout_seconds": 30,
        "__vllm_directory": str(tiny.work),
        "__vllm_start": {"served_model_name": "acme/tiny"},
    }
    good = tiny.run("verify", "vllm", **vllm)
    assert good.returncode == 0, good.stdout
    assert "changed=0" in good.stdout
    monkeypatch.setattr(Server, "broken", True)
    tiny.configure(BAD)
    tiny.start()
    bad = tiny.run("verify", "vllm", **vllm)
    assert bad.returncode != 0
    said = " ".join(bad.stdout.split())
    assert f"so the last good one runs again ({GOOD}). What was wrong with the new one: vLLM on localhost" in said
    assert "runs, but answered a completion with HTTP 500" in said
    assert tiny.runs() == f"image: {GOOD}"
    assert "planted" not in good.stdout + bad.stdout


@pytest.mark.parametrize(
    ("faults", "task", "words"),
    [
        ({"embedding": [0.6, -0.8]}, "embed", ""),
        ({"embedding": []}, "embed", "runs, but answered a text to embed with HTTP 200"),
        ({"embedding": [0.6, None]}, "embed", "runs, but answered a text to embed with HTTP 200"),
        ({"embedding": "AACAPw=="}, "embed", "runs, but answered a text to embed with HTTP 200"),
        ({"embedding": [0.6], "always_fails": 500}, "embed", "with HTTP 500"),
        ({}, "embed", "does not serve that: see whether vllm_task should be generate."),
        ({"embedding": [0.6]}, "generate", "does not serve that: see whether vllm_task should be embed."),
        ({"embedding": [0.6], "key": None}, "embed", "Status code was 200 and not [401]"),
    ],
)
def test_a_model_server_that_embeds_is_a_good_one_when_it_gives_a_vector(
    tiny: Tiny, faults: dict[str, Any], task: str, words: str
) -> None:
    (tiny.work / "secrets").mkdir()
    (tiny.work / "secrets/api_key").write_text(KEY)
    with serving(Faults(**faults)) as server:
        done = tiny.run(
            "verify",
            "vllm",
            service_name="vllm",
            vllm_model="acme/tiny",
            vllm_task=task,
            vllm_listen_address="127.0.0.1",
            vllm_port=int(server.url.rpartition(":")[2]),
            vllm_healthy_timeout_seconds=30,
            __vllm_directory=str(tiny.work),
            __vllm_start={"served_model_name": "acme/tiny"},
        )
    said = " ".join(done.stdout.split())
    assert (done.returncode == 0) is (words == ""), said
    assert words in said
    assert KEY not in said
