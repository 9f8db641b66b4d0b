# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret is in no log, no diff, no process list, no `docker inspect` and no file that everybody can read.

The demo's own secrets are the canaries: what stands in /opt/SERVICE/secrets and in private keys beside it, on any host,
is looked for on all of them.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from demo import SERVICES, Fleet, Machine, Run
from support.certificates import DAY, pair

PLANTED = "planted-7c1f0b52a9d34e"
# The cluster id is generated, and lies there, but is no secret.
READ_SECRETS = (
    "find /opt -maxdepth 5 -type f \\( -path '/opt/*/secrets/*' -o -name '*.key' \\) ! -name cluster_id "
    "-exec grep --with-filename '' {} +"
)
# A file may hold more than the secret: names of keys, and what it is. Our own secrets have 32 characters or more.
SHORTEST_SECRET = 20


class Hidden(dict[str, str]):
    """Its values are in no report of a failure, in which pytest shows what a test was given."""

    def __repr__(self) -> str:
        return f"Hidden({sorted(self)})"


def secrets_of(machine: Machine) -> dict[str, str]:
    """HOST:FILE:NUMBER → value, of every word in a file of secrets that is long enough to be one."""
    found: dict[str, list[str]] = {}
    for line in machine.run(f"{READ_SECRETS} || true").splitlines():
        path, text = line.split(":", 1)
        words = [] if text.startswith("#") else [word for word in text.split() if len(word) >= SHORTEST_SECRET]
        found.setdefault(path, []).extend(words)
    assert all(found.values()), f"{machine.name}: a file of secrets without a secret: {sorted(found)}"
    return {
        f"{machine.name}:{path}:{number}": word for path, words in found.items() for number, word in enumerate(words)
    }


def on_all(machines: list[Machine], ask: Callable[[Machine], list[str]]) -> list[str]:
    """What is found on any of them, asked at once."""
    with ThreadPoolExecutor(len(machines)) as at_once:
        return [line for lines in at_once.map(ask, machines) for line in lines]


@pytest.fixture(scope="module")
def secrets(machines: list[Machine]) -> dict[str, str]:
    """HOST:FILE:NUMBER → value, of every secret on every host."""
    with ThreadPoolExecutor(len(machines)) as at_once:
        found = Hidden(item for some in at_once.map(secrets_of, machines) for item in some.items())
    files = {name.split(":")[1] for name in found}
    known = {"vllm": ["api_key"], "mongodb": ["admin_password", "app_password"], "processor": ["mongodb_password"]}
    known["gateway"] = ["keys/default", "keys/producer", "keys/verify"]
    assert {f"/opt/{service}/secrets/{name}" for service, names in known.items() for name in names} <= files
    return found


def test_secrets_are_in_no_log_and_no_diff(second_run: Run, secrets: dict[str, str]) -> None:
    assert second_run.status == 0
    assert [name for name, value in secrets.items() if value in second_run.output] == []


def deploy_with_planted(
    fleet: Fleet, variables: pathlib.Path, *names: str, roles: tuple[str, ...], **others: object
) -> Run:
    """What a deployment with other secrets would do, as talkative as can be; variables: a file to hand them over in.

    Each of the names gets a secret; others have their values, with secrets that begin as those do.
    """
    planted = {name: f"{PLANTED}-{name.replace('_', '-')}" for name in names}
    variables.write_text(json.dumps({**planted, **others}))
    hosts = ",".join(fleet.machine(role).name for role in roles)
    run = fleet.playbook("deploy", "--check", "--diff", "-vvv", "--limit", hosts, "-e", f"@{variables}")
    assert PLANTED not in run.output
    return run


def test_planted_secrets_are_in_no_log_and_no_diff(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    names = ("vllm_api_key", "mongodb_app_password", "processor_mongodb_password")
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate, private_key = pair(now - DAY, now + DAY)
    run = deploy_with_planted(
        fleet,
        tmp_path / "planted.json",
        *names,
        roles=("vllm", "gateway", "mongodb", "processor", "monitoring"),
        gateway_api_keys=[{"name": "default"}, {"name": "partner", "key": f"{PLANTED}-key-of-partner"}],
        gateway_tls_certificate=certificate,
        gateway_tls_private_key=private_key,
        monitoring_webhooks=[{"url": f"https://alerts.example.org/{PLANTED}-path", "bearer_token": f"{PLANTED}-token"}],
    )
    assert run.status == 0, run.output[-4000:]
    # Between its first and its last line, which are the same for every key.
    assert [line for line in private_key.splitlines()[1:-1] if line in run.output] == []


def test_another_administrators_password_is_refused_and_in_no_log(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    run = deploy_with_planted(fleet, tmp_path / "planted.json", "mongodb_admin_password", roles=("mongodb",))
    assert run.status != 0
    assert "mongodb_admin_password is not the password in /opt/mongodb/secrets/admin_password" in run.output


# Each prints everything of its kind on a host, and always also the second word; the journal also what it keeps beside a
# message, such as a command line.
PLACES = {
    "docker inspect": (
        "docker inspect $(docker ps --all --quiet) $(docker image ls --quiet) $(docker volume ls --quiet) "
        "$(docker network ls --quiet)",
        "HostConfig",
    ),
    "image history": ("docker image ls --quiet | sort -u | xargs -r -n 1 docker history --no-trunc", "CREATED BY"),
    "logs of containers": ("docker ps --all --quiet | xargs -r -n 1 docker logs 2>&1", ":"),
    "process list": ("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'", "dockerd"),
    "systemd's environment": ("systemctl show '*.service'; systemctl show-environment", "FragmentPath"),
    "journal": ("journalctl --all --output=export", "_BOOT_ID"),
    "compose.yaml and .env": (
        "find /opt -maxdepth 2 -type f \\( -name '*.env' -o -name '*.yaml' -o -name '*.json' \\) -exec cat {} +",
        "HOST_ADDRESS",
    ),
    "units": ("find /etc/systemd/system /etc/default /etc/docker -type f -exec cat {} +", "ExecStart"),
    "log files": ("find /var/log -type f ! -path '*/journal/*' -exec cat {} +", "installed"),
}
# Where they are meant to be: a secret that is shown is found.
KEPT = "files of secrets"


@pytest.fixture(scope="module")
def seen(machines: list[Machine], secrets: dict[str, str]) -> dict[str, dict[str, str]]:
    """Host → place → which of the secrets, and of the words that all places have, are printed there."""
    places = {KEPT: (READ_SECRETS, "/opt/"), **PLACES}
    # Secrets go there by standard input, because arguments are for everybody, and only what is found comes back.
    script = 'patterns=$(cat)\nlook() { grep -aoFf <(printf \'%s\\n\' "$patterns") | sort -u | sed "s/^/$1 /"; }\n'
    for number, (command, _word) in enumerate(places.values()):
        script += f"{{ {command}; }} 2>/dev/null | look {number}\n"
    patterns = "\n".join([*secrets.values(), *(word for _command, word in places.values())])

    def look(machine: Machine) -> dict[str, str]:
        lines = machine.run(script, patterns).splitlines()
        return Hidden(
            (place, "\n".join(line for line in lines if line.startswith(f"{number} ")))
            for number, place in enumerate(places)
        )

    with ThreadPoolExecutor(len(machines)) as at_once:
        return dict(zip((machine.name for machine in machines), at_once.map(look, machines), strict=True))


@pytest.mark.parametrize("place", PLACES)
def test_secrets_are_not_shown(seen: dict[str, dict[str, str]], secrets: dict[str, str], place: str) -> None:
    assert [host for host, printed in seen.items() if PLACES[place][1] not in printed[place]] == [], (
        "nothing was printed"
    )
    shown = [
        (host, name) for host, printed in seen.items() for name, value in secrets.items() if value in printed[place]
    ]
    assert shown == []


def test_a_secret_that_is_shown_is_found(seen: dict[str, dict[str, str]], secrets: dict[str, str]) -> None:
    """Else the test above would prove nothing."""
    assert [name for name, value in secrets.items() if value not in seen[name.split(":")[0]][KEPT]] == []


def test_secrets_are_in_no_environment_but_that_of_a_container(
    machines: list[Machine], secrets: dict[str, str]
) -> None:
    """A server that reads its key from there has it in its container, where only that user and root can read it."""
    command = r"""patterns=$(cat)
        for process in /proc/[0-9]*; do
            grep -aqFf <(printf '%s\n' "$patterns") $process/environ 2>/dev/null || continue
            [ $(readlink $process/ns/pid) != $(readlink /proc/1/ns/pid) ] && [ $(stat --format=%u $process) != 0 ] ||
                tr '\0' ' ' <$process/cmdline
        done"""
    patterns = "\n".join(secrets.values())
    assert on_all(machines, lambda machine: machine.run(command, patterns).splitlines()) == []


def test_secrets_are_in_no_file_that_everybody_can_read(machines: list[Machine], secrets: dict[str, str]) -> None:
    # Docker's own directory is closed to everybody but root. grep is started more than once when there are many files.
    command = r"""export patterns=$(cat)
        find / -xdev \( -path /proc -o -path /sys -o -path /var/lib/docker \) -prune -o -type f -perm -o=r -size -4M \
            -newer /etc/debian_version -print0 |
            xargs -0 -r bash -c 'grep -lFf <(printf "%s\n" "$patterns") "$@" || true' grep"""
    patterns = "\n".join(secrets.values())
    assert on_all(machines, lambda machine: machine.run(command, patterns).splitlines()) == []


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
