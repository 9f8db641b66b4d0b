# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m gpuops_telemetry.healthcheck URL: exit status 0 when it answers 200. There is no curl in the image."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request


def main(arguments: list[str]) -> int:
    """Checks one URL."""
    if len(arguments) != 1 or not arguments[0].startswith("http://"):
        sys.stderr.write("usage: python -m gpuops_telemetry.healthcheck http://127.0.0.1:PORT/health\n")
        return 2
    try:
        with urllib.request.urlopen(arguments[0], timeout=4) as answer:  # noqa: S310 - the scheme was checked
            return 0 if answer.status == 200 else 1
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read(2048).decode(errors="replace") + "\n")
    except (OSError, urllib.error.URLError) as error:
        sys.stderr.write(f"{arguments[0]} does not answer: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
