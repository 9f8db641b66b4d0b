# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider in memory, with the two ways in which providers treat names, and faults at every boundary."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Offer,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability, NameTaken, ProviderError


class Killed(BaseException):
    """The controller died: nothing of ours may catch this."""


Result = TypeVar("Result")


@dataclass
class FakeCloud:
    """The ground truth that all controllers share."""

    instances: dict[str, Instance] = field(default_factory=dict)
    deleted: list[Instance] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def alive(self, name: str | None = None) -> list[Instance]:
        return [one for one in self.instances.values() if name in (None, one.marker.name)]


class FakeProvider:
    """One controller's view. at_boundary(call, "before" or "after") may raise, or do what another controller does."""

    def __init__(
        self,
        cloud: FakeCloud,
        *,
        name: str = "fake",
        unique_names: bool = False,
        prices: tuple[float, ...] = (1.0, 2.0),
        machines: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.cloud = cloud
        self.capabilities = frozenset(
            {Capability.STOP, Capability.RENEW, Capability.VM} | ({Capability.UNIQUE_NAMES} if unique_names else set())
        )
        self.prices = prices
        self.machines = machines  # the physical machines behind the offers, in the order of prices
        self.at_boundary: Callable[[str, str], None] = lambda call, when: None
        self.refuse: dict[str, ProviderError] = {}  # by call, or "create OFFER"

    def _do(self, call: str, effect: Callable[[], Result], detail: str = "") -> Result:
        self.at_boundary(call, "before")
        self.cloud.calls.append(call)
        for key in (call, f"{call} {detail}"):
            if key in self.refuse:
                raise self.refuse[key]
        result = effect()
        self.at_boundary(call, "after")
        return result

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        return self._do(
            "offers",
            lambda: [
                Offer(
                    self.name,
                    f"offer-{index}",
                    gpu=query.get("gpu"),
                    price_per_hour_usd=price,
                    machine_id=self.machines[index - 1] if self.machines else None,
                )
                for index, price in enumerate(self.prices, 1)
            ],
        )

    def create(self, request: Request) -> Instance:
        def effect() -> Instance:
            marker = request.marker
            taken = [one for one in self.cloud.alive(marker.name) if one.marker.deployment_id == marker.deployment_id]
            if taken and Capability.UNIQUE_NAMES in self.capabilities:
                raise NameTaken("taken", provider=self.name)
            created = Instance(
                provider=self.name,
                id=f"{self.name}-{next(self.cloud.ids)}",
                marker=marker,
                status=Status.RUNNING,
                price_per_hour_usd=request.offer.price_per_hour_usd,
                image=request.image,
                ssh_endpoints=(Endpoint("127.0.0.1", 1),),
                created_at=_clock.now(),
                machine_id=request.offer.machine_id,
            )
            self.cloud.instances[created.id] = created
            return created

        return self._do("create", effect, request.offer.id)

    def get(self, instance_id: str) -> Instance | None:
        return self._do("get", lambda: self.cloud.instances.get(instance_id))

    def list(self) -> list[Instance]:
        return self._do("list", lambda: [one for one in self.cloud.instances.values() if one.provider == self.name])

    def start(self, instance_id: str) -> Instance:
        return self._do("start", lambda: self._set(instance_id, status=Status.RUNNING, needs_start=False))

    def stop(self, instance_id: str) -> Instance:
        return self._do("stop", lambda: self._set(instance_id, status=Status.STOPPED))

    def renew(self, instance_id: str, expiry_epoch_hours: int) -> Instance:
        marker = replace(self.cloud.instances[instance_id].marker, expiry_epoch_hours=expiry_epoch_hours)
        return self._do("renew", lambda: self._set(instance_id, marker=marker))

    def delete(self, instance_id: str) -> bool:
        def effect() -> bool:
            gone = self.cloud.instances.pop(instance_id, None)
            if gone:
                self.cloud.deleted.append(gone)
            return gone is not None

        return self._do("delete", effect)

    def log(self, instance_id: str, words: str) -> str:
        return ""

    def clean_up(self, deployment_id: str) -> bool:
        return self._do("clean_up", lambda: False)

    def _set(self, instance_id: str, **values: Any) -> Instance:
        self.cloud.instances[instance_id] = replace(self.cloud.instances[instance_id], **values)
        return self.cloud.instances[instance_id]
