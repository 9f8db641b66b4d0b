# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the topics of a Kafka broker with the declared ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: kafka_topic_plan
short_description: Compare the topics of a Kafka broker with the declared ones
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Reads what C(kafka-topics.sh --describe) prints, and returns the commands that bring the topics to their declared
    state, and one sentence for each wish that Kafka can't fulfil.
  - Topics that are not declared are left alone.
positional: topics, bootstrap_server
options:
  _input:
    description: The standard output of C(kafka-topics.sh --describe).
    type: str
    required: true
  topics:
    description: The declared topics, each with C(name), C(partitions) and C(retention_hours) (-1 means for ever).
    type: list
    elements: dict
    required: true
  bootstrap_server:
    description: The broker's address as the commands shall use it, C(HOST:PORT).
    type: str
    required: true
  tools:
    description: The directory of Kafka's command line tools.
    type: str
    default: /opt/kafka/bin
"""

EXAMPLES = r"""
- name: Show what would change
  ansible.builtin.debug:
    msg: "{{ (described.stdout | gpuops.fleet.kafka_topic_plan(kafka_topics, '127.0.0.1:19092')).commands }}"
"""

RETURN = r"""
_value:
  description: What to do.
  type: dict
  contains:
    commands:
      description: Command lines for a shell, in order; empty when everything is as declared.
      type: list
      elements: str
    refusals:
      description: One sentence for each wish that can't be fulfilled.
      type: list
      elements: str
"""

_TOPIC = re.compile(
    r"^Topic: (?P<name>\S+)\s.*\bPartitionCount: (?P<partitions>\d+)\s.*\bConfigs: ?(?P<configs>\S*)\s*$"
)
_MILLISECONDS_PER_HOUR = 3_600_000


def _parse(described: str) -> dict[str, tuple[int, str]]:
    """Name → (partitions, retention in milliseconds, "" for the broker's default)."""
    found = {}
    for line in described.splitlines():
        match = _TOPIC.match(line)
        if match:
            # A value may hold commas itself (cleanup.policy=compact,delete); what is looked for here never does.
            retention = re.search(r"(?:^|,)retention\.ms=(-?\d+)(?:,|$)", match["configs"])
            found[match["name"]] = (int(match["partitions"]), retention[1] if retention else "")
    return found


def kafka_topic_plan(
    described: str, topics: Sequence[Mapping[str, Any]], bootstrap_server: str, tools: str = "/opt/kafka/bin"
) -> dict[str, list[str]]:
    """The commands that make the broker's topics as declared, and what can't be done."""
    current = _parse(described)
    commands: list[str] = []
    refusals: list[str] = []
    server = ["--bootstrap-server", bootstrap_server]
    for topic in topics:
        name, partitions, hours = str(topic["name"]), int(topic["partitions"]), int(topic["retention_hours"])
        retention = str(-1 if hours == -1 else hours * _MILLISECONDS_PER_HOUR)
        setting = f"retention.ms={retention}"
        if name not in current:
            create = ["--create", "--topic", name, "--partitions", str(partitions), "--config", setting]
            # Two controllers, or a run that was cut off: a topic that came to be meanwhile is no error.
            commands.append(shlex.join([f"{tools}/kafka-topics.sh", *server, *create, "--if-not-exists"]))
            continue
        has_partitions, has_retention = current[name]
        if partitions < has_partitions:
            refusals.append(
                f"The topic {name} has {has_partitions} partitions and {partitions} are declared, but Kafka can't "
                f"remove partitions. Declare {has_partitions}, or delete the topic with its records first."
            )
        elif partitions > has_partitions:
            alter = ["--alter", "--topic", name, "--partitions", str(partitions)]
            commands.append(shlex.join([f"{tools}/kafka-topics.sh", *server, *alter]))
        if retention != has_retention:
            alter = ["--alter", "--entity-type", "topics", "--entity-name", name, "--add-config", setting]
            commands.append(shlex.join([f"{tools}/kafka-configs.sh", *server, *alter]))
    return {"commands": commands, "refusals": refusals}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"kafka_topic_plan": kafka_topic_plan}
