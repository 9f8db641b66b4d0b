# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Reading the fleet file: every mistake that can be seen without asking a provider, named with its field and line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _marker, _preflight, _provider

PLUGIN_NAME = "gpuops.fleet.fleet"
ROLE_NAMES = ("kafka", "mongodb", "processor", "producer", "vllm")

# What Ansible's own fragments (constructed, inventory_cache) read; their values are checked by Ansible.
ANSIBLE_KEYS = (
    *("strict", "compose", "groups", "keyed_groups", "use_extra_vars", "leading_separator"),
    *("cache", "cache_plugin", "cache_timeout", "cache_connection", "cache_prefix"),
)
OUR_KEYS = ("plugin", "deployment_id", "instances", "defaults", "provider_settings", "report_directory")

# A path inside the file: ("instances", 2, "ports").
Where: TypeAlias = "tuple[str | int, ...]"

_INSTANCE_OPTION = "an option of an instance"
_ALREADY_GROUPS = frozenset(("all", "ungrouped", "localhost"))
_MISSING = object()


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands and what to do about it."""

    where: Where
    message: str
    line: int | None = None

    def sentence(self, path: str) -> str:
        """The mistake as people read it: file, line, field, and what to do."""
        place = [shown_path(path)]
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.where:
            place.append(field_name(self.where))
        return f"{', '.join(place)}: {self.message}"


class FleetFileError(ValueError):
    """The file can't be used. str() is one sentence for each mistake, in the order of the file."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(problem.sentence(path) for problem in self.problems))


@dataclass(frozen=True)
class Fleet:
    """A valid fleet file. instances holds the merged settings of each: the defaults, and over them its own."""

    path: str
    deployment_id: str
    instances: tuple[dict[str, Any], ...]
    providers: tuple[str, ...]  # all that the file uses, in the order of their first mention
    provider_settings: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    report_directory: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def domain(self) -> str:
        """Peers are NAME.<this>."""
        return f"{self.deployment_id}.internal"

    @property
    def directory(self) -> str:
        """Relative paths in the file begin here."""
        return os.path.dirname(os.path.abspath(self.path))


def field_name(where: Where) -> str:
    """instances[2].ports, as people write it."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def shown_path(path: str) -> str:
    """The path as the user most probably typed it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def nearest(word: str, known: Iterable[str]) -> str:
    """A half sentence that helps: the nearest known word, or all of them."""
    import difflib  # only when something is wrong

    candidates = sorted(known)
    found = difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.6)
    return f"did you mean '{found[0]}'?" if found else f"known are: {', '.join(candidates)}."


def resolve_path(path: str, fleet_file: str) -> str:
    """A path that stands in the fleet file: ~ is the user's home, relative ones begin at the file's folder."""
    directory = os.path.dirname(os.path.abspath(fleet_file))
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))


def opened_later(value: object) -> bool:
    """A template or a vaulted value: text that Ansible opens when the variable is used."""
    return _is_vaulted(value) or (isinstance(value, str) and ("{{" in value or "{%" in value))


def read_file(path: str) -> str:
    """The text of a fleet file; raises FleetFileError when it can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise FleetFileError(path, [Problem((), f"the fleet file can't be read: {reason}.")]) from error


def load(path: str) -> Fleet:
    """Read and check a fleet file without Ansible's loader: vaulted values stay closed."""
    return parse(read_file(path), path)


def parse(text: str, path: str, open_values: Callable[[], object] | None = None) -> Fleet:
    """Check the text of a fleet file and return what it says, or raise FleetFileError with every mistake in it.

    open_values is called when the text is good, and returns the same document as Ansible reads it: with opened vaults
    and with templates that it trusts. Those values are what the fleet has then.
    """
    if text.startswith("$ANSIBLE_VAULT"):
        message = "the whole file is a vault, so it can't be checked. Encrypt single values instead."
        raise FleetFileError(path, [Problem((), message)])
    data, lines, problems = _read_yaml(text, path)
    fleet = _Reader(path, lines, problems).fleet(data)
    if problems or fleet is None:
        raise FleetFileError(path, problems)
    if open_values is None:
        return fleet
    reader = _Reader(path, lines, problems, preflight=False)
    opened = reader.fleet(open_values())
    if problems or opened is None:
        raise FleetFileError(path, problems)
    return replace(opened, warnings=fleet.warnings)


def _note(problems: list[Problem], problem: Problem) -> None:
    """A mistake in the defaults concerns every instance, but it is one mistake."""
    if problem not in problems:
        problems.append(problem)


class _Reader:
    """Walks the data once and collects the mistakes."""

    def __init__(
        self, path: str, lines: Mapping[Where, int], problems: list[Problem], *, preflight: bool = True
    ) -> None:
        self.path = path
        self.with_preflight = preflight
        self.lines = lines
        self.problems = problems
        self.warnings: list[Problem] = []

    def wrong(self, where: Where, message: str) -> None:
        """Note a mistake once, with the line of the place or of the nearest thing around it."""
        _note(self.problems, self.located(where, message))

    def located(self, where: Where, message: str) -> Problem:
        """A mistake with its line; what is missing is missing in the thing around it."""
        # The field stands before the sentence already.
        message = re.sub(rf"^{re.escape(str(where[-1]))}(?:: | (?=['0-9-]))", "", message) if where else message
        around = where
        while around and around not in self.lines:
            around = around[:-1]
        return Problem(where, message, self.lines.get(around))

    def fleet(self, data: object) -> Fleet | None:
        """The whole file."""
        if not isinstance(data, Mapping):
            self.wrong((), f"a fleet file is a list of settings that begins with 'plugin: {PLUGIN_NAME}'.")
            return None
        if data.get("plugin") != PLUGIN_NAME:
            self.wrong(("plugin",), f"write 'plugin: {PLUGIN_NAME}', so that Ansible knows who reads this file.")
            return None
        self.unknown_keys((), data, OUR_KEYS + ANSIBLE_KEYS, "a setting of a fleet file")
        deployment_id = ""
        try:
            deployment_id = _marker.check_deployment_id(data.get("deployment_id"))
        except ValueError as error:
            self.wrong(("deployment_id",), str(error))
        settings = self.provider_settings(data.get("provider_settings"))
        report_directory = self.value(("report_directory",), data.get("report_directory"), {"type": "path"})
        instances = self.instances(data)
        names = [name for instance in instances for name in instance.get("providers") or ()]
        return Fleet(
            path=self.path,
            deployment_id=deployment_id,
            instances=tuple(instances),
            providers=tuple(dict.fromkeys([*names, *settings])),
            provider_settings=settings,
            report_directory=report_directory,
            warnings=tuple(problem.sentence(self.path) for problem in self.warnings),
        )

    def unknown_keys(self, where: Where, data: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
        """Refuse what nobody would read: it is a typing mistake or a wrong indent."""
        known = frozenset(known)
        for key in data:
            if key not in known:
                self.wrong((*where, str(key)), f"'{key}' is not {what}: {nearest(str(key), known)}")

    def provider_settings(self, data: object) -> dict[str, dict[str, Any]]:
        """Where the providers are; a provider without settings may be named alone."""
        if data is None:
            return {}
        where: Where = ("provider_settings",)
        if not isinstance(data, Mapping):
            self.wrong(where, "write the name of a provider, and its settings indented below it.")
            return {}
        specs = _arguments.FLEET_SPEC["provider_settings"]["options"]
        result: dict[str, dict[str, Any]] = {}
        for name, settings in data.items():
            place = (*where, str(name))
            if name not in _provider.PROVIDER_NAMES:
                self.wrong(place, f"'{name}' is not a provider: {nearest(str(name), _provider.PROVIDER_NAMES)}")
            elif settings is None:
                result[str(name)] = {}
            else:
                what = f"a setting of provider {name}"
                result[str(name)] = self.settings(place, settings, specs.get(name, {}).get("options", {}), what)
        return result

    def instances(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Merge the defaults into each entry and check both where they stand."""
        spec = {key: {**rule, "required": False} for key, rule in _arguments.INSTANCE_SPEC.items()}
        defaults: dict[str, Any] = {}
        if data.get("defaults") is not None:
            if isinstance(data["defaults"], Mapping) and "name" in data["defaults"]:
                self.wrong(("defaults", "name"), "a name can't be a default: each instance needs its own.")
            defaults = self.settings(("defaults",), data["defaults"], spec, _INSTANCE_OPTION)
            defaults.pop("name", None)
        entries = data.get("instances")
        if not isinstance(entries, list):
            self.wrong(
                ("instances",),
                "list the instances that this deployment wants, each as '- name: vllm-1' with its settings; "
                "write 'instances: []' for none.",
            )
            return []
        result: list[dict[str, Any]] = []
        first_use: dict[str, int] = {}
        for index, entry in enumerate(entries):
            mistakes = len(self.problems)
            own = self.settings(("instances", index), entry, spec, _INSTANCE_OPTION)
            if isinstance(entry, Mapping):
                merged = {**defaults, **own}
                self.instance(index, own, merged, first_use)
                if self.with_preflight and len(self.problems) == mistakes:
                    self.preflight(index, own, merged)
                result.append(merged)
        return result

    def preflight(self, index: int, own: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        """The check that the instance module makes before it rents; so a file that loads can also be rented."""
        checkable = {key: value for key, value in merged.items() if not opened_later(value)}
        if "ssh_private_key_file" in checkable:
            checkable["ssh_private_key_file"] = resolve_path(checkable["ssh_private_key_file"], self.path)
        for problem in _preflight.check_instance(checkable):
            place: Where = ("instances", index)
            if problem.field:
                inherited = problem.field in merged and problem.field not in own
                place = ("defaults", problem.field) if inherited else (*place, problem.field)
            found = self.located(place, problem.message)
            # Without its key nothing can be rented or reached, but what lives must stay visible and destroyable.
            _note(self.warnings if problem.field == "ssh_private_key_file" else self.problems, found)

    def instance(
        self, index: int, own: Mapping[str, Any], merged: Mapping[str, Any], first_use: dict[str, int]
    ) -> None:
        """What the inventory itself depends on: names, roles and providers."""
        here: Where = ("instances", index)
        try:
            name = _marker.check_name(merged.get("name"))
        except ValueError as error:
            self.wrong((*here, "name"), str(error))
        else:
            if name in first_use:
                other = f"instances[{first_use[name]}]"
                self.wrong((*here, "name"), f"'{name}' is already the name of {other}; give each its own name.")
            elif name in ROLE_NAMES or name in _ALREADY_GROUPS:
                self.wrong((*here, "name"), f"'{name}' is the name of a group of hosts; write for example '{name}-1'.")
            first_use.setdefault(name, index)
        for key, known in (("roles", ROLE_NAMES), ("providers", _provider.PROVIDER_NAMES)):
            place = (*here, key) if key in own else ("defaults", key)
            values = merged.get(key) or []
            for position, value in enumerate(values):
                if value not in known:
                    self.wrong((*place, position), f"'{value}' is not a {key[:-1]}: {nearest(str(value), known)}")
                elif value in values[:position]:
                    self.wrong((*place, position), f"'{value}' stands twice in this list; once is enough.")
        if not merged.get("providers"):
            example = f"'providers: [{_provider.PROVIDER_NAMES[0]}]'"
            self.wrong(
                (*here, "providers"),
                f"missing: name at least one provider that may rent this instance, such as {example}, "
                "here or under defaults.",
            )

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


def _is_vaulted(value: object) -> bool:
    """An encrypted value is text that is opened when it is used; the classes differ between ansible-core versions."""
    return type(value).__name__ in ("EncryptedString", "AnsibleVaultEncryptedUnicode", "_Closed")


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


class _Closed(str):
    """A value behind a YAML tag that only Ansible opens (!vault, !unsafe)."""


def _read_yaml(text: str, path: str) -> tuple[object, dict[Where, int], list[Problem]]:
    """The data, the line of every key and list entry, and what YAML would accept in silence."""
    import yaml  # ansible-core brings it; imported here, because modules that carry this file don't need it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Safe, and leaves the tags closed that it doesn't know."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: _Closed(""))
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            message = f"the file is empty; begin it with 'plugin: {PLUGIN_NAME}', 'deployment_id' and 'instances'."
            raise FleetFileError(path, [Problem((), message)])
        lines: dict[Where, int] = {(): 1}
        problems: list[Problem] = []
        _walk(root, (), lines, problems)
        return loader.construct_document(root), lines, problems
    except yaml.MarkedYAMLError as error:
        raise FleetFileError(path, [_yaml_problem(error, text)]) from error
    except yaml.YAMLError as error:
        raise FleetFileError(path, [Problem((), f"this is not valid YAML: {error}.")]) from error
    finally:
        loader.dispose()


def _yaml_problem(error: Any, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = ", ".join(str(part) for part in (error.context, error.problem) if part)
    if mark is None:
        return Problem((), f"this is not valid YAML: {what}.")
    around = text.splitlines()[max(mark.line - 1, 0) : mark.line + 1]
    hint = " A tab stands there; indent with spaces only." if any("\t" in line for line in around) else ""
    return Problem((), f"this is not valid YAML: {what}.{hint}", mark.line + 1)


def _walk(node: Any, where: Where, lines: dict[Where, int], problems: list[Problem]) -> None:
    if len(where) > 16:  # nothing in a fleet file is that deep: an alias that contains itself
        return
    if node.id == "mapping":
        for key, value in node.value:
            place = (*where, str(key.value))
            line = key.start_mark.line + 1
            if place in lines:
                problems.append(
                    Problem(place, f"'{key.value}' already stands in line {lines[place]}; keep one of them.", line)
                )
            lines[place] = line
            _walk(value, place, lines, problems)
    elif node.id == "sequence":
        for index, item in enumerate(node.value):
            lines[(*where, index)] = item.start_mark.line + 1
            _walk(item, (*where, index), lines, problems)
