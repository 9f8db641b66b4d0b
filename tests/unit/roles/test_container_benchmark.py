# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit finds what is planted, and nothing in the containers that our Compose templates describe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.compose_inspect import ENGINE, inspected
from support.container_audit import BENCHMARK, CHECKS, DEVIATIONS, ELSEWHERE, NEEDED_PORTS, audit
from support.role_templates import ROLES, render

ROOT = Path(__file__).parents[3]
TEMPLATES = sorted(ROLES.glob("*/templates/*.compose.yaml.j2"))
DIGEST = f"docker.io/apache/kafka@sha256:{'5' * 64}"
VLLM = {
    "service_image_reference": f"vllm/vllm-openai@sha256:{'6' * 64}",
    "vllm_model": "gpuops/tiny",
    "__vllm_start": {"command": ["vllm", "serve", "gpuops/tiny"], "environment": {"HOME": "/cache"}},
    "__vllm_stop_timeout_seconds": 70,
}
PEERS = {"service_extra_hosts": {"kafka-1.acme-llm.internal": "203.0.113.7"}}
# The forms of a template that differ in what the container may do.
FORMS: dict[str, list[dict[str, Any]]] = {
    "mongodb": [{"mongodb_engine": "mongodb"}, {"mongodb_engine": "ferretdb"}],
    "producer": [{}, {"producer_gpu_devices": ["nvidia.com/gpu=0"]}, PEERS],
    "processor": [{}, PEERS],
    "kafka": [{}, PEERS],
    "vllm": [
        VLLM | {"vllm_gpu": True, "vllm_hub_token": "planted"},
        VLLM | {"vllm_gpu": False, "vllm_model_source": "directory", "vllm_model_directory": "/srv/models/tiny"},
        VLLM | {"vllm_gpu": False, "vllm_model_source": "generated"},
    ],
}


def rendered(template: Path, **planted: Any) -> dict[str, Any]:
    text = render(template, **{"service_image_reference": DIGEST, "service_extra_hosts": {}, **planted})
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name.partition(".")[0])
def test_what_our_templates_describe_passes(template: Path) -> None:
    project = template.name.partition(".")[0]
    for form in FORMS.get(project, [{}]):
        compose = rendered(template, **form)
        for name in compose["services"]:
            found = audit(inspected(project, name, compose), ENGINE, needed_ports=NEEDED_PORTS[project])
            assert found == [], form


@pytest.mark.parametrize("project", ["kafka", "processor", "producer"])
def test_peers_that_no_name_server_knows_are_named_in_who_asks_them(project: str) -> None:
    template = ROLES / project / "templates" / f"{project}.compose.yaml.j2"
    assert rendered(template, **PEERS)["services"][project]["extra_hosts"] == PEERS["service_extra_hosts"]
    assert "extra_hosts" not in rendered(template)["services"][project]


@pytest.fixture
def container() -> dict[str, Any]:
    """A container in which nothing is wrong."""
    compose = rendered(ROLES / "kafka" / "templates" / "kafka.compose.yaml.j2")
    return inspected("kafka", "kafka", compose)


# Check → what is changed in `docker inspect`, or in what the engine says, so that it is violated.
VIOLATIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("4.1", "Config", {"User": ""}),
    ("4.1", "Config", {"User": "0:1000"}),
    ("4.1", "Config", {"User": "root"}),
    ("4.6", "Config", {"Healthcheck": None}),
    ("4.6", "Config", {"Healthcheck": {"Test": ["NONE"]}}),
    ("5.1", "engine", {"Swarm": {"LocalNodeState": "active"}}),
    ("5.4", "HostConfig", {"CapDrop": None}),
    ("5.4", "HostConfig", {"CapAdd": ["NET_RAW"]}),
    ("5.5", "HostConfig", {"Privileged": True}),
    ("5.8", "HostConfig", {"PortBindings": {"9092/tcp": [{"HostIp": "192.0.2.7", "HostPort": "992"}]}}),
    ("5.9", "HostConfig", {"PortBindings": {"5005/tcp": [{"HostIp": "192.0.2.7", "HostPort": "5005"}]}}),
    ("5.9", "HostConfig", {"PublishAllPorts": True}),
    ("5.10", "HostConfig", {"NetworkMode": "host"}),
    ("5.11", "HostConfig", {"Memory": 0}),
    ("5.11", "HostConfig", {"MemorySwap": -1}),
    ("5.12", "HostConfig", {"CpuShares": 0}),
    ("5.12", "HostConfig", {"CpuShares": 1024}),
    ("5.13", "HostConfig", {"ReadonlyRootfs": False}),
    ("5.14", "HostConfig", {"PortBindings": {"9092/tcp": [{"HostIp": "", "HostPort": "9092"}]}}),
    ("5.14", "HostConfig", {"PortBindings": {"9092/tcp": [{"HostIp": "::", "HostPort": "9092"}]}}),
    ("5.15", "HostConfig", {"RestartPolicy": {"Name": "always"}}),
    ("5.15", "HostConfig", {"RestartPolicy": {"Name": "unless-stopped"}}),
    ("5.16", "HostConfig", {"PidMode": "host"}),
    ("5.17", "HostConfig", {"IpcMode": "host"}),
    ("5.18", "HostConfig", {"Devices": [{"PathOnHost": "/dev/nvidia0"}]}),
    ("5.18", "HostConfig", {"DeviceCgroupRules": ["c 195:* rwm"]}),
    ("5.18", "HostConfig", {"DeviceRequests": [{"Driver": "nvidia"}]}),
    ("5.19", "HostConfig", {"Ulimits": None}),
    ("5.19", "HostConfig", {"Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": -1}]}),
    ("5.21", "HostConfig", {"UTSMode": "host"}),
    ("5.22", "HostConfig", {"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}),
    ("5.22", "engine", {"SecurityOptions": ["name=seccomp,profile=unconfined"]}),
    ("5.22", "engine", {"SecurityOptions": None}),
    ("5.25", "HostConfig", {"CgroupParent": "/system.slice"}),
    ("5.26", "HostConfig", {"SecurityOpt": ["no-new-privileges:false"]}),
    ("5.27", "State", {"Health": None}),
    ("5.27", "State", {"Health": {"Status": "unhealthy"}}),
    ("5.28", "Config", {"Image": "apache/kafka"}),
    ("5.28", "Config", {"Image": "apache/kafka:latest"}),
    ("5.28", "Config", {"Image": "registry.example:5000/apache/kafka:3.9"}),
    ("5.29", "HostConfig", {"PidsLimit": None}),
    ("5.29", "HostConfig", {"PidsLimit": -1}),
    ("5.30", "HostConfig", {"NetworkMode": "default"}),
    ("5.30", "NetworkSettings", {"Networks": {"bridge": {}}}),
    ("5.31", "HostConfig", {"UsernsMode": "host"}),
]
MOUNTED: list[tuple[list[str], dict[str, str]]] = [
    (["5.6"], {"Source": "/"}),
    (["5.6"], {"Source": "/etc"}),
    (["5.6"], {"Source": "/proc/sys"}),
    (["5.6"], {"Source": "/var"}),
    (["5.20"], {"Source": "/srv/models", "Propagation": "rshared"}),
    (["5.6", "5.32"], {"Source": "/var/run/docker.sock", "Destination": "/docker.sock"}),
    (["5.32"], {"Source": "/srv/engine", "Destination": "/run/docker.sock"}),
]


def numbers(found: list[str]) -> list[str]:
    return [line.split()[0] for line in found]


@pytest.mark.parametrize(("check", "part", "change"), VIOLATIONS)
def test_each_violation_is_found(container: dict[str, Any], check: str, part: str, change: dict[str, Any]) -> None:
    seen: dict[str, Any] = {**container, "engine": ENGINE}
    seen[part] = seen[part] | change
    found = audit(seen, seen["engine"], needed_ports={9092})
    assert numbers(found) == [check]
    assert found[0].startswith(f"{check} kafka-kafka-1: ")


@pytest.mark.parametrize(("checks", "mount"), MOUNTED)
def test_each_bad_mount_is_found(container: dict[str, Any], checks: list[str], mount: dict[str, str]) -> None:
    container["Mounts"].append({"Type": "bind", "Destination": "/data", "Propagation": "rprivate"} | mount)
    assert numbers(audit(container, ENGINE, needed_ports={9092})) == checks


def test_an_ssh_server_is_found(container: dict[str, Any]) -> None:
    assert audit(container, ENGINE, ["java", "ssh-agent"], {9092}) == []
    assert numbers(audit(container, ENGINE, ["java", "sshd-session"], {9092})) == ["5.7"]


def test_a_volume_of_the_engine_is_no_mount_of_the_host(container: dict[str, Any]) -> None:
    source = "/var/lib/docker/volumes/mongodb_mongo_data/_data"
    container["Mounts"].append({"Type": "volume", "Source": source, "Destination": "/data", "Propagation": ""})
    assert audit(container, ENGINE, needed_ports={9092}) == []


@pytest.mark.parametrize(
    ("check", "has", "confined", "loose"),
    [
        ("5.2", "name=apparmor", {"AppArmorProfile": "docker-default"}, {"AppArmorProfile": "unconfined"}),
        ("5.2", "name=apparmor", {"AppArmorProfile": "docker-default"}, {"AppArmorProfile": ""}),
        ("5.3", "name=selinux", {"ProcessLabel": "system_u:system_r:container_t:s0:c1,c2"}, {"ProcessLabel": ""}),
    ],
)
def test_confinement_is_wanted_where_the_host_has_it(
    container: dict[str, Any], check: str, has: str, confined: dict[str, str], loose: dict[str, str]
) -> None:
    engine = ENGINE | {"SecurityOptions": [*ENGINE["SecurityOptions"], has]}
    assert audit(container | confined, engine, needed_ports={9092}) == []
    assert numbers(audit(container | loose, engine, needed_ports={9092})) == [check]
    assert audit(container | loose, ENGINE, needed_ports={9092}) == []


def test_the_whole_section_is_accounted_for() -> None:
    assert set(CHECKS) | set(ELSEWHERE) == BENCHMARK
    assert set(CHECKS) & set(ELSEWHERE) == set()
    assert set(DEVIATIONS) == {"5.15"}
    planted = {check for check, _part, _change in VIOLATIONS} | {
        check for checks, _mount in MOUNTED for check in checks
    }
    assert planted | {"5.2", "5.3", "5.7"} == set(CHECKS)


def test_a_new_key_in_a_compose_file_has_to_be_thought_about() -> None:
    compose = {"services": {"kafka": {"image": DIGEST, "sysctls": {"net.core.somaxconn": 1}}}}
    with pytest.raises(ValueError, match="sysctls"):
        inspected("kafka", "kafka", compose)


# 5.23 and 5.24, once a list of arguments reads like a command line.
AS_ROOT = re.compile(r"\bdocker (?:[^#;|&]{0,80} )?exec [^#;|&]{0,100}?(?:--privileged|(?:--user|-u)[ =](?:root|0)\b)")


def runs_as_root(text: str) -> bool:
    flat = re.sub(r"[\"',\[\]]|^\s*- ", " ", text, flags=re.MULTILINE)
    return bool(AS_ROOT.search(re.sub(r"\s+", " ", flat)))


@pytest.mark.parametrize(
    "text",
    [
        "docker exec --privileged kafka sh",
        "docker exec -it -u root kafka sh",
        "docker compose --project-name kafka exec --user 0 kafka sh",
        "argv:\n  - docker\n  - exec\n  - --user=root\n  - kafka",
        '["docker", "exec", "--user", "root", "kafka"]',
    ],
)
def test_a_command_as_root_in_a_container_is_found(text: str) -> None:
    assert runs_as_root(text)
    assert not runs_as_root(text.replace("root", "1000").replace("user 0", "user 1000").replace("--privileged", ""))


def test_no_shipped_text_runs_a_command_as_root_in_a_container() -> None:
    places = ["roles", "playbooks", "plugins", "scripts", "docs", "examples", "*.md", "Makefile"]
    listed = subprocess.run(["git", "ls-files", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    texts = {name: (ROOT / name).read_text(encoding="utf-8", errors="replace") for name in listed.stdout.split()}
    assert len(texts) > 100
    assert [name for name, text in texts.items() if runs_as_root(text)] == []
