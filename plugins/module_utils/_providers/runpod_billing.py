# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What RunPod has charged for pods, in buckets of an hour.

The records of version 2 are {podId, totalAmount, …} under "records"; a plain list with "amount" is what version 1
answered, and is taken as well, because the newer one was never seen with a live account.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport

_HOUR = timedelta(hours=1)


def billed_usd(api: Transport, pod_ids: Collection[str], since_seconds: float) -> dict[str, float]:
    """One question for all pods; one without a record is left out, for that does not mean that it cost nothing."""
    if not pod_ids:
        return {}
    # Whole hours, as the buckets are; one without the other is refused.
    began = datetime.fromtimestamp(since_seconds, UTC).replace(minute=0, second=0, microsecond=0)
    ends = datetime.fromtimestamp(_clock.now(), UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
    query = {"bucketSize": "hour", "startTime": _text(began), "endTime": _text(ends)}
    body = api.call("GET", "/billing/pods", query=query).body
    records = body.get("records") if isinstance(body, Mapping) else body
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        raise ProviderUnavailable(
            "RunPod's bill has no records that can be read.",
            provider=api.provider,
            fix="Look at the console's billing.",
        )
    sums: dict[str, float] = {}
    for record in records:
        amount = record.get("totalAmount", record.get("amount"))
        if record.get("podId") in pod_ids and isinstance(amount, (int, float)):
            sums[record["podId"]] = sums.get(record["podId"], 0.0) + amount
    return {pod_id: round(amount, 4) for pod_id, amount in sums.items()}


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
