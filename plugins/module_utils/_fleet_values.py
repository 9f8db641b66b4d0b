# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Values of a fleet file against the argument specs of the modules, in their own types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import Problem, Where, nearest

_MISSING = object()


def opened_later(value: object) -> bool:
    """A template or a vaulted value: text that Ansible opens when the variable is used."""
    return _is_vaulted(value) or (isinstance(value, str) and ("{{" in value or "{%" in value))


def note(problems: list[Problem], problem: Problem) -> None:
    """A mistake in the defaults concerns every instance, but it is one mistake."""
    if problem not in problems:
        problems.append(problem)


class ValueReader:
    """Brings what a file says into the types of an argument spec, and collects the mistakes."""

    def __init__(self, lines: Mapping[Where, int], problems: list[Problem]) -> None:
        self.lines = lines
        self.problems = problems

    def wrong(self, where: Where, message: str) -> None:
        """Note a mistake once, with the line of the place or of the nearest thing around it."""
        note(self.problems, self.located(where, message))

    def located(self, where: Where, message: str) -> Problem:
        """A mistake with its line; what is missing is missing in the thing around it."""
        # The field stands before the sentence already.
        message = re.sub(rf"^{re.escape(str(where[-1]))}(?:: | (?=['0-9-]))", "", message) if where else message
        around = where
        while around and around not in self.lines:
            around = around[:-1]
        return Problem(where, message, self.lines.get(around))

    def unknown_keys(self, where: Where, data: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
        """Refuse what nobody would read: it is a typing mistake or a wrong indent."""
        known = frozenset(known)
        for key in data:
            if key not in known:
                self.wrong((*where, str(key)), f"'{key}' is not {what}: {nearest(str(key), known)}")

    def settings(self, where: Where, data: object, spec: Mapping[str, Any], what: str) -> dict[str, Any]:
        """One mapping against an argument spec; returns the values in their own types, without those not given."""
        if not isinstance(data, Mapping):
            self.wrong(where, f"expected 'option: value' pairs, got {_described(data)}.")
            return {}
        self.unknown_keys(where, data, spec, what)
        result = {}
        for key, rule in spec.items():
            if data.get(key) is None:
                if rule.get("required"):
                    self.wrong((*where, key), "missing: it has no default.")
                continue
            result[key] = self.value((*where, key), data[key], rule)
        return {key: value for key, value in result.items() if value is not None}

    def value(self, where: Where, value: Any, rule: Mapping[str, Any]) -> Any:
        """One value against its rule; None when it is wrong (the mistake is noted) or not given."""
        kind = rule.get("type", "str")
        if value is None:
            return None
        if kind == "list":
            return self.list_value(where, value, rule)
        if kind == "dict":
            return self.dict_value(where, value, rule)
        converted = _CONVERTERS[kind](value)
        if converted is _MISSING:
            got = "something else" if rule.get("no_log") else _described(value)
            self.wrong(where, f"expected {_EXPECTED[kind]}, got {got}.")
            return None
        choices = rule.get("choices")
        if choices and converted not in choices:
            self.wrong(where, f"'{converted}' can't be chosen: {nearest(str(converted), map(str, choices))}")
            return None
        return converted

    def list_value(self, where: Where, value: Any, rule: Mapping[str, Any]) -> list[Any] | None:
        """A list; one word alone is accepted where words are listed."""
        element = {key: rule[key] for key in ("options", "choices", "no_log") if key in rule}
        element["type"] = rule.get("elements", "str")
        if isinstance(value, str) and element["type"] == "str" and value.strip():
            value = [value]
        if not isinstance(value, (list, tuple)):
            self.wrong(where, f"expected a list, got {_described(value)}.")
            return None
        items = []
        for index, item in enumerate(value):
            if item is None:
                self.wrong((*where, index), "this entry of the list is empty; fill or remove it.")
            items.append(self.value((*where, index), item, element))
        return [item for item in items if item is not None]

    def dict_value(self, where: Where, value: Any, rule: Mapping[str, Any]) -> dict[str, Any] | None:
        """A mapping with known options, or with any keys (then its values may be secret and are never shown)."""
        if "options" in rule:
            return self.settings(where, value, rule["options"], "an option here") or None
        if not isinstance(value, Mapping):
            self.wrong(where, "expected 'NAME: value' pairs, indented below it.")
            return None
        for key in value:
            if not isinstance(key, str):
                self.wrong(where, f"the name {key!r} is not text; put it in quotes.")
        return dict(value)


def _is_vaulted(value: object) -> bool:
    """An encrypted value is text that is opened when it is used; the classes differ between ansible-core versions."""
    return type(value).__name__ in ("EncryptedString", "AnsibleVaultEncryptedUnicode", "Closed")


def _described(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()} (put quotes around it to make it text)"
    if isinstance(value, Mapping):
        return "'name: value' pairs"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"'{value}'" if len(str(value)) <= 60 else f"'{str(value)[:57]}...'"


def _to_text(value: Any) -> Any:
    if isinstance(value, str) or _is_vaulted(value):
        return value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _MISSING


def _to_whole_number(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value.strip()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else _MISSING


def _to_number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _MISSING
    good = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18  # not for NaN either
    )
    return float(value) if good else _MISSING


def _to_truth(value: Any) -> Any:
    if isinstance(value, str):
        return {"true": True, "yes": True, "false": False, "no": False}.get(value.lower(), _MISSING)
    return value if isinstance(value, bool) else _MISSING


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "str": _to_text,
    "path": _to_text,
    "int": _to_whole_number,
    "float": _to_number,
    "bool": _to_truth,
    "raw": lambda value: value,
}
_EXPECTED = {
    "str": "text",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "raw": "a value",
}
