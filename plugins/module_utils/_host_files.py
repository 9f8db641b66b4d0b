# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Several small files of a host in one go: all of them are checked before the first is replaced."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class HostFilesError(Exception):
    """One sentence for people."""


@dataclass
class Found:
    """What was not as wanted: paths in their order, and a difference of text or attributes for each."""

    changed_paths: list[str] = field(default_factory=list)
    diff: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: str, **difference: Any) -> None:
        if path not in self.changed_paths:
            self.changed_paths.append(path)
        self.diff.append({"before_header": path, "after_header": path, **difference})


def run_host_files(module: AnsibleModule) -> dict[str, Any]:
    """The result of the module host_files. Raises HostFilesError where something can't be; then no file is replaced."""
    found = Found()
    whose = {name: module.params[name] for name in ("owner", "group")}
    for directory in module.params["directories"]:
        _make_directory(module, _with_owner(directory, whose), found)
    staged: dict[str, str] = {}  # what is to take its place, by where it is now
    try:
        for one in (_with_text(_with_owner(one, whose)) for one in module.params["files"]):
            parent = os.path.dirname(one["path"])
            if not os.path.lexists(parent):
                _make_directory(module, {**whose, "path": parent, "mode": "0755"}, found)
            if not _is_stale(one, found):
                _set_attributes(module, one["path"], one, found)
            elif not module.check_mode:
                _stage(module, one, staged)
        for temporary, path in staged.items():
            os.replace(temporary, path)
    finally:
        for temporary in staged:
            Path(temporary).unlink(missing_ok=True)
    return {"changed": bool(found.changed_paths), "changed_paths": found.changed_paths, "diff": found.diff}


def _with_owner(one: Mapping[str, Any], whose: Mapping[str, str]) -> dict[str, Any]:
    return {**one, **{name: one[name] or whose[name] for name in whose}}


def _with_text(one: Mapping[str, Any]) -> dict[str, Any]:
    """The wish with its content as text: what looks like JSON in a template, Ansible hands over as what it means."""
    content = one["content"]
    return {**one, "content": content if isinstance(content, str) else json.dumps(content)}


def _make_directory(module: AnsibleModule, one: Mapping[str, Any], found: Found) -> None:
    path = Path(one["path"])
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise HostFilesError(f"{path} is no directory. Move it away, and run again.")
        found.add(one["path"], before={"state": "absent"}, after={"state": "directory"})
        if module.check_mode:
            return
        _make_with_parents(path)
    _set_attributes(module, one["path"], one, found)


def _make_with_parents(path: Path) -> None:
    """What is missing above it can be entered by everybody, whatever this process would leave away."""
    for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
        try:
            missing.mkdir()
        except OSError as problem:
            raise HostFilesError(f"{missing} can't be made: {problem.strerror}.") from None
        missing.chmod(0o755)


def _is_stale(one: Mapping[str, Any], found: Found) -> bool:
    """Whether its text has to be written; then it is added to what was found."""
    path = Path(one["path"])
    there = os.path.lexists(path)
    if there and not path.is_symlink() and not path.is_file():
        raise HostFilesError(f"{path} is no file. Move it away, and run again.")
    # A link would be followed to a file that may be somebody else's: it is replaced.
    text = path.read_bytes() if there and not path.is_symlink() else None
    if text == one["content"].encode():
        return False
    before = "" if text is None else text.decode(errors="replace")
    found.add(one["path"], before=before, after=one["content"])
    return True


def _stage(module: AnsibleModule, one: Mapping[str, Any], staged: dict[str, str]) -> None:
    """Write it beside what it replaces, with its attributes, and let its own program check it."""
    path = Path(one["path"])
    try:
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    except OSError as problem:
        raise HostFilesError(f"{path} can't be written: {problem.strerror}.") from None
    staged[temporary] = one["path"]
    with open(number, "w", encoding="utf-8", newline="") as stream:
        stream.write(one["content"])
        stream.flush()
        os.fsync(number)
    _set_attributes(module, temporary, one, Found())
    if not one["validate"]:
        return
    arguments = [word.replace("%s", temporary) for word in shlex.split(one["validate"])]
    code, output, errors = module.run_command(arguments)
    if code != 0:
        said = (errors or output).replace(temporary, str(path)).strip()
        raise HostFilesError(f"{path} would not be right, so nothing was replaced: {said}")


def _set_attributes(module: AnsibleModule, path: str, wanted: Mapping[str, Any], found: Found) -> None:
    """Its mode, owner and group."""
    attributes = {name: wanted[name] for name in ("mode", "owner", "group")}
    difference: dict[str, Any] = {}
    if module.set_fs_attributes_if_different(
        module.load_file_common_arguments({"path": path, **attributes}), False, difference
    ):
        found.add(path, **difference)
