# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all unit tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something about the machine, not about us; print_blob shows how to replay a failure.
settings.register_profile("fleet", deadline=None, print_blob=True)
settings.load_profile("fleet")
