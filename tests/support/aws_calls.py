# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of AWS rent, and what they look at."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Offer, Request
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import NonceSpent
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws import AwsProvider
from emulators.world import Fault, World

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleetFleetFleetFleetFleetFleetFleetFleetFle nobody@nowhere"
MARKER = Marker("acme-llm", "vllm-1", "abc123", 500_008)
OFFER = Offer(
    "aws", "us-east-1/g6.xlarge", gpu="L4", gpu_count=1, region="us-east-1", price_per_hour_usd=0.8048, cpu_count=4
)


def request(**changes: Any) -> Request:
    return replace(Request(MARKER, OFFER, ssh_public_key=KEY), **changes)


def rent(provider: AwsProvider, **changes: Any) -> Instance:
    """As the engine does: with the first nonce that is not spent."""
    wanted = request(**changes)
    marker = wanted.marker
    for nonce in (*provider.nonces(marker.deployment_id, marker.name, wanted.offer), marker.nonce):
        try:
            return provider.create(replace(wanted, marker=replace(marker, nonce=nonce)))
        except NonceSpent:
            continue
    raise AssertionError("all nonces are spent")


def refuses(operation: str, code: str, status: int = 400, times: int | None = 1) -> Fault:
    """What EC2 says when it says no."""
    error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>"
    return Fault(path=f"/{operation}(/|$)", status=status, body=body, times=times)


def actions(world: World) -> list[str]:
    """The calls that came, by their names."""
    return [call["path"].split("/")[1] for call in world.calls]


def described(ec2: Any, instance_id: str) -> dict[str, Any]:
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    (row,) = reservation["Instances"]
    return dict(row)


def tags(row: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in row["Tags"]}


def cloud_config(ec2: Any, instance_id: str) -> dict[str, Any]:
    """What the machine is told for its first boot."""
    told = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")["UserData"]["Value"]
    head, _line, rest = base64.b64decode(told).decode().partition("\n")
    assert head == "#cloud-config"
    return dict(json.loads(rest))
