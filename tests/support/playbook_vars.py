# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A variable of playbooks/vars, computed by Ansible's own engine, without a host."""

from __future__ import annotations

import pathlib
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from support.role_templates import trusted

VARS = pathlib.Path(__file__).resolve().parents[2] / "playbooks" / "vars"


def computed(file: str, name: str, **planted: Any) -> Any:
    """What __NAME of playbooks/vars/FILE.yml is, where these variables are planted."""
    loader = DataLoader()
    variables = {**trusted(loader.load_from_file(str(VARS / f"{file}.yml"))), **planted}
    return Templar(loader, variables).template(trusted(f"{{{{ {name} }}}}"))
