# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Pure: which rentals of a deployment are to be ended, and why. Decides on one complete list and does nothing."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils import _lifetime, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status


class Verdict(enum.StrEnum):
    """What a rental is to its deployment."""

    EXPIRED = "expired"  # its lifetime is over
    SURPLUS = "surplus"  # an older one has the same name, and its creator had time to settle that
    ORPHAN = "orphan"  # no fleet file names it
    YOUNG = "young"  # surplus or an orphan, but so young that somebody may be about to settle or to write it down
    TERMINATING = "ending"  # its end was ordered, and its provider still lists it
    JOB = "job"  # a job rented it, and its lifetime is not over
    WANTED = "wanted"


ENDING = frozenset({Verdict.EXPIRED, Verdict.SURPLUS, Verdict.ORPHAN})


@dataclass(frozen=True)
class Judged:
    """A rental and what it is."""

    instance: Instance
    verdict: Verdict

    @property
    def ends(self) -> bool:
        return self.verdict in ENDING


def judge(
    instances: Iterable[Instance],
    deployment_id: str,
    wanted: Collection[str],
    now_seconds: float,
    grace_seconds: float,
) -> list[Judged]:
    """Every rental of the deployment with its verdict. What carries another deployment's marker isn't in it."""
    ours = [one for one in instances if one.marker.deployment_id == deployment_id]
    living = [one for one in ours if one.status is not Status.TERMINATING]
    # What is over doesn't count as the one that stays: else the younger one, which still may live, would end with it.
    rivals = [one for one in living if one.marker.owner == "fleet" and not _is_over(one, now_seconds)]
    stays = {
        name: _rent.settle(one for one in rivals if one.marker.name == name).current
        for name in {one.marker.name for one in rivals}
    }

    def verdict(one: Instance) -> Verdict:
        if one.status is Status.TERMINATING:
            return Verdict.TERMINATING
        if _is_over(one, now_seconds):
            return Verdict.EXPIRED
        if one.marker.owner != "fleet":
            return Verdict.JOB
        if one != stays[one.marker.name]:
            return Verdict.SURPLUS if _older(one, _rent.SURPLUS_AGE_SECONDS, now_seconds) else Verdict.YOUNG
        if one.marker.name not in wanted:
            return Verdict.ORPHAN if _older(one, grace_seconds, now_seconds) else Verdict.YOUNG
        return Verdict.WANTED

    return [Judged(one, verdict(one)) for one in ours]


def _is_over(one: Instance, now_seconds: float) -> bool:
    return _lifetime.is_over(one.marker.expiry_epoch_hours, now_seconds)


def _older(one: Instance, seconds: float, now_seconds: float) -> bool:
    """What has no time of creation counts as young."""
    return one.created_at is not None and now_seconds - one.created_at > seconds
