# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.container_checks import container_checks

DECLARED: dict[str, Any] = {
    "services": {
        "kafka": {
            "user": "1000:1000",
            "cap_drop": ["ALL"],
            "read_only": True,
            "mem_limit": "1342177280",
            "pids_limit": 512,
        }
    }
}
CONTAINER: dict[str, Any] = {
    "State": {"Status": "running", "Health": {"Status": "healthy"}},
    "Config": {
        "User": "1000:1000",
        "Labels": {"com.docker.compose.service": "kafka"},
        "Env": ["PATH=/usr/bin", "PASSWORD_FILE=/run/secrets/password"],
    },
    "HostConfig": {
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Memory": 1342177280,
        "PidsLimit": 512,
        "NetworkMode": "kafka_default",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    },
}


def failing(container: dict[str, Any], declared: dict[str, Any] | None = None) -> list[str]:
    return [check["name"] for check in container_checks([container], declared or DECLARED, "kafka") if not check["ok"]]


def test_a_container_as_declared_passes_every_check() -> None:
    checks = container_checks([CONTAINER], DECLARED, "kafka")
    assert [check for check in checks if not check["ok"]] == []
    assert all(check["fix"] == "" and check["detail"] for check in checks)


@pytest.mark.parametrize(
    ("part", "change", "broken"),
    [
        ("State", {"Status": "exited"}, "healthy"),
        ("State", {"Health": {"Status": "starting"}}, "healthy"),
        ("State", {"Health": None}, "healthy"),
        ("Config", {"User": ""}, "runs as the declared user, not as root"),
        ("Config", {"User": "1001"}, "runs as the declared user, not as root"),
        ("Config", {"Env": ["PASSWORD=hunter2"]}, "environment holds no secret"),
        ("HostConfig", {"CapDrop": []}, "capabilities as declared, all others dropped"),
        ("HostConfig", {"CapAdd": ["CAP_CHOWN"]}, "capabilities as declared, all others dropped"),
        ("HostConfig", {"SecurityOpt": None}, "no new privileges, not privileged, no namespace of the host"),
        ("HostConfig", {"Privileged": True}, "no new privileges, not privileged, no namespace of the host"),
        ("HostConfig", {"IpcMode": "host"}, "no new privileges, not privileged, no namespace of the host"),
        ("HostConfig", {"ReadonlyRootfs": False}, "root file system as declared"),
        ("HostConfig", {"Memory": 0}, "memory limit as declared"),
        ("HostConfig", {"PidsLimit": None}, "process limit as declared"),
        ("HostConfig", {"LogConfig": {"Type": "json-file", "Config": {}}}, "logs are rotated"),
        ("HostConfig", {"RestartPolicy": {"Name": "unless-stopped"}}, "restarts belong to systemd"),
    ],
)
def test_each_property_has_its_check(part: str, change: dict[str, Any], broken: str) -> None:
    container = copy.deepcopy(CONTAINER)
    container[part].update(change)
    assert failing(container) == [broken]


def test_a_check_that_fails_says_what_to_do() -> None:
    container = copy.deepcopy(CONTAINER)
    container["HostConfig"]["Memory"] = 0
    (check,) = [check for check in container_checks([container], DECLARED, "kafka") if not check["ok"]]
    assert check["detail"] == "0 MiB, declared 1280 MiB"
    assert "gpuops.fleet.deploy" in check["fix"]


def test_a_secret_in_the_environment_is_not_repeated_in_the_verdict() -> None:
    container = copy.deepcopy(CONTAINER)
    container["Config"]["Env"] = ["PASSWORD=hunter2"]
    assert "hunter2" not in str(container_checks([container], DECLARED, "kafka"))


def test_added_capabilities_are_right_when_declared() -> None:
    container = copy.deepcopy(CONTAINER)
    container["HostConfig"]["CapAdd"] = ["CAP_CHOWN"]
    declared = copy.deepcopy(DECLARED)
    declared["services"]["kafka"]["cap_add"] = ["CHOWN"]
    assert failing(container, declared) == []


def test_memory_is_compared_in_any_spelling() -> None:
    declared = copy.deepcopy(DECLARED)
    declared["services"]["kafka"]["mem_limit"] = "1280m"
    assert failing(CONTAINER, declared) == []


def test_no_container_and_no_compose_file_are_one_failing_check_each() -> None:
    (missing,) = container_checks([], DECLARED, "kafka")
    assert not missing["ok"]
    assert "0 containers" in missing["detail"]
    (undeclared,) = container_checks([CONTAINER], {}, "kafka")
    assert not undeclared["ok"]
    assert "/opt/kafka/compose.yaml" in undeclared["detail"]


def test_two_containers_of_one_service_are_wrong() -> None:
    (check,) = container_checks([CONTAINER, CONTAINER], DECLARED, "kafka")
    assert "2 containers" in check["detail"]
