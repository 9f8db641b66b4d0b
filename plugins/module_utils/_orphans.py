# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Finding what no fleet wants, and destroying it only when that is certain and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _engine, _journal, _marker, _rent, _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError

LISTS_APART_SECONDS = 60.0


def run_orphan(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    deployment_id = _marker.check_deployment_id(params["deployment_id"])
    confirm = params["confirm"]
    if confirm is not None and confirm != deployment_id:
        raise ValueError(f"confirm '{confirm}' is not the deployment_id; to destroy, write confirm: {deployment_id}.")
    wanted = {_marker.check_name(name) for name in params["wanted"]}
    providers = _engine.load_providers(params["providers"], params.get("provider_settings"))
    orphans = _orphans(providers, deployment_id, wanted)
    doomed = [one for one in orphans if confirm and _is_old(one, params["grace_seconds"])]
    if len(doomed) > params["max_deletions"]:
        raise EngineError(
            f"{len(doomed)} instances would be destroyed, more than max_deletions {params['max_deletions']}: "
            + ", ".join(one.marker.name for one in doomed),
            code="too_many",
            provider=", ".join(params["providers"]),
            fix="Check that the list of wanted names is right, then raise max_deletions.",
            result={"orphans": [_views.instance(one) for one in orphans]},
        )
    if doomed and not check_mode:
        doomed = _destroy(providers, deployment_id, wanted, doomed)
    gone = [{"name": one.marker.name, "provider": one.provider, "id": one.id} for one in doomed]
    before = sorted(one.marker.name for one in orphans)
    after = sorted(one.marker.name for one in orphans if one not in doomed)
    return {
        "changed": bool(doomed),
        "orphans": [_views.instance(one) for one in orphans],
        "deleted": gone,
        "diff": {"before": {"orphans": before}, "after": {"orphans": after}},
    }


def _orphans(providers: _rent.Providers, deployment_id: str, wanted: set[str]) -> list[Instance]:
    return [
        one
        for one in _rent.list_all(providers)
        if one.marker.deployment_id == deployment_id
        and one.marker.name not in wanted
        and one.marker.owner == "fleet"  # a job looks after its own rentals
        and one.status is not Status.TERMINATING
    ]


def _is_old(one: Instance, grace_seconds: float) -> bool:
    return one.created_at is not None and _clock.now() - one.created_at > grace_seconds


def _destroy(
    providers: _rent.Providers, deployment_id: str, wanted: set[str], doomed: list[Instance]
) -> list[Instance]:
    _clock.sleep(LISTS_APART_SECONDS)
    again = {(one.provider, one.id) for one in _orphans(providers, deployment_id, wanted)}
    destroyed = []
    for one in doomed:
        provider = providers[one.provider]
        last_look = provider.get(one.id) if (one.provider, one.id) in again else None
        if last_look and last_look.marker == one.marker and provider.delete(one.id):
            _journal.record("deleted", one)
            destroyed.append(one)
    return destroyed
