# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said about containers, services and relayed pages, and what never is."""

from __future__ import annotations

import http.server
import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.load_program import load_program

SCRIPT = pathlib.Path(__file__).resolve().parents[4] / "roles/monitoring/files/host_metrics.py"
KEY = "planted-internal-key-77aa"
PAGE = """# HELP vllm:e2e_request_latency_seconds How long.
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{le="1.0",model_name="tiny"} 3.0
vllm:plain 2
# HELP python_info Python.
# TYPE python_info gauge
python_info{version="3.12"} 1.0
"""


METRICS = load_program(SCRIPT)
SERVICES = ["kafka", "vllm"]


def container(**changed: Any) -> str:
    known: dict[str, Any] = {
        "name": "/vllm-vllm-1",
        "state": "running",
        "process": 42,
        "health": "healthy",
        "restarts": 0,
        "memory_limit": 1048576,
        "project": "vllm",
        "service": "vllm",
        "one_off": "False",
    }
    return json.dumps(known | changed)


def answering(answers: dict[str, str], failing: tuple[str, ...] = ()) -> Any:
    """A runner that knows these answers by the first two words of a command, and the commands that it was given."""
    asked: list[list[str]] = []

    def ask(command: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        words = " ".join(command[:2])
        return subprocess.CompletedProcess(command, int(words in failing), answers.get(words, ""), "")

    return ask, asked


def page(*containers: str, cgroups: pathlib.Path = pathlib.Path("/nowhere")) -> str:
    ask, _asked = answering({"docker ps": "aa\nbb\n", "docker inspect": "".join(f"{line}\n" for line in containers)})
    return str(METRICS.exposition(METRICS.container_samples(ask, SERVICES, cgroups, cgroups)))


def test_a_container_is_named_by_its_project() -> None:
    labels = '{project="vllm",service="vllm",container="vllm-vllm-1"}'
    lines = page(container()).splitlines()
    assert f"fleet_container_running{labels} 1" in lines
    assert f"fleet_container_unhealthy{labels} 0" in lines
    assert f"fleet_container_memory_limit_bytes{labels} 1048576" in lines
    assert "fleet_docker_up{} 1" in lines


@pytest.mark.parametrize(
    ("changed", "running", "unhealthy"),
    [
        ({"state": "exited"}, 0, 0),
        ({"state": "restarting"}, 0, 0),
        ({"health": "unhealthy"}, 1, 1),
        ({"health": "starting"}, 1, 0),
        ({"health": ""}, 1, 0),
        # What a dead container's health check said last is no news.
        ({"state": "exited", "health": "unhealthy"}, 0, 0),
    ],
)
def test_state_and_health_are_two_things(changed: dict[str, Any], running: int, unhealthy: int) -> None:
    text = page(container(**changed))
    assert f'fleet_container_running{{project="vllm",service="vllm",container="vllm-vllm-1"}} {running}\n' in text
    assert f'fleet_container_unhealthy{{project="vllm",service="vllm",container="vllm-vllm-1"}} {unhealthy}\n' in text


def test_what_ends_by_itself_is_not_missed() -> None:
    assert "fleet_container" not in page(container(one_off="True", state="exited"))


@pytest.mark.parametrize("state", ["running", "exited"])
@pytest.mark.parametrize("project", [None, "somebody-elses"])
def test_a_strangers_container_is_not_told_of_also_when_it_ended(project: str | None, state: str) -> None:
    """A `docker run` that is done would else be an alert for ever."""
    strangers = container(name="/curious_curie", project=project, service=None, one_off=None, state=state)
    lines = page(strangers, container()).splitlines()
    assert [line for line in lines if line.startswith("fleet_container_running")] == [
        'fleet_container_running{project="vllm",service="vllm",container="vllm-vllm-1"} 1'
    ]
    assert not any("curious_curie" in line for line in lines)


def test_a_container_without_a_limit_and_a_health_check_is_shown_too() -> None:
    text = page(container(one_off=None, health="", memory_limit=0))
    assert 'fleet_container_running{project="vllm",service="vllm",container="vllm-vllm-1"} 1' in text
    assert "memory_limit" not in text


def test_one_that_ended_meanwhile_hides_no_other() -> None:
    ask, _asked = answering(
        {"docker ps": "aa bb", "docker inspect": f"not json\n{container()}\n"}, failing=("docker inspect",)
    )
    assert "fleet_container_running" in METRICS.exposition(METRICS.container_samples(ask, SERVICES))


def test_an_engine_that_does_not_answer_is_said() -> None:
    ask, asked = answering({"docker ps": "aa"}, failing=("docker ps",))
    text = METRICS.exposition(METRICS.container_samples(ask, SERVICES))
    assert "fleet_docker_up{} 0\n" in text
    assert len(asked) == 1


def test_nothing_of_environment_or_command_is_asked_for() -> None:
    ask, asked = answering({"docker ps": "aa", "docker inspect": container()})
    list(METRICS.container_samples(ask, SERVICES))
    inspect = next(command for command in asked if command[1] == "inspect")
    assert inspect[inspect.index("--format") + 1] == METRICS.FIELDS
    for word in (".Config.Env", ".Args", ".Config.Cmd", "json .Config}", "json .}", "Mounts"):
        assert word not in METRICS.FIELDS


def test_usage_comes_from_the_cgroup_without_what_is_only_cached(tmp_path: pathlib.Path) -> None:
    group = tmp_path / "system.slice/docker-aa.scope"
    group.mkdir(parents=True)
    (tmp_path / "42").mkdir()
    (tmp_path / "42/cgroup").write_text("0::/system.slice/docker-aa.scope\n")
    (group / "memory.current").write_text("5000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    (group / "cpu.stat").write_text("usage_usec 12345678901\nuser_usec 1\n")
    lines = page(container(), cgroups=tmp_path).splitlines()
    labels = '{project="vllm",service="vllm",container="vllm-vllm-1"}'
    assert f"fleet_container_memory_bytes{labels} 4000000" in lines
    assert f"fleet_container_cpu_seconds_total{labels} 12345.678901" in lines


def test_usage_is_read_from_the_first_version_of_cgroups_too(tmp_path: pathlib.Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/cgroup").write_text("4:memory:/docker/aa\n2:cpu,cpuacct:/docker/aa\n0::/docker/aa\n")
    for controller in ("memory", "cpuacct"):
        (tmp_path / controller / "docker/aa").mkdir(parents=True)
    (tmp_path / "memory/docker/aa/memory.usage_in_bytes").write_text("5000000\n")
    (tmp_path / "memory/docker/aa/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 1000000\n")
    (tmp_path / "cpuacct/docker/aa/cpuacct.usage").write_text("1500000000\n")
    used = METRICS.cgroup_usage(42, tmp_path, tmp_path)
    assert used == {"fleet_container_memory_bytes": 4000000.0, "fleet_container_cpu_seconds_total": 1.5}


def test_services_are_missed_also_without_a_container() -> None:
    shown = "Id=kafka.service\nActiveState=active\nNRestarts=2\n\nId=vllm.service\nActiveState=inactive\nNRestarts=0\n"
    ask, asked = answering({"systemctl show": shown, "systemctl list-units": "bad.service loaded failed failed Bad\n"})
    text = METRICS.exposition(METRICS.unit_samples(ask, ["kafka", "vllm"]))
    assert 'fleet_service_active{service="kafka"} 1\n' in text
    assert 'fleet_service_active{service="vllm"} 0\n' in text
    assert 'fleet_service_restarts_total{service="kafka"} 2\n' in text
    assert 'fleet_unit_failed{unit="bad.service"} 1\n' in text
    assert asked[0][-2:] == ["kafka.service", "vllm.service"]


def test_services_are_found_by_what_the_role_service_leaves(tmp_path: pathlib.Path) -> None:
    for name in ("vllm", "kafka"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "service.json").write_text("{}")
    (tmp_path / "other").mkdir()
    assert METRICS.service_names(str(tmp_path / "*/service.json")) == ["kafka", "vllm"]


def test_labels_are_escaped() -> None:
    sample = METRICS.Sample("fleet_unit_failed", {"unit": 'a"b\\c\nd'}, 1.0)
    assert METRICS.exposition([sample]).splitlines()[-1] == 'fleet_unit_failed{unit="a\\"b\\\\c\\nd"} 1'


def test_a_relay_keeps_its_prefix_alone_and_says_where_it_came_from() -> None:
    assert METRICS.relayed(PAGE, "vllm:", "first").splitlines() == [
        "# HELP vllm:e2e_request_latency_seconds How long.",
        "# TYPE vllm:e2e_request_latency_seconds histogram",
        'vllm:e2e_request_latency_seconds_bucket{relay="first",le="1.0",model_name="tiny"} 3.0',
        'vllm:plain{relay="first"} 2',
    ]


class Server(http.server.BaseHTTPRequestHandler):
    """vLLM's page with the key, 404 without; and a way out."""

    def do_GET(self) -> None:
        good = self.headers.get("Authorization") == f"Bearer {KEY}"
        body = PAGE.encode() if good else b"nothing"
        status = 302 if self.path == "/moved" else 200 if good else 404
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def relay(port: int, key: pathlib.Path, path: str = "/metrics") -> dict[str, str]:
    url = f"http://127.0.0.1:{port}{path}"
    return {"name": "vllm", "url": url, "prefix": "vllm:", "bearer_token_file": str(key)}


def test_a_relay_brings_the_page_by_its_key(port: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    pages, samples = METRICS.relay_pages([relay(port, tmp_path / "key")])
    assert 'vllm:plain{relay="vllm"} 2\n' in pages["relay-vllm.prom"]
    assert METRICS.exposition(samples).endswith('fleet_relay_up{relay="vllm"} 1\n')
    assert KEY not in json.dumps(pages) + METRICS.exposition(samples)


@pytest.mark.parametrize("path", ["/metrics", "/moved"])
def test_a_relay_that_fails_is_said_without_the_key(
    port: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    (tmp_path / "key").write_text("planted-wrong-key" if path == "/metrics" else KEY)
    pages, samples = METRICS.relay_pages([relay(port, tmp_path / "key", path)])
    assert pages == {}
    assert METRICS.exposition(samples).endswith('fleet_relay_up{relay="vllm"} 0\n')
    said = capsys.readouterr().err
    assert "The metrics of vllm could not be read" in said
    assert "planted" not in said


def test_a_missing_key_file_is_a_relay_that_fails(port: int, tmp_path: pathlib.Path) -> None:
    _pages, samples = METRICS.relay_pages([relay(port, tmp_path / "nowhere")])
    assert METRICS.exposition(samples).endswith("} 0\n")


def test_only_what_is_true_now_stays(tmp_path: pathlib.Path) -> None:
    (tmp_path / "relay-old.prom").write_text("old 1\n")
    (tmp_path / "fleet.prom.x7cut").write_text("half")
    (tmp_path / "docker").mkdir()
    METRICS.write(tmp_path, {"fleet.prom": "fleet_docker_up{} 1\n"})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["fleet.prom"]
    assert (tmp_path / "fleet.prom").stat().st_mode & 0o777 == 0o644


def test_a_command_that_hangs_is_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "COMMAND_TIMEOUT_SECONDS", 0.1)
    assert METRICS.run(["sleep", "60"]).returncode == 124
