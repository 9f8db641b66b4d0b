# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""A refresh in the background: a process of its own, in a session of its own, that outlives the one that starts it.

It inherits the locked file, so there is never more than one for a file, and the kernel frees the lock however it ends.
What it is told, keys included, comes through a pipe; its arguments are the same for all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _files, _journal

_GRACE_SECONDS = 5
_PACKAGE = "ansible_collections.gpuops.fleet.plugins.module_utils"
# An 'ansible_collections' elsewhere on the path would hide ours, so the packages are made by hand.
_PROGRAM = f"""\
import json, sys, types
job = json.loads(sys.stdin.buffer.read())
parts, path = "{_PACKAGE}".split("."), job["code"]
for end in range(1, len(parts) + 1):
    path += "/" + parts[end - 1]
    package = types.ModuleType(".".join(parts[:end]))
    package.__path__ = [path]
    sys.modules[package.__name__] = package
from {_PACKAGE} import _refresher
_refresher.run(job)
"""


def start(job: Mapping[str, Any], lock: int, limit_seconds: float) -> None:
    """Start it and don't wait. lock is an open file that holds the lock; raises OSError when it can't be started."""
    code, copy = _code()
    told = {**job, "code": code, "copy": copy, "limit_seconds": limit_seconds}
    home = _journal.home()
    environment = {**os.environ, "GPUFLEET_HOME": str(home.absolute())} if home else None
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,
    )
    pipe = child.stdin
    if pipe is None:
        raise OSError("the pipe that was asked for is not there")
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(json.dumps(told, default=str).encode())  # values from a vault are text in disguise
    child.returncode = 0  # nobody waits for it, and nobody is to be warned about that


def run(job: Mapping[str, Any]) -> None:
    """In the child: refresh, or be ended by the alarm. A hung provider can't hold the lock for longer."""
    signal.alarm(int(job["limit_seconds"]) + _GRACE_SECONDS)
    try:
        # Imported here, because it imports this file.
        from ansible_collections.gpuops.fleet.plugins.module_utils import _cached

        _cached.refresh(job)
    finally:
        if job["copy"]:
            with contextlib.suppress(OSError):
                os.unlink(job["copy"])


def _code() -> tuple[str, str | None]:
    """Where the child finds this collection. Ansible runs a module from an archive, which ends with the module."""
    root = str(Path(__file__).parents[5])
    if os.path.isdir(root):
        return root, None
    number, copy = tempfile.mkstemp(prefix=".code-", dir=_files.folder("cache"))
    with open(number, "wb") as target, open(root, "rb") as source:
        shutil.copyfileobj(source, target)
    return copy, copy
