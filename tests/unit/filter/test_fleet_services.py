# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may reach what on a host, from the roles of the fleet; and that the role firewall takes it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.fleet_services import fleet_services
from ansible_collections.gpuops.fleet.plugins.module_utils import _firewall

ALL = ("fleet_ssh", "gateway", "kafka", "mongodb", "monitoring", "processor", "producer", "vllm")


def of(*roles: str, groups: tuple[str, ...] = ALL, **variables: Any) -> dict[str, Any]:
    """Name → who, and the ports beside it."""
    services = fleet_services({"group_names": [*roles, "fleet_ssh"], **variables}, groups)
    peers = {name: [f"{name}-1.acme-llm.internal"] for name in groups}
    assert _firewall.mistakes(services, peers, [22], [], []) == []
    return {one["name"]: (one["ports"], [*one.get("from_groups", []), *one.get("from_cidrs", [])]) for one in services}


def test_kafka_answers_processors_and_producers_and_mongodb_processors() -> None:
    assert of("kafka")["kafka"] == ([9092], ["processor", "producer"])
    assert of("mongodb")["mongodb"] == ([27017], ["processor"])


def test_a_model_server_answers_the_gateway_and_without_one_the_producer() -> None:
    assert of("vllm")["vllm"] == ([8000], ["gateway"])
    without = tuple(name for name in ALL if name not in ("gateway", "monitoring"))
    assert of("vllm", groups=without) == {"vllm": ([8000], ["producer"])}


def test_a_model_server_that_nobody_asks_is_closed() -> None:
    assert of("vllm", groups=("fleet_ssh", "vllm")) == {}


def test_a_gateway_answers_everybody_or_whom_its_variable_names_and_the_producers() -> None:
    assert of("gateway")["gateway"] == ([443], ["producer", "0.0.0.0/0", "::/0"])
    some = of("gateway", gateway_allowed_cidrs=["203.0.113.0/24"], gateway_https_port="8443", gateway_http_port=0)
    assert some["gateway"] == ([8443], ["producer", "203.0.113.0/24"])
    assert "gateway-redirect" not in some
    assert of("gateway", gateway_allowed_cidrs="10.0.0.0/8")["gateway"][1] == ["producer", "10.0.0.0/8"]


def test_metrics_are_for_monitoring_alone() -> None:
    opened = of("processor")
    assert (opened["processor"], opened["exporter"]) == (([8080], ["monitoring"]), ([9100], ["monitoring"]))
    assert "exporter" not in of("kafka", groups=("fleet_ssh", "kafka", "processor"))


@pytest.mark.parametrize(
    ("role", "variable"), [("kafka", "kafka_port"), ("vllm", "vllm_port"), ("mongodb", "mongodb_port")]
)
def test_a_port_of_the_users_choice(role: str, variable: str) -> None:
    said: dict[str, Any] = {variable: "7777"}
    assert of(role, **said)[role][0] == [7777]


def test_what_the_user_opens_comes_on_top() -> None:
    own = {"name": "costs", "ports": [8080], "from_cidrs": ["10.0.0.0/8"]}
    assert of("processor", firewall_services=[own])["costs"] == ([8080], ["10.0.0.0/8"])
