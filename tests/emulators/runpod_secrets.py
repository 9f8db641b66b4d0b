# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RunPod's account secrets: names are unique and stay, values are written and never shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from .world import World

_NAME = re.compile(r"(?!RUNPOD)[A-Za-z_][A-Za-z0-9_.\-/]*", re.IGNORECASE)


class CreateSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=191)
    value: str = Field(min_length=1)
    description: str | None = None


class ChangeSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: str | None = None
    description: str | None = None


def _shown(secret: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in secret.items() if name != "value"}


_PLACEHOLDER = re.compile(r"\{\{ RUNPOD_SECRET_(\S+) \}\}")


def opened(world: World, environment: dict[str, str]) -> dict[str, str]:
    """What a container gets at its start: the values in place of their names, but for names that nobody knows."""
    values = {one["name"]: one["value"] for one in world.secrets.values()}
    return {
        name: _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), value)
        for name, value in environment.items()
    }


def add_routes(app: FastAPI, world: World, refusal: Callable[[int, str, str], Exception]) -> None:
    """refusal makes the exception that the app answers with: status, title, detail."""

    def find(identity: str) -> dict[str, Any]:
        if identity not in world.secrets:
            raise refusal(404, "Not Found", "secret not found")
        return world.secrets[identity]

    def now() -> str:
        return datetime.fromtimestamp(world.now(), UTC).isoformat().replace("+00:00", "Z")

    @app.get("/v2/account/secrets")
    def list_secrets(name: str | None = None) -> dict[str, Any]:
        with world.lock:
            every = [_shown(one) for one in world.secrets.values()]
        return {"secrets": [one for one in every if name is None or one["name"].lower() == name.lower()]}

    @app.post("/v2/account/secrets", status_code=201)
    def create_secret(wish: CreateSecret) -> dict[str, Any]:
        with world.lock:
            if not _NAME.fullmatch(wish.name):
                raise refusal(422, "Unprocessable Entity", "name is no name of a secret")
            if any(one["name"].lower() == wish.name.lower() for one in world.secrets.values()):
                raise refusal(409, "Conflict", "a secret with this name already exists")
            identity = f"secret{next(world.numbers):06x}"
            world.secrets[identity] = {
                "id": identity,
                **wish.model_dump(),
                "createdAt": now(),
                "valueLastUpdatedAt": now(),
            }
            return _shown(world.secrets[identity])

    @app.patch("/v2/account/secrets/{identity}")
    def change_secret(identity: str, wish: ChangeSecret) -> dict[str, Any]:
        with world.lock:
            find(identity).update(wish.model_dump(exclude_none=True), valueLastUpdatedAt=now())
            return _shown(world.secrets[identity])

    @app.delete("/v2/account/secrets/{identity}", status_code=204)
    def delete_secret(identity: str) -> Response:
        with world.lock:
            find(identity)
            del world.secrets[identity]
        return Response(status_code=204)
