# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's contrib beside main, as a real apt reads it, which has directories of its own here, and no network."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest
from support.local_play import run_plays, step

MIRROR = "http://mirror.example/debian"
KEY = "/usr/share/keyrings/debian-archive-keyring"
FIELDS = f"Types: deb deb-src\nURIs: {MIRROR}\nSuites: bookworm bookworm-updates\nComponents: main\n"
OTHERS = "deb [trusted=yes] http://others.example/debian bookworm main contrib\n"
IN_THE_ADDRESS = "correct-horse"
# Each host with the files of its sources. The first ones: the classic file, Debian 12's, Debian 13's, and others' work.
GETS_CONTRIB: dict[str, dict[str, str]] = {
    "line": {
        "sources.list": f"# by hand\n\ndeb {MIRROR} bookworm main non-free\ndeb-src {MIRROR} bookworm main\n",
    },
    "line-with-options": {
        "sources.list": f"deb [ arch=amd64 signed-by={KEY}.gpg check-date=no ] {MIRROR}/ bookworm main # no contrib\n",
    },
    "line-in-a-part": {"sources.list.d/z.list": f"deb [trusted=yes]\t{MIRROR} bookworm main"},
    "fields": {"sources.list.d/debian.sources": FIELDS},
    "fields-signed": {"sources.list.d/debian.sources": f"# by us\n\n{FIELDS}Signed-By: {KEY}.gpg\n"},
    "fields-signed-otherwise": {
        "sources.list.d/debian.sources": f"{FIELDS}Signed-By: {KEY}.pgp\nTrusted: yes\n",
    },
    "fields-in-the-middle": {
        "sources.list.d/debian.sources": f"# off\nEnabled: no\n{FIELDS.replace('mirror', 'off')}\n\n# on\n\n# and on\n"
        + FIELDS.replace("Suites", "# inner\nsuites")
        + f"signed-by:\n {KEY}.gpg\nCheck-Date: no\n\n"
        + FIELDS.replace("bookworm", "stable"),
    },
    "others-first": {
        "sources.list.d/a.list": OTHERS,
        "sources.list.d/debian.sources": f"{FIELDS}Signed-By: {KEY}.gpg\n",
    },
    "password": {"sources.list": f"deb {MIRROR.replace('mirror', f'me:{IN_THE_ADDRESS}@mirror')} bookworm main\n"},
}
HAS_CONTRIB: dict[str, dict[str, str]] = {
    "has-line": {"sources.list": f"deb {MIRROR} bookworm main contrib\n"},
    "has-fields": {
        "sources.list.d/debian.sources": f"{FIELDS.replace(' main', ' main contrib')}Signed-By: {KEY}.gpg\n"
    },
    "has-beside": {
        "sources.list": f"deb {MIRROR} bookworm main\n",
        "sources.list.d/mine.list": f"deb {MIRROR} bookworm contrib\n",
    },
}
# With an apt that doesn't take what is written.
REFUSED: dict[str, dict[str, str]] = {"refused": {"sources.list.d/debian.sources": FIELDS}}
CASES = {**GETS_CONTRIB, **HAS_CONTRIB, **REFUSED}
REFUSES = """#!/bin/sh
for file in {sources}/debian-contrib.*; do
    [ ! -e "$file" ] || {{ echo "E: Conflicting values regarding http://me:{password}@mirror.example" >&2; exit 100; }}
done
exec {program} "$@"
"""

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not on this machine")


def plant(root: pathlib.Path, case: str) -> None:
    """Sources, and what an update would have fetched."""
    for name in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "bin",
                 "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    (root / "apt.conf").write_text(
        f'Dir "{root}"; Dir::State::status "{root}/status"; APT::Architecture "amd64"; APT::Architectures "amd64";\n'
    )
    for name, text in CASES[case].items():
        (root / "etc/apt" / name).write_text(text)
    fetched(root, "Debian", "mirror.example", *(["main", "contrib"] if case in HAS_CONTRIB else ["main"]))
    fetched(root, "Others", "others.example", "main", "contrib")
    if case in REFUSED:
        program = root / "bin/apt-get"
        program.write_text(
            REFUSES.format(
                sources=root / "etc/apt/sources.list.d", password=IN_THE_ADDRESS, program=shutil.which("apt-get")
            )
        )
        program.chmod(0o755)


def fetched(root: pathlib.Path, origin: str, site: str, *components: str) -> None:
    release = f"{root}/var/lib/apt/lists/{site}_debian_dists_bookworm"
    pathlib.Path(f"{release}_Release").write_text(
        f"Origin: {origin}\nLabel: {origin}\nSuite: oldstable\nCodename: bookworm\n"
        "Date: Sat, 10 Jan 2026 11:00:00 UTC\nArchitectures: amd64\nSHA256:\n"
    )
    for component in components:
        pathlib.Path(f"{release}_{component}_binary-amd64_Packages").write_text(
            "Package: planted\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: planted\n\n"
        )


def reads(root: pathlib.Path) -> set[str]:
    """Component, suite and mirror of all that an update would fetch; apt must be able to read its sources."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(COMPONENT) $(RELEASE) $(SITE)",
         "Created-By: Packages"],
        env={**os.environ, "APT_CONFIG": str(root / "apt.conf")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


def changed(output: str) -> dict[str, int]:
    """Of each host, from the recap."""
    return {name: int(count) for name, count in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+) ", output, re.MULTILINE)}


class Played:
    """What stood there before, and what Ansible said: the first time, and when an update had fetched what is new."""

    def __init__(self, work: pathlib.Path) -> None:
        self.roots = {case: work / case for case in CASES}
        for case, root in self.roots.items():
            plant(root, case)
        self.before = {case: reads(root) for case, root in self.roots.items()}
        self.first = self._play(work, list(CASES))
        for case in GETS_CONTRIB:
            fetched(self.roots[case], "Debian", "mirror.example", "main", "contrib")
        self.second = self._play(work, [*GETS_CONTRIB, *HAS_CONTRIB])

    def _play(self, work: pathlib.Path, cases: list[str]) -> str:
        play: dict[str, Any] = {
            "hosts": "all",
            "gather_facts": False,
            "environment": {"APT_CONFIG": "{{ root }}/apt.conf", "PATH": f"{{{{ root }}}}/bin:{os.environ['PATH']}"},
            "tasks": [
                {"ansible.builtin.set_fact": {"distribution_release": "bookworm", "cacheable": True}},
                step("nvidia_driver", "contrib"),
            ],
        }
        values = json.dumps({"__nvidia_driver_apt_directory": "{{ root }}/etc/apt"})
        hosts = {case: {"root": str(self.roots[case])} for case in cases}
        done = run_plays(work, [play], hosts, "--extra-vars", values, "--diff", "-vvv")
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("contrib"))


@pytest.mark.parametrize("case", GETS_CONTRIB)
def test_apt_reads_contrib_beside_main(played: Played, case: str) -> None:
    assert "contrib bookworm http://mirror.example/debian" not in played.before[case]
    new = reads(played.roots[case]) - played.before[case]
    assert "contrib bookworm http://mirror.example/debian" in new, played.first
    assert {line.split()[0] for line in new} == {"contrib"}
    assert {line.split()[2] for line in new} == {"http://mirror.example/debian"}
    assert not any("stable" in line for line in new)
    assert (changed(played.first)[case], changed(played.second)[case]) == (1, 0)


@pytest.mark.parametrize("case", HAS_CONTRIB)
def test_contrib_that_is_there_stays_as_it_is(played: Played, case: str) -> None:
    assert (changed(played.first)[case], changed(played.second)[case]) == (0, 0)
    assert reads(played.roots[case]) == played.before[case]


def test_what_apt_can_not_read_does_not_stay(played: Played) -> None:
    """Should another apt refuse what this one takes: the host keeps an apt that works."""
    said = " ".join(played.first.replace("\\n", " ").split())
    assert "apt could not read its sources any more, so that file was removed again. apt said: E: Conflicting" in said
    assert [path.name for path in (played.roots["refused"] / "etc/apt/sources.list.d").iterdir()] == ["debian.sources"]


def test_a_password_of_a_mirror_is_in_no_output(played: Played) -> None:
    written = played.roots["password"] / "etc/apt/sources.list.d/debian-contrib.list"
    assert IN_THE_ADDRESS in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o600
    assert IN_THE_ADDRESS not in played.first + played.second
