# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tests.emulators --light [--scale N]: start all on free loopback ports and print {provider: url}.

The URL is what that provider's environment variable takes. Ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from . import runpod, vastai
from .server import Server
from .world import World

PROVIDERS = {"runpod": runpod, "vastai": vastai}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators", description=__doc__)
    parser.add_argument("--light", action="store_true", required=True, help="without machines behind what is rented")
    parser.add_argument("--scale", type=float, default=60.0, help="how much faster than real life time passes")
    chosen = parser.parse_args()
    # Before the first thread starts, because threads inherit it: the signals are for sigwait alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    servers = {}
    for name, module in PROVIDERS.items():
        world = World(name, chosen.scale)
        servers[name] = Server(module.make(world), world)
        servers[name].start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.stdout.write(
        json.dumps({name: server.url + PROVIDERS[name].URL_PATH for name, server in servers.items()}) + "\n"
    )
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for server in servers.values():
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
