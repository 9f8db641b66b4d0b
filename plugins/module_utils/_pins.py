# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which certificate a rental has whose server ends TLS itself: nobody signed it, so its fingerprint is what counts.

It is read from the rental's log, which its provider shows to us alone; where there is none, the first connection is
trusted, and that is said. This controller remembers it in its journal; another one begins with the log again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider, ProviderError

# What the entry point of a rental prints (roles/vllm/files/rental_entrypoint.py).
LOG_WORDS = "gpuops-fleet-tls-fingerprint"
_LINE = re.compile(rf"{LOG_WORDS} (sha256:[0-9a-f]{{64}})", re.ASCII)
_EVENT = "tls_fingerprint"
_CONNECT_SECONDS = 10.0

Records = dict[tuple[str, str, str], str]


class Pin(NamedTuple):
    """The certificate to trust, and where it comes from."""

    fingerprint: str
    said: str


def on_record(deployment_id: str) -> Records:
    """The certificates that this controller remembers, by provider, id and nonce: an id can be used again."""
    return {
        (str(line.get("provider")), str(line.get("id")), str(line.get("nonce"))): str(line["fingerprint"])
        for line in _journal.read(deployment_id)
        if line.get("event") == _EVENT and "fingerprint" in line
    }


def recorded(instance: Instance, records: Records | None = None) -> str | None:
    """What this controller remembers of this very rental."""
    known = on_record(instance.marker.deployment_id) if records is None else records
    return known.get((instance.provider, instance.id, instance.marker.nonce))


def judge(provider: Provider, instance: Instance, seen: str) -> Pin:
    """The certificate that is the right one, when nothing is remembered and somebody answers with the seen one."""
    try:
        printed = _LINE.findall(provider.log(instance.id, LOG_WORDS))
    except ProviderError:
        printed = []
    pin = Pin(seen, "no log says which certificate it has, so the one of this first connection is trusted from now on")
    if printed:
        pin = Pin(printed[-1], f"its log says that its certificate is {printed[-1]}")
    if pin.fingerprint == seen:
        _journal.record(_EVENT, instance, fingerprint=seen)
        return pin
    return Pin(pin.fingerprint, f"{pin.said}, but who answers has {seen}")


def find(provider: Provider, instance: Instance) -> Pin | None:
    """The certificate of a rental that may have been pinned on another controller; None while nobody answers."""
    known = recorded(instance)
    if known:
        return Pin(known, "remembered by this controller")
    if not (instance.own_tls and instance.urls):
        return None
    # Only when somebody is asked: the inventory reads pins, and needs nothing of HTTP for that.
    from ansible_collections.gpuops.fleet.plugins.module_utils import _endpoint

    try:
        return judge(provider, instance, _endpoint.presented_fingerprint(instance.urls[0][1], _CONNECT_SECONDS))
    except OSError:
        return None
