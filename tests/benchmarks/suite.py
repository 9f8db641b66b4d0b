# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the last `make test` on this machine took, from the timings that it left: nothing is run again for it."""

from __future__ import annotations

import argparse
import pathlib
import re
import sys

from benchmarks.results import Row

TIMINGS = pathlib.Path("build/timings.txt")
# step: (goal in seconds, the step of the same run that it is compared with)
GOALS = {"check": (4 * 60, "unit"), "test": (30 * 60, "demo")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing can be chosen about this one."""


def run(chosen: argparse.Namespace) -> list[Row]:
    """A row for each of GOALS; none where the last run did not come to its end."""
    lines = TIMINGS.read_text(encoding="utf-8").splitlines() if TIMINGS.exists() else []
    parsed = [re.fullmatch(r"(.+?)\s+(\d+) s  ok", line) for line in lines]
    seconds = {match[1]: float(match[2]) for match in parsed if match}
    rows = []
    for step, (goal, reference) in GOALS.items():
        if step not in seconds or reference not in seconds:
            sys.stderr.write(f"suite benchmark: no timing of 'make {step}'; run 'make test' first.\n")
            continue
        value, compared = seconds[step], seconds[reference]
        named = f"{compared:,.0f} s (its step {reference})"
        ratio = round(value / compared, 3)
        rows.append(Row(f"make {step}, last run", value, "s", named, ratio, f"<= {goal} s", value <= goal))
    return rows
