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
    "molecule/README.md",
]
OURS = "https://github.com/gpuops/fleet/"
ENTRY = ["Cause", "Command", "Mend"]
SECTIONS = {
    *("Renting", "A machine that is not ready", "Cost", "Inventory and addresses", "Docker", "GPU and driver", "vLLM"),
    *("Gateway", "Firewall", "SSH, upgrades and monitoring", "Kafka", "MongoDB", "Processor"),
}
# What looks like a variable or a plugin of ours: a set of nftables, a volume, and a label of a container.
ALIKE = {"kafka_peers_ipv4", "mongodb_mongo_data", "marker"}
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
    """Each … stands for what the code puts in, so its parts follow each other closely there."""
    parts = [re.sub(r"^[, ]+|[ ,]+$", "", part) for part in quoted.strip("`").split("…")]
    assert any(parts)
    said = ".{1,120}?".join(re.escape(part) for part in parts if part)
    assert re.search(said, code()), f"nobody says '{quoted}' any more"


def test_no_sentence_of_others_is_kept_in_vain() -> None:
    titles = " ".join(title for _section, title, _rest in entries())
    assert not [words for words in FOREIGN if f"`{words}`" not in titles]


def links(guide: str) -> list[tuple[Path, str]]:
    """Place and anchor of each link of a guide that stays in this repository."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text(guide)):
        path, _hash, anchor = target.partition("#")
        if path.startswith((f"{OURS}blob/main/", f"{OURS}tree/main/")):
            found.append((ROOT / path.removeprefix(OURS).split("/", 2)[2], anchor))
        elif "://" not in path:
            found.append((((ROOT / guide).parent / path).resolve() if path else ROOT / guide, anchor))
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_every_link_leads_to_a_file_and_a_title(guide: str) -> None:
    for place, anchor in links(guide):
        assert place.exists(), f"{guide}: {place}"
        if anchor:
            assert anchor in headings(str(place.relative_to(ROOT))), f"{guide}: {place}#{anchor}"


def test_every_guide_is_found_from_the_readme() -> None:
    found: set[str] = set()
    ahead = {"README.md"}
    while ahead:
        guide = ahead.pop()
        found.add(guide)
        for place, _anchor in links(guide):
            page = place / "README.md" if place.is_dir() else place
            if page.suffix == ".md" and page.exists():
                ahead |= {str(page.relative_to(ROOT))} - found
    assert set(GUIDES) - found == set()


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_of_this_repository_exists(guide: str) -> None:
    """Names in capitals stand for any, and roles/compute.… is Google's."""
    folders = "docs|examples|molecule|playbooks|plugins|requirements|roles|scripts|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)", text(guide)):
        if not re.search(r"[A-Z]{4}|^roles/compute\.", path.replace("README", "")):
            assert list(ROOT.glob(path)), f"{guide}: {path}"
    for name in re.findall(r"`(test_[\w*]+\.py)`", text(guide)):
        assert list((ROOT / "tests").rglob(name)), f"{guide}: {name}"


@pytest.mark.parametrize("guide", GUIDES)
def test_every_setting_of_a_fleet_is_read(guide: str) -> None:
    """What a user may give for all roles, in the environment, or with -e."""
    named = set(re.findall(r"(?<![\w/.-])(?:fleet_|GPUFLEET_)\w+|(?<= -e )\w+(?==)", text(guide)))
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", code())] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_every_variable_role_playbook_and_target_exists(guide: str) -> None:
    # Blocks first: their marks would be taken for those of words.
    blocks = re.findall(r"```.*?```", text(guide), re.DOTALL)
    spans = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text(guide), flags=re.DOTALL)) + blocks)
    roles = {path.name for path in (ROOT / "roles").iterdir()}
    named = set(re.findall(rf"(?<![\w./-])((?:{'|'.join(sorted(roles))})_[a-z][a-z0-9_]*)(?![\w/.(*-])", spans))
    # Also what only playbooks read (vllm_preflight), and what a role hands to its callers.
    assert [name for name in named - roles - ALIKE - variables().keys() if not re.search(rf"\b{name}\b", code())] == []
    for kind in re.findall(r"gpuops\.fleet\.([a-z_]+)", text(guide)):
        places = (
            f"playbooks/{kind}.yml",
            f"roles/{kind}",
            f"plugins/modules/{kind}.py",
            f"plugins/inventory/{kind}.py",
            f"plugins/filter/{kind}.py",
        )
        assert kind in ALIKE or any((ROOT / place).exists() for place in places), f"{guide}: gpuops.fleet.{kind}"
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


@pytest.mark.parametrize("guide", GUIDES)
def test_every_unit_of_ours_exists(guide: str) -> None:
    """Which is named in a command. The code has its whole name; of those of the firewall, a template of that name."""
    templates = {path.name for path in (ROOT / "roles").glob("*/templates/*.j2")}
    commands = re.findall(r"(?:journalctl|systemctl) [^`]+", text(guide))
    for unit, ending in re.findall(r"gpuops-fleet-([a-z-]*[a-z])(\.timer|\.service)?(?![\w*-])", " ".join(commands)):
        if unit.startswith("firewall"):
            assert f"{unit}{ending or '.service'}.j2" in templates, f"{guide}: {unit}"
        else:
            assert re.search(rf"gpuops-fleet-{unit}\b", code()), f"{guide}: {unit}"


def test_the_files_of_the_end_to_end_tests_are_told_in_their_order() -> None:
    (order,) = re.findall(r"^ORDER = \[\n(.*?)\]", text("tests/e2e/conftest.py"), re.MULTILINE | re.DOTALL)
    section = text("docs/testing.md").split("## End to end\n")[1].split("\n## ")[0]
    told = re.findall(r"`(test_\w+)\.py`", section)
    assert list(dict.fromkeys(told)) == re.findall(r'"(\w+)"', order)


def test_every_alert_is_told_with_where_to_look() -> None:
    section = text("roles/monitoring/README.md").split("## Alerts\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[A-Z].+?) \| .+ \| (.+?) \|$", section, re.MULTILINE)
    told = [name for names, look in rows for name in re.findall(r"`(\w+)`", names) if look]
    assert told == re.findall(r"alert\('(\w+)'", text("roles/monitoring/templates/rules.yml.j2"))
