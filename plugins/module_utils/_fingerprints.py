# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""With what a rental was started, as fingerprints that stand on it, so that every controller sees a changed wish.

Providers don't show all of that again, each shows it in its own way, and some of it is secret.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker, _pairs
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Wish

VARIABLE = "GPUFLEET_STARTED_WITH"  # in the environment of a rental: "v1.args:2f1c….env:90ab….end"
_DIGITS = 16
# A secret is a key of 16 random characters or more, which nobody finds by trying; this is for the one that isn't.
_SECRET_ROUNDS = 10_000


def encode(wish: Wish, marker: Marker, own_tls: bool) -> str:
    """One pair for each thing that the user said; own_tls: tls_args are part of the arguments there."""
    told = _told(wish, own_tls)
    return _pairs.join((name, _fingerprint(name, value, marker)) for name, value in told.items())


def differing(current: Instance, wish: Wish) -> list[str]:
    """What is said otherwise now. What is no longer said, and what nobody can tell, is no difference."""
    pairs = _pairs.split(current.started_with)
    if pairs is None:
        return []
    stands = dict(pairs)
    told = _told(wish, current.own_tls)
    return [name for name, value in told.items() if stands.get(name) != _fingerprint(name, value, current.marker)]


def _told(wish: Wish, own_tls: bool) -> dict[str, Any]:
    """What the user said, and not what a role of this collection made of it: its new version is no new wish."""
    told: dict[str, Any] = {}
    if wish.computed_from is not None:
        told["settings"] = wish.computed_from
    else:
        if wish.entrypoint is not None:
            told["entrypoint"] = wish.entrypoint
        if wish.args is not None:
            told["args"] = [*wish.args, *((wish.tls_args or ()) if own_tls else ())]
    env = {name: value for name, value in wish.env.items() if wish.computed_env.get(name) != value}
    return told | {name: value for name, value in (("env", env), ("secret_env", wish.secret_env)) if value}


def _fingerprint(name: str, value: Any, marker: Marker) -> str:
    text = json.dumps(value, sort_keys=True).encode()
    salt = f"{name} {_marker.identity(marker)}".encode()  # the same secret looks different on each rental
    if name == "secret_env":
        return hashlib.pbkdf2_hmac("sha256", text, salt, _SECRET_ROUNDS).hex()[:_DIGITS]
    return hashlib.sha256(salt + b"\n" + text).hexdigest()[:_DIGITS]
