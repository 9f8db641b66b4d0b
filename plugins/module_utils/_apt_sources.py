# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Another component of a source that apt has already: pure, from apt's own list of what it reads, and the files.

apt refuses all of its sources where two entries for the same mirror and suite differ in an option such as Signed-By or
Trusted. So the new entry is the one that is there, word by word, with another component.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# deb [option=value option=value] URI suite component component; brackets may also stand in the URI of a CD.
_LINE = re.compile(r"\s*deb\s*(?P<options>\[[^\]]*\])?\s*(?P<uri>[^\s\[]\S*)\s+(?P<suite>\S+)\s+(?P<components>\S.*)")
_FIELD = re.compile(r"^(?P<name>[A-Za-z][A-Za-z0-9-]*)[ \t]*:", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A list of packages that apt has fetched."""

    component: str
    codename: str
    path: str  # of the file with its entry
    number: int  # of the line, or of the stanza in a file of them; both from 1
    origin: str


@dataclass(frozen=True)
class Entry:
    """An entry of its own in the directory of sources."""

    name: str  # of the file
    text: str


def read_targets(text: str) -> list[Target]:
    """What `apt-get indextargets --format` prints with $(COMPONENT)|$(CODENAME)|$(SOURCESENTRY)|$(ORIGIN)."""
    found = []
    for line in text.splitlines():
        parts = line.split("|", 3)
        if len(parts) == 4:
            path, _colon, number = parts[2].rpartition(":")
            found.append(Target(parts[0], parts[1], path, int(number) if number.isdecimal() else 0, parts[3]))
    return found


def _of_stanza(text: str, number: int, component: str) -> str:
    """In a file with fields; empty where there is no such stanza. A comment doesn't end a stanza, and is none."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    stanzas = [stanza for stanza in re.split(r"\n{2,}", lines) if stanza.strip()]
    if not 1 <= number <= len(stanzas):
        return ""
    stanza = stanzas[number - 1].strip("\n") + "\n"
    starts = [found.start() for found in _FIELD.finditer(stanza)]
    fields = {}
    for start, end in zip(starts, [*starts[1:], len(stanza)], strict=True):
        field = stanza[start:end]
        fields[field.partition(":")[0].strip().lower()] = field
    if not {"types", "uris", "suites", "components"} <= fields.keys() or " cdrom:" in fields["uris"]:
        return ""
    return "".join({**fields, "types": "Types: deb\n", "components": f"Components: {component}\n"}.values())


def _of_line(text: str, number: int, component: str) -> str:
    lines = text.splitlines()
    found = _LINE.fullmatch(lines[number - 1].partition("#")[0]) if 1 <= number <= len(lines) else None
    if not found or found["uri"].startswith("cdrom:"):
        return ""
    options = f"{found['options']} " if found["options"] else ""
    return f"deb {options}{found['uri']} {found['suite']} {component}\n"


def _entries(targets: list[Target], files: Mapping[str, str], component: str) -> Iterator[Entry]:
    for target in targets:
        with_fields = target.path.endswith(".sources")
        text = (_of_stanza if with_fields else _of_line)(files.get(target.path, ""), target.number, component)
        if text:
            yield Entry(f"debian-{component}.{'sources' if with_fields else 'list'}", text)


def add_component(targets: list[Target], files: Mapping[str, str], codename: str, component: str) -> Entry | None:
    """The entry for a component of the Debian with that codename; None where the host has it.

    files: the texts of the files that the targets name. LookupError, with a sentence, where no entry can be copied.
    """
    own = [target for target in targets if target.codename == codename]
    # Others than Debian give their releases its codenames, and their components the name main.
    debians = [target for target in own if target.origin == "Debian"] or own
    if any(target.component == component for target in debians):
        return None
    mains = [target for target in debians if target.component == "main"]
    entry = next(_entries(mains, files, component), None)
    if entry is None:
        raise LookupError(
            f"No source of Debian {codename} with the component main is among those of apt"
            + (f" that could be read ({', '.join(sorted({target.path for target in mains}))})" if mains else "")
            + f", so {component} can't be added beside it. Add it to the components of that source by hand."
        )
    return entry
