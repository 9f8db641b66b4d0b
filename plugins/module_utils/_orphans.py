# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Finding what nobody wants any more, and ending it only when that is certain and asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _clock,
    _engine,
    _fleet_file,
    _journal,
    _marker,
    _owned,
    _provider,
    _rent,
    _taken_back,
    _views,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import FleetFileError
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, ProviderError
from ansible_collections.gpuops.fleet.plugins.module_utils._sweep import Judged, Verdict, judge

LISTS_APART_SECONDS = 60.0


def run_orphan(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    sweep = Sweep(params)
    judged = sweep.look()
    doomed = [one for one in judged if one.ends] if params["confirm"] is not None else []
    if len(doomed) > params["max_deletions"]:
        raise EngineError(
            f"{len(doomed)} rentals would be ended, more than max_deletions {params['max_deletions']}, so none was: "
            + ", ".join(f"{one.instance.marker.name} ({one.verdict.value})" for one in doomed),
            code="too_many",
            provider=", ".join(sweep.providers),
            fix="Check that all fleet files of this deployment are given and current, then raise max_deletions.",
            result=sweep.told(judged),
        )
    unseen = _taken_back.unseen_told(_taken_back.unseen(sweep.deployment_id, sweep.providers))
    if params["confirm"] is not None and not check_mode:
        sweep.note_gone(judged)
    ended = doomed
    if doomed and not check_mode:
        ended, failures = sweep.end(doomed)
        if failures:
            raise EngineError(
                "Not everything that had to end was ended: " + " ".join(str(error) for error in failures),
                code=failures[0].code,
                provider=", ".join(dict.fromkeys(error.provider for error in failures)),
                fix="Run again; look at the provider's console for what is named here.",
                result={"changed": bool(ended), "deleted": _ended(ended), **sweep.told(judged)},
            )
    return {
        "changed": bool(ended),
        "deleted": _ended(ended),
        **sweep.told(judged),
        "warnings": unseen,
        "diff": {"before": _lines(judged), "after": _lines(one for one in judged if one not in ended)},
    }


class Sweep:
    """One run over one deployment."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.deployment_id = _marker.check_deployment_id(params["deployment_id"])
        confirm = params["confirm"]
        if confirm is not None and confirm != self.deployment_id:
            raise ValueError(
                f"confirm '{confirm}' is not the deployment_id; to end what is found, write confirm: "
                f"{self.deployment_id} (fleet_confirm for the playbooks)."
            )
        fleets = _fleets(params["fleet_files"], self.deployment_id)
        # Who has become a machine of one's own is wanted as no rental any more.
        self.wanted = frozenset(
            settings["name"] for fleet in fleets for settings in fleet.instances if not _owned.is_owned(settings)
        )
        names = params["providers"] or [name for fleet in fleets for name in fleet.providers]
        renting = [name for name in dict.fromkeys(names) if not _provider.owned(name)]
        if not renting:
            raise ValueError(
                "No provider that rents is named, so there is nowhere to look, and what was rented before goes on "
                "costing: name each under provider_settings of the fleet file, such as 'runpod: {}', or give "
                "providers. A deployment that never rented anything needs no sweep."
            )
        self.providers = _engine.load_providers(renting, params.get("provider_settings"))
        self.grace_seconds = params["grace_seconds"]

    def look(self) -> list[Judged]:
        """What every rental is, by complete lists of all providers; one list that fails is an error."""
        found = _rent.list_all(self.providers)
        judged = judge(found, self.deployment_id, self.wanted, _clock.now(), self.grace_seconds)
        return sorted(judged, key=lambda one: (one.instance.marker.name, one.instance.id))

    def told(self, judged: list[Judged]) -> dict[str, Any]:
        """What the module returns of them; orphans are also those that are too young to be ended."""
        rentals = [_views.instance(one.instance) | {"verdict": one.verdict.value} for one in judged]
        # What is ending already needs nobody's attention.
        unwanted = [
            one
            for one in rentals
            if one["owner"] == "fleet" and one["name"] not in self.wanted and one["verdict"] != Verdict.TERMINATING
        ]
        return {"rentals": rentals, "orphans": unwanted}

    def note_gone(self, judged: list[Judged]) -> None:
        """What no fleet file names is rented anew by nobody, so nobody else would write down that it is gone."""
        living = [one.instance for one in judged]
        for name in sorted(_taken_back.names_left_open(self.deployment_id) - self.wanted):
            _taken_back.note_gone(self.deployment_id, name, self.providers, living, anew=False)

    def end(self, doomed: list[Judged]) -> tuple[list[Judged], list[ProviderError]]:
        """End what a second list and a last look show to be the same; what is in the way of one saves no other."""
        _clock.sleep(LISTS_APART_SECONDS)
        again = {_key(one.instance): one for one in self.look() if one.ends}
        ended: list[Judged] = []
        failures: list[ProviderError] = []
        for one in doomed:
            second = again.get(_key(one.instance))
            if second is None or second.instance.marker != one.instance.marker:
                continue
            try:
                if self._end_one(second):
                    ended.append(one)
            except ProviderError as error:
                failures.append(error)
        for name in dict.fromkeys(one.instance.provider for one in ended):
            try:
                self.providers[name].clean_up(self.deployment_id)
            except ProviderError as error:
                failures.append(error)
        return ended, failures

    def _end_one(self, one: Judged) -> bool:
        provider = self.providers[one.instance.provider]
        last = provider.get(one.instance.id)
        # Another expiry, another owner or another nonce: somebody did something with it a moment ago.
        if last is None or last.marker != one.instance.marker or not provider.delete(last.id):
            return False
        _journal.record("deleted", last, reason=one.verdict.value)
        return True


def _key(one: Instance) -> tuple[str, str]:
    return one.provider, one.id


def _fleets(paths: Iterable[str], deployment_id: str) -> list[_fleet_file.Fleet]:
    """The fleet files, all of them good and of this deployment: what one of them names must not look unwanted."""
    try:
        fleets = [_fleet_file.load(path) for path in _fleet_file.find(paths)]
    except FleetFileError as error:
        raise ValueError(f"fleet_files: {error}") from error
    if not fleets:
        raise ValueError("fleet_files is empty: without the fleet files nobody knows what is wanted; name all of them.")
    for fleet in fleets:
        if fleet.deployment_id != deployment_id:
            raise ValueError(
                f"fleet_files: {fleet.path} is of deployment '{fleet.deployment_id}', not '{deployment_id}'; give the "
                "files of one deployment."
            )
    return fleets


def _ended(judged: list[Judged]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.instance.marker.name,
            "provider": one.instance.provider,
            "id": one.instance.id,
            "verdict": one.verdict.value,
            "cost_so_far_usd": _views.cost_so_far_usd(one.instance),
        }
        for one in judged
    ]


def _lines(judged: Iterable[Judged]) -> dict[str, list[str]]:
    """For the diff."""
    return {
        "rentals": [
            f"{one.instance.marker.name} {one.instance.provider} {one.instance.id} {one.verdict.value}"
            for one in judged
        ]
    }
