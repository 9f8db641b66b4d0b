# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured arrives: Prometheus has it from hosts, containers, model server, gateway and processor."""

from __future__ import annotations

import json
import shlex

import pytest
from demo import SERVICES, Fleet, Machine, eventually
from support import rule_metrics

# Runs on the host of the monitoring, because Prometheus answers on loopback alone: query → the first value, or None.
ASK = """
import json, sys, urllib.parse, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
values = {}
for query in json.load(sys.stdin):
    url = "http://127.0.0.1:9090/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with opener.open(url, timeout=30) as answer:
        found = json.load(answer)["data"]["result"]
    values[query] = float(found[0]["value"][1]) if found else None
print(json.dumps(values))
"""


def ask(machine: Machine, queries: list[str]) -> dict[str, float | None]:
    values: dict[str, float | None] = json.loads(machine.run(f"python3 -c {shlex.quote(ASK)}", json.dumps(queries)))
    return values


def wanted(fleet: Fleet) -> dict[str, list[str]]:
    """By what they are about, queries that find something above 0 where all is well."""
    at = {role: f'host="{fleet.machine(role).name}"' for role in (*SERVICES, "gateway")}
    return {
        "host": [f"node_memory_MemAvailable_bytes{{{place}}}" for place in at.values()],
        "container": [
            f'{name}{{{at[service]},project="{service}"}}'
            for service in SERVICES
            for name in ("fleet_container_running", "fleet_container_memory_bytes")
        ],
        "vllm": [
            f'fleet_relay_up{{{at["vllm"]},relay="vllm"}}',
            # An empty bucket is there, too.
            *(f"count({one.name}{{{at['vllm']}}})" for one in rule_metrics.of_rules("vllm:")),
        ],
        "gateway": [
            f'fleet_relay_up{{{at["gateway"]},relay="gateway"}}',
            f'haproxy_backend_active_servers{{{at["gateway"]},proxy="vllm"}}',
        ],
        "processor": [f"gpuops_processor_ready{{{at['processor']}}}"],
    }


@pytest.mark.parametrize("source", ["host", "container", "vllm", "gateway", "processor"])
def test_what_is_measured_arrives(fleet: Fleet, source: str) -> None:
    watcher, queries = fleet.machine("monitoring"), wanted(fleet)[source]

    def arrived() -> bool:
        missing = [query for query, value in ask(watcher, queries).items() if not value]
        assert missing == []
        return True

    # A host looks every 15 s, and is asked as often.
    eventually(arrived, 120, f"the arrival of all metrics of {source}")
