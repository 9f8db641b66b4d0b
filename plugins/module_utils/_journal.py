# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What happened and what it cost, as lines of JSON. Explains the past; nothing depends on it.

A home that is missing, full or read-only changes no behaviour: then the lines are lost, and that is all.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance

_FILE = "journal.jsonl"


def home() -> Path | None:
    """GPUFLEET_HOME, else the user's state directory, else a temporary one; None when none can be used."""
    chosen = os.environ.get("GPUFLEET_HOME")
    fallback = Path(tempfile.gettempdir()) / f"gpuops-fleet-{os.getuid()}"
    for path in [Path(chosen)] if chosen else [Path("~/.local/state/gpuops-fleet").expanduser(), fallback]:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Another user may have made the temporary one first: what is not ours alone is not used.
            if path.stat().st_uid == os.getuid() and not path.is_symlink():
                path.chmod(0o700)
                return path
        except OSError:
            continue
    return None


def record(event: str, instance: Instance | None = None, **details: Any) -> None:
    """Append one line; never fails, never holds a secret (callers pass ids, names, prices and times only)."""
    line: dict[str, Any] = {"time": _clock.now(), "event": event}
    if instance:
        line |= {
            "deployment_id": instance.marker.deployment_id,
            "name": instance.marker.name,
            "nonce": instance.marker.nonce,
            "provider": instance.provider,
            "id": instance.id,
            "price_per_hour_usd": instance.price_per_hour_usd,
            "region": instance.region,
            "created_at": instance.created_at,
            "expiry_epoch_hours": instance.marker.expiry_epoch_hours,
            "ends_itself": instance.ends_itself,
            "host_key": instance.host_key,
        }
    directory = home()
    if directory is None:
        return
    try:
        file = os.open(directory / _FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, (json.dumps(line | details) + "\n").encode())  # one write: parallel lines don't mix
        finally:
            os.close(file)
    except OSError:
        return


def read(deployment_id: str) -> list[dict[str, Any]]:
    """The deployment's lines that survived, oldest first; a line that was cut off is left out."""
    directory = home()
    if directory is None:
        return []
    try:
        text = (directory / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and line.get("deployment_id") == deployment_id:
            lines.append(line)
    return lines
