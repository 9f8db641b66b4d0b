# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How waiting for machines went, as Prometheus text: GPUFLEET_HOME/metrics/gpufleet_readiness.prom.

For the textfile collector of node_exporter. Any number of controllers of one home add to the same file: each reads it,
adds and replaces it under a lock. A home that can't be used changes no behaviour: then nothing is counted.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from ansible_collections.gpuops.fleet.plugins.module_utils import _journal
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance
from ansible_collections.gpuops.fleet.plugins.module_utils._readiness import Report

DIRECTORY, FILE = "metrics", "gpufleet_readiness.prom"
READY = "gpufleet_ready_seconds"
VERIFICATIONS = "gpufleet_verifications_total"
FAILURES = "gpufleet_verification_failures_total"
ATTEMPTS = "gpufleet_verification_attempts_total"
BUCKETS_SECONDS = (5, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 3600)

_HELP = {
    READY: ("histogram", "Seconds from the beginning of a wait until the instance was ready."),
    VERIFICATIONS: ("counter", "Waits for an instance that ended, ready or not."),
    FAILURES: ("counter", "Waits that ended without a ready instance, by the class of the last failure."),
    ATTEMPTS: ("counter", "Single tries to reach an instance, by what came of them."),
}
_SAMPLE = re.compile(r"([a-z_]+)(\{[^}]*\})? ([0-9.e+-]+)", re.ASCII)


def record(instance: Instance, report: Report) -> Path | None:
    """Add one wait to the file; returns where it stands. Never fails."""
    home = _journal.home()
    if home is None:
        return None
    try:
        directory = home / DIRECTORY
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / FILE
        # A lock file of its own: the file itself is replaced, and a lock on what was replaced protects nothing.
        with open(directory / f".{FILE}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            samples = read(path)
            for name, value in _samples_of(instance, report):
                samples[name] = samples.get(name, 0.0) + value
            _replace(path, _text(samples))
    except OSError:
        return None
    return path


def read(path: Path) -> dict[str, float]:
    """The samples in the file, by name and labels; a line that is none is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        try:
            if match:
                found[f"{match[1]}{match[2] or ''}"] = float(match[3])
        except ValueError:
            continue
    return found


def _samples_of(instance: Instance, report: Report) -> list[tuple[str, float]]:
    labels = {"provider": instance.provider, "gpu": instance.gpu or "none"}
    samples = [(_named(VERIFICATIONS, labels), 1.0)]
    for kind, seen in report.classes.items():
        samples.append((_named(ATTEMPTS, labels, {"class": kind}), float(seen["count"])))
    if not report.ready:
        return [*samples, (_named(FAILURES, labels, {"class": report.last_class}), 1.0)]
    for limit in BUCKETS_SECONDS:
        samples.append((_named(f"{READY}_bucket", labels, {"le": str(limit)}), float(report.seconds <= limit)))
    samples.append((_named(f"{READY}_bucket", labels, {"le": "+Inf"}), 1.0))
    return [*samples, (_named(f"{READY}_sum", labels), report.seconds), (_named(f"{READY}_count", labels), 1.0)]


def _named(name: str, *labels: dict[str, str]) -> str:
    pairs = [f'{key}="{_escaped(value)}"' for one in labels for key, value in one.items()]
    return f"{name}{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    """Names of providers, GPUs and classes are plain words; what isn't could break the file."""
    return re.sub(r"[^A-Za-z0-9_.:+ -]", "_", value)


def _text(samples: dict[str, float]) -> str:
    lines = []
    for family, (kind, words) in _HELP.items():
        own = [(name, value) for name, value in samples.items() if _family(name) == family]
        if own:
            lines += [f"# HELP {family} {words}", f"# TYPE {family} {kind}"]
            # Buckets of one histogram belong together, in rising order: they were written so, and dicts keep that.
            lines += [f"{name} {value:g}" if value.is_integer() else f"{name} {value!r}" for name, value in own]
    return "\n".join(lines) + "\n"


def _family(name: str) -> str:
    bare = name.partition("{")[0]
    return re.sub(r"_(bucket|sum|count)$", "", bare) if bare.startswith(READY) else bare


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)
    os.replace(fresh, path)
