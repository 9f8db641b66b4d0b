# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role monitoring writes, as Prometheus's own tools and systemd judge it: alerts fire, and stay silent."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support import monitoring_role, rule_metrics
from support.free_port import free_port

TARGETS = [{"job": "node", "host": "vllm-1", "address": "vllm-1.acme.internal", "port": 9100}]
WEBHOOKS = [
    {"url": "https://alerts.example.org/planted-path-1", "bearer_token": "planted-token-2"},
    {"url": "http://10.0.0.5:8080/"},
]
RELAYS = [
    {
        "name": "vllm",
        "url": "http://vllm-1.acme.internal:8000/metrics",
        "prefix": "vllm:",
        "bearer_token_file": "/opt/vllm/secrets/api_key",
    }
]
HOST = 'host="vllm-1"'
CONTAINER = f'{{{HOST},project="kafka",service="kafka",container="kafka-kafka-1"}}'
SERVICE = f'{{{HOST},service="kafka"}}'
GATEWAY = f'proxy="gateway",{HOST}'
LATENCY = f'vllm:e2e_request_latency_seconds_bucket{{{HOST},model_name="tiny",le='
FILE = f'node_textfile_mtime_seconds{{{HOST},file="/run/gpuops-fleet-metrics/fleet.prom"}}'
DISK = f'{{{HOST},device="/dev/vda1",fstype="ext4",mountpoint='

# Alert: what it looks like when it is true, and when it is not. Series are as promtool takes them, a value a minute.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "TargetDown": (
        {f'up{{job="node",instance="vllm-1:9100",{HOST}}}': "0x20"},
        {f'up{{job="node",instance="vllm-1:9100",{HOST}}}': "1x5 0 1x14", FILE: "0+60x20"},
    ),
    "ServiceDown": (
        {f"fleet_service_active{SERVICE}": "0x20"},
        {f"fleet_service_active{SERVICE}": "1x8 0 1x11"},
    ),
    "ContainerDown": (
        {f"fleet_container_running{CONTAINER}": "0x20"},
        {f"fleet_container_running{CONTAINER}": "1x8 0 1x11"},
    ),
    "ContainerUnhealthy": (
        {f"fleet_container_unhealthy{CONTAINER}": "1x20"},
        {f"fleet_container_unhealthy{CONTAINER}": "0x8 1 0x11"},
    ),
    "DockerDown": ({f"fleet_docker_up{{{HOST}}}": "0x20"}, {f"fleet_docker_up{{{HOST}}}": "1x20"}),
    "RelayDown": (
        {f'fleet_relay_up{{{HOST},relay="vllm"}}': "0x20"},
        {f'fleet_relay_up{{{HOST},relay="vllm"}}': "1x8 0 1x11"},
    ),
    "GatewayWithoutServers": (
        {f'haproxy_backend_active_servers{{proxy="vllm",{HOST}}}': "0x20"},
        # Another backend of the same HAProxy has none on purpose.
        {
            f'haproxy_backend_active_servers{{proxy="vllm",{HOST}}}': "1x20",
            f'haproxy_backend_active_servers{{proxy="clients",{HOST}}}': "0x20",
        },
    ),
    "UnitFailed": (
        {f'fleet_unit_failed{{{HOST},unit="bad.service"}}': "1x20"},
        # It is not there any more when it was mended.
        {f'fleet_unit_failed{{{HOST},unit="bad.service"}}': "1x1 stale"},
    ),
    "ServiceRestarts": (
        {f"fleet_service_restarts_total{SERVICE}": "0+1x20"},
        {f"fleet_service_restarts_total{SERVICE}": "0x5 1x5 2x9"},
    ),
    "HostMetricsOld": (
        {f'up{{job="node",{HOST}}}': "1x20", FILE: "0x20"},
        # Another host's are not this one's; and of a host that is down TargetDown is enough.
        {
            f'up{{job="node",{HOST}}}': "1x20",
            FILE: "0+60x20",
            'up{job="node",host="away-1"}': "0x1 1 0 1x17",
            FILE.replace("vllm-1", "away-1"): "0+60x20",
        },
    ),
    "DiskFull": (
        {
            f'node_filesystem_avail_bytes{DISK}"/"}}': "5x20",
            f'node_filesystem_size_bytes{DISK}"/"}}': "100x20",
            f'node_filesystem_avail_bytes{DISK}"/srv"}}': "5x20",
            f'node_filesystem_size_bytes{DISK}"/srv"}}': "100x20",
        },
        {
            f'node_filesystem_avail_bytes{DISK}"/"}}': "50x3 5 50x16",
            f'node_filesystem_size_bytes{DISK}"/"}}': "100x20",
            f'node_filesystem_avail_bytes{{{HOST},device="tmpfs",fstype="tmpfs",mountpoint="/run"}}': "1x20",
            f'node_filesystem_size_bytes{{{HOST},device="tmpfs",fstype="tmpfs",mountpoint="/run"}}': "100x20",
        },
    ),
    "MemoryLow": (
        {f"node_memory_MemAvailable_bytes{{{HOST}}}": "9x20", f"node_memory_MemTotal_bytes{{{HOST}}}": "100x20"},
        {f"node_memory_MemAvailable_bytes{{{HOST}}}": "11x20", f"node_memory_MemTotal_bytes{{{HOST}}}": "100x20"},
    ),
    "ContainerMemoryHigh": (
        {
            f"fleet_container_memory_bytes{CONTAINER}": "95x20",
            f"fleet_container_memory_limit_bytes{CONTAINER}": "100x20",
        },
        # Without a limit there is nothing to come near to.
        {
            f"fleet_container_memory_bytes{CONTAINER}": "80x20",
            f"fleet_container_memory_limit_bytes{CONTAINER}": "100x20",
            "fleet_container_memory_bytes" + CONTAINER.replace("kafka", "other"): "95x20",
        },
    ),
    "LatencyHigh": (
        {f'{LATENCY}"5.0"}}': "0+90x20", f'{LATENCY}"10.0"}}': "0+100x20", f'{LATENCY}"+Inf"}}': "0+100x20"},
        {f'{LATENCY}"5.0"}}': "0+100x20", f'{LATENCY}"10.0"}}': "0+100x20", f'{LATENCY}"+Inf"}}': "0+100x20"},
    ),
    "ErrorRateHigh": (
        {
            f'haproxy_frontend_http_responses_total{{{GATEWAY},code="5xx"}}': "0+10x20",
            f'haproxy_frontend_http_responses_total{{{GATEWAY},code="2xx"}}': "0+90x20",
        },
        # Errors of clients are theirs; and where nobody asks nothing is wrong.
        {
            f'haproxy_frontend_http_responses_total{{{GATEWAY},code="5xx"}}': "0+1x20",
            f'haproxy_frontend_http_responses_total{{{GATEWAY},code="4xx"}}': "0+60x20",
            f'haproxy_frontend_http_responses_total{{{GATEWAY},code="2xx"}}': "0+40x20",
            'haproxy_frontend_http_responses_total{proxy="gateway",host="idle-1",code="5xx"}': "7x20",
        },
    ),
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    work = tmp_path_factory.mktemp("programs")
    found, why = monitoring_role.find_programs(work)
    if found is None:
        pytest.skip(why)
    yield found
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, programs: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Everything that the role writes, and what the second time said."""
    work = tmp_path_factory.mktemp("monitoring")
    values: dict[str, Any] = {
        "monitoring_targets": TARGETS,
        "monitoring_webhooks": WEBHOOKS,
        "monitoring_exporter_relays": RELAYS,
    }
    first = monitoring_role.run_steps(work, programs, **values)
    assert first.returncode == 0, first.stdout[-3000:]
    again = monitoring_role.run_steps(work, programs, **values)
    assert "changed=0 " in again.stdout
    return work, first.stdout + again.stdout


def rules(work: pathlib.Path) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((work / "monitoring/rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def run_promtool(work: pathlib.Path, programs: pathlib.Path, series: dict[str, str], firing: dict[str, int]) -> str:
    """What promtool says unless exactly these alerts fire after 15 minutes, each so many times; nothing is good."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": number} for name, number in firing.items()]
    document = {
        "rule_files": [str(work / "monitoring/rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": "15m",
                        "exp_samples": expected,
                    }
                ],
            }
        ],
    }
    (work / "case.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [str(programs / "promtool"), "test", "rules", str(work / "case.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_has_a_case(written: tuple[pathlib.Path, str]) -> None:
    assert set(rules(written[0])) == set(CASES)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_once_and_alone(written: tuple[pathlib.Path, str], programs: pathlib.Path, alert: str) -> None:
    assert run_promtool(written[0], programs, CASES[alert][0], {alert: 1}) == ""


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_stays_silent(written: tuple[pathlib.Path, str], programs: pathlib.Path, alert: str) -> None:
    assert run_promtool(written[0], programs, CASES[alert][1], {}) == ""


def test_each_alert_says_where_and_how_bad(written: tuple[pathlib.Path, str]) -> None:
    for name, rule in rules(written[0]).items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert re.search(r"\{\{ \$labels\.host \}\}.*\.$", rule["annotations"]["summary"]), name


def test_a_second_time_changes_nothing_and_no_secret_is_shown(written: tuple[pathlib.Path, str]) -> None:
    work, output = written
    assert output.count("changed=0 ") == 1
    assert "planted" not in output
    readable = [path for path in work.rglob("*") if path.is_file() and path.stat().st_mode & stat.S_IROTH]
    assert [path for path in readable if path.name != "values.json" and "planted" in path.read_text()] == []


def test_secrets_are_in_their_files_alone(written: tuple[pathlib.Path, str], programs: pathlib.Path) -> None:
    directory = written[0] / "monitoring"
    token = directory / "secrets/webhook-0"
    assert (token.read_text(), stat.S_IMODE(token.stat().st_mode)) == ("planted-token-2", 0o400)
    assert not (directory / "secrets/webhook-1").exists()
    assert stat.S_IMODE((directory / "alertmanager.yml").stat().st_mode) == 0o640
    receiver = yaml.safe_load((directory / "alertmanager.yml").read_text())["receivers"][0]
    assert [hook["url"] for hook in receiver["webhook_configs"]] == [hook["url"] for hook in WEBHOOKS]
    assert receiver["webhook_configs"][0]["http_config"]["authorization"]["credentials_file"] == str(token)


def test_the_token_of_a_webhook_that_is_gone_is_gone_too(tmp_path: pathlib.Path, programs: pathlib.Path) -> None:
    """Also where only the token is: what is left over from an earlier run is not told by what changes in this one."""
    secrets, steps = tmp_path / "monitoring/secrets", [("configure", monitoring_role.SERVER)]
    tokens = [{**webhook, "bearer_token": f"planted-token-{number}"} for number, webhook in enumerate(WEBHOOKS)]
    left: dict[tuple[str, ...], list[dict[str, str]]] = {
        ("webhook-0", "webhook-1"): tokens,
        ("webhook-1",): [WEBHOOKS[1], tokens[1]],
        (): [],
    }
    for names, webhooks in left.items():
        done = monitoring_role.run_steps(tmp_path, programs, steps, monitoring_webhooks=webhooks)
        assert done.returncode == 0, done.stdout[-3000:]
        assert sorted(path.name for path in secrets.iterdir()) == list(names)
        assert "planted" not in done.stdout


def test_a_broken_configuration_does_not_take_the_place_of_a_good_one(
    written: tuple[pathlib.Path, str], programs: pathlib.Path
) -> None:
    work = written[0]
    before = (work / "monitoring/rules.yml").read_text()
    # Not through preflight, which would refuse it.
    steps = [("configure", monitoring_role.SERVER)]
    done = monitoring_role.run_steps(work, programs, steps, monitoring_latency_p99_seconds="soon(")
    assert done.returncode != 0
    assert "rules.yml would not be right, so nothing was replaced" in done.stdout
    assert (work / "monitoring/rules.yml").read_text() == before


def test_targets_stand_in_a_file_of_their_own(written: tuple[pathlib.Path, str]) -> None:
    (group,) = json.loads((written[0] / "monitoring/targets.json").read_text())
    assert group["targets"] == ["vllm-1.acme.internal:9100"]
    configuration = yaml.safe_load((written[0] / "monitoring/prometheus.yml").read_text())
    assert configuration["scrape_configs"][0]["file_sd_configs"] == [
        {"files": [str(written[0] / "monitoring/targets.json")]}
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_the_units_are_confined_and_bounded(written: tuple[pathlib.Path, str], programs: pathlib.Path) -> None:
    units = written[0] / "units"
    files = {f"{name}.service": units / f"{name}.service.d/gpuops-fleet.conf" for name in monitoring_role.PACKAGES}
    files["gpuops-fleet-metrics.service"] = units / "gpuops-fleet-metrics.service"
    for name, file in files.items():
        # The drop-in alone says nothing about the user, which is the package's matter.
        user = "User=prometheus\n" if file.suffix == ".conf" else ""
        text = file.read_text() + user
        assert "MemoryMax=" in text
        judged = written[0] / name
        judged.write_text(text)
        command = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(judged)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout[-1000:]
        assert "ignoring" not in done.stderr, done.stderr


@pytest.mark.parametrize("port", ["9090", "9093"])
def test_the_pages_are_for_the_host_itself(written: tuple[pathlib.Path, str], port: str) -> None:
    drop_ins = "".join(path.read_text() for path in (written[0] / "units").rglob("*.conf"))
    assert f"--web.listen-address=127.0.0.1:{port}" in drop_ins
    # Alertmanager would listen for others of its kind on all addresses.
    assert "--cluster.listen-address= " in drop_ins


def test_every_metric_of_a_host_is_on_the_page_of_the_exporter(written: tuple[pathlib.Path, str]) -> None:
    """The real one, with the collectors that the role names: a rule about another one would never fire."""
    work, port = written[0], free_port()
    drop_in = (work / "units/prometheus-node-exporter.service.d/gpuops-fleet.conf").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", drop_in, re.MULTILINE)
    collected = work / "run/gpuops-fleet-metrics"
    collected.mkdir(parents=True, exist_ok=True)
    (collected / "fleet.prom").write_text("# TYPE fleet_docker_up gauge\nfleet_docker_up{} 1\n")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    log = work / "exporter.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            shlex.split(command.replace("127.0.0.1:9100", f"127.0.0.1:{port}")), stdout=output, stderr=output
        )
    try:
        page = ""
        for _attempt in range(300):
            assert started.poll() is None, log.read_text(errors="replace")
            try:
                with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                    page = answer.read().decode()
                break
            except OSError:  # it does not listen yet
                time.sleep(0.2)
    finally:
        started.terminate()
        started.wait(timeout=60)
    assert page, log.read_text(errors="replace")
    assert rule_metrics.missing("node_", page) == []
    assert "\nfleet_docker_up 1\n" in page
