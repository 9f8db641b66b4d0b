# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Encoding and parsing of the marker, by which we tell what is ours."""

from __future__ import annotations

import math
import re
import secrets

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker

_WORD = r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"
_NONCE_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_IDENTITY = re.compile(rf"gf--({_WORD})--({_WORD})--([0-9a-z]{{6}})(?:--([0-9a-z]{{4}}))?", re.ASCII)
_WORD_ONLY = re.compile(_WORD, re.ASCII)

# A dated nonce is a number: so many periods since the epoch (they begin anew after two years), and chance.
_PERIOD_SECONDS = 10
_CHANCES = 324
_PERIODS = 36**6 // _CHANCES
_AHEAD_SECONDS = 86400  # more than a clock is wrong by that was set in another time zone

DEPLOYMENT_ID_LENGTH = (3, 24)
NAME_LENGTH = (1, 16)
GENERIC_DEPLOYMENT_IDS = frozenset(
    {"ansible", "cluster", "default", "deployment", "deploy", "dev", "example", "fleet", "foo", "gpu", "llm", "main"}
    | {"none", "null", "prod", "production", "staging", "test", "testing", "tmp"}
)


def check_deployment_id(value: object) -> str:
    """Return the value, or raise ValueError with a sentence that says what to type instead."""
    if value is None or value == "":
        raise ValueError(
            "deployment_id is missing. It has no default, because it decides which machines are yours: "
            "give this deployment a name of its own, such as 'acme-llm'."
        )
    text = _check_word("deployment_id", value, DEPLOYMENT_ID_LENGTH)
    if text in GENERIC_DEPLOYMENT_IDS:
        raise ValueError(
            f"deployment_id '{text}' is too generic: somebody else in the same account may use it too, and your "
            f"machines would be mixed up with theirs. Choose a name of your own, such as 'acme-{text}'."
        )
    return text


def check_name(value: object) -> str:
    """Return the value, or raise ValueError with a sentence that says what to type instead."""
    if value is None or value == "":
        raise ValueError("name is missing: every instance needs one, such as 'vllm-1'.")
    return _check_word("name", value, NAME_LENGTH)


def new_nonce() -> str:
    """Six characters that make a claim unique among controllers that share nothing."""
    return "".join(secrets.choice(_NONCE_ALPHABET) for index in range(6))


def nonce_from(number: int) -> str:
    """The nonce that such a large number comes to: the same for everybody."""
    return _to_base36(number % 36**6).rjust(6, "0")


def dated_nonce() -> str:
    """A nonce that also says when it was made, for a provider that tells nobody when something was rented."""
    periods = int(_clock.now()) // _PERIOD_SECONDS % _PERIODS
    return _to_base36(periods * _CHANCES + secrets.randbelow(_CHANCES)).rjust(6, "0")


def claimed_at(marker: Marker) -> float:
    """When a dated nonce was made, by the clock of the controller that made it, to 10 s; seconds since the epoch.

    What would lie in the future was made two years before, but for what another controller's clock is ahead: all have
    to come to the same answer, or each takes the other's rental for the older one, and both give theirs back.
    """
    latest = (_clock.now() + _AHEAD_SECONDS) // _PERIOD_SECONDS
    periods = int(marker.nonce, 36) // _CHANCES
    return (latest - (latest - periods) % _PERIODS) * float(_PERIOD_SECONDS)


def expiry_epoch_hours(lifetime_seconds: int | None) -> int:
    """The hour, rounded up, at which something rented now for that long expires; 0 for unlimited (None)."""
    if lifetime_seconds is None:
        return 0
    return math.ceil((_clock.now() + lifetime_seconds) / 3600)


def identity(marker: Marker) -> str:
    """The part that says whose it is; compared only in full. At most 54 characters."""
    return f"gf--{marker.deployment_id}--{marker.name}--{marker.nonce}"


def encode(marker: Marker) -> str:
    """The marker as it stands in a name, a label or a tag. At most 60 characters.

    Raises ValueError where nobody could read it again: what carried it would be nobody's, and would be rented anew.
    """
    if marker.expiry_epoch_hours >= 36**4:
        raise ValueError(
            f"The expiry of '{marker.name}' lies too far ahead for its marker ({marker.expiry_epoch_hours} hours since "
            "1970); give it a shorter max_lifetime or extend, and check this machine's clock."
        )
    return f"{identity(marker)}--{_to_base36(marker.expiry_epoch_hours)}"


def parse(text: str | None, owner: str = "fleet") -> Marker | None:
    """The marker in a name, or None when this text is not exactly one: then the thing is not ours."""
    match = _IDENTITY.fullmatch(text or "")
    if match is None:
        return None
    deployment_id, name, nonce, expiry = match.groups()
    if not _fits(deployment_id, DEPLOYMENT_ID_LENGTH) or not _fits(name, NAME_LENGTH):
        return None
    return Marker(deployment_id, name, nonce, int(expiry or "0", 36), owner)


def _fits(text: str, length: tuple[int, int]) -> bool:
    return length[0] <= len(text) <= length[1]


def _check_word(what: str, value: object, length: tuple[int, int]) -> str:
    if not isinstance(value, str) or not _fits(value, length) or not _WORD_ONLY.fullmatch(value):
        raise ValueError(
            f"{what} {value!r} can't be used: write {length[0]} to {length[1]} lower-case letters, digits and single "
            "hyphens, beginning with a letter (for example 'acme-llm')."
        )
    return value


def _to_base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = _NONCE_ALPHABET[rest] + digits
    return digits.rjust(4, "0")
