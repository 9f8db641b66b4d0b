# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How long a rental may live, who ends it then, and how it is given more time."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Capability,
    EngineError,
    Provider,
    owned,
    renewing,
)


class Enforcer(enum.StrEnum):
    """Who ends a rental when its lifetime is over."""

    PROVIDER = "provider"  # by itself, also when no controller is left
    MACHINE = "machine"  # what runs there, with a key that its provider gives it for itself; else the next sweep
    SWEEP = "sweep"  # the next run of the playbook sweep with fleet_confirm
    NOBODY = "nobody"  # it lives until somebody destroys it


@dataclass(frozen=True)
class Ends:
    """Who ends it, and why that is so."""

    enforcer: Enforcer
    reason: str


def ends(provider_name: str, expiry_epoch_hours: int, ends_itself: bool) -> Ends:
    """Who ends what is, or would be, rented there with that expiry; ends_itself: what runs there says that it can."""
    if owned(provider_name):
        return Ends(Enforcer.NOBODY, "you own it, so nothing here ends it")
    if not expiry_epoch_hours:
        return Ends(Enforcer.NOBODY, "its lifetime is unlimited")
    can = CAPABILITIES.get(provider_name, frozenset())
    if Capability.LEASE in can:
        return Ends(
            Enforcer.PROVIDER,
            f"{provider_name} itself ends what runs; what is stopped is ended by the next gpuops.fleet.sweep with "
            "fleet_confirm",
        )
    if Capability.TIMER in can:
        return Ends(
            Enforcer.MACHINE,
            "a timer on the machine powers it off, which ends it, where its image runs cloud-init; what is stopped is "
            "ended by the next gpuops.fleet.sweep with fleet_confirm",
        )
    if ends_itself and Capability.OWN_KEY in can:
        return Ends(
            Enforcer.MACHINE,
            f"what runs there is to end itself with the key that {provider_name} gives it (lifetime_watched_at is when "
            "its log showed that it looks); what does not run is ended by gpuops.fleet.sweep with fleet_confirm",
        )
    return Ends(
        Enforcer.SWEEP,
        f"{provider_name} ends nothing by itself; the next gpuops.fleet.sweep with fleet_confirm does",
    )


def is_over(expiry_epoch_hours: int, now_seconds: float) -> bool:
    """Whether that expiry has passed; 0 is unlimited."""
    return 0 < expiry_epoch_hours * 3600 <= now_seconds


def renew(provider: Provider, current: Instance, expiry_epoch_hours: int) -> Instance:
    """Give it until then, and read back that the provider knows."""
    renewed = renewing(provider).renew(current.id, expiry_epoch_hours)
    if renewed.marker.expiry_epoch_hours != expiry_epoch_hours:
        raise EngineError(
            f"{provider.name} took the new expiry of '{current.marker.name}' ({current.id}), but still shows the old "
            "one, so it may be ended then.",
            code="unavailable",
            provider=provider.name,
            fix="Run again; if it stays so, look at its name or label in the provider's console.",
        )
    _journal.record("renewed", renewed, expiry_epoch_hours=expiry_epoch_hours)
    return renewed
