# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking several providers at once what lives; one that fails or is slow takes nothing from the others' answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _cached, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance


@dataclass(frozen=True)
class Listing:
    """One provider's complete list, or why there is none. A cached list carries its age, and why it is no newer."""

    provider: str
    instances: tuple[Instance, ...] = ()
    age_seconds: float = 0.0
    failure: str | None = None  # what went wrong
    fix: str = ""  # what to do about it
    outdated: str | None = None  # what went wrong when a newer list was asked for


def list_all(
    names: Iterable[str],
    settings: Mapping[str, Mapping[str, Any]],
    load: _cached.Load = _provider.load,
    *,
    fresh: bool = False,
    stale_seconds: float | None = None,
) -> list[Listing]:
    """The list of each provider, in the order of names; never raises for what a provider does.

    fresh: ask, whatever is cached. stale_seconds: how old a cached list may be that is used while a newer one is asked
    for in the background.
    """

    def one(item: tuple[str, Mapping[str, Any]]) -> Listing:
        return _list_one(*item, load, fresh, stale_seconds)

    wanted = [(name, settings.get(name, {})) for name in names]
    if len(wanted) <= 1:
        return [one(item) for item in wanted]
    from concurrent.futures import ThreadPoolExecutor  # one provider needs no threads

    with ThreadPoolExecutor(max_workers=len(wanted), thread_name_prefix="fleet-list") as pool:
        return list(pool.map(one, wanted))


def _list_one(
    name: str, settings: Mapping[str, Any], load: _cached.Load, fresh: bool, stale_seconds: float | None
) -> Listing:
    try:
        reading = _cached.hosts(name, settings, load, fresh=fresh, stale_seconds=stale_seconds)
    except Exception as error:
        # A mistake in one provider's code (or in its library) must not take the other providers' hosts away.
        return Listing(
            name,
            failure=f"{type(error).__name__}: {error}",
            fix="This looks like a mistake in gpuops.fleet; please report it with the output of -vvv.",
        )
    message, fix = (reading.error.message, reading.error.fix) if reading.error else (None, "")
    if reading.data is None:
        return Listing(name, failure=message, fix=fix)
    return Listing(name, tuple(reading.data), reading.age_seconds, fix=fix, outdated=message)
