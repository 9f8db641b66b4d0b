# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What looks like a secret in an environment or a log, whoever made it; and the same without it."""

from __future__ import annotations

import re

HIDDEN = "********"

_SECRET_NAME = re.compile(r"passw|secret|credential|apikey|(^|_)(pass|token|key|auth)($|_)", re.IGNORECASE)
_FILE_NAME = re.compile(r"_(FILE|PATH|DIRECTORY)$", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
# A value stands in quotes, which may be cut off, or in none.
_VALUE = r"""("[^"\n]*"?|'[^'\n]*'?|[^\s&"']+)"""
_NAMED = (
    re.compile(r"([A-Za-z_][\w-]*)([ \t]*=[ \t]*)" + _VALUE),  # as env prints it, and an address has it
    re.compile(r"([A-Za-z_][\w-]*)([\"'][ \t]*[:=][ \t]*\[?[ \t]*)" + _VALUE),  # as JSON and Python do
    re.compile(r"(?<=--)([A-Za-z_][\w-]*)([ \t]+)" + _VALUE),  # an option of a command
)
_BEARER = re.compile(r"\b(bearer[ \t]+)" + _VALUE, re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether what has this name may be secret; the name of a file that holds a secret is none."""
    words = name.replace("-", "_")
    return bool(_SECRET_NAME.search(words)) and not _FILE_NAME.search(words)


def masked(name: str, value: str) -> str:
    """The value of a variable, with everything hidden that may be secret."""
    return HIDDEN if value and is_secret(name) else _without_passwords_in_urls(value)


def may_be_secret(name: str, value: str) -> bool:
    return masked(name, value) != value


def _without_passwords_in_urls(text: str) -> str:
    return _PASSWORD_IN_URL.sub(rf"\1:{HIDDEN}@", text)


def without_secrets(text: str) -> str:
    """A text of any kind, such as a log; rather hides too much."""
    for pattern in _NAMED:
        text = pattern.sub(lambda found: found[0] if not is_secret(found[1]) else f"{found[1]}{found[2]}{HIDDEN}", text)
    return _without_passwords_in_urls(_BEARER.sub(rf"\1{HIDDEN}", text))
