# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Small files that processes of one user share, under GPUFLEET_HOME: private, replaced as a whole, with locks.

Every function here has an answer for a home that is missing, read-only or full; nothing raises for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal

NO_LOCKS = -1
_LARGEST_BYTES = 64 * 1024 * 1024


def folder(name: str) -> Path | None:
    """A directory of the home that only we can read; None where there can be none."""
    home = _journal.home()
    if home is None:
        return None
    path = home.absolute() / name
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            return None
        if stat.S_IMODE(state.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError:
        return None
    return path


def read(path: Path | None) -> dict[str, Any]:
    """The JSON object in a file of ours; {} for anything else."""
    if path is None:
        return {}
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(file, "rb") as stream:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid() or state.st_size > _LARGEST_BYTES:
                return {}
            told = json.loads(stream.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def write(path: Path | None, told: Mapping[str, Any]) -> bool:
    """Replace the file in one step, so that a reader sees the old or the new one; False when that is not possible."""
    if path is None:
        return False
    try:
        number, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # 0600
    except OSError:
        return False
    try:
        with open(number, "w", encoding="utf-8") as stream:
            json.dump(told, stream)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False
    return True


def lock(path: Path | None, *, wait: bool = False) -> int | None:
    """An open file that holds the lock as long as it is open, here or in a child; None: somebody else has it.

    NO_LOCKS where there can be no lock: then there is nobody to share with either. wait is for locks that are held
    for an instant.
    """
    if path is None:
        return NO_LOCKS
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return NO_LOCKS
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:  # a file system without locks
        os.close(file)
        return NO_LOCKS
    return file


def unlock(file: int | None) -> None:
    if file is not None and file != NO_LOCKS:
        os.close(file)


def remove_old(directory: Path | None, newest: Path | None, seconds: float) -> None:
    """Remove what nobody wrote for so long before newest was."""
    if directory is None or newest is None:
        return
    with contextlib.suppress(OSError):
        limit = newest.stat().st_mtime - seconds
        for entry in os.scandir(directory):
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)
