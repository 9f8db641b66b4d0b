# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut out of Google's discovery document of Compute v1 what the emulator serves: scripts/compute_extract.py FILE.

FILE is googleapiclient/discovery_cache/documents/compute.v1.json of google-api-python-client, which scripts/clients
installs into build/clients/google. Words for people are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "tests" / "emulators" / "compute_v1.json"
METHODS = {
    "instances": (
        "insert get list aggregatedList delete start stop "
        "setLabels setTags setMetadata setScheduling getGuestAttributes"
    ),
    "machineTypes": "get list aggregatedList",
    "acceleratorTypes": "list aggregatedList",
    "zoneOperations": "get list wait",
    "globalOperations": "get wait",
    "regions": "get",
    "firewalls": "insert get list patch delete",
}


def extract(document: dict[str, Any]) -> dict[str, Any]:
    """The methods, and the schemas of what they take and return."""
    methods = {}
    for resource, names in METHODS.items():
        for name in names.split():
            told = document["resources"][resource]["methods"][name]
            methods[told["id"]] = {
                "http": told["httpMethod"],
                "path": told["path"],
                "parameters": {key: _plain(value) for key, value in told["parameters"].items()},
                "request": told.get("request", {}).get("$ref"),
                "response": told["response"]["$ref"],
            }
    wanted = {method[side] for method in methods.values() for side in ("request", "response") if method[side]}
    schemas: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        schemas[name] = _plain(document["schemas"][name])
        wanted |= _references(schemas[name]) - set(schemas)
    return {
        "revision": document["revision"],
        "methods": methods,
        "parameters": sorted(document["parameters"]),
        "schemas": dict(sorted(schemas.items())),
    }


def _plain(node: Any) -> Any:
    """Without words for people. A property can have one of their names, too, but is no text then."""
    if isinstance(node, dict):
        words = ("description", "enumDescriptions", "enumDeprecated", "id")
        return {key: _plain(value) for key, value in node.items() if key not in words or isinstance(value, dict)}
    return [_plain(one) for one in node] if isinstance(node, list) else node


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    TARGET.write_text(json.dumps(extract(document), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
