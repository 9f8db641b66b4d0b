# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tests.emulators: start all on free loopback ports and print {provider: url}.

The URL is what that provider's environment variable takes. What is rented is real: hosts and containers of this
machine's Docker Engine; --light rents nothing. Ends on SIGTERM or SIGINT, and then nothing of it is left.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from . import gcp, runpod, tensordock, vastai
from .machines import NoMachines
from .server import Server
from .world import World

PROVIDERS = {"runpod": runpod, "vastai": vastai, "tensordock": tensordock, "gcp": gcp}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators", description=__doc__)
    parser.add_argument("--light", action="store_true", help="without machines behind what is rented")
    parser.add_argument("--scale", type=float, default=60.0, help="how much faster than real life time passes (60)")
    parser.add_argument("--no-limits", action="store_true", help="let clients call as often as they like")
    parser.add_argument("--host-image", help="the host image of machines (gpufleet/host-docker:trixie)")
    chosen = parser.parse_args()
    # Before the first thread starts, because threads inherit it: the signals are for sigwait alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        machines = _machines(chosen.light, chosen.host_image)
    except Exception as error:  # the library's own errors are many
        sys.stderr.write(f"No Docker Engine answers ({error}). Run 'make setup' first, or use --light.\n")
        return 1
    servers = {}
    for name, module in PROVIDERS.items():
        world = World(name, chosen.scale, limits=not chosen.no_limits, machines=machines)
        servers[name] = Server(module.make(world), world)
        servers[name].start()
    sys.stdout.write(
        json.dumps({name: server.url + PROVIDERS[name].URL_PATH for name, server in servers.items()}) + "\n"
    )
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for server in servers.values():
        server.stop()
    machines.close()
    return 0


def _machines(light: bool, host_image: str | None) -> NoMachines:
    if light:
        return NoMachines()
    from .docker_machines import DEFAULT_HOST_IMAGE, DockerMachines  # only here: the light mode needs no library

    return DockerMachines(host_image or DEFAULT_HOST_IMAGE)


if __name__ == "__main__":
    sys.exit(main())
