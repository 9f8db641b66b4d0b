# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules document is what they accept, and a module file is wiring only."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.doc_fragments import attributes, fleet, instance

MODULES = Path(__file__).parents[3] / "plugins" / "modules"
NAMES = sorted(path.stem for path in MODULES.glob("*.py"))
FRAGMENTS = {
    "gpuops.fleet.fleet": fleet.ModuleDocFragment.DOCUMENTATION,
    "gpuops.fleet.instance": instance.ModuleDocFragment.DOCUMENTATION,
    "gpuops.fleet.attributes": attributes.ModuleDocFragment.DOCUMENTATION,
}
DOCUMENTATION_ONLY = {"DOCUMENTATION", "EXAMPLES", "RETURN"}


def test_every_module_that_works_on_a_fleet_is_in_the_action_group() -> None:
    """And no other: what is said for all of them, such as the deployment, would be refused by one that knows none."""
    runtime = yaml.safe_load((MODULES.parents[1] / "meta" / "runtime.yml").read_text())
    assert set(NAMES) - {"host_files"} == set(runtime["action_groups"]["fleet"])


@pytest.mark.parametrize("name", NAMES)
def test_options_in_the_documentation_are_those_of_the_argument_spec(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"ansible_collections.gpuops.fleet.plugins.modules.{name}")
    documented: dict[str, Any] = {}
    own = yaml.safe_load(module.DOCUMENTATION)
    for fragment in own["extends_documentation_fragment"]:
        documented |= yaml.safe_load(FRAGMENTS.get(fragment, "{}")).get("options", {})
    for option, values in own.get("options", {}).items():
        documented[option] = documented.get(option, {}) | values

    caught: dict[str, Any] = {}

    class Caught(Exception):
        pass

    def catch(**arguments: Any) -> None:
        caught.update(arguments)
        raise Caught

    monkeypatch.setattr(module, "AnsibleModule", catch)
    with pytest.raises(Caught):
        module.main()
    assert caught["supports_check_mode"]
    compare(documented, caught["argument_spec"])


def compare(documented: dict[str, Any], spec: dict[str, Any]) -> None:
    assert set(documented) == set(spec)
    for option, words in documented.items():
        accepted = spec[option]
        assert words["description"]
        for key in ("type", "elements", "default", "choices"):
            assert words.get(key) == accepted.get(key), (option, key)
        assert words.get("required", False) == accepted.get("required", False), option
        compare(words.get("suboptions", {}), accepted.get("options", {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_module_has_at_most_sixty_lines_of_code(name: str) -> None:
    tree = ast.parse((MODULES / f"{name}.py").read_text())
    lines = 0
    for node in tree.body:
        documentation = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in DOCUMENTATION_ONLY
        lines += 0 if documentation else (node.end_lineno or 0) - node.lineno + 1
    assert lines <= 60
