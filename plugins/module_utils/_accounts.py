# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Where a provider's API is and with which key it is asked: the account. Known without importing the provider."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Api(NamedTuple):
    """The address that holds without settings, and the environment variables that official clients read."""

    url: str
    url_variable: str
    key_variable: str
    also: tuple[str, ...] = ()  # what else says who asks, where there is no such key


# The providers that are asked over the network. The others have no account, and nothing of theirs is cached or shared.
APIS = {
    "runpod": Api("https://api.runpod.io/v2", "RUNPOD_REST_V2_URL", "RUNPOD_API_KEY"),
    "vastai": Api("https://console.vast.ai", "VAST_URL", "VAST_API_KEY"),
    "tensordock": Api("https://dashboard.tensordock.com/api/v2", "TENSORDOCK_API_URL", "TENSORDOCK_API_TOKEN"),
    "gcp": Api("https://compute.googleapis.com/compute/v1", "GCP_COMPUTE_URL", "GCP_ACCESS_TOKEN"),
    # The id of a key is no secret; the key itself is known to boto3 alone.
    "aws": Api("https://ec2.amazonaws.com", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", ("AWS_PROFILE", "AWS_ROLE_ARN")),
}


@dataclass(frozen=True)
class Account:
    """Whom we are for a provider. key is None when nobody gave one."""

    provider: str
    url: str
    key: str | None = field(repr=False)
    part: tuple[str, ...] = ()  # the regions that are looked into, where not all are
    region: str | None = None  # where it rents when nobody says where; no part of who it is

    @property
    def label(self) -> str:
        """Names this account in names of files, without telling its key."""
        text = "\0".join(
            ("gpuops.fleet account", self.provider, self.url.rstrip("/"), self.key or "", *sorted(self.part))
        )
        return f"{self.provider}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def find(provider: str, settings: Mapping[str, Any]) -> Account | None:
    """The account that these settings and the environment name; None for a provider without one."""
    api = APIS.get(provider)
    if api is None:
        return None
    url = settings.get("api_url") or os.environ.get(api.url_variable) or api.url
    if provider == "gcp":
        return Account(provider, str(url), _google(settings))
    variables = (os.environ.get(name) for name in (api.key_variable, *api.also))
    key = str(settings.get("api_key") or next((value for value in variables if value), "")).strip()
    return Account(
        provider,
        str(url),
        key or None,
        tuple(settings.get("regions") or ()),
        aws_region(settings) if provider == "aws" else None,
    )


def aws_region(settings: Mapping[str, Any]) -> str | None:
    """The region in which AWS rents when nobody says where, where anybody says that one."""
    variables = (os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
    return next((str(one) for one in (*(settings.get("regions") or ())[:1], *variables) if one), None)


def google_project(settings: Mapping[str, Any]) -> str | None:
    """The project that pays, where anybody says it."""
    known = (os.environ.get(name) for name in ("GCP_PROJECT", "GOOGLE_CLOUD_PROJECT"))
    return next((str(one).strip() for one in (settings.get("project"), *known) if one), None)


def _google(settings: Mapping[str, Any]) -> str:
    """Whom Google takes us for: the project, and where the credentials are. A token is another one each hour."""
    where = "token" if os.environ.get("GCP_ACCESS_TOKEN") else os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    return "\0".join((google_project(settings) or "", where or "default"))


def get(provider: str, settings: Mapping[str, Any]) -> Account:
    """Like find, for a provider that has one."""
    account = find(provider, settings)
    if account is None:
        raise ValueError(f"provider '{provider}' has no account.")
    return account
