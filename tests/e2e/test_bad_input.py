# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input is refused with one clear sentence, before anything was made; bad messages don't stop the processor."""

from __future__ import annotations

import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from demo import LOAD, Fleet, Run, balance, http, things_of

INSTANCE = "  - {name: one-1, roles: [kafka], providers: [local]}\n"
GOOD = f"plugin: gpuops.fleet.fleet\ndeployment_id: e2e-bad\ninstances:\n{INSTANCE}"

# What is wrong → the file, and words that its message must have.
BAD_FLEETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no deployment id": (GOOD.replace("deployment_id: e2e-bad\n", ""), ("deployment_id",)),
    "generic deployment id": (GOOD.replace("e2e-bad", "test"), ("deployment_id", "test")),
    "deployment id in capitals": (GOOD.replace("e2e-bad", "E2E"), ("deployment_id", "line 2")),
    "unknown option": (GOOD.replace("roles:", "rols:"), ("rols", "roles", "line 4")),
    "unknown setting": (GOOD + "instanes: []\n", ("instanes", "instances")),
    "unknown provider": (GOOD.replace("[local]", "[locl]"), ("locl", "local", "line 4")),
    "unknown role": (GOOD.replace("[kafka]", "[kafak]"), ("kafak", "kafka", "line 4")),
    "unknown gpu": (GOOD.replace("roles:", "gpu: A9000, roles:"), ("A9000", "line 4")),
    "bad port": (GOOD.replace("roles:", "ports: [{port: 99999}], roles:"), ("port", "99999", "line 4")),
    "missing key file": (
        GOOD.replace("roles:", "ssh_private_key_file: nowhere/key, roles:"),
        ("nowhere/key", "line 4"),
    ),
    "two of one name": (GOOD + INSTANCE, ("one-1", "line 5")),
    "not a fleet": ("- just\n- a list\n", ("fleet",)),
    "not YAML": (GOOD + "  - {name: [\n", ("line",)),
}


@pytest.fixture(scope="module")
def refused_fleets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """What provision.yml said to each of them."""
    work = tmp_path_factory.mktemp("bad-fleets")

    def provision(number: int, text: str) -> Run:
        file = work / str(number) / "fleet.yml"
        file.parent.mkdir()
        file.write_text(text)
        return Fleet(file).playbook("provision")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = [text for text, _words in BAD_FLEETS.values()]
        return dict(zip(BAD_FLEETS, pool.map(provision, range(len(texts)), texts), strict=True))


@pytest.mark.parametrize("what", BAD_FLEETS)
def test_bad_fleet_file_is_refused_before_anything_is_rented(what: str, refused_fleets: dict[str, Run]) -> None:
    run = refused_fleets[what]
    assert run.status != 0
    assert [word for word in BAD_FLEETS[what][1] if word not in run.words] == [], run.output
    assert "Traceback" not in run.output
    assert things_of("e2e-bad") == ""


# Role → bad variables of its host, and words that its one sentence must have.
BAD_VARIABLES: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "kafka": (
        {
            "kafka_port": 99999,
            # Less than the machine has on which this host is a container, more than the host may use.
            "kafka_memory_mib": 4200,
            "kafka_topics": [{"name": "a/b", "partitions": 1, "retention_hours": 1}],
        },
        ("kafka_port", "99999", "65535", "kafka_memory_mib is 4200, but this host has 4096 MiB", "a/b"),
    ),
    "mongodb": ({"mongodb_ttl_days": 7}, ("mongodb_ttl_days", "FerretDB")),
    "vllm": ({"vllm_port": 0}, ("vllm_port is 0",)),
}


def test_bad_variables_are_refused_and_the_services_run_on(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    """Every host has something to say at the same time; an inventory beside the fleet file gives them the variables."""
    services = {role: fleet.service(role) for role in BAD_VARIABLES}
    before = {role: service.container() for role, service in services.items()}
    hosts = {services[role].machine.name: variables for role, (variables, _words) in BAD_VARIABLES.items()}
    inventory = tmp_path / "variables.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    run = fleet.playbook("deploy", "-i", str(inventory), "--limit", ",".join(hosts))
    assert run.status != 0
    words = [word for _variables, words in BAD_VARIABLES.values() for word in words]
    assert [word for word in words if word not in run.words] == [], run.output
    assert "Traceback" not in run.output
    assert {role: service.container() for role, service in services.items()} == before


def test_unknown_option_of_a_module_is_refused(fleet: Fleet) -> None:
    started = fleet.start(
        "ansible", "localhost", "-m", "gpuops.fleet.instance", "-a", "deployment_id=e2e-bad nme=one-1"
    )
    output, _none = started.communicate(timeout=60)
    assert started.returncode != 0
    assert "nme" in output
    assert "Traceback" not in output


def test_a_run_without_a_fleet_file_is_no_success(tmp_path: pathlib.Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("[all]\none ansible_connection=local\n")
    names = ["site", "provision", "deploy", "verify", "report", "destroy", "status", "exec", "plan", "sweep"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(Fleet(inventory).playbook, names)
    assert [name for name, run in zip(names, runs, strict=True) if run.status == 0] == []


@pytest.mark.parametrize("kind", ["not-json", "missing-field", "wrong-type", "rubbish"])
def test_bad_message_becomes_a_dead_letter_and_the_processor_goes_on(fleet: Fleet, kind: str) -> None:
    load = ("--count", "20", "--bad-share", "1", "--bad-kinds", kind)
    verdict = balance(fleet, fleet.service("producer").inside(*LOAD, *load))
    assert verdict["ok"], verdict
    assert verdict["dead_letters"] == 20
    assert http(f"http://{fleet.machine('processor').address}:8080/ready")[0] == 200


def test_dead_letter_is_cut_to_64_kib_and_says_what_it_was(fleet: Fleet) -> None:
    program = """
import hashlib, json, sys, uuid
from confluent_kafka import Consumer, Producer
from gpuops_telemetry.settings import Environment, KafkaSettings
servers = KafkaSettings.from_environment(Environment()).bootstrap_servers
rubbish = uuid.uuid4().bytes * (900_000 // 16)
producer = Producer({"bootstrap.servers": servers})
producer.produce("gpu.metrics.v1", rubbish)
producer.flush(30)
wanted = hashlib.sha256(rubbish).hexdigest()
consumer = Consumer({"bootstrap.servers": servers, "group.id": str(uuid.uuid4()), "auto.offset.reset": "earliest",
                     "enable.auto.commit": False})
consumer.subscribe(["gpu.metrics.v1.dlq"])
for _ in range(600):
    for message in consumer.consume(100, 0.2):
        headers = {name: value.decode() for name, value in message.headers() or []}
        if headers.get("sha256") == wanted:
            print(json.dumps({"kept": len(message.value()), "same": rubbish.startswith(message.value()), **headers}))
            sys.exit()
sys.exit("the dead letter did not arrive")
"""
    letter = json.loads(fleet.service("processor").inside("python", "-", stdin=program).splitlines()[-1])
    assert letter["kept"] == 64 * 1024
    assert letter["same"] is True
    assert letter["size_bytes"] == str(900_000 // 16 * 16)
    assert letter["truncated"] == "true"
    assert letter["reason"]


def test_message_that_is_too_large_is_refused_and_counted(fleet: Fleet) -> None:
    producer = fleet.service("producer")
    load = producer.command(*LOAD, "--count", "5", "--bad-share", "1", "--bad-kinds", "oversized")
    counts = json.loads(producer.machine.run(f"{load} 2>&1 >/dev/null | tail -1"))
    assert counts["refused"] == 5
    program = """
from confluent_kafka import Producer
from gpuops_telemetry.settings import Environment, KafkaSettings
servers = KafkaSettings.from_environment(Environment()).bootstrap_servers
producer = Producer({"bootstrap.servers": servers, "message.max.bytes": 3_000_000})
producer.produce("gpu.metrics.v1", b"x" * 2_000_000, on_delivery=lambda error, message: print(error.name()))
producer.flush(30)
"""
    assert "MSG_SIZE_TOO_LARGE" in producer.inside("python", "-", stdin=program)
