# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's own description of Compute v1: which calls there are, and what they take and return.

compute_v1.json is an extract of the discovery document, made by scripts/compute_extract.py. What it doesn't say (what
is required, and what goes together) is in compute_rules.py.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

_TOLD: dict[str, Any] = json.loads(Path(__file__).with_name("compute_v1.json").read_text(encoding="utf-8"))
REVISION: str = _TOLD["revision"]
_INTEGERS = ("int64", "uint64")


class Wrong(Exception):
    """A request or an answer is not what the document says."""


@dataclass(frozen=True)
class Call:
    """One call that came: which method it is, and the values in its path."""

    method_id: str
    values: dict[str, str]

    @property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = _TOLD["methods"][self.method_id]
        return found

    def check_query(self, query: dict[str, str]) -> None:
        for name, value in query.items():
            told = self.about["parameters"].get(name)
            if told is None and name not in _TOLD["parameters"] and not name.startswith("$"):
                raise Wrong(f"{self.method_id} has no parameter '{name}'")
            if told is None:
                continue
            kind = told.get("type")
            if kind == "boolean" and value not in ("true", "false"):
                raise Wrong(f"parameter '{name}' of {self.method_id} is true or false, not '{value}'")
            if kind == "integer" and not re.fullmatch(r"[0-9]+", value):
                raise Wrong(f"parameter '{name}' of {self.method_id} is a number, not '{value}'")

    def check_request(self, body: Any) -> None:
        schema = self.about["request"]
        if schema is None:
            if body not in (None, {}):
                raise Wrong(f"{self.method_id} takes no body")
            return
        _check(schema, body, asked=True)
        for name, told in _TOLD["schemas"][schema].get("properties", {}).items():
            if self.method_id in told.get("annotations", {}).get("required", ()) and not body.get(name):
                raise Wrong(f"Required field '{name}' not specified")

    def check_answer(self, body: Any) -> None:
        _check(self.about["response"], body, asked=False)


def find(method: str, path: str) -> Call | None:
    """Which call this is; path begins at projects/. A value in it that the document forbids makes it none."""
    for method_id, pattern in _patterns(method):
        match = pattern.fullmatch(path)
        if match:
            return Call(method_id, match.groupdict())
    return None


@functools.cache
def _patterns(method: str) -> list[tuple[str, re.Pattern[str]]]:
    found = []
    for method_id, told in _TOLD["methods"].items():
        if told["http"] == method:
            parts = re.split(r"\{([a-zA-Z]+)\}", told["path"])
            text = "".join(
                f"(?P<{part}>{told['parameters'][part].get('pattern', '[^/]+')})" if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
            found.append((method_id, re.compile(text)))
    return found


def _check(schema: str, body: Any, *, asked: bool) -> None:
    for error in _validator(schema, asked).iter_errors(body):
        where = ".".join(map(str, error.absolute_path)) or schema
        raise Wrong(f"Invalid value for field '{where}': {error.message[:300]}")


@functools.cache
def _validator(schema: str, asked: bool) -> Validator:
    definitions = {name: _json_schema(told, asked) for name, told in _TOLD["schemas"].items()}
    return Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": definitions})


def _json_schema(node: dict[str, Any], asked: bool) -> dict[str, Any]:
    """What stands there, as a JSON Schema: objects are closed, and who asks may not give what only an answer has."""
    if "$ref" in node:
        return {"$ref": f"#/$defs/{node['$ref']}"}
    kind = node.get("type")
    if kind == "array":
        return {"type": "array", "items": _json_schema(node["items"], asked)}
    if kind == "object":
        properties = {
            name: _json_schema(told, asked)
            for name, told in node.get("properties", {}).items()
            if not (asked and told.get("readOnly"))
        }
        more = node.get("additionalProperties")
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": _json_schema(more, asked) if isinstance(more, dict) else False,
        }
    if kind == "string" and node.get("format") in _INTEGERS:
        # A number is text in JSON, because a double has too few digits for it; it is also taken as a number.
        text = {"type": "string", "pattern": "^-?[0-9]{1,20}$"}
        return {"anyOf": [text, {"type": "integer"}]} if asked else text
    found: dict[str, Any] = {} if kind in (None, "any") else {"type": kind}
    if "enum" in node:
        found["enum"] = node["enum"]
    if "pattern" in node:
        found["pattern"] = f"^(?:{node['pattern']})$"
    return found
