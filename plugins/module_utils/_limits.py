# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How much a provider takes of what a user can say, as data: checked offline, before anybody is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LONGEST_START = {"vastai": 4096}  # characters of entry point and arguments together
LEAST_DISK_GIB = {"vastai": 8, "tensordock": 100, "gcp": 10}
LONGEST_LIFETIME_SECONDS = {"gcp": 120 * 86400}
NEEDS_SSH_KEY = frozenset({"tensordock", "gcp", "aws"})
# Some providers take the environment as options of a command line: "-v /:/host" would be another option there.
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def start_length(words: Iterable[str]) -> int:
    """Of entry point and arguments as they travel. Nobody has told us whether quotes and commas count, so they do."""
    return len(json.dumps([*words]))
