# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the server could listen at ADDRESS (empty: the source of the default route) and PORT: prints why not, if so.

Where the service itself runs the port is its own, and no stranger's.
"""

from __future__ import annotations

import errno
import socket
import subprocess
import sys


def problem(address: str, port: int) -> str:
    if not address:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): nothing is sent
            except OSError:
                return ""  # the service waits for the network
            address = str(probe.getsockname()[0])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"vllm_listen_address is {address}, and this host has no such address."
            if error.errno == errno.EADDRINUSE:
                return f"Port {port} of {address} is in use by another program. Stop it, or take another vllm_port."
            raise
    return ""


if __name__ == "__main__":
    unit = ["systemctl", "show", "--property=ActiveState", "--value", "vllm.service"]
    try:
        state = subprocess.run(unit, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        state = ""  # no systemd; that is refused elsewhere
    if state not in ("active", "activating", "deactivating", "reloading"):
        print(problem(sys.argv[1], int(sys.argv[2])))
