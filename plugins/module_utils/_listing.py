# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking several providers at once what lives; one that fails or is slow takes nothing from the others' answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

Load = Callable[[str, Mapping[str, Any]], _provider.Provider]


@dataclass(frozen=True)
class Listing:
    """One provider's complete list, or why there is none. A cached list carries its age."""

    provider: str
    instances: tuple[Instance, ...] = ()
    age_seconds: float = 0.0
    failure: str | None = None  # what went wrong
    fix: str = ""  # what to do about it


def list_all(
    names: Iterable[str], settings: Mapping[str, Mapping[str, Any]], load: Load = _provider.load
) -> list[Listing]:
    """The list of each provider, in the order of names; never raises for what a provider does."""
    wanted = [(name, settings.get(name, {})) for name in names]
    if len(wanted) <= 1:
        return [_list_one(name, own, load) for name, own in wanted]
    from concurrent.futures import ThreadPoolExecutor  # one provider needs no threads

    with ThreadPoolExecutor(max_workers=len(wanted), thread_name_prefix="fleet-list") as pool:
        return list(pool.map(lambda item: _list_one(item[0], item[1], load), wanted))


def _list_one(name: str, settings: Mapping[str, Any], load: Load) -> Listing:
    try:
        return Listing(name, tuple(load(name, settings).list()))
    except _provider.ProviderError as error:
        return Listing(name, failure=error.message, fix=error.fix)
    except Exception as error:
        # A mistake in one provider's code (or in its library) must not take the other providers' hosts away.
        return Listing(
            name,
            failure=f"{type(error).__name__}: {error}",
            fix="This looks like a mistake in gpuops.fleet; please report it with the output of -vvv.",
        )
