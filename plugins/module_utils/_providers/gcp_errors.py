# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What Google says when it says no: at once, or in an operation that is done and failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CONSOLES,
    AuthError,
    InvalidRequest,
    NameTaken,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer

PROVIDER = "gcp"
CONSOLE = CONSOLES[PROVIDER]
KEY_FIX = (
    "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account that may use Compute "
    "(roles/compute.instanceAdmin.v1), or GCP_ACCESS_TOKEN, or log in by 'gcloud auth application-default login'."
)
PROJECT_FIX = "Set provider_settings.gcp.project, or GCP_PROJECT, to the id of the project that pays."
_QUOTA_FIX = (
    "Ask for more at https://console.cloud.google.com/iam-admin/quotas: new projects have none for GPUs "
    "(GPUS_ALL_REGIONS, and the one of the model in the region)."
)
_SOLD_OUT = re.compile(r"(ZONE_)?RESOURCE_POOL_EXHAUSTED(_WITH_DETAILS)?|STOCKOUT")
# What another zone would refuse, too.
_WRONG = re.compile(
    r"INVALID_.*|RESOURCE_NOT_FOUND|CONDITION_NOT_MET|PERMISSION.*|FORBIDDEN|.*_POLICY_.*|CONSTRAINT_.*"
)

Details = Mapping[str, Any]


def said(answer: Answer) -> str:
    error = _error(answer)
    return " ".join(str(error.get("message") or answer.text).split())[:400]


def reason(answer: Answer) -> str:
    errors = _error(answer).get("errors") or [{}]
    return str(errors[0].get("reason") or _error(answer).get("status") or "")


def _error(answer: Answer) -> dict[str, Any]:
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    return error if isinstance(error, dict) else {}


def is_gone(answer: Answer, path: str) -> bool:
    """Whether a 404 is about that very resource: a wrong project, zone or address answers with one, too."""
    return reason(answer) == "notFound" and f"/{'/'.join(path.split('/')[-2:])}'" in said(answer)


def refusal(answer: Answer) -> ProviderError:
    """An answer of 4xx, as an error of the contract."""
    why, words = reason(answer), said(answer).rstrip(".")
    details: dict[str, Any] = {"provider": PROVIDER, "status": answer.status, "request_id": answer.request_id}
    message = f"{PROVIDER} refuses: {words or f'it answered {answer.status}'}."
    if why in ("rateLimitExceeded", "userRateLimitExceeded"):
        return RateLimited(message, fix="Run again later; all who work in this project share its limits.", **details)
    if why == "quotaExceeded":
        return QuotaError(message, scope=quota_scope(words), fix=_QUOTA_FIX, **details)
    if answer.status in (401, 403):
        return AuthError(message, fix=KEY_FIX, **details)
    if why == "alreadyExists":
        return NameTaken(message, fix="Look for what has this name.", **details)
    return InvalidRequest(message, fix="Change what it names, then run again.", **details)


def quota_scope(words: str) -> str:
    """Where trying again makes no sense: in that region, or anywhere."""
    return "region" if re.search(r"\bin region\b", words) else "provider"


def strange(what: str) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"{PROVIDER} answered with {what}.", provider=PROVIDER, fix="Run again; if it stays so, look at api_url."
    )


def operation_errors(operation: Details) -> list[dict[str, Any]]:
    """What went wrong with one that is done; empty when nothing did."""
    return list((operation.get("error") or {}).get("errors") or ())


def zones_in_stock(error: Details) -> list[str]:
    """The zones of which the error says that they have some left."""
    found: list[str] = []
    for detail in error.get("errorDetails") or ():
        metadatas = (detail.get("errorInfo") or {}).get("metadatas") or {}
        found += [zone.strip() for zone in str(metadatas.get("zonesAvailable") or "").split(",")]
    return [zone for zone in found if zone]


def failed(operation: Details, doing: str) -> ProviderError:
    """A failed operation as an error of the contract. Of several a quota counts first: it holds elsewhere, too."""
    errors = operation_errors(operation)
    first = next((one for one in errors if one.get("code") == "QUOTA_EXCEEDED"), errors[0])
    code, words = str(first.get("code")), " ".join(str(first.get("message") or "").split())[:400].rstrip(".")
    details: dict[str, Any] = {"provider": PROVIDER, "status": operation.get("httpErrorStatusCode")}
    message = f"{PROVIDER} could not {doing}: {words or 'no reason was given'} ({code})."
    if code == "QUOTA_EXCEEDED":
        return QuotaError(message, scope=quota_scope(words), fix=_QUOTA_FIX, **details)
    if _SOLD_OUT.fullmatch(code):
        return NoCapacity(message, fix="Another zone is tried, or try again later.", **details)
    if _WRONG.fullmatch(code):
        return InvalidRequest(message, fix="Change what it names, then run again.", **details)
    return NoCapacity(message, fix="Another zone is tried, or try again later.", **details)
