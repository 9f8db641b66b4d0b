# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What of a machine at Google somebody changed: what is put right while it runs, and what can only be told. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_errors import PROVIDER

# Its time counts from its start, minutes after the order; an expiry that somebody changed is hours away.
_SLACK_SECONDS = 1800.0


def deviations(row: wire.Row, marker: Marker, settings: wire.Row) -> dict[str, tuple[Any, Any]]:
    """(now, wanted) of what can be changed while it runs. Tags that nobody has declared are left alone."""
    found: dict[str, tuple[Any, Any]] = {}
    tags = list((row.get("tags") or {}).get("items") or ())
    wanted = wire.network_tags(marker.deployment_id, settings)
    if settings.get("network_tags") is None:
        wanted = list(dict.fromkeys([*wanted, *tags]))
    if set(tags) != set(wanted):
        found["network_tags"] = (sorted(tags), sorted(wanted))
    # The marker's own label is what all else is compared with. Whose a machine without the other one is, it means.
    if wire.OWNER_LABEL not in (row.get("labels") or {}):
        found["labels"] = ({}, {wire.OWNER_LABEL: wire.labels(marker)[wire.OWNER_LABEL]})
    known = row.get("scheduling") or {}
    right = wire.scheduling(has_accelerators=bool(row.get("guestAccelerators")), spot=wire.is_spot(row), seconds=None)
    wrong = {
        name: known.get(name) for name in ("onHostMaintenance", "automaticRestart") if known.get(name) != right[name]
    }
    if wrong:
        found["scheduling"] = (wrong, {name: right[name] for name in wrong})
    return found


def has_limit(row: wire.Row) -> bool:
    """Whether Google ends it at some time."""
    known = row.get("scheduling") or {}
    return bool(known.get("maxRunDuration") or known.get("terminationTime"))


def untouchable(row: wire.Row, marker: Marker) -> list[str]:
    """Sentences about its end, which Google changes only while it is stopped: each start sets it anew."""
    if row.get("status") != "RUNNING":
        return []
    known = row.get("scheduling") or {}
    until = marker.expiry_epoch_hours * 3600.0 or None
    ends, action = _ends_at(row), known.get("instanceTerminationAction")
    wrong = ""
    if until and not has_limit(row):
        wrong = f"Google does not end it at {_views.timestamp(until)}, when its lifetime is over (no maxRunDuration)"
    elif until and action != "DELETE":
        wrong = f"Google stops it when its lifetime is over, instead of deleting it ({action}): its disk would cost on"
    elif until and ends and abs(ends - until) > _SLACK_SECONDS:
        wrong = f"Google ends it at {_views.timestamp(ends)}, and its lifetime is over at {_views.timestamp(until)}"
    elif not until and has_limit(row):
        wrong = f"Google ends it at {_views.timestamp(ends) or 'some time'}, although its lifetime is unlimited"
    if not wrong:
        return []
    return [
        f"{marker.name} at {PROVIDER} ({row.get('name')}): {wrong}; somebody changed that, and Google takes no "
        "other end while it runs, so run it with state: stopped and then with state: started, or let "
        "gpuops.fleet.sweep with fleet_confirm end it in time."
    ]


def _ends_at(row: wire.Row) -> float | None:
    """By what Google says itself, else from its start on; None while nobody knows."""
    known = row.get("scheduling") or {}
    said = ((row.get("resourceStatus") or {}).get("scheduling") or {}).get("terminationTimestamp")
    moment = wire.moment(said or known.get("terminationTime"))
    began = wire.moment(row.get("lastStartTimestamp"))
    seconds = (known.get("maxRunDuration") or {}).get("seconds")
    return began + int(seconds) if moment is None and began is not None and seconds is not None else moment
