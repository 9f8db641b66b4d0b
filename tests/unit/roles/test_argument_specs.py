"""What a role documents is what it does: defaults, argument specs and README name the same variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).parents[3] / "roles").iterdir() if (path / "meta").is_dir())
NAMES = [path.name for path in ROLES]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    specs: dict[str, dict[str, Any]] = load(role / "meta/argument_specs.yml")["argument_specs"]
    return specs


def options(role: Path) -> dict[str, dict[str, Any]]:
    """Every option of every entry point; one that several have must have the same default in each."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in entry_points(role).items():
        for key, option in (entry.get("options") or {}).items():
            other = found.setdefault(key, option)
            assert other.get("default") == option.get("default"), f"{key} has another default in {name}"
    return found


def normal(value: Any) -> Any:
    """Folded and quoted scalars differ in white space only."""
    return " ".join(value.split()) if isinstance(value, str) else value


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_same_variables_in_defaults_and_specs(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    optional = {key for key, option in options(role).items() if not option.get("required")}
    assert set(defaults) == optional


def documented(value: Any, option: dict[str, Any]) -> Any:
    """The default that the specification can name: none for a number or truth value that is computed on the host."""
    computed = isinstance(value, str) and "{{" in value and option["type"] not in ("str", "path")
    return None if computed else normal(value)


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_same_default_values(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    specs = options(role)
    different = {
        key: (value, specs[key].get("default"))
        for key, value in defaults.items()
        if key in specs and documented(value, specs[key]) != normal(specs[key].get("default"))
    }
    assert different == {}, "(defaults/main.yml, argument_specs.yml)"


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_variables_carry_the_name_of_the_role(role: Path) -> None:
    assert [key for key in options(role) if not key.startswith(f"{role.name}_")] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_every_default_has_a_comment(role: Path) -> None:
    text = (role / "defaults/main.yml").read_text(encoding="utf-8")
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip() not in ("", "---")]
    assert [paragraph for paragraph in paragraphs if "#" not in paragraph] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_readme_names_every_variable(role: Path) -> None:
    readme = (role / "README.md").read_text(encoding="utf-8")
    assert [key for key in options(role) if f"`{key}`" not in readme] == []


def rows(role: Path) -> list[tuple[str, str]]:
    """Variable and default of each row in the tables of a README."""
    readme = (role / "README.md").read_text(encoding="utf-8").replace("\\|", "PIPE")
    found = re.findall(rf"^\| `({role.name}_\w+)` \|(.*?)\|", readme, re.MULTILINE)
    return [(name, cell.strip().replace("PIPE", "|")) for name, cell in found]


def told_truly(cell: str, default: Any) -> bool:
    """A default stands there as it is. One that is computed, a long list and an address may be told in words."""
    said = cell.strip("`")
    if said in ("", "empty"):
        return default in ("", None)
    if normal(default) in (said, cell) or yaml.safe_load(said.replace("{{", "$")) == default:
        return True
    if "{{" in str(default):
        return not re.fullmatch(r"`\{\{.*\}\}`", cell)
    is_long = (isinstance(default, list) and default != []) or str(default).startswith("https://")
    return is_long and "`" not in cell


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_tables_of_the_readme_have_the_defaults(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    required = {name for name, option in options(role).items() if option.get("required")}
    assert rows(role), "no table of variables"
    assert [name for name, _cell in rows(role) if name not in options(role)] == []
    assert [name for name, cell in rows(role) if (cell == "required") != (name in required)] == []
    told = [(name, cell, defaults[name]) for name, cell in rows(role) if name in defaults]
    assert [row for row in told if not told_truly(*row[1:])] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_everything_is_described(role: Path) -> None:
    for name, entry in entry_points(role).items():
        assert entry.get("short_description"), name
        assert entry.get("description"), name
        assert [key for key, option in (entry.get("options") or {}).items() if not option.get("description")] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_secrets_are_marked(role: Path) -> None:
    words = ("password", "api_key", "token", "secret_value")
    secrets = [key for key in options(role) if key.endswith(words)]
    assert [key for key in secrets if not options(role)[key].get("no_log")] == []


@pytest.mark.parametrize("role", ROLES, ids=NAMES)
def test_parts_of_a_role_are_there(role: Path) -> None:
    assert [name for name in ("README.md", "tasks/main.yml", "meta/main.yml") if not (role / name).is_file()] == []
