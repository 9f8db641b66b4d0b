# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Why a rented container is not ready: the last lines of its log, without what is or looks like a secret."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.gpuops.fleet.plugins.module_utils import _secret_words
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Runtime, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CONSOLES, Provider, ProviderError

_LINES, _CHARACTERS = 20, 300
_SHORTEST_SECRET = 4  # what is shorter is in every other word


def read(provider: Provider, instance: Instance, wish: Wish) -> list[str]:
    """Empty for a machine, whose log nobody collects, and where the provider shows none."""
    if instance.runtime is not Runtime.CONTAINER:
        return []
    try:
        text = provider.log(instance.id, "")
    except ProviderError:
        return []
    secrets = [*wish.secret_env.values(), *wish.env.values()]
    masked = _masked(text, secrets)
    lines = [" ".join(line.split())[:_CHARACTERS] for line in masked.splitlines() if line.strip()]
    return lines[-_LINES:]


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _secret_words.without_secrets(text)  # those that a provider or a program made


def told(provider_name: str, lines: list[str]) -> str:
    """For the message: the last line, and where the rest is; "" where nobody has a log of it."""
    console = CONSOLES.get(provider_name)
    if lines:
        return f"Its log ends with: {lines[-1]} (more under failed_rentals[].log_tail, and at {console}). "
    return f"No log of it could be read; look at {console}. "
