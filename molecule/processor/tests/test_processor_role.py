# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processor and the producer, with a real broker and a real database on the same host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

SERVICES = ("processor", "producer")


def container(host: Any, service: str) -> dict[str, Any]:
    """What the engine says of a service's container."""
    label = f"label=com.docker.compose.project={service}"
    identity = host.check_output(f"docker ps --quiet --filter {label}")
    assert identity, f"no container of {service} runs"
    found: list[dict[str, Any]] = json.loads(host.check_output(f"docker inspect {identity}"))
    return found[0]


def run_in(host: Any, service: str, command: str, text: str = "") -> Any:
    """A command inside a service's container."""
    identity = container(host, service)["Id"]
    return host.run(f"printf %s '{text}' | docker exec --interactive {identity} {command}")


def get(host: Any, path: str) -> tuple[int, Any]:
    """An answer of the processor on the host's own address, as its peers see it."""
    address = host.file("/opt/processor/address.env").content_string.strip().partition("=")[2]
    answer = host.check_output(
        f"curl --silent --max-time 10 --write-out '\\n%{{http_code}}' http://{address}:8080{path}"
    )
    body, _newline, status = answer.rpartition("\n")
    return int(status), json.loads(body) if body.startswith("{") else body


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(1)


@pytest.fixture(autouse=True)
def ready(host: Any) -> None:
    wait_for(lambda: get(host, "/ready")[0] == 200, "the processor is ready")


@pytest.mark.parametrize("service", SERVICES)
def test_the_units_are_enabled_and_the_container_is_confined(host: Any, service: str) -> None:
    for unit in (f"{service}.service", f"{service}-env-refresh.service"):
        assert host.service(unit).is_enabled
    assert host.service(f"{service}.service").is_running
    found = container(host, service)
    limits = found["HostConfig"]
    assert found["Config"]["User"] == "10001:10001"
    assert limits["ReadonlyRootfs"]
    assert limits["CapDrop"] == ["ALL"]
    assert any(option.startswith("no-new-privileges") for option in limits["SecurityOpt"])
    assert limits["Memory"] > 0
    assert limits["PidsLimit"] > 0
    assert limits["RestartPolicy"]["Name"] == "no"
    assert found["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize(
    ("service", "file", "secret"),
    [
        ("processor", "mongodb_password", "planted-app-password-5d21"),
        ("producer", "vllm_api_key", "planted-api-key-90ab"),
    ],
)
def test_the_secret_is_in_its_file_only(host: Any, service: str, file: str, secret: str) -> None:
    found = host.file(f"/opt/{service}/secrets/{file}")
    assert (found.mode, found.uid) == (0o400, 10001)
    assert found.content_string == secret
    assert secret not in json.dumps(container(host, service))
    assert secret not in host.file(f"/opt/{service}/.env").content_string
    assert secret not in host.check_output(f"journalctl --no-pager --unit {service}")


def test_the_producer_publishes_nothing_on_the_host(host: Any) -> None:
    assert not container(host, "producer")["HostConfig"]["PortBindings"]


def test_a_sample_of_the_producer_arrives(host: Any) -> None:
    wait_for(lambda: get(host, "/gpu/info")[0] == 200, "a GPU sample")
    document = get(host, "/gpu/info")[1]
    assert document["source"] == "simulated"
    assert document["host"] == "host-1"
    assert document["mem_total_mb"] > 0


def test_good_and_bad_events_balance_also_when_the_processor_is_killed(host: Any) -> None:
    kinds = "not-json,missing-field,wrong-type,rubbish"
    load = f"python -m gpuops_telemetry.load --count 2000 --bad-share 0.02 --bad-kinds {kinds} --duplicate-share 0.02"
    producer = container(host, "producer")["Id"]
    host.check_output(f"docker exec {producer} {load} > /var/tmp/ledger.jsonl")
    host.check_output("docker kill --signal KILL " + container(host, "processor")["Id"])
    wait_for(
        lambda: bool(host.run("docker ps -q --filter label=com.docker.compose.project=processor").stdout), "restart"
    )
    processor = container(host, "processor")["Id"]
    verdict = host.run(
        f"docker exec --interactive {processor} python -m gpuops_telemetry.ledger --wait 120 < /var/tmp/ledger.jsonl"
    )
    assert verdict.rc == 0, verdict.stdout + verdict.stderr
    assert json.loads(verdict.stdout)["dead_letters"] > 0


def test_what_is_too_large_is_refused_by_the_producer_and_counted(host: Any) -> None:
    done = run_in(
        host,
        "producer",
        "python -m gpuops_telemetry.load --count 3 --bad-share 1 --bad-kinds oversized --ledger /tmp/none",
    )
    assert json.loads(done.stderr.splitlines()[-1])["refused"] == 3


def test_usage_and_metrics_are_served(host: Any) -> None:
    status, usage = get(host, "/usage")
    assert status == 200
    assert usage["price_per_hour_usd"] == 0.36
    text = get(host, "/metrics")[1]
    for name in ("lag_messages", "batch_messages_count", "write_seconds_count", "dead_letters_total"):
        assert f"gpuops_processor_{name}" in text


def test_without_the_database_it_lives_and_says_what_it_waits_for(host: Any) -> None:
    host.check_output("systemctl stop mongodb")
    try:
        wait_for(lambda: get(host, "/ready")[0] == 503, "not ready without a database")
        assert any("database" in problem for problem in get(host, "/ready")[1]["problems"])
        assert get(host, "/health")[0] == 200
    finally:
        host.check_output("systemctl start mongodb")


def test_the_image_was_built_from_the_commit_that_was_asked_for(host: Any) -> None:
    image = container(host, "processor")["Config"]["Image"]
    assert image.startswith("gpuops/telemetry:git-")
    wanted = host.check_output("git --git-dir=/srv/code.git rev-parse main")
    assert host.check_output("git -C /opt/processor/source rev-parse HEAD") == wanted
