# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program of Debian or Ubuntu that a test needs and a clean machine lacks: fetched, but never installed.

Its package would start a service. apt says which packages are missing here and checks what it downloads; they are
unpacked into build/cache/programs, once, and run from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

PLACE = pathlib.Path(__file__).resolve().parents[2] / "build/cache/programs"
# Debian's places, which an ordinary user's PATH doesn't name.
_SYSTEM = "/usr/sbin:/sbin"
_SECONDS = 120


class Missing(Exception):
    """A sentence that says which program is not there, and why it could not be fetched."""


@functools.cache
def program(name: str, package: str, version_flag: str = "-v") -> pathlib.Path:
    """Where it is: on this machine, else fetched; raises Missing. An absolute path that can be run as it is."""
    installed = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")
    return pathlib.Path(installed) if installed else fetched(name, package, version_flag)


def fetched(name: str, package: str, version_flag: str) -> pathlib.Path:
    """In any case not the machine's own."""
    place = PLACE / package
    starter = place / "bin" / name
    try:
        with _alone():
            if not starter.exists():
                with tempfile.TemporaryDirectory(dir=PLACE, prefix=f"{package}-") as folder:
                    _unpack(package, pathlib.Path(folder))
                    shutil.rmtree(place, ignore_errors=True)
                    shutil.copytree(pathlib.Path(folder) / "root", place / "root", symlinks=True)
                _write_starter(name, place)
        _run(str(starter), version_flag)
    except (OSError, subprocess.SubprocessError, Missing) as problem:
        said = getattr(problem, "stderr", None) or str(problem)
        why = " ".join(str(said).split())[-300:]
        raise Missing(f"{name} is not installed on this machine, and could not be fetched: {why}") from problem
    return starter


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Tests of several processes want the same."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(package: str, folder: pathlib.Path) -> None:
    """The package and what it needs and this machine lacks, into folder/root."""
    wanted = ["apt-get", "install", "--print-uris", "--reinstall", "--no-install-recommends", "-qq", package]
    try:
        listed = _run(*wanted)
    except subprocess.CalledProcessError:
        if os.getuid() != 0:
            raise
        # A clean machine has no lists of packages yet.
        _run("apt-get", "update", "-qq")
        listed = _run(*wanted)
    # 'ADDRESS' NAME_VERSION_ARCHITECTURE.deb SIZE DIGEST
    files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
    if not files:
        raise Missing(f"apt-get knows no package {package}")
    _run("apt-get", "download", "-qq", *(file.partition("_")[0] for file in files), directory=folder)
    for archive in folder.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(archive), str(folder / "root"))


def _write_starter(name: str, place: pathlib.Path) -> None:
    """With the libraries that came with it."""
    programs = [file for file in sorted(place.glob(f"root/**/*bin/{name}")) if file.is_file() and not file.is_symlink()]
    if not programs:
        raise Missing(f"no {name} is in its package")
    libraries = ":".join(sorted({str(file.parent) for file in place.glob("root/**/*.so*")}))
    starter = place / "bin" / name
    starter.parent.mkdir(exist_ok=True)
    starter.write_text(
        f"#!/bin/sh\nLD_LIBRARY_PATH='{libraries}'${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f"export LD_LIBRARY_PATH\nexec '{programs[0]}' \"$@\"\n"
    )
    starter.chmod(0o755)


def _run(*words: str, directory: pathlib.Path | None = None) -> str:
    return subprocess.run(
        words, cwd=directory, capture_output=True, text=True, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL
    ).stdout
