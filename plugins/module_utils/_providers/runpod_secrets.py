# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Secrets of a RunPod account, which a pod's environment names and does not hold: no answer of the API shows a value.

Each belongs to one instance of one deployment, and says so in its name, which can't be changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    InvalidRequest,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport

_PATH = "/account/secrets"
_NAME = re.compile(r"gf--(?P<deployment>[a-z0-9-]+?)--(?P<instance>[a-z0-9-]+?)--(?P<variable>[A-Za-z_][A-Za-z0-9_]*)")


class Secret(NamedTuple):
    """What the API tells: its id, and for whom it is by its name."""

    id: str
    instance: str


def put(api: Transport, marker: Marker, values: Mapping[str, str]) -> dict[str, str]:
    """Make or renew the secrets of an instance; returns what its environment holds instead of the values."""
    references = {}
    for variable, value in sorted(values.items()):
        name = f"gf--{marker.deployment_id}--{marker.name}--{variable}"
        body = {"name": name, "value": value, "description": "of gpuops.fleet; removed with its instance"}
        try:
            taken = api.call("POST", _PATH, body=body, accept=(409,)).status == 409
        except (AuthError, InvalidRequest) as error:
            error.fix = (
                "The values of secret_env are kept as secrets of the account: give RUNPOD_API_KEY the right to write "
                "secrets, and let api_url be an API that has /v2/account/secrets."
            )
            raise
        if taken:
            for one in _list(api, name):
                if one["name"] == name:
                    api.call("PATCH", f"{_PATH}/{quote(one['id'], safe='')}", body={"value": value})
        references[variable] = "{{ RUNPOD_SECRET_" + name + " }}"
    return references


def of_deployment(api: Transport, deployment_id: str) -> list[Secret]:
    """Those of a deployment; none where the key may not look, because then it could not make any either."""
    found = []
    for one in _list(api):
        parts = _NAME.fullmatch(one["name"])
        if parts and parts["deployment"] == deployment_id:
            found.append(Secret(one["id"], parts["instance"]))
    return found


def remove(api: Transport, secrets: Iterable[Secret]) -> bool:
    """True when one was there to be removed."""
    statuses = [api.call("DELETE", f"{_PATH}/{quote(one.id, safe='')}", accept=(404,)).status for one in secrets]
    return any(status != 404 for status in statuses)


def _list(api: Transport, name: str | None = None) -> list[dict[str, str]]:
    answer = api.call("GET", _PATH, query={"name": name} if name else None, accept=(403, 404))
    if answer.status != 200:
        return []
    secrets = answer.body.get("secrets") if isinstance(answer.body, dict) else None
    if not isinstance(secrets, list) or not all(_is_secret(one) for one in secrets):
        raise ProviderUnavailable(
            "RunPod answered with no list of secrets.",
            provider=api.provider,
            fix="Run again; if it stays so, look at api_url.",
        )
    return secrets


def _is_secret(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("id", "name"))
