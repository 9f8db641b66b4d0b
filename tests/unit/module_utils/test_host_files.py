# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import grp
import io
import json
import os
import pathlib
import pwd
from contextlib import redirect_stdout
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.modules import host_files

OURS = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def write(*files: dict[str, Any], directories: tuple[dict[str, Any], ...] = (), check: bool = False) -> dict[str, Any]:
    """The result of the module for these files, which belong to whoever runs the test."""
    parameters: dict[str, Any] = {
        **OURS,
        "files": [{**one, "path": str(one["path"])} for one in files],
        "directories": [{**one, "path": str(one["path"])} for one in directories],
        "_ansible_check_mode": check,
        "_ansible_diff": True,
    }
    printed = io.StringIO()
    with patch_module_args(parameters), redirect_stdout(printed), pytest.raises(SystemExit):
        host_files.main()
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def mode(path: pathlib.Path) -> int:
    return path.stat().st_mode & 0o7777


def names(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_missing_is_written_and_the_second_run_changes_nothing(tmp_path: pathlib.Path) -> None:
    wishes = (
        {"path": tmp_path / "a/b/one", "content": "1\n", "mode": "0400"},
        {"path": tmp_path / "a/two", "content": "2"},
    )
    directories = ({"path": tmp_path / "a/b", "mode": "0700"},)
    first = write(*wishes, directories=directories)
    assert first["changed_paths"] == [str(tmp_path / "a/b"), str(tmp_path / "a/b/one"), str(tmp_path / "a/two")]
    assert ((tmp_path / "a/b/one").read_text(), (tmp_path / "a/two").read_text()) == ("1\n", "2")
    assert (mode(tmp_path / "a/b"), mode(tmp_path / "a/b/one"), mode(tmp_path / "a/two")) == (0o700, 0o400, 0o644)
    second = write(*wishes, directories=directories)
    assert (second["changed"], second["changed_paths"], second["diff"]) == (False, [], [])


def test_the_directory_of_a_file_need_not_be_named(tmp_path: pathlib.Path) -> None:
    umask = os.umask(0o077)
    try:
        result = write({"path": tmp_path / "a/b/file", "content": "text", "mode": "0600"})
    finally:
        os.umask(umask)
    assert result["changed_paths"] == [str(tmp_path / "a/b"), str(tmp_path / "a/b/file")]
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/b"), mode(tmp_path / "a/b/file")) == (0o755, 0o755, 0o600)


def test_whose_it_is_can_be_said_for_all_and_for_one(tmp_path: pathlib.Path) -> None:
    """Numbers are taken as names are; those of somebody else need root."""
    one, other = tmp_path / "one", tmp_path / "other"
    ids = {"owner": str(os.getuid()), "group": str(os.getgid())}
    write({"path": one, "content": ""}, {"path": other, "content": "", **ids})
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (one, other)} == {(os.getuid(), os.getgid())}
    unknown = write({"path": tmp_path / "third", "content": "", "owner": "nobody-of-that-name"})
    assert "nobody-of-that-name" in unknown["msg"]
    assert names(tmp_path) == ["one", "other"]


def test_only_what_differs_is_replaced_and_told(tmp_path: pathlib.Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    write({"path": same, "content": "s"}, {"path": other, "content": "before"})
    inode = same.stat().st_ino
    result = write({"path": same, "content": "s"}, {"path": other, "content": "after"})
    assert result["changed_paths"] == [str(other)]
    (difference,) = result["diff"]
    assert (difference["before"], difference["after"], difference["after_header"]) == ("before", "after", str(other))
    assert same.stat().st_ino == inode


def test_nothing_is_replaced_when_a_later_file_is_not_right(tmp_path: pathlib.Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad.json"
    write({"path": good, "content": "before"})
    result = write(
        {"path": good, "content": "after"},
        {"path": bad, "content": "{", "validate": "python3 -m json.tool %s /dev/null"},
    )
    assert result["failed"]
    assert result["msg"].startswith(f"{bad} would not be right, so nothing was replaced: ")
    assert "Expecting property name" in result["msg"]
    assert (good.read_text(), names(tmp_path)) == ("before", ["good"])


def test_what_is_right_takes_its_place(tmp_path: pathlib.Path) -> None:
    write({"path": tmp_path / "good.json", "content": "{}", "validate": "python3 -m json.tool %s /dev/null"})
    assert names(tmp_path) == ["good.json"]


def test_of_two_texts_for_one_path_the_last_stands_there(tmp_path: pathlib.Path) -> None:
    write({"path": tmp_path / "file", "content": "first"}, {"path": tmp_path / "file", "content": "last"})
    assert (names(tmp_path), (tmp_path / "file").read_text()) == (["file"], "last")


@pytest.mark.parametrize("there", [True, False])
def test_check_mode_tells_and_changes_nothing(tmp_path: pathlib.Path, there: bool) -> None:
    path, directory = tmp_path / "d/file", tmp_path / "d"
    if there:
        write({"path": path, "content": "before"}, directories=({"path": directory},))
    wishes: dict[str, Any] = {"directories": ({"path": directory},), "check": True}
    result = write({"path": path, "content": "after", "validate": "false %s"}, **wishes)
    assert result["changed_paths"] == ([str(path)] if there else [str(directory), str(path)])
    assert result["diff"][-1]["before"] == ("before" if there else "")
    assert path.exists() == there
    if there:
        assert path.read_text() == "before"
        assert write({"path": path, "content": "before", "mode": "0600"}, **wishes)["changed_paths"] == [str(path)]
        assert mode(path) == 0o644


def test_other_attributes_are_a_change(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    write({"path": path, "content": "text"})
    result = write({"path": path, "content": "text", "mode": "0600"}, directories=({"path": tmp_path, "mode": "0711"},))
    assert result["changed_paths"] == [str(tmp_path), str(path)]
    assert [one["after"] for one in result["diff"]] == [{"mode": "0711"}, {"mode": "0600"}]
    assert (mode(path), mode(tmp_path)) == (0o600, 0o711)


def test_a_secret_is_at_no_moment_for_others(tmp_path: pathlib.Path) -> None:
    """Also where what it replaces was: its program looks at the mode that it has before it takes its place."""
    path = tmp_path / "key"
    write({"path": path, "content": "old"})
    write({"path": path, "content": "new", "mode": "0400", "validate": f"cp --preserve=mode %s {tmp_path}/seen"})
    assert mode(tmp_path / "seen") == 0o400


def test_a_link_is_replaced_and_what_it_shows_is_left_alone(tmp_path: pathlib.Path) -> None:
    theirs, path = tmp_path / "theirs", tmp_path / "ours"
    theirs.write_text("theirs")
    path.symlink_to(theirs)
    assert write({"path": path, "content": "theirs"})["changed"]
    assert (path.is_symlink(), path.read_text(), theirs.read_text()) == (False, "theirs", "theirs")


def test_what_looks_like_json_is_written_as_json(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "relays.json"
    write({"path": path, "content": [{"port": 1}]})
    assert json.loads(path.read_text()) == [{"port": 1}]


@pytest.mark.parametrize(
    ("wish", "directories", "sentence"),
    [
        ("folder", (), "{path} is no file. Move it away, and run again."),
        ("taken/file", (), "{path} can't be written: Not a directory."),
        ("file", ("taken",), "{directory} is no directory. Move it away, and run again."),
    ],
)
def test_what_is_in_the_way_is_told(
    tmp_path: pathlib.Path, wish: str, directories: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken").write_text("")
    result = write(
        {"path": tmp_path / "first", "content": "1"},
        {"path": tmp_path / wish, "content": "2"},
        directories=tuple({"path": tmp_path / name} for name in directories),
    )
    assert result["msg"] == sentence.format(path=tmp_path / wish, directory=tmp_path / "taken")
    assert names(tmp_path) == ["folder", "taken"]
