# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the guides name must exist: files, roles, playbooks, variables, make targets, ports, units, and sentences."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
GUIDES = [
    *sorted(path.name for path in ROOT.glob("*.md")),
    *sorted(str(path.relative_to(ROOT)) for folder in ("docs", "roles") for path in (ROOT / folder).rglob("*.md")),
]
SECURITY = ("README.md", "SECURITY.md", "TROUBLESHOOTING.md")
OURS = "https://github.com/gpuops/fleet/"
ENTRY = ["Cause", "Command", "Mend"]
SECTIONS = {
    *("Renting", "A machine that is not ready", "Cost", "Inventory and addresses", "Docker", "GPU and driver", "vLLM"),
    *("Gateway", "Firewall", "SSH, upgrades and monitoring", "Kafka", "MongoDB", "Processor"),
}
# Titles in other programs' words; all other sentences in a title are our own, and must stand in the code.
FOREIGN = {
    "fleet.yml, line N, …",
    "Failed to parse inventory with 'yaml' plugin",
    "KnownHostsCommand-HOSTNAME: host key has changed",
    "docker logs gpufleet-DEPLOYMENT",
    "failed to change group-id",
    "172.17.0.1",
    "pyenv: python3.13: command not found",
    "connection: local",
    "TargetDown",
    "service docker start",
    "ulimit: error setting limit (Operation not permitted)",
    "docker run --privileged",
    "bind: address already in use",
    "[24B blob data]",
    "Key was rejected by service",
    "ImportError: libtorch_cpu.so: undefined symbol",
    "manifest for bitnami/kafka not found",
    "Permission denied",
    "Authentication failed",
    "/opt/NAME",
    "-",
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def headings(guide: str) -> set[str]:
    """The anchors that GitHub makes of a guide's titles."""
    titles = re.findall(r"^#+ (.+)$", text(guide), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def variables() -> dict[str, Any]:
    """The variables of all roles, with their defaults; None where there is none."""
    found: dict[str, Any] = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found |= dict.fromkeys(entry.get("options") or {})
    for path in (ROOT / "roles").glob("*/defaults/main.yml"):
        found |= yaml.safe_load(path.read_text()) or {}
    return found


@cache
def code() -> str:
    """All that the collection may say, each run of white space as one space."""
    files = [
        path
        for folder in ("plugins", "roles", "playbooks")
        for ending in ("*.py", "*.yml", "*.j2", "*.sh")
        for path in (ROOT / folder).rglob(ending)
    ]
    joined = " ".join(path.read_text(encoding="utf-8") for path in files)
    # Strings that Python joins, in one.
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", joined))


def entries() -> list[tuple[str, str, str]]:
    """Section, title and text of each entry of the guide for failures."""
    found = []
    for section in re.split(r"^## ", text("TROUBLESHOOTING.md"), flags=re.MULTILINE)[1:]:
        for entry in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
            title, _newline, rest = entry.partition("\n")
            found.append((section.partition("\n")[0], title, rest))
    return found


def test_every_failure_has_cause_command_and_mend() -> None:
    assert {section for section, _title, _rest in entries()} == SECTIONS
    assert len({title for _section, title, _rest in entries()}) == len(entries()) >= 25
    for _section, title, rest in entries():
        assert re.findall(r"^- \*\*(\w+):\*\* \S", rest, re.MULTILINE) == ENTRY, title
        (command,) = re.findall(r"^- \*\*Command:\*\*(.+?)(?=^- )", rest, re.MULTILINE | re.DOTALL)
        assert re.search(r"`[^`]+`", command), f"{title}: no command"


@pytest.mark.parametrize(
    "quoted",
    sorted(
        {
            quoted
            for section, title, _rest in entries()
            if section != "A machine that is not ready"
            for quoted in re.findall(r"`([^`]+)`", title)
        }
        - FOREIGN
    ),
)
def test_every_sentence_of_ours_is_said_by_the_code(quoted: str) -> None:
    said = quoted.strip("`")
    parts = [re.sub(r"^[, ]+|[ ,]+$", "", part) for part in said.split("…")]
    assert any(parts)
    for part in filter(None, parts):
        assert part in code(), f"nobody says '{part}' any more"


def test_no_sentence_of_others_is_kept_in_vain() -> None:
    titles = " ".join(title for _section, title, _rest in entries())
    assert not [words for words in FOREIGN if f"`{words}`" not in titles]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_link_leads_to_a_file_and_a_title(guide: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(guide)):
        path, _hash, anchor = target.partition("#")
        if path.startswith((f"{OURS}blob/main/", f"{OURS}tree/main/")):
            place = ROOT / path.removeprefix(OURS).split("/", 2)[2]
        elif "://" in path:
            continue
        else:
            place = ((ROOT / guide).parent / path) if path else ROOT / guide
        assert place.exists(), f"{guide}: {target}"
        if anchor:
            assert anchor in headings(str(place.resolve().relative_to(ROOT))), f"{guide}: {target}"


@pytest.mark.parametrize("guide", SECURITY)
def test_every_variable_role_playbook_and_target_exists(guide: str) -> None:
    spans = " ".join(re.findall(r"`([^`]+)`", text(guide)) + re.findall(r"```.*?```", text(guide), re.DOTALL))
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    named = set(re.findall(rf"(?<![\w./-])((?:{'|'.join(sorted(roles))})_[a-z][a-z0-9_]*)(?![\w/.(*-])", spans))
    assert named - roles <= variables().keys()
    for kind in re.findall(r"gpuops\.fleet\.([a-z_]+)", text(guide)):
        places = (
            f"playbooks/{kind}.yml",
            f"roles/{kind}",
            f"plugins/modules/{kind}.py",
            f"plugins/inventory/{kind}.py",
        )
        assert any((ROOT / place).exists() for place in places), f"{guide}: gpuops.fleet.{kind}"
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`|^\$ make ([a-z-]+)", text(guide), re.MULTILINE)) <= {
        (target, "") for target in targets
    } | {("", target) for target in targets}


def test_the_ports_are_those_of_the_roles() -> None:
    section = text("SECURITY.md").split("## What is exposed by default\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| .+? \| (.+?) \|", section, re.MULTILINE)
    assert len(rows) >= 8
    for port, variable, role in rows:
        default = variables()[variable]
        assert int(port) in (default if isinstance(default, list) else [default]), variable
        assert role == "every one" or variable.startswith(f"{role.strip('`')}_"), variable


def test_every_unit_exists() -> None:
    """By its name: of a role's template, or of a service."""
    templates = " ".join(path.name for path in (ROOT / "roles").glob("*/templates/*.j2"))
    named = set(re.findall(r"gpuops-fleet-(firewall[a-z-]*)(\.timer|\.service)?", text("TROUBLESHOOTING.md")))
    assert named
    for unit, ending in named:
        assert f"{unit}{ending or '.service'}.j2" in templates
