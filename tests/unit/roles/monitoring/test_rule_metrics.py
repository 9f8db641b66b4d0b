# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules ask for what there is: their metrics have a page, and our own page has those that are ours.

HAProxy's is looked at in tests/integration/test_gateway.py, the node exporter's in test_monitoring_files.py beside it,
and vLLM's in molecule/vllm and in tests/e2e/test_monitoring.py.
"""

from __future__ import annotations

import json
import os
import pathlib

import pytest
from support import rule_metrics
from support.fake_commands import Commands
from support.load_program import load_program
from support.rule_metrics import Series

SCRIPT = pathlib.Path(__file__).resolve().parents[4] / "roles/monitoring/files/host_metrics.py"


@pytest.mark.parametrize(
    ("expression", "series"),
    [
        ("up == 0", [Series("up", {})]),
        (
            'sum by (host, model_name) (rate(a:b_total{code="5xx",proxy!="x",path=~"y.*"}[300s])) > 0.5',
            [Series("a:b_total", {"code": "5xx"})],
        ),
        (
            'up{job="node"} == 1 unless on (host) time() - a{file=~".*[.]prom"} < 60 or increase(c[1h]) > 1e3',
            [Series("up", {"job": "node"}), Series("a", {}), Series("c", {})],
        ),
    ],
)
def test_an_expression_is_read(expression: str, series: list[Series]) -> None:
    assert rule_metrics.of_expression(expression) == series


def test_every_rule_is_about_a_page_that_a_test_looks_at() -> None:
    names = {one.name for one in rule_metrics.of_rules()}
    assert names
    assert [name for name in names if name != "up" and not name.startswith(rule_metrics.FAMILIES)] == []


def test_a_page_lacks_what_has_another_name_or_another_label() -> None:
    def lacked(page: str) -> set[str]:
        return {one.name for one in rule_metrics.missing("haproxy_backend_", page)}

    name = "haproxy_backend_active_servers"
    assert lacked(f'# TYPE {name} gauge\n{name}{{proxy="vllm"}} 2\n') == set()
    assert lacked(f'# TYPE {name} gauge\n{name}{{proxy="clients"}} 2\n{name}_total{{proxy="vllm"}} 2\n') == {name}


@pytest.fixture
def page(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What host_metrics.py writes of a host with one service, one failed unit, a stranger's container and a relay."""
    process = os.getpid()
    fields = {"name": "/kafka-kafka-1", "state": "running", "process": process, "health": "healthy", "restarts": 0}
    fields |= {"memory_limit": 1048576, "project": "kafka", "service": "kafka", "one_off": "False"}
    strangers = {**fields, "name": "/curious_curie", "state": "exited", "project": None, "service": None}
    (tmp_path / "inspected").write_text(f"{json.dumps(fields)}\n{json.dumps(strangers)}\n")
    commands = Commands(tmp_path / "commands")
    commands.fake("docker", f'case "$1" in ps) echo aa bb;; inspect) cat {tmp_path}/inspected;; esac')
    shown = r"Id=kafka.service\nActiveState=active\nNRestarts=0\n"
    failed = "bad.service loaded failed failed Bad"
    commands.fake("systemctl", f"""case "$1" in show) printf '{shown}';; list-units) echo '{failed}';; esac""")
    monkeypatch.setenv("PATH", str(commands.bin))

    (tmp_path / "opt/kafka").mkdir(parents=True)
    (tmp_path / "opt/kafka/service.json").write_text("{}")
    group = tmp_path / "cgroups/kafka.scope"
    group.mkdir(parents=True)
    for name, text in (("memory.current", "9"), ("memory.stat", "inactive_file 1"), ("cpu.stat", "usage_usec 7")):
        (group / name).write_text(f"{text}\n")
    (tmp_path / f"processes/{process}").mkdir(parents=True)
    (tmp_path / f"processes/{process}/cgroup").write_text("0::/kafka.scope\n")
    relay = {"name": "vllm", "url": "http://127.0.0.1:1/metrics", "prefix": "vllm:"}  # nobody listens there
    (tmp_path / "relays.json").write_text(json.dumps([relay]))

    program = load_program(SCRIPT)
    # Where it looks on a host.
    program.service_names.__defaults__ = (str(tmp_path / "opt/*/service.json"),)
    program.container_samples.__defaults__ = (tmp_path / "cgroups", tmp_path / "processes")
    (tmp_path / "written").mkdir()
    assert program.main([str(tmp_path / "written"), str(tmp_path / "relays.json")]) == 0
    return (tmp_path / "written/fleet.prom").read_text()


def test_every_metric_of_ours_is_on_the_page_of_our_program(page: str) -> None:
    assert rule_metrics.missing("fleet_", page) == []


def test_a_stranger_is_not_on_it(page: str) -> None:
    assert "kafka-kafka-1" in page
    assert "curious_curie" not in page
