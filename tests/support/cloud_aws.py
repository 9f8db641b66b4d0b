# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""EC2 by moto, as a test of renting reads its books."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws, aws_api, aws_network, aws_wire
from emulators.world import Rental
from support import moto_cloud
from support.clouds import EVENTS, KEY, Cloud


class Aws(Cloud):
    """EC2, by moto: its own books are what is true."""

    def start(self, scale: float) -> None:
        self.world = moto_cloud.MotoWorld(self.name, scale=scale)
        self.server = moto_cloud.MotoServer(self.world)
        self.server.start()

    def reset(self) -> None:
        moto_cloud.forget()
        self.world.calls.clear()
        self.world.faults.clear()

    def stored_marker(self, rental: Rental) -> str:
        return rental.owner

    def lists(self) -> list[float]:
        return [call["time"] for call in self.world.calls if call["path"] == "/DescribeInstances"]

    def is_question(self, call: dict[str, Any]) -> bool:
        return bool(call["path"].startswith(("/Describe", "/Get")))

    def is_end(self, call: dict[str, Any]) -> bool:
        return bool(call["path"] == "/TerminateInstances")

    def is_stopped(self, rental: Rental) -> bool:
        return bool(rental.wire["machine"].state == "stopped")

    def rent_for_somebody_else(self, name: str) -> Rental:
        return self._rent("m7i.large", {aws_wire.MARKER_TAG: name})

    def rent_as_we_do(self, marker: str) -> Rental:
        return self._rent("g4dn.xlarge", {aws_wire.MARKER_TAG: marker, aws_wire.DISK_TAG: "50"})

    def _rent(self, kind: str, tags: dict[str, str]) -> Rental:
        faults, self.world.faults = self.world.faults, []
        try:
            made = moto_cloud.client(self.server.url).run_instances(
                ImageId="ami-785db401",
                InstanceType=kind,
                MinCount=1,
                MaxCount=1,
                TagSpecifications=[
                    {"ResourceType": "instance", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]}
                ],
            )
        finally:
            self.world.faults = faults
        return self.world.rentals[made["Instances"][0]["InstanceId"]]

    def calls_in_code(self) -> int:
        """Each operation once, however often it stands there."""
        return len(
            {call for one in self.code for call in re.findall(self.calling, Path(str(one.__file__)).read_text())}
        )


def _action(name: str, **fault: Any) -> dict[str, Any]:
    return {"method": "POST", "path": f"/{name}$", **fault}


def _refuses(name: str, code: str, status: int = 400) -> dict[str, Any]:
    error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return _action(name, status=status, body=f"<Response><Errors>{error}</Errors><RequestID>x</RequestID></Response>")


def make() -> Aws:
    return Aws(
        "aws",
        (aws, aws_api, aws_network),
        r'"((?:authorize|create|delete|describe|get|import|revoke|run|start|stop|terminate)_[a-z_]+)"',
        (
            "get_caller_identity",
            "describe_instances",
            "describe_instance_type_offerings",
            "get_parameter",
            "describe_images",
            "import_key_pair",
            "describe_vpcs",
            "describe_security_groups",
            "create_security_group",
            "authorize_security_group_ingress",
            "run_instances",
            "start_instances",
            "stop_instances",
            "terminate_instances",
            "describe_tags",
            "delete_key_pair",
            "delete_security_group",
            "create_tags",
        ),
        (*EVENTS, "renewed", "host_key"),
        {
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": moto_cloud.REGION,
            "AWS_ENDPOINT_URL": "{url}",
        },
        {"runtime": "vm", "gpu": "T4", "ssh_public_key": KEY},
        {
            "delete answer lost": _action("TerminateInstances", drop="after"),
            "delete never arrived": _action("TerminateInstances", drop="before"),
            "create answer lost": _action("RunInstances", drop="after"),
            "create never arrived": _action("RunInstances", drop="before"),
            # EC2 says so with a status that means a fault of its own everywhere else.
            "create sold out": _refuses("RunInstances", "InsufficientInstanceCapacity", 500),
            "create fails": _refuses("RunInstances", "InternalError", 500),
            "no quota": _refuses("RunInstances", "VcpuLimitExceeded"),
            "group not made": _action("CreateSecurityGroup", drop="after"),
            "ways not let in": _action("AuthorizeSecurityGroupIngress", drop="after"),
            "list fails for good": _action("DescribeInstances", status=503, times=5),
            "list fails once": _refuses("DescribeInstances", "InternalError", 500),
            "too many requests": {**_refuses(".*", "RequestLimitExceeded", 503), "times": 2},
            "start not answered": _action("StartInstances", drop="after"),
        },
        (
            "the regions, where none are given",
            "a size that is not in our table",
            "prices of spot machines",
            "the network of a subnet",
            "ways that are no longer wanted",
        ),
        {"regions": [moto_cloud.REGION], "source_ranges": ["203.0.113.7/32"]},
        slowness=4,
    )
