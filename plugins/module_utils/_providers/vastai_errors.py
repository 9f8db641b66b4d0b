# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What Vast.ai's API says when it says no, as errors of the contract."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    InvalidRequest,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderUnavailable,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer

PROVIDER = "vastai"
KEY_FIX = "Set VAST_API_KEY, or provider_settings.vastai.api_key, to a key from https://cloud.vast.ai/manage-keys/."


def code_of(answer: Answer) -> str:
    """The provider's own word for what went wrong; "" when it has none."""
    body = answer.body if isinstance(answer.body, dict) else {}
    code = str(body.get("error") or "")
    # Sometimes the word stands in the sentence alone: "error 404/3603: no_such_ask …".
    return "no_such_ask" if "no_such_ask" in answer.text else code


def is_gone(answer: Answer) -> bool:
    """Whether it says that there is no such instance. Any other 404 (an expired session is one) proves nothing."""
    return code_of(answer) in ("no_such_instance", "not_found")


def refusal(answer: Answer) -> ProviderError:
    """An answer that says no, also one with HTTP 200, as an error of the contract."""
    body, code = answer.body if isinstance(answer.body, dict) else {}, code_of(answer)
    said = " ".join(str(body.get("msg") or body.get("detail") or code or answer.text).split())[:300]
    details: dict[str, Any] = {"provider": PROVIDER, "status": answer.status, "request_id": answer.request_id}
    message = f"{PROVIDER} refuses: {said or f'it answered {answer.status}'}."
    if answer.status in (401, 403) or code == "auth_error":
        return AuthError(message, fix=KEY_FIX, **details)
    if code == "no_such_ask":
        return OfferGone(message, fix="Somebody took it; run again to take another one.", **details)
    if code == "resources_unavailable":
        return NoCapacity(message, fix="Destroy it and rent another one, or try again later.", **details)
    if answer.status == 402 or code in ("missing_billing", "insufficient_credit"):
        return QuotaError(message, fix="Add credit at https://cloud.vast.ai/billing/.", **details)
    if code.startswith("no_ssh_key"):
        return InvalidRequest(message, fix="Add an SSH key at https://cloud.vast.ai/manage-keys/.", **details)
    if answer.status == 410:
        return ProviderUnavailable(message, fix="Vast.ai switched this route off; update gpuops.fleet.", **details)
    return InvalidRequest(message, fix="Change what it names, then run again.", **details)
