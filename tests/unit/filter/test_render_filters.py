# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.check_lines import check_lines
from ansible_collections.gpuops.fleet.plugins.filter.mask_environment import mask_environment
from ansible_collections.gpuops.fleet.plugins.filter.named_checks import named_checks
from ansible_collections.gpuops.fleet.plugins.filter.paid_providers import paid_providers
from ansible_collections.gpuops.fleet.plugins.filter.probe_checks import probe_checks
from ansible_collections.gpuops.fleet.plugins.filter.renting_providers import renting_providers
from ansible_collections.gpuops.fleet.plugins.filter.report_host import report_host
from ansible_collections.gpuops.fleet.plugins.filter.text_table import text_table

PROBE = {"name": "topics", "fix": "Run deploy.", "expect": "^gpu[.]metrics[.]v1$"}


def test_probe_that_prints_what_is_expected_is_ok() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 0, "stdout": "a\ngpu.metrics.v1\n", "stderr": ""}])
    assert check == {"name": "topics", "ok": True, "detail": "gpu.metrics.v1", "fix": ""}


def test_probe_that_prints_something_else_is_not() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 0, "stdout": "gpuxmetrics", "stderr": ""}])
    assert not check["ok"]
    assert "was expected, found: gpuxmetrics" in check["detail"]
    assert check["fix"] == "Run deploy."


def test_probe_that_fails_shows_its_last_error_shortened() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 1, "stdout": "gpu.metrics.v1", "stderr": "first\n" + "x" * 999}])
    assert not check["ok"]
    assert check["detail"] == "x" * 300


def test_probe_that_could_not_start_is_not_ok_and_one_that_was_skipped_is_no_check() -> None:
    results: list[dict[str, Any]] = [
        {"item": PROBE, "msg": "No such file or directory"},
        {"item": PROBE, "skipped": True},
    ]
    assert [check["detail"] for check in probe_checks(results)] == ["No such file or directory"]


def test_table_aligns_numbers_right_and_shows_what_is_missing() -> None:
    rows = [{"name": "kafka-1", "price_usd": 0.5, "roles": ["kafka"]}, {"name": "v", "price_usd": 12, "roles": []}]
    assert text_table(rows, ["name", "price_usd", "roles", "gpu"]) == [
        "NAME     PRICE USD  ROLES  GPU",
        "kafka-1        0.5  kafka  -",
        "v               12  -      -",
    ]


def test_table_of_nothing_has_only_its_heading() -> None:
    assert text_table([], ["name", "state"]) == ["NAME  STATE"]
    assert text_table([]) == [""]


def test_secrets_of_an_environment_are_hidden_and_file_names_are_not() -> None:
    environment = [
        "MONGO_PASSWORD=hunter2",
        "MONGO_PASSWORD_FILE=/run/secrets/app_password",
        "API_KEY=abc",
        "MONGO_URL=mongodb://processor:hunter2@mongo:27017/gpuops",
        "KAFKA_BOOTSTRAP=kafka:9092",
        "KEYBOARD=us",
        "EMPTY_TOKEN=",
    ]
    assert mask_environment(environment) == [
        "API_KEY=********",
        "EMPTY_TOKEN=",
        "KAFKA_BOOTSTRAP=kafka:9092",
        "KEYBOARD=us",
        "MONGO_PASSWORD=********",
        "MONGO_PASSWORD_FILE=/run/secrets/app_password",
        "MONGO_URL=mongodb://processor:********@mongo:27017/gpuops",
    ]


def test_only_failed_checks_are_shown_with_all_their_lines_and_their_fix() -> None:
    checks = [
        {"name": "kafka-1: healthy", "ok": True, "detail": "running", "fix": ""},
        {"name": "kafka-1: log", "ok": False, "detail": "first\nsecond", "fix": "Read it."},
    ]
    assert check_lines(checks) == [
        "FAILED kafka-1: log",
        "    found: first",
        "    found: second",
        "    fix:   Read it.",
    ]
    assert check_lines(checks[:1]) == []


def host(*containers: dict[str, str], **other: object) -> dict[str, object]:
    kafka = {
        "Names": "kafka-kafka-1",
        "Labels": "com.docker.compose.project=kafka,com.docker.compose.service=kafka",
        "Status": "Up 3 minutes (healthy)",
        "State": "running",
        "Ports": "172.30.0.3:9092->9092/tcp",
        "Image": "apache/kafka:3.9.1",
    }
    return {
        "inventory_hostname": "kafka-1",
        "ansible_host": "172.30.0.3",
        "fleet_wanted_instance": {"name": "kafka-1", "roles": ["kafka"]},
        "fleet_status": "running",
        "fleet_price_per_hour_usd": 0.0,
        "fleet_expires_at": None,
        "fleet_lifetime_enforcer": "nobody",
        "__report_containers": {
            "stdout_lines": [json.dumps({**kafka, **container}) for container in containers or [{}]]
        },
        "__report_host_versions": {"stdout_lines": ["Debian GNU/Linux 13 (trixie)", "26.1.5"]},
        **other,
    }


def test_host_is_shown_with_its_versions_and_services() -> None:
    shown = report_host(host())
    assert shown["host"] == {
        "name": "kafka-1",
        "roles": ["kafka"],
        "provider": None,
        "status": "running",
        "address": None,
        "gpu": None,
        "gpu_count": 0,
        "price_per_hour_usd": 0.0,
        "expires_at": None,
        "lifetime_enforcer": "nobody",
        "operating_system": "Debian GNU/Linux 13 (trixie)",
        "docker": "26.1.5",
    }
    assert shown["services"] == [
        {
            "service": "kafka",
            "host": "kafka-1",
            "state": "running",
            "health": "healthy",
            "image": "apache/kafka:3.9.1",
            "since": "Up 3 minutes",
            "url": "172.30.0.3:9092",
        }
    ]


def test_host_that_is_not_rented_is_shown_all_the_same() -> None:
    shown = report_host({"inventory_hostname": "kafka-1", "fleet_wanted_instance": {"name": "kafka-1"}})
    assert shown["services"] == []
    assert shown["host"]["status"] == "absent"
    assert shown["host"]["price_per_hour_usd"] is None


@pytest.mark.parametrize(
    ("address", "url"),
    [("172.30.0.2", "http://172.30.0.2:8000"), ("fd00::2", "http://[fd00::2]:8000"), (None, "")],
)
def test_services_that_speak_http_get_an_address_that_can_be_opened(address: str | None, url: str) -> None:
    container = {"Labels": "com.docker.compose.service=vllm", "Ports": "172.30.0.2:8000->8000/tcp"}
    (service,) = report_host(host(container, ansible_host=address))["services"]
    assert service["url"] == url


def test_what_only_its_own_host_can_reach_has_no_address() -> None:
    container = {"Labels": "com.docker.compose.service=vllm", "Ports": "127.0.0.1:8000->8000/tcp"}
    (service,) = report_host(host(container, ansible_host="172.30.0.2"))["services"]
    assert service["url"] == ""


def test_the_gateway_is_a_service_though_no_container() -> None:
    said = ["HAProxy version 3.0.11-1+deb13u2 2026/01/02 - https://haproxy.org/", "active"]
    host = {"inventory_hostname": "vllm-1", "ansible_host": "2001:db8::5", "gateway_https_port": 8443}
    (row,) = report_host({**host, "__report_gateway": {"stdout_lines": said}})["services"]
    assert (row["service"], row["health"], row["image"]) == ("gateway", "healthy", "haproxy 3.0.11")
    assert row["url"] == "https://[2001:db8::5]:8443"
    (row,) = report_host({**host, "__report_gateway": {"stdout_lines": ["failed"]}})["services"]
    assert (row["health"], row["image"]) == ("failed", "")
    assert report_host({**host, "__report_gateway": {"skipped": True}})["services"] == []


def test_service_that_does_not_run_has_its_state_for_health() -> None:
    container = {"State": "exited", "Status": "Exited (137) 2 minutes ago", "Ports": ""}
    (service,) = report_host(host(container))["services"]
    assert (service["health"], service["since"], service["url"]) == ("exited", "Exited (137) 2 minutes ago", "")


def test_checks_get_the_name_of_their_place() -> None:
    checks = [{"name": "healthy", "ok": True, "detail": "running", "fix": ""}]
    assert named_checks(checks, "kafka-1: ") == [{**checks[0], "name": "kafka-1: healthy"}]
    assert checks[0]["name"] == "healthy"


def test_checks_hold_no_terminal_control() -> None:
    check = {
        "name": "log",
        "ok": False,
        "detail": "\x1b[2Kvllm-1  | \x1b[36mINFO\x1b[0m\tone\r\ntwo",
        "fix": "Read it.",
    }
    assert named_checks([check], "")[0]["detail"] == "vllm-1  | INFO\tone\ntwo"


def test_only_what_is_known_to_cost_nothing_is_free() -> None:
    assert paid_providers(["local", "vastai", "runpod", "vastai"]) == ["runpod", "vastai"]
    assert paid_providers(["local", "unheard-of"]) == ["unheard-of"]
    assert paid_providers(["local", "ssh"]) == []  # a machine of one's own is no rental
    assert paid_providers([]) == []


def test_only_what_is_known_to_be_ones_own_is_not_rented() -> None:
    assert renting_providers(["ssh", "vastai", "local", "vastai"]) == ["local", "vastai"]
    assert renting_providers(["ssh", "unheard-of"]) == ["unheard-of"]
    assert renting_providers(["ssh"]) == []
