# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that tests need: the machine's own, else fetched once, else a reason. apt and dpkg are stand-ins here."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from support import debian_program

APT_GET = """#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
install) echo "'http://deb.example.org/pool/tool_1%2b2_all.deb' tool_1+2_all.deb 10 SHA256:0" ;;
download) : >tool_1+2_all.deb ;;
esac
"""
DPKG_DEB = """#!/bin/sh
mkdir -p "$3/usr/sbin" "$3/usr/lib/any"
: >"$3/usr/lib/any/libtool.so.1"
printf '#!/bin/sh\\necho "$LD_LIBRARY_PATH $*"\\n' >"$3/usr/sbin/tool"
chmod 755 "$3/usr/sbin/tool"
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(debian_program, "PLACE", tmp_path / "programs")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for name, text in (("apt-get", APT_GET), ("dpkg-deb", DPKG_DEB)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def test_what_the_machine_has_is_not_fetched(folder: pathlib.Path) -> None:
    assert debian_program.program("sh", "dash").is_absolute()
    assert not (folder / "calls").exists()


def test_what_it_lacks_is_fetched_once_and_runs_with_its_libraries(folder: pathlib.Path) -> None:
    for _number in range(2):
        found = debian_program.fetched("tool", "tool", "-v")
        said = subprocess.run([found, "a b"], capture_output=True, text=True, check=True).stdout
        assert said == f"{folder}/programs/tool/root/usr/lib/any a b\n"
    calls = (folder / "calls").read_text().splitlines()
    assert [call.partition(" ")[0] for call in calls] == ["install", "download"]
    assert "--print-uris" in calls[0], "nothing is installed"


def test_what_can_not_be_had_is_a_reason(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin" / "dpkg-deb").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(debian_program.Missing, match="tool is not installed on this machine, and could not be fetched"):
        debian_program.fetched("tool", "tool", "-v")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(debian_program.Missing, match="No such file or directory: 'apt-get'"):
        debian_program.fetched("tool", "tool", "-v")
