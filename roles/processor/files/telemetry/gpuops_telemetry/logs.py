# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging to standard output, one line an entry, times in UTC."""

from __future__ import annotations

import logging
import sys
import time


def set_up_logging() -> None:
    """The root logger; quieter for libraries that log each of their own retries."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("pymongo", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
