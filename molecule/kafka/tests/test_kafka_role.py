# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kafka role's promise: topics as declared, data that stays, and a broker that comes back from everything."""

from __future__ import annotations

import functools
import json
import os
import re
from typing import Any

from support import molecule_hosts

Host = Any

CONTAINER = "kafka-kafka-1"
DATA = "/opt/kafka/data"
KILLS = 3 * int(os.environ.get("TEST_SCALE", "1"))
TOOL = (
    f"docker exec --env KAFKA_HEAP_OPTS=-Xmx128m {CONTAINER} /opt/kafka/bin/{{}}.sh --bootstrap-server 127.0.0.1:19092 "
)


def topics(host: Host) -> dict[str, tuple[int, str]]:
    lines = host.check_output(TOOL.format("kafka-topics") + "--describe --exclude-internal").splitlines()
    found = {}
    for line in lines:
        match = re.match(r"Topic: (\S+)\s.*PartitionCount: (\d+).*retention\.ms=(-?\d+)", line)
        if match:
            found[match[1]] = (int(match[2]), match[3])
    return found


def wait_healthy(host: Host, timeout_seconds: float = 180) -> None:
    def healthy() -> bool:
        state = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    molecule_hosts.wait_until(healthy, timeout_seconds, "A healthy broker")


def meta_properties(host: Host) -> str:
    return str(host.check_output(f"cat {DATA}/log/meta.properties"))


def test_topics_are_as_declared(host: Host) -> None:
    week, fortnight = str(7 * 24 * 3600 * 1000), str(14 * 24 * 3600 * 1000)
    assert topics(host) == {
        "gpu.metrics.v1": (3, week),
        "token.usage.v1": (3, week),
        "gpu.metrics.v1.dlq": (1, fortnight),
        "token.usage.v1.dlq": (1, fortnight),
    }


def test_cluster_id_is_our_own_and_kept_on_the_host(host: Host) -> None:
    kept = host.check_output("cat /opt/kafka/secrets/cluster_id")
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", kept)
    assert kept != "5L6g3nShT-eMCtK--X86sw", "the upstream image's public default"
    assert f"cluster.id={kept}" in meta_properties(host)


def test_container_is_hardened_as_declared(host: Host) -> None:
    description = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]
    settings = description["HostConfig"]
    assert description["Config"]["User"] == "1000:1000"
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"]
    assert settings["SecurityOpt"] == ["no-new-privileges:true"]
    assert settings["Memory"] == 1280 * 1024**2
    assert settings["PidsLimit"] == 1024


def test_peers_are_sent_to_the_peer_name(host: Host) -> None:
    variables = host.ansible.get_variables()  # as they stand in the inventory: templates are not resolved
    name = f"{variables['inventory_hostname']}.{variables['fleet_deployment_id']}.internal"
    answer = host.check_output(
        f"docker exec --env KAFKA_HEAP_OPTS=-Xmx128m {CONTAINER} "
        f"/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server {name}:9092"
    )
    assert answer.startswith(f"{name}:9092 (id: 1 ")


def test_broker_listens_on_the_hosts_address_only(host: Host) -> None:
    address = host.check_output("sed -n s/^HOST_ADDRESS=//p /opt/kafka/address.env")
    listening = host.check_output("ss -Hltn 'sport = :9092'").split()
    assert f"{address}:9092" in listening
    assert "0.0.0.0:9092" not in listening
    assert host.run(f"bash /opt/kafka/config/health.sh {address} 22").rc == 1, (
        "a server that is not Kafka is not healthy"
    )


def process(host: Host) -> str:
    """The id of the container's main process."""
    return str(host.check_output(f"docker inspect --format '{{{{.State.Pid}}}}' {CONTAINER}"))


def has_another_process(host: Host, before: str) -> bool:
    return process(host) != before


def test_comes_back_from_kill_9(host: Host) -> None:
    before = topics(host)
    for _kill in range(KILLS):
        pid = process(host)
        host.check_output(f"kill -9 {pid}")
        molecule_hosts.wait_until(
            functools.partial(has_another_process, host, pid),
            120,
            "Another process of the broker",
        )
        wait_healthy(host)
    assert topics(host) == before


def test_formatting_that_was_cut_off_begins_again(host: Host) -> None:
    kept = host.check_output("cat /opt/kafka/secrets/cluster_id")
    host.check_output("systemctl stop kafka")
    host.check_output(f"mv {DATA}/log {DATA}-aside && install -d -o 1000 -g 1000 {DATA}/log")
    host.check_output(f"touch {DATA}/log/bootstrap.checkpoint {DATA}/log/meta.properties")
    host.check_output("systemctl start kafka")
    wait_healthy(host)
    assert f"cluster.id={kept}" in meta_properties(host)
    host.check_output("systemctl stop kafka")
    host.check_output(f"rm -r {DATA}/log && mv {DATA}-aside {DATA}/log")
    host.check_output("systemctl start kafka")
    wait_healthy(host)
    assert len(topics(host)) == 4


def test_data_of_another_cluster_is_refused_with_a_sentence(host: Host) -> None:
    host.check_output(f"cp {DATA}/log/meta.properties /var/tmp/meta.properties")
    host.check_output("systemctl stop kafka")
    host.check_output(f"sed -i s/^cluster.id=.*/cluster.id=AnotherClustersIdXXXXX/ {DATA}/log/meta.properties")
    host.check_output("systemctl start kafka")
    molecule_hosts.wait_until(
        lambda: "belongs to the cluster AnotherClustersIdXXXXX" in host.check_output("journalctl --all -u kafka"),
        120,
        "The refusal in the log",
    )
    host.check_output(f"cp /var/tmp/meta.properties {DATA}/log/meta.properties")
    host.check_output("systemctl restart kafka")
    wait_healthy(host)


def test_comes_back_after_a_reboot_with_a_changed_owner(host: Host) -> None:
    before = meta_properties(host)
    host.check_output(f"chown -R root:root {DATA} && chmod 0700 {DATA}")
    molecule_hosts.reboot(host)
    wait_healthy(host)
    assert host.file(f"{DATA}/log").uid == 1000
    assert meta_properties(host) == before
    assert len(topics(host)) == 4
