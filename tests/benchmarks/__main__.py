# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m benchmarks [--only NAME]: runs the benchmarks, prints a table, writes build/bench.json.

Needs tests/, tests/e2e/ and roles/processor/files/telemetry/ on PYTHONPATH, and most of them a Docker engine.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from benchmarks import fleet, gateway, listing, processor, readiness, renting, results, suite

# A benchmark is a module with add_arguments(parser) and run(chosen) -> list of rows.
BENCHMARKS = {
    "listing": listing,
    "renting": renting,
    "readiness": readiness,
    "gateway": gateway,
    "processor": processor,
    "fleet": fleet,
    "suite": suite,
}


def main() -> int:
    """0 when everything ran; whether a goal was reached stands in the table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="run this one (repeatable)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("build/bench.json"))
    for module in BENCHMARKS.values():
        module.add_arguments(parser)
    chosen = parser.parse_args()
    rows: list[results.Row] = []
    for name, module in BENCHMARKS.items():
        if chosen.only is None or name in chosen.only:
            rows += module.run(chosen)
            results.write(chosen.output, rows)
    sys.stdout.write(results.table(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
