# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""References of container images: does one say which version runs, today and after the next pull?"""

from __future__ import annotations

import re

_REFERENCE = re.compile(
    r"(?P<name>[^\s@]*?[^\s@:/])(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
# Followed by nothing that could be a version, or by all versions of a kind: latest, latest-gpu, 7, v2.
_MOVING = re.compile(r"latest([_.-].*)?|v?\d{1,3}", re.ASCII)
_COMMIT = re.compile(r"(.*[_.-])?[0-9a-f]{7,64}", re.ASCII)


def says_version(reference: str) -> bool:
    """A digest, or a tag with a version or a commit in it; `stable` or `7` is another image tomorrow."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return False
    if found["digest"]:
        return True
    # Without a tag the last word is the name's, also where the registry has a port.
    tag = found["tag"] or ""
    if not tag or _MOVING.fullmatch(tag):
        return False
    return any(letter.isdigit() for letter in tag) or _COMMIT.fullmatch(tag) is not None
