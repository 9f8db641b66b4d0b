# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What modules return: plain dictionaries of offers and instances, never a provider's raw answer."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _lifetime
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer


def offer(value: Offer) -> dict[str, Any]:
    return asdict(value) | {"runtime": value.runtime.value}


def instance(value: Instance) -> dict[str, Any]:
    """One instance as every module returns it."""
    ssh = value.ssh_endpoints[0] if value.ssh_endpoints else None
    return {
        "name": value.marker.name,
        "deployment_id": value.marker.deployment_id,
        "peer_name": f"{value.marker.name}.{value.marker.deployment_id}.internal",
        "id": value.id,
        "provider": value.provider,
        "status": value.status.value,
        "detail": value.detail,
        "outbid": value.outbid,
        "runtime": value.runtime.value,
        "owner": value.marker.owner,
        "gpu": value.gpu,
        "gpu_count": value.gpu_count,
        "instance_type": value.instance_type,
        "region": value.region,
        "image": value.image,
        "price_per_hour_usd": value.price_per_hour_usd,
        "cost_so_far_usd": cost_so_far_usd(value),
        "created_at": timestamp(value.created_at),
        "expires_at": expires_at(value.marker.expiry_epoch_hours),
        **lifetime(value.provider, value.marker.expiry_epoch_hours, value.ends_itself),
        "lifetime_watched_at": timestamp(value.watched_at),
        "address": value.address,
        "ssh_host": ssh.host if ssh else None,
        "ssh_port": ssh.port if ssh else None,
        "ssh_user": value.ssh_user,
        "endpoint_url": value.urls[0][1] if value.urls else None,
        "tls_fingerprint": value.tls_fingerprint,
        "host_key": value.host_key,
        "machine_id": value.machine_id,
    }


def optional(value: Instance | None) -> dict[str, Any] | None:
    return instance(value) if value else None


def failed_rental(value: Instance, readiness: dict[str, Any], ended: str) -> dict[str, Any]:
    """The evidence for a refund: what was rented, for how long, what was tried, and what it cost in vain."""
    return {
        "provider": value.provider,
        "id": value.id,
        "name": value.marker.name,
        "machine_id": value.machine_id,
        "region": value.region,
        "gpu": value.gpu,
        "gpu_count": value.gpu_count,
        "price_per_hour_usd": value.price_per_hour_usd,
        "cost_usd": cost_so_far_usd(value),
        "rented_at": timestamp(value.created_at),
        "given_up_at": timestamp(_clock.now()),
        "ended": ended,
        "detail": value.detail,
        "readiness": readiness,
        "log_tail": [],
    }


def cost_so_far_usd(value: Instance) -> float | None:
    """Price times age; None when one of them is unknown, or when the price is that of what others outbid."""
    if value.price_per_hour_usd is None or value.created_at is None or value.outbid is not False:
        return None
    return round(max(0.0, _clock.now() - value.created_at) / 3600 * value.price_per_hour_usd, 4)


def lifetime(provider_name: str, expiry_epoch_hours: int, ends_itself: bool) -> dict[str, str]:
    """Who ends what is, or would be, rented there, and why."""
    ends = _lifetime.ends(provider_name, expiry_epoch_hours, ends_itself)
    return {"lifetime_enforcer": ends.enforcer.value, "lifetime_enforcer_reason": ends.reason}


def expires_at(epoch_hours: int) -> str | None:
    """None for unlimited."""
    return timestamp(epoch_hours * 3600.0 or None)


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
