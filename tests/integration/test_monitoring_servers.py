# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real Prometheus and node exporter on loopback, started as the role's drop-ins say.

Debian's Alertmanager reads a template below /usr, so it runs only where it is installed. The Molecule scenario has the
real one; here something else listens to what it would be told.
"""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import monitoring_role
from support.free_port import free_port

pytestmark = pytest.mark.skipif(
    os.environ.get("TEST_SCALE", "1") == "1",
    reason="a part of the long form (make soak): in the demo, which e2e looks at, the real ones run on real hosts",
)


class Alertmanager(http.server.BaseHTTPRequestHandler):
    """Remembers which alerts it is told of, as Prometheus says it: all that fire, and for a while those that ended."""

    now: dict[tuple[str, str], dict[str, Any]]

    def do_POST(self) -> None:
        for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            self.now[alert["labels"]["alertname"], alert["labels"]["host"]] = alert
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Monitoring:
    def __init__(self, work: pathlib.Path, programs: pathlib.Path, alertmanager_port: int) -> None:
        self.work, self.programs = work, programs
        self.ports = {name: free_port() for name in ("prometheus", "exporter", "target")}
        self.ports["alertmanager"] = alertmanager_port
        self.values: dict[str, Any] = {
            **{f"monitoring_{name}_port": port for name, port in self.ports.items() if name != "target"},
            "monitoring_interval_seconds": 1,
            "monitoring_window_seconds": 10,
            "monitoring_down_after_seconds": 1,
            "monitoring_targets": [self.target("node", "exporter", "vllm-1")],
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def target(self, job: str, port: str, host: str) -> dict[str, Any]:
        return {"job": job, "host": host, "address": "127.0.0.1", "port": self.ports[port]}

    def write(self, steps: list[tuple[str, list[str]]] | None = None, **changed: Any) -> None:
        self.values.update(changed)
        done = monitoring_role.run_steps(self.work, self.programs, steps, **self.values)
        assert done.returncode == 0, done.stdout[-3000:]

    def start(self) -> None:
        (self.work / "run/gpuops-fleet-metrics").mkdir(parents=True)
        for name in ("prometheus", "prometheus-node-exporter"):
            drop_in = (self.work / f"units/{name}.service.d/gpuops-fleet.conf").read_text()
            (command,) = (
                line.removeprefix("ExecStart=")
                for line in drop_in.splitlines()
                if line.startswith("ExecStart=") and line != "ExecStart="
            )
            with (self.work / f"{name}.log").open("wb") as log:
                self.processes.append(subprocess.Popen(shlex.split(command), stdout=log, stderr=log))

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)

    def look_at_the_host(self) -> None:
        """As the timer's unit does."""
        unit = (self.work / "units/gpuops-fleet-metrics.service").read_text()
        (command,) = (line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart="))
        subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, timeout=120)

    def ask(self, server: str, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[server]}{path}", timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if path.startswith("/api") else text

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-1500:] for path in self.work.glob("*.log"))


@pytest.fixture(scope="module")
def alerts() -> dict[tuple[str, str], dict[str, Any]]:
    """By name and host."""
    return {}


@pytest.fixture(scope="module")
def monitoring(
    tmp_path_factory: pytest.TempPathFactory, alerts: dict[tuple[str, str], dict[str, Any]]
) -> Iterator[Monitoring]:
    work, unpacked = tmp_path_factory.mktemp("servers"), tmp_path_factory.mktemp("programs")
    programs, why = monitoring_role.find_programs(unpacked)
    if programs is None:
        pytest.skip(why)
    alertmanager = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Alertmanager,), {"now": alerts}))
    threading.Thread(target=alertmanager.serve_forever, daemon=True).start()
    made = Monitoring(work, programs, alertmanager.server_port)
    made.write()
    try:
        made.start()
        yield made
    finally:
        made.stop()
        alertmanager.shutdown()
        alertmanager.server_close()
        shutil.rmtree(work)
        shutil.rmtree(unpacked)


def until(monitoring: Monitoring, question: Callable[[], Any], what: str) -> Any:
    ends = time.monotonic() + 90
    while time.monotonic() < ends:
        try:
            if answer := question():
                return answer
        except (OSError, urllib.error.URLError):
            pass
        assert all(process.poll() is None for process in monitoring.processes), monitoring.logs()
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen.\n{monitoring.logs()}")


def up(monitoring: Monitoring) -> dict[str, str]:
    found = monitoring.ask("prometheus", "/api/v1/query?query=up")["data"]["result"]
    return {one["metric"]["job"]: one["value"][1] for one in found}


def test_all_that_is_asked_answers(monitoring: Monitoring) -> None:
    good = {"node": "1", "prometheus": "1", "alertmanager": "1"}
    until(monitoring, lambda: up(monitoring) == good, "An answer of every target")


def test_what_looks_at_the_host_is_a_part_of_its_metrics(monitoring: Monitoring) -> None:
    monitoring.look_at_the_host()
    page = monitoring.ask("exporter", "/metrics")
    assert "node_textfile_scrape_error 0" in page
    assert '/run/gpuops-fleet-metrics/fleet.prom"}' in page
    for metric in ("node_memory_MemAvailable_bytes", "node_filesystem_avail_bytes", "node_cpu_seconds_total"):
        assert f"\n{metric}" in page


def test_a_target_that_is_down_becomes_an_alert_without_a_restart(
    monitoring: Monitoring, alerts: dict[tuple[str, str], dict[str, Any]]
) -> None:
    targets = [monitoring.target("node", "exporter", "vllm-1"), monitoring.target("processor", "target", "processor-1")]
    monitoring.write([("configure", monitoring_role.SERVER)], monitoring_targets=targets)
    until(monitoring, lambda: ("TargetDown", "processor-1") in alerts, "The alert")
    assert ("TargetDown", "vllm-1") not in alerts
    told = alerts["TargetDown", "processor-1"]
    assert told["labels"]["severity"] == "critical"
    place = f"127.0.0.1:{monitoring.ports['target']}"
    assert told["annotations"]["summary"] == f"processor on processor-1 ({place}) does not answer Prometheus."


def test_it_ends_when_the_target_answers_again(
    monitoring: Monitoring, alerts: dict[tuple[str, str], dict[str, Any]]
) -> None:
    firing = '/api/v1/query?query=ALERTS{alertname="TargetDown",alertstate="firing"}'.replace('"', "%22")
    until(monitoring, lambda: monitoring.ask("prometheus", firing)["data"]["result"], "The alert")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", monitoring.ports["target"]), Alertmanager)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        until(monitoring, lambda: up(monitoring).get("processor") == "1", "An answer of the target")
        until(monitoring, lambda: not monitoring.ask("prometheus", firing)["data"]["result"], "The end of the alert")
    finally:
        server.shutdown()
        server.server_close()
