# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fleet survives without Ansible (reboots, another address, kills, a wrong owner, leftovers); renting once."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from demo import (
    LOAD,
    SCALE,
    SERVICES,
    Fleet,
    Machine,
    balance,
    eventually,
    http,
    reached,
    things_of,
    wait_until_healthy,
)

KILLS = 10 * SCALE


@pytest.fixture(autouse=True)
def _whole_fleet(request: pytest.FixtureRequest) -> None:
    """Begin with a healthy fleet, so that a test that failed does not fail the next one."""
    if "fleet" in request.fixturenames:
        wait_until_healthy(request.getfixturevalue("fleet"))


def events_flow(fleet: Fleet) -> None:
    """Events that are acknowledged now become documents."""
    ledger = eventually(lambda: fleet.service("producer").inside(*LOAD, "--count", "200"), 180, "acknowledged events")
    # A consumer that gets nothing any more ends itself after a minute, and another one begins.
    verdict = balance(fleet, ledger, wait_seconds=240)
    assert verdict["ok"], verdict


def _has_rebooted(machine: Machine, before: str) -> bool:
    return machine.boot_id() != before


def reboot(machines: list[Machine]) -> None:
    """Reboot them at the same time and wait until each has booted again."""
    before = {machine.name: machine.boot_id() for machine in machines}
    for machine in machines:
        machine.reboot()
    for machine in machines:
        eventually(functools.partial(_has_rebooted, machine, before[machine.name]), 120, f"reboot of {machine.name}")


# Kafka's host is rebooted by the test of the data directory's owner, vllm's with all others.
@pytest.mark.parametrize("role", ["mongodb", "processor", "producer"])
def test_reboot_of_one_host(fleet: Fleet, role: str, record_property: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    reboot([fleet.machine(role)])
    wait_until_healthy(fleet, role)
    record_property("seconds_until_healthy", round(time.monotonic() - began, 1))
    events_flow(fleet)


def test_reboot_of_all_hosts_at_once(fleet: Fleet) -> None:
    """No unit waits for another host, so nobody waits for ever. Here vLLM's host is rebooted, too."""
    reboot([fleet.machine(role) for role in SERVICES])
    wait_until_healthy(fleet)
    events_flow(fleet)
    for role, port in (("processor", 9100), ("kafka", 9092), ("mongodb", 27017)):
        address = fleet.machine(role).address
        assert reached(fleet, address, port, role), "on its own host"
        assert not reached(fleet, address, port), "the firewall is there again, before Docker is"


def test_hosts_come_back_with_other_addresses(fleet: Fleet, record_property: Callable[[str, object], None]) -> None:
    """Broker, database and processor move at the same time, find each other and are let in again without Ansible."""
    roles = ("kafka", "mongodb", "processor")
    before = {role: fleet.machine(role) for role in roles}
    names = ",".join(machine.name for machine in before.values())
    for state in ("stopped", "started"):
        run = fleet.playbook("provision", "--limit", names, "-e", f"fleet_instance_state={state}")
        assert run.status == 0, run.output[-2000:]
    began = time.monotonic()
    for role in roles:
        after = fleet.machine(role)
        assert after.address != before[role].address
        assert after.variables["fleet_host_key"] == before[role].variables["fleet_host_key"]
    wait_until_healthy(fleet, *roles)
    for role in roles:
        after = fleet.machine(role)
        assert after.address in after.run(f"cat /opt/{role}/address.env")
    events_flow(fleet)
    record_property("seconds_until_events_flow", round(time.monotonic() - began, 1))


def await_answer_through(gateway: Machine, seconds: float) -> None:
    """Wait until a client with a key is served."""
    key, certificate = (gateway.run(f"cat /opt/gateway/{name}") for name in ("secrets/keys/verify", "certificate.pem"))
    url = f"https://{gateway.address}/v1/models"
    eventually(lambda: http(url, None, key.strip(), certificate)[0] == 200, seconds, "an answer through the gateway")


def test_a_killed_model_server_comes_back_by_itself(fleet: Fleet) -> None:
    """Its clients see that through the gateway, which takes it in again."""
    killed, gateway = fleet.service("vllm"), fleet.machine("gateway")
    before = killed.container()
    eventually(killed.kill_9, 60, "the kill of the model server")
    eventually(lambda: killed.container() not in ("", before), 120, "its next container")
    wait_until_healthy(fleet, "vllm")
    await_answer_through(gateway, 90)


def test_a_killed_gateway_comes_back_by_itself(fleet: Fleet) -> None:
    """kill -9 of its main process, which has no time to end the one that serves."""
    gateway = fleet.machine("gateway")
    await_answer_through(gateway, 90)

    def main_process() -> int:
        return int(gateway.run("systemctl show --property=MainPID --value gateway.service"))

    before = main_process()
    assert before > 1, "it runs"
    gateway.run(f"kill -9 {before}")
    # 0 while there is none.
    eventually(lambda: main_process() not in (0, before), 120, "the gateway's next main process")
    await_answer_through(gateway, 120)
    # It answers before systemd has written down what it read.
    eventually(lambda: gateway.run("systemctl is-active gateway.service") == "active\n", 120, "an active unit")


def test_ledger_balances_after_ten_kills_of_each_part(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    """kill -9 of broker, database and processor, again and again while events flow."""
    victims = [fleet.service(name) for name in ("kafka", "mongodb", "processor")]
    kills = {victim.name: 0 for victim in victims}
    producer = fleet.service("producer")
    count = 3000 * SCALE
    load = producer.command(
        *(*LOAD, "--count", str(count), "--rate", "25", "--bad-share", "0.05", "--delivery-timeout", "600")
    )
    # Into files: nobody reads a pipe until the kills end, and a full one would hold up the load.
    ledger_file, errors_file = tmp_path / "ledger", tmp_path / "errors"
    with (
        ledger_file.open("w") as ledger_stream,
        errors_file.open("w") as errors_stream,
        subprocess.Popen(
            producer.machine.ssh(load), stdout=ledger_stream, stderr=errors_stream, stdin=subprocess.DEVNULL
        ) as loading,
    ):
        for _round in range(KILLS):
            for victim in victims:
                # One that is between two lives can't be killed: wait for its next.
                eventually(victim.kill_9, 180, f"a kill of {victim.name}")
                kills[victim.name] += 1
            for victim in victims:
                eventually(victim.container, 180, f"the next container of {victim.name}")
            time.sleep(4)
        loading.wait(timeout=900 * SCALE)
    assert kills == dict.fromkeys(kills, KILLS)
    wait_until_healthy(fleet, "kafka", "mongodb", "processor")
    ledger = ledger_file.read_text()
    assert len(ledger.splitlines()) > count / 2, errors_file.read_text()
    verdict = balance(fleet, ledger, wait_seconds=180)
    assert verdict["ok"], verdict
    assert verdict["acknowledged"] == verdict["documents"] + verdict["dead_letters"]


def test_owner_of_a_data_directory_is_mended_at_boot(fleet: Fleet) -> None:
    machine = fleet.machine("kafka")
    owner = machine.run("stat --format=%u:%g /opt/kafka/data").strip()
    machine.run("systemctl stop kafka.service && chown --recursive 0:0 /opt/kafka/data")
    reboot([machine])
    wait_until_healthy(fleet, "kafka")
    assert machine.run("stat --format=%u:%g /opt/kafka/data").strip() == owner != "0:0"
    assert machine.run("find /opt/kafka/data -uid 0 | head -1") == ""
    events_flow(fleet)


def test_failed_leftover_with_the_same_name_is_no_obstacle(fleet: Fleet) -> None:
    machine = fleet.machine("processor")
    image = fleet.service("processor").inspect()["Image"]
    machine.run("systemctl stop processor.service && docker rm --force processor-processor-1 2>/dev/null || true")
    leftover = machine.run(
        "docker create --name processor-processor-1 --label com.docker.compose.project=processor "
        f"--entrypoint /bin/false {image} && docker start processor-processor-1"
    ).split()[0]
    machine.run("systemctl start processor.service")
    wait_until_healthy(fleet, "processor")
    assert fleet.service("processor").container() != leftover


# Renting once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_fleet(tmp_path: pathlib.Path) -> Iterator[Fleet]:
    """A deployment of its own with one machine, and two controllers' homes; destroyed afterwards, with proof."""
    deployment_id = f"e2e-{uuid.uuid4().hex[:8]}"
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    file = tmp_path / "fleet.yml"
    file.write_text(
        "plugin: gpuops.fleet.fleet\n"
        f"deployment_id: {deployment_id}\n"
        "instances:\n"
        f"  - {{name: one-1, providers: [local], ssh_private_key_file: {key}}}\n"
    )
    small = Fleet(
        file, {"GPUFLEET_REPORT_DIRECTORY": str(tmp_path / "report"), "GPUFLEET_HOME": str(tmp_path / "home")}
    )
    yield small
    run = small.playbook("destroy")
    assert run.status == 0, run.output[-3000:]
    assert things_of(deployment_id) == ""


def rentals(fleet: Fleet) -> list[str]:
    """The containers that are rentals of this fleet, by the labels on themselves."""
    deployment_id = fleet.inventory()["_meta"]["hostvars"]["one-1"]["fleet_deployment_id"]
    labels = (f"gpuops.fleet.deployment={deployment_id}", "gpuops.fleet.marker")
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    command = ["docker", "ps", "--all", "--quiet", *filters]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_two_controllers_rent_once(small_fleet: Fleet, tmp_path: pathlib.Path) -> None:
    homes = [str(tmp_path / name) for name in ("first", "second")]
    runs = [small_fleet.start("ansible-playbook", "playbooks/provision.yml", GPUFLEET_HOME=home) for home in homes]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert len(rentals(small_fleet)) == 1


def test_killed_controllers_rent_once(small_fleet: Fleet, tmp_path: pathlib.Path) -> None:
    """SIGKILL at many points of renting, each time by a controller that remembers nothing."""
    for number in range(8 * SCALE):
        run = small_fleet.start(
            "ansible-playbook", "playbooks/provision.yml", GPUFLEET_HOME=str(tmp_path / f"home-{number}")
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(timeout=1.5 + 0.5 * (number % 8))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate(timeout=60)
        assert len(rentals(small_fleet)) <= 1
    last = small_fleet.playbook("provision", GPUFLEET_HOME=str(tmp_path / "last"))
    assert last.status == 0, last.output[-3000:]
    assert len(rentals(small_fleet)) == 1
