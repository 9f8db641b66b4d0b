# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that run by themselves on a host, as modules: their tests call what is in them."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import Any


def load_program(path: pathlib.Path) -> Any:
    """Anew at each call, so that nobody finds what another test left in it."""
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look themselves up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
