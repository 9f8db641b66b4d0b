# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports somebody else has: python3 - UNIT=ADDRESS:PORT … prints {"taken": [ADDRESS:PORT, …]}.

What the unit itself listens on already is not taken. An address that this host doesn't have is the unit's to report.
"""

from __future__ import annotations

import errno
import json
import pathlib
import socket
import subprocess
import sys


def own_words(unit: str) -> list[str]:
    """The command line of the unit's main process; empty where it doesn't run."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", unit], capture_output=True, text=True, check=False
    )
    try:
        return (pathlib.Path("/proc") / shown.stdout.strip() / "cmdline").read_text().split("\0")
    except OSError:
        return []


def is_taken(place: str) -> bool:
    address, _colon, port = place.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, int(port)))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def main(arguments: list[str]) -> int:
    taken = []
    for pair in arguments:
        unit, _equals, place = pair.partition("=")
        # By the port alone: the unit may be about to change its address.
        own = {word.rpartition(":")[2] for word in own_words(unit) if word.startswith("--web.listen-address=")}
        if is_taken(place) and place.rpartition(":")[2] not in own:
            taken.append(place)
    print(json.dumps({"taken": taken}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
