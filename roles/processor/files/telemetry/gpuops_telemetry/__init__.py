# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The telemetry of gpuops.fleet: GPU and token events, from a completion to a document and a price."""

from __future__ import annotations

__version__ = "0.1.0"
