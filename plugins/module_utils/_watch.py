# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Does a rental that is to end itself look at its expiry? Its log says so at each look, by its provider's clock."""

from __future__ import annotations

import re
from dataclasses import replace
from email.utils import parsedate_to_datetime

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider, ProviderError

# What the entry point of a rental prints (roles/vllm/files/rental_entrypoint.py).
LOG_WORDS = "gpuops-fleet-watch"
_LINE = re.compile(rf"{LOG_WORDS} ([A-Z][A-Za-z]{{2}}, [0-9A-Za-z: ]{{1,40}} GMT)", re.ASCII)
_EVENT = "watched"


def ask(provider: Provider, instance: Instance) -> Instance:
    """The instance with the time of its last look, as its log tells now."""
    if not (instance.ends_itself and instance.marker.expiry_epoch_hours):
        return instance
    try:
        looks = _LINE.findall(provider.log(instance.id, LOG_WORDS))
        seconds = max(parsedate_to_datetime(look).timestamp() for look in looks)
    except (ProviderError, ValueError):  # no log, or nothing of it there
        return instance
    _journal.record(_EVENT, instance, watched_at=seconds)
    return replace(instance, watched_at=seconds)


def once(provider: Provider, instance: Instance) -> Instance:
    """The same for who has seen one look of it: that is remembered, because a log takes seconds to come."""
    if not instance.ends_itself:
        return instance
    seen = [
        line["watched_at"]
        for line in _journal.read(instance.marker.deployment_id)
        if line.get("event") == _EVENT and line.get("id") == instance.id and line.get("nonce") == instance.marker.nonce
    ]
    return replace(instance, watched_at=max(seen)) if seen else ask(provider, instance)


def doubt(instance: Instance) -> str:
    """What to tell the user when it is to end itself and nothing shows that it will; "" when there is no doubt."""
    if not (instance.ends_itself and instance.marker.expiry_epoch_hours) or instance.watched_at is not None:
        return ""
    return (
        f"Instance '{instance.marker.name}' at {instance.provider} ({instance.id[:20]}) is to end itself when its "
        "lifetime is over, but its log does not show that it looks at its expiry. Let gpuops.fleet.sweep run with "
        "fleet_confirm."
    )
