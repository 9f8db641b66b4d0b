# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.kafka_topic_plan import kafka_topic_plan

SERVER = "127.0.0.1:19092"
# As kafka-topics.sh 3.9.1 prints it.
DESCRIBED = (
    "Topic: gpu.metrics.v1\tTopicId: 8dXxHtScSSqUsGPfPbPHGQ\tPartitionCount: 3\tReplicationFactor: 1\t"
    "Configs: message.max.bytes=1048576,min.insync.replicas=1,retention.ms=604800000\n"
    "\tTopic: gpu.metrics.v1\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\tElr: \tLastKnownElr: \n"
    "\tTopic: gpu.metrics.v1\tPartition: 1\tLeader: 1\tReplicas: 1\tIsr: 1\tElr: \tLastKnownElr: \n"
    "Topic: plain\tTopicId: 8dXxHtScSSqUsGPfPbPHGR\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: \n"
    "Topic: both\tTopicId: 8dXxHtScSSqUsGPfPbPHGS\tPartitionCount: 2\tReplicationFactor: 1\t"
    "Configs: cleanup.policy=compact,delete,retention.ms=-1,delete.retention.ms=604800000\n"
)
CREATE = (
    f"/opt/kafka/bin/kafka-topics.sh --bootstrap-server {SERVER} --create --topic new --partitions 2 "
    "--config retention.ms=3600000 --if-not-exists"
)
GROW = f"/opt/kafka/bin/kafka-topics.sh --bootstrap-server {SERVER} --alter --topic gpu.metrics.v1 --partitions 6"


def configure(topic: str, retention: int) -> str:
    return (
        f"/opt/kafka/bin/kafka-configs.sh --bootstrap-server {SERVER} --alter --entity-type topics "
        f"--entity-name {topic} --add-config retention.ms={retention}"
    )


@pytest.mark.parametrize(
    ("name", "partitions", "hours", "commands"),
    [
        ("gpu.metrics.v1", 3, 168, []),
        ("gpu.metrics.v1", 6, 168, [GROW]),
        ("gpu.metrics.v1", 3, 24, [configure("gpu.metrics.v1", 86_400_000)]),
        ("gpu.metrics.v1", 6, -1, [GROW, configure("gpu.metrics.v1", -1)]),
        ("plain", 1, 168, [configure("plain", 604_800_000)]),
        ("both", 2, -1, []),
        ("new", 2, 1, [CREATE]),
    ],
)
def test_commands(name: str, partitions: int, hours: int, commands: list[str]) -> None:
    wanted = [{"name": name, "partitions": partitions, "retention_hours": hours}]
    assert kafka_topic_plan(DESCRIBED, wanted, SERVER) == {"commands": commands, "refusals": []}


def test_fewer_partitions_are_refused() -> None:
    plan = kafka_topic_plan(DESCRIBED, [{"name": "gpu.metrics.v1", "partitions": 2, "retention_hours": 168}], SERVER)
    assert plan["commands"] == []
    assert plan["refusals"] == [
        "The topic gpu.metrics.v1 has 3 partitions and 2 are declared, but Kafka can't remove partitions. "
        "Declare 3, or delete the topic with its records first."
    ]


def test_nothing_there_and_nothing_wanted() -> None:
    assert kafka_topic_plan("", [], SERVER) == {"commands": [], "refusals": []}
