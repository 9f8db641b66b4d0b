# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What an address, a user and a host key look like: nothing else ever comes into a command line of ssh."""

from __future__ import annotations

import re

_KEY_TYPE = r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521))"
HOST_KEY = re.compile(rf"{_KEY_TYPE} [A-Za-z0-9+/]{{40,2000}}={{0,3}}", re.ASCII)
HOST_KEY_LINE = re.compile(rf"{HOST_KEY.pattern}(?: [^\n]*)?\s*", re.ASCII)  # as a .pub file has it, with a comment
ADDRESS = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.:_-]{0,253})", re.ASCII)
USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}", re.ASCII)
