# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/providers/aws.md: the policy allows what the code calls, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_api, aws_network

DOCS = Path(__file__).parents[4] / "docs" / "providers" / "aws.md"
OPERATION = r'"((?:authorize|create|delete|describe|get|import|revoke|run|start|stop|terminate)_[a-z_]+)"'


def test_the_policy_is_minimal() -> None:
    policy = json.loads(re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
        # Whatever ends something is allowed for ours alone.
        ends = {one for one in allowed if re.search(r":(Terminate|Stop|Start|Delete|Revoke|Authorize)", one)}
        if ends & set(actions):
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/gpuops-fleet-deployment": "false"}}
    # What is rented carries our tag, else nobody would find it; disks, images and networks are what it is rented with.
    instances = "arn:aws:ec2:*:*:instance/*"
    tagged = {"Null": {"aws:RequestTag/gpuops-fleet-deployment": "false"}}
    renting = [one for one in policy["Statement"] if "ec2:RunInstances" in one["Action"]]
    assert [(one.get("Resource"), one.get("NotResource"), one.get("Condition")) for one in renting] == [
        (instances, None, tagged),
        (None, instances, None),
    ]
    called = {
        name
        for module in (aws, aws_api, aws_network)
        for name in re.findall(OPERATION, Path(str(module.__file__)).read_text())
    }
    services = {"get_parameter": "ssm", "get_caller_identity": "sts"}
    named = {f"{services.get(name, 'ec2')}:{''.join(word.title() for word in name.split('_'))}" for name in called}
    # Tags are made with each thing, so nothing calls for the right alone.
    assert allowed == named
