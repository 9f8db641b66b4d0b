# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitoring role's promise on a host: confined, at the addresses named, and what breaks is told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.molecule_hosts import wait_until

Host = Any  # testinfra has no types

SERVICES = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
NAME = "host-1"
CURL = "curl --silent --fail --max-time 10 --globoff"


def ask(host: Host, url: str) -> Any:
    return json.loads(host.check_output(f"{CURL} %s", url))


def value(host: Host, query: str) -> str:
    """Of the only series that the query finds; empty without one."""
    words = query.replace("{", "%7B").replace("}", "%7D").replace('"', "%22").replace("=", "%3D").replace(",", "%2C")
    found = ask(host, f"http://127.0.0.1:9090/api/v1/query?query={words}")["data"]["result"]
    return str(found[0]["value"][1]) if found else ""


def alerts(host: Host) -> set[tuple[str, str]]:
    """Name and host of each alert that Alertmanager has."""
    listed = ask(host, "http://127.0.0.1:9093/api/v2/alerts?active=true")
    return {(one["labels"]["alertname"], one["labels"]["host"]) for one in listed}


@pytest.mark.parametrize("name", SERVICES)
def test_it_runs_now_and_after_a_boot_as_nobody_in_particular(host: Host, name: str) -> None:
    assert host.service(f"{name}.service").is_running
    assert host.service(f"{name}.service").is_enabled
    process = host.check_output(f"systemctl show --property=MainPID --value {name}.service")
    status = dict(line.split(":", 1) for line in host.check_output(f"cat /proc/{process}/status").splitlines())
    assert "0" not in status["Uid"].split()
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert host.check_output(f"systemctl show --property=MemoryMax --value {name}.service") != "infinity"


@pytest.mark.parametrize("name", [*SERVICES, "gpuops-fleet-metrics"])
def test_it_is_confined(host: Host, name: str) -> None:
    exposure = host.run(f"systemd-analyze security --no-pager {name}.service").stdout
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", exposure)
    assert found, exposure
    assert float(found[1]) <= 3.0


def test_only_the_exporter_is_open_to_others(host: Host) -> None:
    sockets = host.check_output("cat /proc/net/tcp /proc/net/tcp6")
    listening = {line.split()[1] for line in sockets.splitlines() if line.split()[3] == "0A"}
    by_port = {port: {place for place in listening if place.endswith(f":{port:04X}")} for port in (9090, 9093, 9094)}
    assert by_port[9090] == {"0100007F:2382"}
    assert by_port[9093] == {"0100007F:2385"}
    assert by_port[9094] == set(), "Alertmanager looks for no others"


def test_what_is_asked_answers(host: Host) -> None:
    assert wait_until(lambda: value(host, 'up{job="node"}') == "1", 60, "An answer of the exporter")
    assert wait_until(lambda: value(host, 'up{job="processor"}') == "1", 60, "An answer of the processor")


def test_containers_are_measured(host: Host) -> None:
    labels = '{project="pages",container="pages-sleeper-1"}'
    wait_until(lambda: value(host, f"fleet_container_running{labels}") == "1", 60, "A sample of the container")
    assert value(host, f"fleet_container_memory_limit_bytes{labels}") == str(64 * 1024 * 1024)
    assert 0 < float(value(host, f"fleet_container_memory_bytes{labels}")) < 64 * 1024 * 1024
    assert float(value(host, f"fleet_container_cpu_seconds_total{labels}")) > 0
    assert value(host, "count(fleet_container_running)") == "1", (
        "what a stranger ran once, and ended, is nobody's alert"
    )


def test_what_needs_a_key_comes_by_its_own_host(host: Host) -> None:
    wait_until(lambda: value(host, 'vllm:num_requests_running{relay="vllm"}') == "3", 60, "The relayed sample")
    assert value(host, "fleet_relay_up") == "1"


def test_a_service_that_stops_is_told_and_so_is_its_return(host: Host) -> None:
    assert ("TargetDown", "processor-1") not in alerts(host)
    host.check_output("rm -f /opt/pages/told; systemctl stop pages.service")
    wanted = {("TargetDown", "processor-1"), ("RelayDown", NAME), ("ServiceDown", NAME)}
    wait_until(lambda: wanted <= alerts(host), 90, "The alerts")
    # The webhook is a part of what was stopped, so it hears of it when it is back.
    host.check_output("systemctl start pages.service")

    def letters() -> list[str]:
        return str(host.file("/opt/pages/told").content_string).splitlines()

    told = wait_until(letters, 90, "The message to the webhook")
    assert (json.loads(told[0])["path"], json.loads(told[0])["key"]) == (
        "/planted-path-4c1",
        "Bearer planted-token-8f2",
    )
    wait_until(lambda: not wanted & alerts(host), 90, "The end of the alerts")


def test_a_container_that_dies_is_told(host: Host) -> None:
    host.check_output("docker kill pages-sleeper-1")
    wait_until(lambda: ("ContainerDown", NAME) in alerts(host), 90, "The alert")
    host.check_output("docker start pages-sleeper-1")
    wait_until(lambda: ("ContainerDown", NAME) not in alerts(host), 90, "The end of the alert")


@pytest.mark.parametrize("name", SERVICES)
def test_it_comes_back_when_it_is_killed(host: Host, name: str) -> None:
    command = f"systemctl show --property=MainPID --value {name}.service"
    before = host.check_output(command)
    host.check_output(f"kill -KILL {before}")
    wait_until(lambda: host.check_output(command) not in ("0", before), 60, f"The return of {name}")


def test_secrets_are_in_their_files_alone(host: Host) -> None:
    """Last, so that the failures above are in the journal."""
    file = host.file("/opt/monitoring/secrets/webhook-0")
    assert (file.user, file.mode) == ("prometheus", 0o400)
    host.check_output("grep --recursive --no-filename --only-matching 'planted-[a-z0-9-]*' /opt/monitoring >~/planted")
    host.check_output("printf 'planted-internal-key-5e11\\nplanted-environment-9d0\\n' >>~/planted")
    for where in (
        "cat /proc/[0-9]*/cmdline",
        "journalctl --all -u prometheus -u prometheus-alertmanager -u gpuops-fleet-metrics",
        f"{CURL} http://127.0.0.1:9100/metrics",
        f"{CURL} http://127.0.0.1:9090/api/v1/status/config",
        "find /opt/monitoring /run/gpuops-fleet-metrics /etc/systemd/system -type f -perm -o=r -exec cat {} +",
    ):
        looked = f"{where} 2>/dev/null | tr '\\0' ' ' | grep --quiet --text --fixed-strings --file ~/planted"
        assert host.run(looked).rc == 1, where
