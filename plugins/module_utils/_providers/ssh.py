# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Machines that their user owns: a list of what the fleet file says, and nothing that could be asked or ordered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ansible_collections.gpuops.fleet.plugins.module_utils import _host_keys
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Request
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, InvalidRequest


def make(settings: Mapping[str, Any]) -> Ssh:
    return Ssh(settings.get("machines") or ())


class Ssh:
    """The machines that it was made with; without any, as in a sweep, there is nothing to judge."""

    name = "ssh"
    capabilities = CAPABILITIES["ssh"]

    def __init__(self, machines: list[Instance] | tuple[Instance, ...]) -> None:
        self._machines = {one.id: one for one in machines}

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        return []

    def create(self, request: Request) -> Instance:
        self._refuse("rented")

    def get(self, instance_id: str) -> Instance | None:
        return self._machines.get(instance_id)

    def list(self) -> list[Instance]:
        return [*self._machines.values()]

    def start(self, instance_id: str) -> Instance:
        self._refuse("started")

    def stop(self, instance_id: str) -> Instance:
        self._refuse("stopped")

    def delete(self, instance_id: str) -> bool:
        """Nobody goes to the machine: what is forgotten is the host key that this controller remembers of it."""
        machine = self._machines.pop(instance_id, None)
        return machine is not None and _host_keys.forget(machine)

    def log(self, instance_id: str, words: str) -> str:
        return ""

    def clean_up(self, deployment_id: str) -> bool:
        return False

    def _refuse(self, what: str) -> NoReturn:
        raise InvalidRequest(
            f"A machine that you own can't be {what} here.", provider=self.name, fix="Do that yourself, or rent one."
        )
