# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What moto does otherwise than EC2, put right: each correction is a function that takes what undoes it in the end.

A test beside them fails for each one that moto needs no more.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.models.key_pairs import KeyPairBackend
from moto.ec2.models.security_groups import SecurityGroupBackend
from moto.ec2.responses.key_pairs import KeyPairs
from moto.ssm.models import Parameter, SimpleSystemManagerBackend

Correction = Callable[[pytest.MonkeyPatch], None]

# Images that moto has in every region.
IMAGES = {aws_wire.UBUNTU_IMAGE: "ami-785db401", aws_wire.GPU_IMAGE: "ami-dca37ea5"}
_NO_TOKEN = "ABCDE"  # noqa: S105 (what moto takes for a call without one)
TOKENS = "gpufleet_tokens"  # where a backend keeps those that were used
_ONE_AT_A_TIME = threading.RLock()


def names_of_images(patch: pytest.MonkeyPatch) -> None:
    """SSM's public parameters of Canonical and of the Deep Learning AMI are missing in moto."""
    get_parameter = SimpleSystemManagerBackend.get_parameter

    def corrected(self: Any, name: str) -> Any:
        if name not in IMAGES:
            return get_parameter(self, name)
        parameter: Any = Parameter
        return parameter(
            account_id=self.account_id,
            name=name,
            value=IMAGES[name],
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=datetime.datetime(2026, 10, 9, tzinfo=datetime.UTC),
            version=1,
            data_type="aws:ec2:image",
        )

    patch.setattr(SimpleSystemManagerBackend, "get_parameter", corrected)


def client_tokens(patch: pytest.MonkeyPatch) -> None:
    """RunInstances with a token that was used before makes no second machine; moto ignores the token.

    A token holds for a region, or, where the call names a zone by its subnet, for that zone.
    """
    run_instances = InstanceBackend.run_instances

    def corrected(self: Any, image_id: str, count: int, user_data: Any, names: list[str], **options: Any) -> Any:
        token = options.get("client_token")
        if token in (None, _NO_TOKEN):
            return run_instances(self, image_id, count, user_data, names, **options)
        place = options.get("placement") or options.get("subnet_id")
        told = json.dumps([image_id, count, str(user_data), names, options], default=str, sort_keys=True)
        with _ONE_AT_A_TIME:
            known = self.__dict__.setdefault(TOKENS, {})
            if (token, place) not in known:
                made = run_instances(self, image_id, count, user_data, names, **options)
                known[token, place] = (told, made)
                return made
            before, made = known[token, place]
            if made.instances[0].state == "terminated":
                raise EC2ClientError("IdempotentInstanceTerminated", "The instance of this token is terminated.")
            if before != told:
                raise EC2ClientError(
                    "IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent."
                )
            return made

    patch.setattr(InstanceBackend, "run_instances", corrected)


def tags_of_what_is_gone(patch: pytest.MonkeyPatch) -> None:
    """DescribeTags goes on showing the tags of key pairs and security groups that were deleted."""
    delete_group, delete_key = SecurityGroupBackend._delete_security_group, KeyPairBackend.delete_key_pair

    def without_group(self: Any, vpc_id: str | None, group_id: str) -> None:
        delete_group(self, vpc_id, group_id)
        self.tags.pop(group_id, None)

    def without_key(self: Any, name: str) -> Any:
        key = delete_key(self, name)
        if key is not None:
            self.tags.pop(key.id, None)
        return key

    patch.setattr(SecurityGroupBackend, "_delete_security_group", without_group)
    patch.setattr(KeyPairBackend, "delete_key_pair", without_key)


def key_pairs_by_id(patch: pytest.MonkeyPatch) -> None:
    """DeleteKeyPair takes an id as well as a name; moto ignores the id and deletes nothing."""
    delete = KeyPairs.delete_key_pair

    def corrected(self: Any) -> Any:
        wanted = self._get_param("KeyPairId")
        if not wanted:
            return delete(self)
        names = [name for name, key in self.ec2_backend.key_pairs.items() if key.id == wanted]
        for name in names:
            self.ec2_backend.delete_key_pair(name)
        return ActionResult({"Return": True, "KeyPairId": wanted if names else None})

    patch.setattr(KeyPairs, "delete_key_pair", corrected)


def groups_in_use(patch: pytest.MonkeyPatch) -> None:
    """A security group that a machine or another group still uses can't be deleted; moto deletes it."""
    delete = EC2Backend.delete_security_group

    def corrected(self: Any, name: str | None = None, group_id: str | None = None) -> None:
        for reservation in self.reservations.values():
            for one in reservation.instances:
                if one.state != "terminated" and group_id in [group.id for group in one.security_groups]:
                    raise EC2ClientError("DependencyViolation", f"resource {group_id} has a dependent object")
        delete(self, name, group_id)

    patch.setattr(EC2Backend, "delete_security_group", corrected)


CORRECTIONS: tuple[Correction, ...] = (
    names_of_images,
    client_tokens,
    tags_of_what_is_gone,
    key_pairs_by_id,
    groups_in_use,
)


def correct(patch: pytest.MonkeyPatch) -> None:
    for correction in CORRECTIONS:
        correction(patch)
