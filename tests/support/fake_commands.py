# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell scripts, run with commands that are not the machine's."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
HARMLESS = [
    "awk",
    "bash",
    "cat",
    "chmod",
    "cut",
    "dirname",
    "env",
    "grep",
    "mkdir",
    "paste",
    "python3",
    "rm",
    "sed",
    "seq",
    "sh",
    "sleep",
    "stat",
    "tail",
    "tee",
    "timeout",
]

# What the clients of Docker say; each is the end of a fake of theirs.
ANSWERS = "exit 0"
NONE_RUNS = "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?' >&2; exit 1"
DENIED = """
echo 'permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock' >&2
exit 1"""


@dataclass
class Commands:
    """A PATH on which stands nothing but what a test put there, and tools that change no machine."""

    directory: pathlib.Path

    def __post_init__(self) -> None:
        self.bin.mkdir(parents=True)
        for name in HARMLESS:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)

    @property
    def bin(self) -> pathlib.Path:
        return self.directory / "bin"

    def fake(self, name: str, script: str) -> None:
        """A command that notes with what it was called, and then does this."""
        file = self.bin / name
        file.unlink(missing_ok=True)  # never write through to the tool itself
        file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.directory}/called"\n{script}\n')
        file.chmod(0o755)

    def called(self) -> list[str]:
        """The fakes that were called, with their arguments."""
        noted = self.directory / "called"
        return noted.read_text().splitlines() if noted.exists() else []

    def run(
        self,
        script: pathlib.Path,
        *arguments: str,
        directory: pathlib.Path | None = None,
        user: int | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it with this PATH, and with nothing else of the caller's environment that could matter."""
        kept = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "GPUFLEET_HOME") if name in os.environ}
        return subprocess.run(
            [str(script), *arguments],
            cwd=directory,
            user=user,
            env={**kept, "PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
