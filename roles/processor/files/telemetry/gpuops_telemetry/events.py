# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one schema of the events, used by whoever publishes them and by whoever stores them."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

GPU_METRICS_TOPIC = "gpu.metrics.v1"
TOKEN_USAGE_TOPIC = "token.usage.v1"  # noqa: S105 - a topic name
DEAD_LETTER_SUFFIX = ".dlq"

# What the playbook verify sends: stored like every event, for the ledger must balance, but nobody's usage.
CHECK_PREFIX = "verify-"

# pydantic alone also takes "1700000000" and a blank in place of the T. The year is bounded because a database
# date is counted from 1970 and a zone can push the first and the last year over the edge.
_RFC3339 = re.compile(
    r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)


def _only_rfc3339(value: Any) -> Any:
    if isinstance(value, datetime.datetime) or (isinstance(value, str) and _RFC3339.fullmatch(value)):
        return value
    raise ValueError("not an RFC 3339 time with a zone, such as 2026-11-21T09:40:00Z")


# Not strict, because after a validator in Python a text from JSON counts as just a text; the validator is the strict
# one here.
Timestamp = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_only_rfc3339)]
EventId = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
ShortText = Annotated[str, Field(min_length=1, max_length=256)]
# The upper bounds keep a number that is plainly wrong out of every sum, and inside what the database can hold.
Index = Annotated[int, Field(ge=0, le=1023)]
Tokens = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Quantity = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class Event(BaseModel):
    """What both kinds of event have in common: an identity, a time and a host."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    event_id: EventId
    ts: Timestamp
    host: ShortText

    @property
    def is_check(self) -> bool:
        """Sent to see whether events arrive; it measures nothing."""
        return self.event_id.startswith(CHECK_PREFIX)

    def to_document(self) -> dict[str, Any]:
        """The document to store: the event's identity is the document's, so a replay can't store it twice."""
        document = dict(self.__dict__)
        document["_id"] = document.pop("event_id")
        return document

    def to_json(self) -> bytes:
        """The message to publish."""
        return self.model_dump_json().encode()


class GpuMetrics(Event):
    """One sample of one GPU (gpu.metrics.v1)."""

    gpu_index: Index
    name: ShortText
    utilization: Share
    mem_used_mb: Quantity
    mem_total_mb: Quantity
    power_w: Quantity | None  # null: the GPU doesn't say
    price_per_hour_usd: Quantity | None  # null: unknown, never 0 for it
    source: Literal["nvidia-smi", "simulated"]


class TokenUsage(Event):
    """What one completion took (token.usage.v1)."""

    model: ShortText
    prompt_tokens: Tokens
    completion_tokens: Tokens
    latency_ms: Quantity
    gpu_index: Index


EVENT_TYPES: dict[str, type[Event]] = {GPU_METRICS_TOPIC: GpuMetrics, TOKEN_USAGE_TOPIC: TokenUsage}
COLLECTIONS: dict[str, str] = {GPU_METRICS_TOPIC: "gpu_metrics", TOKEN_USAGE_TOPIC: "token_usage"}


class InvalidEventError(ValueError):
    """A message that is no event; the text is the reason a person reads in the dead-letter topic."""


def parse_event(topic: str, value: bytes | None) -> Event:
    """The event in a message, or InvalidEventError with the reason."""
    if not value:
        raise InvalidEventError("the message is empty")
    try:
        return EVENT_TYPES[topic].model_validate_json(value)
    except ValidationError as error:
        raise InvalidEventError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """A validation error as one line, without the payload (which can be huge, and anything)."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        place = ".".join(str(part) for part in problem["loc"])
        problems.append(f"{place[:64]}: {problem['msg']}" if place else problem["msg"])
    if error.error_count() > len(problems):
        problems.append(f"and {error.error_count() - len(problems)} more")
    return "; ".join(problems)[:512]


def now() -> datetime.datetime:
    """The present, with a zone, to the millisecond: what the database keeps of it."""
    present = datetime.datetime.now(datetime.UTC)
    return present.replace(microsecond=present.microsecond // 1000 * 1000)
