# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's template, rendered by Ansible's own engine with the role's defaults and variables, without a host."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import ansible.template
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
# What a host, a playbook or an earlier task would have said.
PLANTED = "/planted"


def trusted(value: Any) -> Any:
    """Text that may be a template; from ansible-core 2.19 on it has to be marked as one."""
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    mark = getattr(ansible.template, "trust_as_template", None)
    return mark(value) if mark and isinstance(value, str) else value


def _variables(role: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for directory in ("defaults", "vars"):
        file = ROLES / role / directory / "main.yml"
        if file.exists():
            found |= trusted(DataLoader().load_from_file(str(file)) or {})
    return found


def render(path: pathlib.Path, **planted: Any) -> str:
    """roles/ROLE/templates/NAME.j2 as text.

    A variable that neither the role nor the caller gives is PLANTED: what matters to a caller has to be given.
    """
    variables = _variables(path.parents[1].name) | {"ansible_managed": "Planted"} | planted
    loader = DataLoader()
    loader.set_basedir(str(path.parent))  # for what it includes
    while True:
        try:
            return str(Templar(loader, variables).template(trusted(path.read_text(encoding="utf-8"))))
        except AnsibleError as problem:
            missing = re.search(r"'(\w+)' is undefined", str(problem))
            if not missing or missing[1] in variables:
                raise
            variables[missing[1]] = PLANTED
