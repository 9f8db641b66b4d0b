# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a run has done so far. It is told with its result, and must not be lost with its failure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _amounts, _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderError

_REPLACEMENTS = 3  # how many machines may be tried beyond the first


@dataclass
class Done:
    """Of one run, for one instance."""

    actions: list[str] = field(default_factory=list)
    tried: list[Offer] = field(default_factory=list)
    failed_rentals: list[dict[str, Any]] = field(default_factory=list)
    bad_machines: set[tuple[str, str | None]] = field(default_factory=set)  # (provider, machine_id)
    host_key_trust: str | None = None
    warnings: list[str] = field(default_factory=list)
    living: Instance | None = None  # what there is of this instance, as far as we know

    @property
    def may_try_another(self) -> bool:
        return len(self.failed_rentals) < _REPLACEMENTS

    def in_vain(self, rental: Instance, evidence: dict[str, Any]) -> None:
        """That one is paid for and of no use, and its machine is not rented again by this run."""
        self.failed_rentals.append(evidence)
        if rental.machine_id:
            self.bad_machines.add((rental.provider, rental.machine_id))

    def untried(self, offers: list[Offer]) -> list[Offer]:
        return [
            one for one in offers if one not in self.tried and (one.provider, one.machine_id) not in self.bad_machines
        ]

    def tell(self, error: ProviderError, before: Instance | None, wish: Wish, warnings: list[str]) -> None:
        """What was done, and what it costs, must not be lost with an error that knows nothing of it."""
        if error.rented:
            self.living = error.rented[0]
            self.actions.append(Action.CREATE.value)
        if "failed_rentals" not in error.result:
            for one in error.rented[1:]:
                error.tell_first(_amounts.goes_on(one))
            for sentence in self._costs(before, wish):
                error.tell_first(sentence)
        done = {
            "changed": bool(self.actions),
            "actions": self.actions,
            "instance": _views.optional(self.living),
            "failed_rentals": self.failed_rentals,
            "warnings": [*warnings, *self.warnings],
        }
        error.result = done | error.result

    def _costs(self, before: Instance | None, wish: Wish) -> Iterator[str]:
        """What this run has paid for without a success, and what it goes on paying for."""
        if self.living and {Action.CREATE.value, Action.START.value} & set(self.actions):
            yield _amounts.goes_on(self.living)
        if self.failed_rentals:
            yield f"Rented in vain: {_amounts.in_vain(self.failed_rentals)}."
        elif before and not self.living and wish.state != "absent" and Action.DELETE.value in self.actions:
            gone = f"{before.provider} {_amounts.short(before.id)}"
            yield f"{gone} differed and was destroyed, and no other is known to be in its place."
