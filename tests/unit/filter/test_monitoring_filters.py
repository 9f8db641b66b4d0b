"""What the role monitoring refuses, what it takes, and what Prometheus is told to ask."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.monitoring_problems import monitoring_problems
from ansible_collections.gpuops.fleet.plugins.filter.monitoring_targets import monitoring_targets

TARGET = {"job": "node", "host": "vllm-1", "address": "vllm-1.acme.internal", "port": 9100}
RELAY = {"name": "vllm", "url": "http://vllm-1.acme.internal:8000/metrics", "prefix": "vllm:"}
GOOD: dict[str, Any] = {
    "targets": [TARGET, {**TARGET, "address": "2001:db8::7", "port": "8404", "scheme": "https", "path": "/m"}],
    "exporter_relays": [{**RELAY, "bearer_token_file": "/opt/vllm/secrets/api_key"}],
    "webhooks": [
        {"url": "https://alerts.example.org/hook?room=1", "bearer_token": "planted-1"},
        {"url": "http://[::1]:80/"},
    ],
    "prometheus_address": "127.0.0.1",
    "alertmanager_address": "[::1]",
    "exporter_address": "[::]",
    "prometheus_port": 9090,
    "alertmanager_port": "9093",  # a number is text when it comes from the command line
    "exporter_port": 9100,
    "interval_seconds": 15,
    "window_seconds": 60,
    "down_after_seconds": 0,
    "disk_free_percent": 10,
    "retention_mib": 2048,
}


def test_good_settings_are_taken() -> None:
    assert monitoring_problems(GOOD) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"targets": [{**TARGET, "job": "Node"}]}, "target 1 (Node of vllm-1): 'Node' can't be a job"),
        ({"targets": [{**TARGET, "job": "prometheus"}]}, "neither prometheus nor alertmanager, which are asked anyhow"),
        ({"targets": [{**TARGET, "host": ""}]}, "'' can't be the name of a host"),
        (
            {"targets": [{**TARGET, "address": "http://vllm-1"}]},
            "the address is 'http://vllm-1'; it must be a host name",
        ),
        ({"targets": [{**TARGET, "port": 0}]}, "the port is 0; it must be between 1 and 65535"),
        ({"targets": [{"job": "node", "host": "a", "address": "a"}]}, "the port is missing"),
        ({"targets": [{**TARGET, "scheme": "ftp"}]}, "the scheme is 'ftp'; it must be http or https"),
        ({"targets": [{**TARGET, "path": "metrics?key=1"}]}, "it must begin with / and have no query"),
        ({"targets": [{**TARGET, "token": "x"}]}, "has token; a target has job, host, address, port, scheme and path"),
        ({"targets": [TARGET, TARGET]}, "vllm-1.acme.internal:9100/metrics stands there 2 times"),
        ({"exporter_relays": [{**RELAY, "name": "../etc"}]}, "the name must be up to 32 lower-case letters"),
        (
            {"exporter_relays": [{**RELAY, "url": "https://x/metrics"}]},
            "the url must be one of this host",
        ),
        ({"exporter_relays": [{**RELAY, "url": "http://a:b@x/"}]}, "without user and query"),
        ({"exporter_relays": [{**RELAY, "prefix": ""}]}, "the prefix is ''; it must be how all of its metrics begin"),
        (
            {"exporter_relays": [{**RELAY, "bearer_token_file": "key"}]},
            "must be the absolute path of a file on the host",
        ),
        ({"exporter_relays": [RELAY, RELAY]}, "2 relays are named vllm"),
        ({"webhooks": [{"url": "alerts.example.org"}]}, "webhook 1 has no valid url"),
        ({"webhooks": [{"url": "https://user:word@x/"}]}, "webhook 1 has no valid url"),
        ({"webhooks": [{"url": "https://x/", "bearer_token": "a b"}]}, "has a bearer_token that no header can carry"),
        ({"prometheus_address": "eth0"}, "monitoring_prometheus_address: eth0 is no address"),
        ({"exporter_address": "::1"}, "an address of IPv6 needs brackets here; write [::1]"),
        ({"prometheus_port": 99999}, "monitoring_prometheus_port is 99999; it must be between 1 and 65535"),
        ({"alertmanager_port": 9090}, "monitoring_prometheus_port and monitoring_alertmanager_port are both 9090"),
        ({"disk_free_percent": -1}, "monitoring_disk_free_percent is -1; it must be between 1 and 99 percent"),
        ({"retention_mib": "many"}, "monitoring_retention_mib is many; it must be between 64 and 16777216 MiB"),
        (
            {"window_seconds": 30},
            "monitoring_window_seconds is 30; with monitoring_interval_seconds 15 it must be at least 60",
        ),
    ],
)
def test_what_can_not_work_is_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    (said,) = monitoring_problems({**GOOD, **changed})
    assert sentence in said
    assert said.endswith(".")


def test_no_sentence_holds_a_secret() -> None:
    webhooks = [{"url": "ftp://planted-host/planted-path", "bearer_token": "planted token"}]
    said = monitoring_problems({"webhooks": webhooks})
    assert len(said) == 2
    assert "planted" not in " ".join(said)


def test_targets_become_groups_with_all_that_may_change() -> None:
    assert monitoring_targets([{**TARGET, "scheme": "https", "path": "/m"}]) == [
        {
            "targets": ["vllm-1.acme.internal:9100"],
            "labels": {"job": "node", "host": "vllm-1", "__scheme__": "https", "__metrics_path__": "/m"},
        }
    ]


def test_the_same_targets_make_the_same_file_in_any_order() -> None:
    targets = [TARGET, {**TARGET, "job": "gateway"}, {**TARGET, "host": "kafka-1", "address": "::1"}]
    groups = monitoring_targets(targets)
    assert groups == monitoring_targets(reversed(targets))
    assert [group["targets"] for group in groups] == [
        ["vllm-1.acme.internal:9100"],
        ["[::1]:9100"],
        ["vllm-1.acme.internal:9100"],
    ]
    assert {group["labels"]["__metrics_path__"] for group in groups} == {"/metrics"}
