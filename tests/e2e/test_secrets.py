# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret is in no log, no diff, no process list, no `docker inspect` and no file that everybody can read."""

from __future__ import annotations

import json
import pathlib
import stat

import pytest
from demo import SERVICES, Fleet, Run

PLANTED = "planted-7c1f0b52a9d34e"


@pytest.fixture(scope="module")
def secrets(fleet: Fleet) -> dict[str, str]:
    """SERVICE/NAME → value, of every secret on every host. The cluster id is generated, but no secret."""
    found = {}
    for service in SERVICES:
        command = f"cd /opt/{service}/secrets && for name in *; do [ ! -e $name ] || echo $name $(cat $name); done"
        for line in fleet.machine(service).run(command).splitlines():
            name, value = line.split()
            if name != "cluster_id":
                found[f"{service}/{name}"] = value
    for line in fleet.machine("gateway").run("cd /opt/gateway/secrets/keys && grep -H . *").splitlines():
        name, value = line.split(":")
        found[f"gateway/{name}"] = value
    assert {"vllm/api_key", "mongodb/app_password", "mongodb/admin_password", "gateway/producer"} <= set(found)
    return found


def test_secrets_are_in_no_log_and_no_diff(second_run: Run, secrets: dict[str, str]) -> None:
    assert second_run.status == 0
    assert [name for name, value in secrets.items() if value in second_run.output] == []


def deploy_with_planted(fleet: Fleet, variables: pathlib.Path, *names: str, roles: tuple[str, ...]) -> Run:
    """What a deployment with other secrets would do, as talkative as can be; variables: a file to hand them over in."""
    variables.write_text(json.dumps({name: f"{PLANTED}-{name.replace('_', '-')}" for name in names}))
    hosts = ",".join(fleet.machine(role).name for role in roles)
    run = fleet.playbook("deploy", "--check", "--diff", "-vvv", "--limit", hosts, "-e", f"@{variables}")
    assert PLANTED not in run.output
    return run


def test_planted_secrets_are_in_no_log_and_no_diff(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    names = ("vllm_api_key", "mongodb_app_password", "processor_mongodb_password")
    run = deploy_with_planted(fleet, tmp_path / "planted.json", *names, roles=("vllm", "mongodb", "processor"))
    assert run.status == 0, run.output[-4000:]


def test_another_administrators_password_is_refused_and_in_no_log(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    run = deploy_with_planted(fleet, tmp_path / "planted.json", "mongodb_admin_password", roles=("mongodb",))
    assert run.status != 0
    assert "mongodb_admin_password is not the password in /opt/mongodb/secrets/admin_password" in run.output


@pytest.mark.parametrize("service", SERVICES)
def test_secrets_are_in_no_docker_inspect(fleet: Fleet, secrets: dict[str, str], service: str) -> None:
    shown = fleet.machine(service).run("docker inspect $(docker ps --all --quiet) $(docker image ls --quiet)")
    assert [name for name, value in secrets.items() if value in shown] == []


@pytest.mark.parametrize("service", SERVICES)
def test_secrets_are_in_no_process_list(fleet: Fleet, secrets: dict[str, str], service: str) -> None:
    # The environment of a process is not for everybody, its arguments are.
    shown = fleet.machine(service).run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' || true")
    assert [name for name, value in secrets.items() if value in shown] == []


@pytest.mark.parametrize("service", SERVICES)
def test_secrets_are_in_no_file_that_everybody_can_read(fleet: Fleet, secrets: dict[str, str], service: str) -> None:
    # Docker's own directory is closed to everybody but root.
    command = (
        "find / -xdev \\( -path /proc -o -path /sys -o -path /var/lib/docker \\) -prune -o -type f -perm -o=r "
        "-size -4M -newer /etc/debian_version -print0 | xargs -0 -r grep -lFf /dev/fd/3 3<<'SECRETS' || true\n"
        + "\n".join(secrets.values())
        + "\nSECRETS\n"
    )
    readable = [path for path in fleet.machine(service).run(command).splitlines() if path]
    assert readable == []


@pytest.mark.parametrize("service", SERVICES)
def test_secret_files_belong_to_the_user_of_the_container(fleet: Fleet, service: str) -> None:
    machine = fleet.machine(service)
    user = fleet.service(service).inspect()["Config"]["User"].split(":")[0]
    for line in machine.run(f"find /opt/{service}/secrets -type f -printf '%m %U %f\\n'").splitlines():
        assert line.startswith(f"400 {user} "), line


def test_key_on_the_controller_is_for_its_owner_alone(fleet: Fleet) -> None:
    directory = pathlib.Path(fleet.machine("vllm").variables["fleet_report_directory"])
    header = directory / "vllm-api-key.header"
    assert stat.S_IMODE(header.stat().st_mode) == 0o600
    key = fleet.machine("gateway").run("cat /opt/gateway/secrets/keys/default").strip()
    assert header.read_text() == f"Authorization: Bearer {key}\n"
    others = [path.name for path in directory.glob("*.*") if path != header and path.is_file()]
    assert [name for name in others if key in (directory / name).read_text(errors="replace")] == []
    curl = json.loads((directory / "report.json").read_text())["endpoint"]["curl"]
    assert key not in curl
    assert str(header) in curl
