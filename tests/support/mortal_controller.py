# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller that can be killed wherever it talks or writes, in this process or in one of its own.

It runs the main() of a module, as Ansible does. `python -m support.mortal_controller` takes one job as a line of JSON
after the other, and answers each with a line.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.module_utils import _budgets, _clock, _journal, _readiness
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import Budget
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_api import Api
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Transport
from ansible_collections.gpuops.fleet.plugins.modules import instance, orphan
from emulators.compute_instances import PUBLIC_NETWORK
from emulators.tensordock import PUBLIC_ADDRESS

FASTER = 2000.0  # than life
WITHOUT_PROXY = (PUBLIC_ADDRESS, PUBLIC_NETWORK, "54.214.")  # of TensorDock, of Google, and of all that moto has
_MAIN = {"instance": instance.main, "orphan": orphan.main}
_PATIENCE = Budget(300, 60, 30, "with time that passes so fast, nobody waits for an hour")
_ID = re.compile(r"/(pod[0-9a-f]{11}|secret[0-9a-f]{6}|operation-[0-9]+|[0-9]+|[0-9a-f]{8}-[0-9a-f-]{27})(?=/|$)")
_ZONE = re.compile(r"^/zones/[^/]+")

Result = dict[str, Any]


class Killed(BaseException):
    """The controller died: nothing of ours may catch this."""


@dataclass(frozen=True)
class Job:
    """One run of a module, in a home, by the clock of the world; killed at a boundary, counted from 0, or never."""

    module: str
    parameters: dict[str, Any]
    home: str
    killed_at: int | None = None


@dataclass
class Controller:
    """Counts the boundaries that are crossed, and dies at the one that it was told."""

    now: Callable[[], float]
    faster: float = FASTER
    crossed: Counter[str] = field(default_factory=Counter)
    left: int | None = None
    meanwhile: Callable[[str], None] = lambda _boundary: None  # what else happens when one was crossed

    def at(self, boundary: str) -> None:
        self.crossed[boundary] += 1
        self.meanwhile(boundary)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed(boundary)

    def run(self, job: Job) -> Result | None:
        """The result of the module, or None when the controller was killed."""
        os.environ["GPUFLEET_HOME"] = job.home
        self.left = job.killed_at
        printed = io.StringIO()
        try:
            with patch_module_args(job.parameters), redirect_stdout(printed):
                _MAIN[job.module]()
        except SystemExit:
            result: Result = json.loads(printed.getvalue())
            return result
        except Killed:
            return None
        finally:
            self.left = None
        raise AssertionError("the module neither ended nor died")

    def install(self, patch: Callable[[Any, str, Any], None]) -> None:
        """Put hooks at every boundary, a fast clock, and machines in which a login works, by the proxy if there is."""
        send, ask_aws, record = Transport._send, Api._send, _journal.record

        def sends(transport: Transport, method: str, path: str, query: Any, body: Any, *rest: Any) -> Any:
            labelled = method == "PUT" and isinstance(body, dict) and list(body) == ["label"]
            known = _ID.sub("/{id}", _ZONE.sub("/zones/{zone}", path))
            call = f"{method} {known}{' label' if labelled else ''}"
            self.at(f"{call} before")
            answer = send(transport, method, path, query, body, *rest)
            self.at(f"{call} after")
            return answer

        def asks_aws(api: Api, service: str, region: str, operation: str, *rest: Any) -> Any:
            self.at(f"{operation} before")
            answer = ask_aws(api, service, region, operation, *rest)
            self.at(f"{operation} after")
            return answer

        def records(event: str, *rest: Any, **details: Any) -> None:
            self.at(f"{event} before")
            record(event, *rest, **details)
            self.at(f"{event} after")

        def probes(endpoint: Endpoint) -> Probe:
            reached = endpoint.kind == "proxy" or endpoint.host.startswith(WITHOUT_PROXY)
            return Probe("ok" if reached else "refused")

        patch(Transport, "_send", sends)
        patch(Api, "_send", asks_aws)
        patch(_journal, "record", records)
        patch(_clock, "sleep", lambda seconds: time.sleep(max(0.0, seconds) / self.faster))
        patch(_clock, "monotonic", lambda: time.monotonic() * self.faster)
        patch(_clock, "now", self.now)
        patch(_budgets, "budget_for", lambda *_rental, **_details: _PATIENCE)
        patch(_readiness, "probe_socket", probes)
        patch(_readiness, "probe_login", lambda *_login: Probe("ok", host_key="ssh-ed25519 AAAA"))


@dataclass
class World:
    """The clock of an emulated world, as another process can read it."""

    began: float = 0.0
    ahead_seconds: float = 0.0
    faster: float = FASTER

    def now(self) -> float:
        return self.began + (time.time() - self.began) * self.faster + self.ahead_seconds


class Elsewhere:
    """A controller in a process of its own: it shares nothing with us but the providers."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.mortal_controller"],
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, job: Job, world: World) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"job": asdict(job), "world": asdict(world)}) + "\n")
        self._process.stdin.flush()

    def end(self) -> tuple[Result | None, Counter[str]]:
        """What became of the job, and which boundaries it has crossed."""
        assert self._process.stdout
        told = json.loads(self._process.stdout.readline())
        return told["result"], Counter(told["crossed"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    world = World()

    def now() -> float:
        return world.now()  # of the world of the job

    controller = Controller(now)
    controller.install(setattr)
    for line in sys.stdin:
        order = json.loads(line)
        world = World(**order["world"])
        controller.crossed.clear()
        controller.faster = world.faster
        result = controller.run(Job(**order["job"]))
        print(json.dumps({"result": result, "crossed": controller.crossed}), flush=True)


if __name__ == "__main__":
    main()
