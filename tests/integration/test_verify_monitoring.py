# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verdict says of metrics that a host should relay, by what Prometheus answers. With real Ansible."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from support.local_play import ROOT, run_plays

UP = {"health": "up", "labels": {"host": "vllm-1"}}
UNREAD = [
    {"metric": {"host": "vllm-1", "relay": relay, "job": "node"}, "value": [0, "0"]} for relay in ("vllm", "gateway")
]
NAME = "processor-1: monitoring: all that hosts relay to it arrives"


class Prometheus(http.server.BaseHTTPRequestHandler):
    """One target, which is up; answers: what it says of relays, one after the other, and the last for ever.

    None is one that it can't give.
    """

    answers: list[list[Any] | None]
    asked: list[str]

    def do_GET(self) -> None:
        place = urllib.parse.urlsplit(self.path)
        status, content = 200, dict[str, Any](status="success", data={"activeTargets": [UP]})
        if place.path == "/api/v1/query":
            self.asked += urllib.parse.parse_qs(place.query)["query"]
            content["data"] = {"resultType": "vector", "result": self.answers[0]}
            if self.answers[0] is None:
                status, content = 503, {"status": "error", "errorType": "unavailable", "error": "Service Unavailable"}
            del self.answers[: len(self.answers) > 1]
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def prometheus() -> Iterator[tuple[int, type[Prometheus]]]:
    handler = type("Told", (Prometheus,), {"answers": [[]], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, handler
    server.shutdown()
    server.server_close()


def check(work: pathlib.Path, port: int, **variables: Any) -> dict[str, Any]:
    """The check, as verify.yml makes it on the host of the monitoring."""
    tasks = [
        {"ansible.builtin.set_fact": {"__verify_checks": []}},
        {"ansible.builtin.include_tasks": str(ROOT / "playbooks/tasks/verify/monitoring.yml")},
        {
            "ansible.builtin.copy": {
                "dest": str(work / "checks.json"),
                "content": "{{ __verify_checks | to_json }}",
                "mode": "0600",
            }
        },
    ]
    play = {
        "hosts": "processor-1",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks/vars/verify.yml")],
        "tasks": tasks,
    }
    given = {"monitoring_prometheus_port": port, **variables}
    done = run_plays(work, [play], {"processor-1": {}}, "--extra-vars", json.dumps(given))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    (found,) = [one for one in json.loads((work / "checks.json").read_text()) if one["name"] == NAME]
    return dict(found)


def test_a_relay_that_fails_is_a_finding(tmp_path: pathlib.Path, prometheus: tuple[int, type[Prometheus]]) -> None:
    port, told = prometheus
    told.answers = [UNREAD]
    found = check(tmp_path, port, __verify_monitoring_relay_retries=1)
    assert (found["ok"], found["detail"]) == (False, "nothing from gateway on vllm-1, vllm on vllm-1")
    assert "gpuops-fleet-metrics.service" in found["fix"]
    assert {query.replace(" ", "") for query in told.asked} == {"fleet_relay_up==0"}


def test_one_that_comes_after_its_service_is_waited_for(
    tmp_path: pathlib.Path, prometheus: tuple[int, type[Prometheus]]
) -> None:
    port, told = prometheus
    told.answers = [UNREAD, UNREAD[:1], []]
    found = check(tmp_path, port)
    assert (found["ok"], found["detail"]) == (True, "no relay fails")
    assert len(told.asked) == 3, "where all is well it is asked no more"


def test_a_prometheus_that_does_not_answer_is_a_finding_and_not_waited_for(
    tmp_path: pathlib.Path, prometheus: tuple[int, type[Prometheus]]
) -> None:
    port, told = prometheus
    told.answers = [None]
    found = check(tmp_path, port)
    assert (found["ok"], found["detail"]) == (False, "Prometheus does not answer")
    assert len(told.asked) == 1
