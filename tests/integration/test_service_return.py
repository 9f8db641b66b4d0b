# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a service doesn't get well with a new image the last good one runs again: the role's steps, a false engine."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from support.local_play import ROOT, run_here, step

GOOD, BAD = "acme/tiny:1.0.0", "acme/tiny:2.0.0"
# What was started is what the Compose file said then; the image 1.0.0 gets healthy, others don't.
ENGINE = """\
#!/bin/sh
image() { sed -n 's/^image: //p' "$1"; }
case "$*" in
    *"config --format json"*)
        printf '{"services": {"tiny": {"image": "%s", "healthcheck": {}}}}\\n' "$(image DIR/compose.yaml)" ;;
    *" ps --all --format json"*)
        case $(image DIR/running) in *:1.*) health=healthy ;; *) health=unhealthy ;; esac
        printf '{"Service": "tiny", "State": "running", "Health": "%s"}\\n' $health ;;
esac
"""
SYSTEMCTL = """\
#!/bin/sh
case "$*" in
    *is-active*) echo active ;;
    *restart*)
        echo "$*" >>DIR/restarts
        cp DIR/compose.yaml DIR/running
        PYTHON DIR/tools/compose_service.py prepare DIR ;;
    *show*) printf 'LoadState=loaded\\nActiveState=active\\n' ;;
esac
"""


class Tiny:
    """A service in a directory of the test's, which runs what stood in its Compose file when it was started."""

    def __init__(self, work: pathlib.Path) -> None:
        self.work = work
        for name in ("bin", "tools", "run/tiny"):
            (work / name).mkdir(parents=True)
        source = (ROOT / "roles/service/files/compose_service.py").read_text()
        moved = source.replace('"/run/gpuops-fleet"', repr(str(work / "run")))
        assert moved != source
        (work / "tools/compose_service.py").write_text(moved)
        # journalctl only has to be there.
        for name, script in (("docker", ENGINE), ("systemctl", SYSTEMCTL), ("journalctl", "#!/bin/sh\necho a line\n")):
            text = script.replace("DIR", str(work)).replace("PYTHON", "/usr/bin/python3")
            (work / "bin" / name).write_text(text)
            (work / "bin" / name).chmod(0o755)
        (work / "service.json").write_text(json.dumps({"name": "tiny", "files": [], "secrets": []}))
        (work / ".env").write_text("")
        (work / "address.env").write_text("HOST_ADDRESS=192.0.2.1\n")

    def configure(self, image: str) -> None:
        (self.work / "compose.yaml").write_text(f"image: {image}\n")

    def start(self) -> None:
        path = f"{self.work / 'bin'}:{os.environ['PATH']}"
        subprocess.run([self.work / "bin/systemctl", "restart"], env={**os.environ, "PATH": path}, check=True)
        (self.work / "restarts").unlink()

    def run(self, name: str, role: str = "service", **more: Any) -> subprocess.CompletedProcess[str]:
        values = {
            "service_name": "tiny",
            "service_compose_template": "tiny.j2",
            "service_healthy_timeout_seconds": 1,
            "service_return_to_last_good": True,
            "__service_tools": str(self.work / "tools"),
            "__service_directory": str(self.work),
            **more,
        }
        return run_here(self.work, [step(role, name)], values, programs=self.work / "bin")

    def runs(self) -> str:
        return (self.work / "running").read_text().strip()


@pytest.fixture
def tiny(tmp_path: pathlib.Path) -> Tiny:
    service = Tiny(tmp_path)
    service.configure(GOOD)
    service.start()
    return service


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
