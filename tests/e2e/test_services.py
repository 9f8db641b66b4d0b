# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each service of the demo, looked at from outside and from its host."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _endpoint_routes
from demo import SERVICES, Fleet, Service, http

TOPICS = ("gpu.metrics.v1", "token.usage.v1", "gpu.metrics.v1.dlq", "token.usage.v1.dlq")


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, fleet: Fleet) -> Service:
    return fleet.service(request.param)


@pytest.fixture(scope="module")
def inspected(service: Service) -> dict[str, Any]:
    return service.inspect()


def test_units_run_and_start_at_boot(service: Service) -> None:
    for unit in (f"{service.name}.service", f"{service.name}-env-refresh.service"):
        found = service.machine.host.service(unit)
        assert found.is_enabled, unit
        assert found.is_running, unit


def test_container_is_healthy(inspected: dict[str, Any]) -> None:
    assert inspected["State"]["Health"]["Status"] == "healthy"


def test_container_runs_as_a_numeric_user_that_is_not_root(service: Service, inspected: dict[str, Any]) -> None:
    user = inspected["Config"]["User"].split(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    pid = inspected["State"]["Pid"]
    assert service.machine.run(f"stat --format=%u /proc/{pid}").strip() == user


def test_container_has_no_capabilities(service: Service, inspected: dict[str, Any]) -> None:
    status = service.machine.run(f"cat /proc/{inspected['State']['Pid']}/status")
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(lines["CapEff"], 16) == 0
    assert int(lines["CapBnd"], 16) == 0
    assert lines["NoNewPrivs"].strip() == "1"


def test_container_can_not_write_to_its_root(service: Service, inspected: dict[str, Any]) -> None:
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    assert "read-only" in service.inside("sh", "-c", "touch /written 2>&1 || true").lower()


def test_container_is_limited(inspected: dict[str, Any]) -> None:
    settings = inspected["HostConfig"]
    assert settings["Memory"] > 0
    assert settings["PidsLimit"] > 0
    assert settings["IpcMode"] != "host"
    assert settings["Privileged"] is False


def test_container_is_restarted_by_systemd_alone(inspected: dict[str, Any]) -> None:
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_container_logs_are_rotated(inspected: dict[str, Any]) -> None:
    log = inspected["HostConfig"]["LogConfig"]
    assert log["Type"] in ("local", "journald") or log["Config"].get("max-size")


def test_ports_are_published_on_the_address_of_the_host_alone(service: Service, inspected: dict[str, Any]) -> None:
    published = [one["HostIp"] for many in inspected["HostConfig"]["PortBindings"].values() for one in many or ()]
    # The gateway beside it is the only one who asks the model server.
    assert set(published) <= {"127.0.0.1" if service.name == "vllm" else service.machine.address}


def test_model_answers_with_its_key_and_only_with_it(fleet: Fleet) -> None:
    gateway = fleet.machine("gateway")
    url, certificate = f"https://{gateway.address}", gateway.run("cat /opt/gateway/certificate.pem")
    key = gateway.run("cat /opt/gateway/secrets/keys/verify").strip()
    status, body = http(f"{url}/v1/models", None, key, certificate)
    assert status == 200, body
    model = json.loads(body)["data"][0]["id"]
    wish = {"model": model, "prompt": "Hello", "max_tokens": 4}
    status, body = http(f"{url}/v1/completions", wish, key, certificate)
    assert status == 200, body
    assert json.loads(body)["usage"]["completion_tokens"] > 0
    # The model server's own key is no client's.
    for other in (None, "not-the-key", fleet.service("vllm").secret("api_key")):
        assert http(f"{url}/v1/completions", wish, other, certificate)[0] == 401
    assert http(f"{url}/health", certificate=certificate)[0] == 200
    assert http(f"{url}/metrics", None, key, certificate)[0] == 404


def test_every_route_of_the_model_server_is_known_to_the_check_that_asks_them(fleet: Fleet) -> None:
    """vLLM says at its start which it has."""
    vllm = fleet.service("vllm")
    lines = vllm.machine.run("journalctl --unit=vllm.service --output=cat --no-pager").splitlines()
    found = [re.search(r"Route: (\S+), Methods: ", line) for line in lines]
    there = {re.sub("{.*?}", "none", one[1]) for one in found if one}
    assert "/v1/completions" in there
    # By another method than the route's own it is answered with 405, so the path is enough.
    assert there - {route.path for route in _endpoint_routes.KNOWN} == {"/health"}


def test_topics_exist(fleet: Fleet) -> None:
    listed = fleet.service("kafka").inside(
        "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "127.0.0.1:19092", "--list"
    )
    assert set(TOPICS) <= set(listed.split())


def test_topics_are_advertised_under_the_peer_name(fleet: Fleet) -> None:
    kafka = fleet.service("kafka")
    program = (
        "import os\nfrom confluent_kafka.admin import AdminClient\n"
        "client = AdminClient({'bootstrap.servers': os.environ['KAFKA_BOOTSTRAP_SERVERS']})\n"
        "print([broker.host for broker in client.list_topics(timeout=20).brokers.values()])"
    )
    assert kafka.machine.variables["fleet_peer_name"] in fleet.service("processor").inside("python", "-c", program)


def test_database_refuses_strangers_and_has_its_seeds(fleet: Fleet) -> None:
    program = """
import os
from gpuops_telemetry.settings import Environment, MongoSettings
from gpuops_telemetry.store import connect
from pymongo import MongoClient
from pymongo.errors import OperationFailure
mongo = MongoSettings.from_environment(Environment())
try:
    MongoClient(mongo.host, mongo.port, serverSelectionTimeoutMS=10000)[mongo.database].gpus.find_one()
    print("a stranger was answered")
except OperationFailure as error:
    print("refused", error.code)
print(sorted(gpu["name"] for gpu in connect(mongo)[mongo.database].gpus.find()))
print(len(connect(mongo)[mongo.database].gpu_metrics.index_information()))
"""
    refused, seeds, indexes = fleet.service("processor").inside("python", "-", stdin=program).splitlines()
    assert refused == "refused 13"
    assert "RTX 3090" in seeds
    assert "A100 40GB" in seeds
    assert int(indexes) > 1


@pytest.mark.parametrize("path", ["/health", "/ready", "/gpu/info", "/usage", "/metrics"])
def test_processor_answers(fleet: Fleet, path: str) -> None:
    address = fleet.machine("processor").address
    status, body = http(f"http://{address}:8080{path}")
    assert status == 200, body
    assert body


def test_latest_gpu_is_a_document_of_the_producer(fleet: Fleet) -> None:
    body = http(f"http://{fleet.machine('processor').address}:8080/gpu/info")[1]
    document = json.loads(body)
    assert {"host", "gpu_index", "name", "utilization", "mem_used_mb", "mem_total_mb", "source", "ts"} <= set(document)
    assert 0 <= document["utilization"] <= 1
