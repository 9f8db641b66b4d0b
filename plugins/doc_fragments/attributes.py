# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes and options that several modules document in the same words."""

from __future__ import annotations


class ModuleDocFragment:
    # What every module says about itself; the module adds support and details.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and tell what would change without changing anything.
  diff_mode:
    description: Returns what changed, or would change in check mode, as a diff.
  idempotent:
    description:
      - When run twice in a row outside check mode with the same arguments, the second run reports no change.
      - Assumes that what the module works on did not change otherwise in between.
"""

    # Modules that take the same deployment and provider settings can get them by module_defaults.
    ACTIONGROUP_FLEET = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/gpuops.fleet.fleet) in C(module_defaults) to set options for all modules of this group.
    support: full
    membership:
      - gpuops.fleet.fleet
"""

    # Modules that only look.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This action does not change anything.
  diff_mode:
    support: N/A
    details:
      - This action does not change anything.
  idempotent:
    support: full
    details:
      - This action does not change anything.
"""
