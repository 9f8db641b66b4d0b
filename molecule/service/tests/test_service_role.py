"""The service role's promise: systemd owns the project, and it comes back from everything."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import pytest
from support import molecule_hosts

Host = Any

CONTAINER = "tiny-tiny-1"
GIVEN = "planted-secret-7f3a"
# TEST_SCALE 10 (make soak) kills a hundred times.
KILLS = 10 * int(os.environ.get("TEST_SCALE", "1"))


def container(host: Host) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]
    return description


def healthy(host: Host) -> bool:
    state = container(host)["State"]
    return bool(state["Running"] and state["Health"]["Status"] == "healthy")


def wait_healthy(host: Host, timeout_seconds: float = 180) -> None:
    try:
        molecule_hosts.wait_until(lambda: healthy(host), timeout_seconds, "A healthy container")
    except AssertionError:
        print(host.run("journalctl --unit tiny --unit tiny-env-refresh --unit docker --no-pager --lines 80").stdout)
        raise


def answers(host: Host, address: str) -> bool:
    return bool(host.run(f"curl --silent --fail --max-time 3 http://{address}:8000/").rc == 0)


# What stands there -------------------------------------------------------------------------------------------


def test_units_are_enabled_and_run(host: Host) -> None:
    for unit in ("tiny.service", "tiny-env-refresh.service"):
        assert host.service(unit).is_enabled
        assert host.service(unit).is_running


def test_order_of_the_units(host: Host) -> None:
    units = host.check_output("systemctl show --property=Before tiny-env-refresh.service")
    assert "docker.service" in units
    assert "tiny.service" in units
    service = host.check_output("systemctl show --property=Requires,PartOf,Type,Restart,StartLimitIntervalUSec tiny")
    assert "PartOf=docker.service" in service
    assert "tiny-env-refresh.service" in service
    assert "Type=exec" in service
    assert "Restart=always" in service
    assert "StartLimitIntervalUSec=0" in service


@pytest.mark.parametrize("unit", ["tiny.service", "tiny-env-refresh.service"])
def test_sandbox(host: Host, unit: str) -> None:
    score = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -1").split(":")[1].split()[0]
    assert float(score) <= 3.0


def test_container_is_hardened_as_declared(host: Host) -> None:
    settings = container(host)["HostConfig"]
    assert settings["RestartPolicy"]["Name"] == "no", "Docker must not start it at boot, before the refresh"
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert settings["Memory"] == 128 * 1024**2


def test_environment_survives_quoting(host: Host) -> None:
    assert host.check_output(f"docker exec {CONTAINER} printenv GREETING") == 'it\'s $5 "quoted" \\ and = plain'


def test_image_runs_by_digest(host: Host) -> None:
    assert "@sha256:" in container(host)["Config"]["Image"]


def test_file_is_rendered(host: Host) -> None:
    assert "name = tiny" in host.check_output(f"docker exec {CONTAINER} cat /etc/settings.ini")


def test_journal_shows_what_the_container_says(host: Host) -> None:
    """Compose 2.26 puts a terminal's control bytes before each line, which the journal would show as blob data."""
    log = host.check_output("journalctl --no-pager _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID tiny)")
    assert "blob data" not in log
    assert "GET / HTTP" in log


# Secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generated_token", "given_token"])
def test_secret_belongs_to_the_container_alone(host: Host, name: str) -> None:
    file = host.file(f"/opt/tiny/secrets/{name}")
    assert (file.mode, file.uid, file.gid) == (0o400, 1000, 1000)
    assert host.file("/opt/tiny/secrets").mode == 0o711
    assert host.run(f"su -s /bin/sh nobody -c 'cat /opt/tiny/secrets/{name}'").rc != 0
    assert host.check_output(f"docker exec {CONTAINER} cat /run/secrets/{name}") == file.content_string


def test_secrets_have_their_values(host: Host) -> None:
    assert host.file("/opt/tiny/secrets/given_token").content_string == GIVEN
    generated = host.file("/opt/tiny/secrets/generated_token").content_string
    assert len(generated) == 40
    assert generated.isalnum()


def test_secrets_are_nowhere_else(host: Host) -> None:
    generated = host.file("/opt/tiny/secrets/generated_token").content_string
    places = {
        "docker inspect": host.check_output(f"docker inspect {CONTAINER}"),
        "process list": host.check_output("ps axww -o args"),
        "journal": host.check_output("journalctl --no-pager --boot"),
        "files": host.check_output(
            "cat /opt/tiny/.env /opt/tiny/compose.yaml /opt/tiny/service.json /run/gpuops-fleet/tiny/started"
        ),
        "image": host.check_output("docker history --no-trunc $(docker inspect -f '{{.Image}}' tiny-tiny-1)"),
    }
    assert [place for place, text in places.items() if GIVEN in text or generated in text] == []


# What it survives ---------------------------------------------------------------------------------------------


def replaced(host: Host, identity: str) -> bool:
    return bool(container(host)["Id"] != identity)


def test_kill_again_and_again(host: Host) -> None:
    """Docker's own on-failure:5 gives up at the sixth time."""
    for _number in range(KILLS):
        wait_healthy(host)
        question = functools.partial(replaced, host, container(host)["Id"])
        host.check_output(f"kill -9 $(docker inspect -f '{{{{.State.Pid}}}}' {CONTAINER})")
        molecule_hosts.wait_until(question, 120, "A new container")
    wait_healthy(host)


def test_engine_restart(host: Host) -> None:
    wait_healthy(host)
    host.check_output("systemctl restart docker")
    wait_healthy(host)
    assert host.service("tiny").is_running


def test_failed_leftover_with_the_same_name_is_removed(host: Host) -> None:
    image = container(host)["Image"]
    host.check_output(f"systemctl stop tiny; docker rm --force {CONTAINER}")
    host.run(f"docker run --name {CONTAINER} {image} false")
    host.check_output("systemctl start tiny")
    wait_healthy(host)


def test_running_stranger_with_the_same_name_is_an_error_that_says_so(host: Host) -> None:
    image = container(host)["Image"]
    host.check_output(f"systemctl stop tiny; docker rm --force {CONTAINER}")
    stranger = f"docker run --detach --name {CONTAINER} {image} sleep 600"
    # runc sometimes loses its first process on a busy machine ("read init-p: connection reset by peer").
    host.check_output(f"{stranger} || {{ docker rm --force {CONTAINER}; sleep 2; {stranger}; }}")
    try:
        assert host.run("systemctl start tiny").rc != 0
        log = host.check_output("journalctl --unit tiny --no-pager --lines 20")
        assert f"The container {CONTAINER} runs and isn't part of the Compose project tiny" in log
        assert container(host)["State"]["Running"], "what isn't ours is left alone"
    finally:
        host.check_output(f"docker rename {CONTAINER} stranger")
    wait_healthy(host)
    host.check_output("docker rm --force stranger")


def test_container_of_another_project_of_the_same_name_is_left_alone(host: Host) -> None:
    """Compose itself would remove it as an orphan: it knows a project by its name alone."""
    labels = "--label com.docker.compose.project=tiny --label com.docker.compose.project.working_dir=/home/me/tiny"
    host.check_output(f"docker create --name tiny-web-1 {labels} {container(host)['Image']} sleep 600")
    try:
        assert host.run("systemctl restart tiny").rc != 0
        log = host.check_output("journalctl --unit tiny --no-pager --lines 20")
        assert "The container tiny-web-1 belongs to another Compose project that is named tiny too, in /home/me" in log
        assert host.run("docker inspect tiny-web-1").rc == 0, "what isn't ours is left alone"
    finally:
        host.check_output("docker rm --force tiny-web-1")
    wait_healthy(host)


DRAIN = "run-parts --verbose /etc/gpuops-fleet/drain.d"


def stopped(host: Host) -> bool:
    """For good: what waits for its restart is "activating". Compose ends with an error when it is stopped."""
    active = host.run("systemctl is-active tiny.service").stdout.strip()
    return bool(active in ("inactive", "failed") and not container(host)["State"]["Running"])


def test_when_the_machine_is_taken_back_it_stops_and_stays_so(host: Host) -> None:
    """What AWS and Google announce ends in this command. Restart=always brings nothing back that was stopped so."""
    wait_healthy(host)
    host.check_output(DRAIN)
    molecule_hosts.wait_until(lambda: stopped(host), 120, "The end of the service")
    assert host.service("tiny").is_enabled, "a machine that comes back, comes back with it"
    host.check_output("systemctl start tiny")
    wait_healthy(host)


def test_what_takes_long_to_stop_does_not_keep_the_next_hook_from_its_turn(host: Host) -> None:
    wait_healthy(host)
    # Its first process takes no SIGTERM now, so only the end of its stop time ends it.
    host.check_output(f"kill -STOP $(docker inspect -f '{{{{.State.Pid}}}}' {CONTAINER})")
    assert "tiny goes on stopping after 4 seconds" in host.check_output(DRAIN)
    molecule_hosts.wait_until(lambda: stopped(host), 120, "The end of the service")
    host.check_output("systemctl start tiny")
    wait_healthy(host)


def test_reboot_mends_the_owner_of_the_data(host: Host) -> None:
    wait_healthy(host)
    host.check_output(f"docker exec {CONTAINER} sh -c 'mkdir -p /data/deep && echo kept > /data/deep/file'")
    host.check_output("chown -R 4242:4242 /opt/tiny/data && chmod 0700 /opt/tiny/data")
    molecule_hosts.reboot(host)
    wait_healthy(host)
    assert host.check_output("stat -c %u:%g:%a /opt/tiny/data") == "1000:1000:750"
    assert host.check_output("stat -c %u:%g /opt/tiny/data/deep/file") == "1000:1000"
    assert host.check_output(f"docker exec {CONTAINER} cat /data/deep/file") == "kept"


# Last, because the address in the generated inventory is wrong afterwards.
def test_reboot_with_another_address(host: Host) -> None:
    before = host.file("/opt/tiny/address.env").content_string.strip().partition("=")[2]
    host, address = molecule_hosts.restart_with_another_address("host-1")
    assert address != before
    wait_healthy(host)
    assert host.file("/opt/tiny/address.env").content_string == f"HOST_ADDRESS={address}\n"
    assert container(host)["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostIp"] == address
    molecule_hosts.wait_until(lambda: answers(host, address), 120, "An answer at the new address")
