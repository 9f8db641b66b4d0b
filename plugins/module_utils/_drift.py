# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The refusal to change what lives, where that would destroy it."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _plan, _views
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError


def drift(
    wish: Wish, current: Instance, found: tuple[_plan.Difference, ...], diff: dict[str, Any] | None = None
) -> EngineError:
    """What lives is not what is wanted, and is kept as it is until its user decides."""
    differences = "; ".join(str(difference) for difference in found)
    fix = "Change the wish back, or set on_drift: replace for it, which destroys it and rents another."
    if _plan.is_too_dear(current, wish):
        fix += " What is too dear is kept until you decide, and goes on costing; gpuops.fleet.destroy ends it."
    return EngineError(
        f"Instance '{wish.name}' exists and differs from what you want: {differences}.",
        code="drift",
        provider=current.provider,
        fix=fix,
        result={
            "diff": diff,
            "instance": _views.instance(current),
            "differences": [vars(one) for one in found],
        },
    )
