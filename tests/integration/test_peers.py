# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a producer finds its model server: on a host of the fleet, else at a container rental. With real Ansible."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.monitoring_problems import monitoring_problems

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIN = "sha256:" + "a" * 64
RENTAL = {
    "fleet_endpoint_url": "https://203.0.113.20:40000",
    "fleet_own_tls": True,
    "fleet_tls_fingerprint": PIN,
    "fleet_runtime": "container",
}
HOST = {"fleet_peer_name": "vllm-2.acme-llm.internal"}
PODS = {**RENTAL, "fleet_endpoint_url": "https://pod1-8000.proxy.runpod.net", "fleet_tls_fingerprint": None}
NAMES = ("url", "host", "tls_fingerprint", "model", "key")
BEHIND = (
    *("gateway_servers", "gateway_keys", "gateway_given_key", "vllm_listen_address"),
    *("hosts", "container_hosts", "producer_key", "database_password"),
)


def found(
    tmp_path: pathlib.Path, vllm: dict[str, dict[str, Any]], *options: str, **others: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """What the producer would be given; others: the hosts of other roles, which are machines, and their variables."""
    producer = {"producer-1": {"ansible_connection": "local"}}
    machines: dict[str, dict[str, Any]] = {}
    for host, variables in [item for hosts in (producer, *others.values()) for item in hosts.items()]:
        machines[host] = {"fleet_peer_name": f"{host}.acme-llm.internal", **vllm.get(host, {}), **variables}
    ssh = [name for name, variables in vllm.items() if "fleet_peer_name" in variables] + list(machines)
    rented = [name for name in vllm if name not in ssh]
    roles = {"vllm": vllm, "producer": producer, **others}
    inventory = {
        "all": {
            "hosts": {**vllm, **machines},
            "vars": {"vllm_model": "Qwen/Qwen3-8B", "vllm_api_key": "the-given-key-of-rentals"},
            "children": {
                **{role: {"hosts": {name: {} for name in hosts}} for role, hosts in roles.items()},
                "fleet_ssh": {"hosts": {name: {} for name in ssh}},
                "fleet_endpoints": {"hosts": {name: {} for name in rented}},
            },
        }
    }
    play = {
        "hosts": "producer-1",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks" / "vars" / f"{name}.yml") for name in ("peers", "monitoring")],
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "producer_vllm_url": "{{ __peers_vllm_url }}",
            "__deploy_model_server_key": {"content": "" if "--check" in options else "dGhlLWtleS1vZi10aGUtaG9zdA=="},
        },
        "tasks": [
            {
                "when": "seen_default_ipv4 is defined",
                "ansible.builtin.set_fact": {
                    "default_ipv4": "{{ seen_default_ipv4 }}",
                    "all_ipv4_addresses": "{{ seen_addresses | default([seen_default_ipv4.address]) }}",
                    "cacheable": True,
                },
            },
            {
                "check_mode": False,
                "ansible.builtin.copy": {
                    "dest": str(tmp_path / "found.json"),
                    "content": "{{ {"
                    + ", ".join(f"'{name}': __peers_vllm_{name}" for name in NAMES)
                    + "".join(f", '{name}': __peers_{name}" for name in BEHIND)
                    + ", 'targets': __watch_targets, 'relays': __watch_relays} | to_json }}",
                },
            },
        ],
    }
    (tmp_path / "key").write_text("the-key-in-a-file\n")
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).parent / "ansible-playbook"), "-i", "hosts.yml", "play.yml", *options],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: str(value).strip() for name, value in json.loads((tmp_path / "found.json").read_text()).items()}


@pytest.mark.parametrize(
    ("vllm", "expected"),
    [
        (
            {"vllm-1": RENTAL},
            ("https://203.0.113.20:40000", "vllm-1", PIN, "Qwen/Qwen3-8B", "the-given-key-of-rentals"),
        ),
        (
            {"vllm-1": PODS},
            ("https://pod1-8000.proxy.runpod.net", "vllm-1", "", "Qwen/Qwen3-8B", "the-given-key-of-rentals"),
        ),
        (
            {"vllm-1": {**PODS, "vllm_api_key": "", "vllm_api_key_file": "key"}},
            ("https://pod1-8000.proxy.runpod.net", "vllm-1", "", "Qwen/Qwen3-8B", "the-key-in-a-file"),
        ),
        # A host of one's own comes first, and keeps its key itself.
        (
            {"vllm-1": RENTAL, "vllm-2": HOST},
            ("http://vllm-2.acme-llm.internal:8000", "vllm-2", "", "Qwen/Qwen3-8B", "the-key-of-the-host"),
        ),
        ({}, ("", "", "", "", "")),
    ],
)
def test_a_producer_finds_its_model_server(
    tmp_path: pathlib.Path, vllm: dict[str, dict[str, Any]], expected: tuple[str, ...]
) -> None:
    assert tuple(found(tmp_path, vllm).values())[: len(NAMES)] == expected


def test_where_there_is_a_gateway_producers_ask_it_and_it_asks_the_servers(tmp_path: pathlib.Path) -> None:
    vllm = {
        f"vllm-{number}": {"fleet_peer_name": f"vllm-{number}.acme-llm.internal", "vllm_port": 8000 + number}
        for number in (1, 2)
    }
    told = found(tmp_path, vllm, gateway={"gw-1": {"gateway_https_port": 8443}})
    assert (told["url"], told["host"]) == ("https://gw-1.acme-llm.internal:8443", "vllm-1")
    assert told["gateway_servers"] == str(
        [
            {"name": f"vllm-{number}", "address": f"vllm-{number}.acme-llm.internal", "port": 8000 + number}
            for number in (1, 2)
        ]
    )
    assert "'name': 'default'" in told["gateway_keys"]
    assert told["gateway_keys"].count("unlimited") == 2
    assert told["gateway_given_key"] == ""


def test_beside_its_only_gateway_a_model_server_listens_on_loopback_alone(tmp_path: pathlib.Path) -> None:
    told = found(tmp_path, {"vllm-1": {"fleet_peer_name": "vllm-1.acme-llm.internal"}}, gateway={"vllm-1": {}})
    assert told["gateway_servers"] == str([{"name": "vllm-1", "address": "127.0.0.1", "port": 8000}])
    assert told["url"] == "https://vllm-1.acme-llm.internal:443"


@pytest.mark.parametrize(("listens", "asked"), [("", "vllm-1.acme-llm.internal"), ("10.0.0.5", "10.0.0.5")])
def test_the_gateway_asks_where_the_model_server_was_told_to_listen(
    tmp_path: pathlib.Path, listens: str, asked: str
) -> None:
    server = {"fleet_peer_name": "vllm-1.acme-llm.internal", "vllm_listen_address": listens}
    told = found(tmp_path, {"vllm-1": server}, gateway={"vllm-1": {}})
    assert told["gateway_servers"] == str([{"name": "vllm-1", "address": asked, "port": 8000}])


def test_what_is_watched_is_asked_at_the_port_that_it_has(tmp_path: pathlib.Path) -> None:
    told = found(
        tmp_path,
        {"vllm-2": {**HOST, "monitoring_exporter_port": 9200}},
        processor={"processor-1": {"processor_port": 8081}},
    )
    assert json.loads(told["targets"].replace("'", '"')) == [
        {"host": "processor-1", "address": "processor-1.acme-llm.internal", "port": 9100, "job": "node"},
        {"host": "producer-1", "address": "producer-1.acme-llm.internal", "port": 9100, "job": "node"},
        {"host": "vllm-2", "address": "vllm-2.acme-llm.internal", "port": 9200, "job": "node"},
        {"host": "processor-1", "address": "processor-1.acme-llm.internal", "port": 8081, "job": "processor"},
    ]


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        (None, "127.0.0.1"),
        ("*", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104 (not bound)
        ("[::]", "[::1]"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_a_gateway_tells_its_own_host_how_it_is_wherever_it_listens(
    tmp_path: pathlib.Path, listens: str | None, asked: str
) -> None:
    listening = {} if listens is None else {"gateway_metrics_address": listens}
    told = found(tmp_path, {}, gateway={"producer-1": {"ansible_connection": "local", **listening}})
    relays = ast.literal_eval(told["relays"])
    assert relays == [{"name": "gateway", "url": f"http://{asked}:8404/metrics", "prefix": "haproxy_"}]
    assert monitoring_problems({"exporter_relays": relays}) == [], "what the role that relays them would refuse"


def test_a_producer_that_is_sent_elsewhere_is_not_held_to_the_certificate_of_the_gateway(
    tmp_path: pathlib.Path,
) -> None:
    certificate = {"producer_vllm_url": "https://models.example.org", "fleet_tls_fingerprint": PIN}
    told = found(tmp_path, {"vllm-1": RENTAL}, producer={"producer-1": {"ansible_connection": "local", **certificate}})
    assert told["tls_fingerprint"] == ""


def test_a_key_that_the_user_gave_is_the_producers(tmp_path: pathlib.Path) -> None:
    given = [{"name": "producer", "key": "the-key-that-was-given"}, {"name": "partner"}]
    told = found(tmp_path, {"vllm-2": HOST}, gateway={"gw-1": {"gateway_api_keys": given}})
    assert told["gateway_given_key"] == "the-key-that-was-given"
    assert [told["gateway_keys"].count(f"'{name}'") for name in ("producer", "partner", "default", "verify")] == [1] * 4


@pytest.mark.parametrize("variables", [{}, PODS], ids=["hosts", "rentals"])
def test_of_several_it_is_the_first_in_each_run(tmp_path: pathlib.Path, variables: dict[str, Any]) -> None:
    """Else a run in which nothing has to be changed would send it to another one."""
    names = [f"vllm-{number}" for number in range(1, 30)]
    several = {name: variables or {"fleet_peer_name": f"{name}.acme-llm.internal"} for name in names}
    assert found(tmp_path, several)["host"] == "vllm-1"


def test_in_check_mode_a_new_producer_needs_no_key_that_only_a_run_makes(tmp_path: pathlib.Path) -> None:
    fleet: dict[str, Any] = {"vllm": {"vllm-2": HOST}, "gateway": {"gw-1": {}}}
    told = found(tmp_path, fleet["vllm"], "--check", gateway=fleet["gateway"])
    assert {told["producer_key"], told["database_password"]} == {"made-by-a-run-that-is-no-check"}
    told = found(tmp_path, fleet["vllm"], gateway=fleet["gateway"])
    assert (told["producer_key"], told["database_password"]) == ("the-key-of-the-host", "")


PLACES = {
    "processor-1": {"ansible_host": "203.0.113.7"},
    "kafka-1": {"ansible_host": "2001:db8::7"},
    "mongo-1": {"ansible_host": "db.example.org"},  # a hosts file takes no names as addresses
}


@pytest.mark.parametrize(
    ("producer", "written", "in_containers"),
    [
        ({"fleet_provider": "gcp"}, True, None),
        ({}, True, None),  # a machine of one's own
        ({"fleet_provider": "local"}, False, None),
        ({"fleet_provider": "gcp", "fleet_hosts_block": False}, False, None),
        ({"fleet_provider": "gcp", "service_extra_hosts": {"broker": "10.0.0.1"}}, True, {"broker": "10.0.0.1"}),
    ],
)
def test_peers_are_named_where_no_private_zone_knows_them(
    tmp_path: pathlib.Path, producer: dict[str, Any], written: bool, in_containers: dict[str, str] | None
) -> None:
    me = {"producer-1": {"ansible_connection": "local", "ansible_host": "203.0.113.8", **producer}}
    told = found(tmp_path, {}, producer=me, **{name.partition("-")[0]: {name: PLACES[name]} for name in PLACES})
    names = {
        "kafka-1.acme-llm.internal": "2001:db8::7",
        "processor-1.acme-llm.internal": "203.0.113.7",
        "producer-1.acme-llm.internal": "203.0.113.8",
    }
    expected = names if written else {}
    assert ast.literal_eval(told["hosts"]) == expected
    assert ast.literal_eval(told["container_hosts"]) == (expected if in_containers is None else in_containers)


def test_a_machine_behind_its_clouds_translation_finds_itself_by_its_own_address(tmp_path: pathlib.Path) -> None:
    """By the address that others reach it by, it would come to its own firewall as a stranger, or nowhere."""
    seen = {"seen_default_ipv4": {"address": "10.128.0.5"}}
    place = {"ansible_connection": "local", "ansible_host": "203.0.113.8", "fleet_provider": "gcp"}
    told = found(
        tmp_path, {}, producer={"producer-1": {**place, **seen}}, kafka={"kafka-1": {"ansible_host": "203.0.113.7"}}
    )
    names = {"kafka-1.acme-llm.internal": "203.0.113.7", "producer-1.acme-llm.internal": "10.128.0.5"}
    assert ast.literal_eval(told["hosts"]) == ast.literal_eval(told["container_hosts"]) == names


def test_a_machine_that_has_the_address_by_which_it_is_reached_keeps_it(tmp_path: pathlib.Path) -> None:
    """Its default route may lead through another interface, where nothing listens."""
    seen = {"seen_default_ipv4": {"address": "192.0.2.5"}, "seen_addresses": ["192.0.2.5", "10.0.0.8"]}
    place = {"ansible_connection": "local", "ansible_host": "10.0.0.8"}
    told = found(tmp_path, {}, producer={"producer-1": {**place, **seen}})
    assert ast.literal_eval(told["hosts"]) == {"producer-1.acme-llm.internal": "10.0.0.8"}
