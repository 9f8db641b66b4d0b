# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mongodb role's promise: closed to strangers; users, indexes and seeds as declared, whatever happened before."""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import pytest
from support import molecule_hosts

Host = Any

CONTAINER = "mongodb-mongodb-1"
STATE = f"docker exec --env HOME=/tmp {CONTAINER} mongosh --quiet --norc --nodb --file /mnt/config/state.js"
KILLS = 3 * int(os.environ.get("TEST_SCALE", "1"))

# Read inside the container, so that no password stands in an argument here either.
LOGIN = """
const fs = require('fs');
const login = (user, file, source) => new Mongo(`mongodb://${user}:${encodeURIComponent(
  fs.readFileSync(`/run/secrets/${file}`, 'utf8'))}@127.0.0.1/?authSource=${source}&directConnection=true`);
"""


def shell(host: Host, script: str) -> Any:
    """Run a script in the database's own shell and return what it prints, as JSON."""
    quoted = (LOGIN + script).replace("'", "'\\''")
    output = host.check_output(
        f"docker exec --env HOME=/tmp {CONTAINER} mongosh --quiet --norc --nodb --eval '{quoted}'"
    )
    return json.loads(output.strip().splitlines()[-1])


def as_application(host: Host, expression: str) -> Any:
    login = "const db_ = login('processor', 'app_password', 'gpuops').getDB('gpuops');"
    return shell(host, f"{login} print(JSON.stringify({expression}))")


def wait_healthy(host: Host, timeout_seconds: float = 180) -> None:
    def healthy() -> bool:
        state = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    molecule_hosts.wait_until(healthy, timeout_seconds, "A healthy database")


def apply_state(host: Host) -> Any:
    return json.loads(host.check_output(STATE).strip().splitlines()[-1])


def test_seeds_are_there_for_the_application(host: Host) -> None:
    found = as_application(host, "db_.gpus.find().sort({name: 1}).toArray().map((one) => [one.name, one.memory_mib])")
    assert found == [["A100 40GB", 40960], ["RTX 3090", 24576]]


@pytest.mark.parametrize(
    ("collection", "names"),
    [
        ("gpu_metrics", {"_id_", "host_1_gpu_index_1_ts_-1", "ts_-1"}),
        ("token_usage", {"_id_", "ts_-1", "model_1_ts_-1"}),
        ("gpus", {"_id_", "name_1"}),
    ],
)
def test_indexes_are_as_declared(host: Host, collection: str, names: set[str]) -> None:
    assert set(as_application(host, f"db_.{collection}.getIndexes().map((one) => one.name)")) == names


def test_a_gpu_is_there_once(host: Host) -> None:
    code = as_application(
        host, "(() => { try { db_.gpus.insertOne({name: 'RTX 3090'}); return 0; } catch (e) { return e.code; } })()"
    )
    assert code == 11000


def test_strangers_are_refused(host: Host) -> None:
    script = """
    const db_ = new Mongo('mongodb://127.0.0.1/?directConnection=true').getDB('gpuops');
    try { db_.gpus.findOne(); print(0); } catch (error) { print(error.code); }
    """
    assert shell(host, script) == 13


def test_passwords_stand_nowhere_but_in_their_files(host: Host) -> None:
    for name in ("admin_password", "app_password"):
        path = f"/opt/mongodb/secrets/{name}"
        assert (host.file(path).mode, host.file(path).uid) == (0o400, 999)
        for place in (
            f"docker inspect {CONTAINER}",
            "ps auxww",
            "journalctl --all",
            "cat /opt/mongodb/config/* /opt/mongodb/.env",
        ):
            assert host.run(f"{place} | grep --quiet --fixed-strings --file {path}").rc == 1, f"{name} in: {place}"


def test_container_is_hardened_as_declared(host: Host) -> None:
    description = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]
    settings = description["HostConfig"]
    assert description["Config"]["User"] == "999:999"
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert settings["SecurityOpt"] == ["no-new-privileges:true"]
    assert settings["Memory"] == 1024 * 1024**2
    assert [mount["Name"] for mount in description["Mounts"] if mount["Type"] == "volume"] == ["mongodb_mongo_data"]


def test_state_is_mended_on_data_that_exists(host: Host) -> None:
    as_application(host, "db_.gpus.updateOne({name: 'RTX 3090'}, {$set: {memory_mib: 1, note: 'mine'}})")
    as_application(host, "db_.gpus.deleteOne({name: 'A100 40GB'})")
    as_application(host, "db_.token_usage.dropIndex('ts_-1')")
    assert apply_state(host)["changes"] == [
        'created the index token_usage {"ts":-1}',
        "set memory_mib of the GPU RTX 3090",
        "inserted the GPU A100 40GB",
    ]
    assert apply_state(host)["changes"] == []
    assert as_application(host, "db_.gpus.findOne({name: 'RTX 3090'}).note") == "mine"


def test_an_index_that_is_unique_without_being_declared_so_is_named(host: Host) -> None:
    declared = "/opt/mongodb/config/state.json"
    host.check_output(f"cp --preserve {declared} {declared}.kept")
    try:
        host.check_output(f'sed --in-place \'s/"unique": true/"unique": false/\' {declared}')
        told = host.run(STATE)
    finally:
        host.check_output(f"mv {declared}.kept {declared}")
    assert told.rc == 1
    assert json.loads(told.stdout.strip().splitlines()[-1])["problem"] == (
        'The index gpus {"name":1} is not declared unique, and the one that exists is. '
        "Drop it (db.gpus.dropIndex('name_1')) and run this again."
    )
    assert apply_state(host)["changes"] == []


def test_what_was_written_survives_a_stop(host: Host) -> None:
    as_application(host, "db_.kept.insertOne({_id: 'stop'})")
    host.check_output("systemctl restart mongodb")
    wait_healthy(host)
    assert as_application(host, "db_.kept.countDocuments({_id: 'stop'})") == 1
    as_application(host, "db_.kept.drop()")


def process(host: Host) -> str:
    """The id of the container's main process."""
    return str(host.check_output(f"docker inspect --format '{{{{.State.Pid}}}}' {CONTAINER}"))


def has_another_process(host: Host, before: str) -> bool:
    return process(host) != before


def test_what_was_written_survives_kill_9(host: Host) -> None:
    for number in range(KILLS):
        as_application(host, f"db_.kept.insertOne({{_id: {number}}})")
        pid = process(host)
        host.check_output(f"kill -9 {pid}")
        molecule_hosts.wait_until(
            functools.partial(has_another_process, host, pid),
            120,
            "Another process of the database",
        )
        wait_healthy(host)
    assert as_application(host, "db_.kept.countDocuments({})") == KILLS
    as_application(host, "db_.kept.drop()")


def test_a_database_that_was_left_half_created_does_not_stop_the_next_start(host: Host) -> None:
    host.check_output("systemctl stop mongodb")
    volume = host.check_output("docker volume inspect --format '{{.Mountpoint}}' mongodb_mongo_data")
    host.check_output(f"install -o 999 -g 999 /dev/null {volume}/half.sqlite")
    host.check_output("systemctl start mongodb")
    wait_healthy(host)
    assert host.file(f"{volume}/half.sqlite.half-created").exists, "nothing is ever deleted"
    host.check_output(f"rm {volume}/half.sqlite.half-created")
    assert apply_state(host)["changes"] == []


def test_comes_back_after_a_reboot(host: Host) -> None:
    molecule_hosts.reboot(host)
    wait_healthy(host)
    assert apply_state(host)["changes"] == []
