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
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _arguments,
    _marker,
    _owned,
    _preflight,
    _provider,
    _provider_settings,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import (
    FleetFileError,
    Problem,
    Where,
    nearest,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_values import ValueReader, note, opened_later
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_yaml import read_file, read_yaml

PLUGIN_NAME = "gpuops.fleet.fleet"
FILE_ENDINGS = ("fleet.yml", "fleet.yaml")
ROLE_NAMES = ("gateway", "kafka", "mongodb", "monitoring", "processor", "producer", "vllm")

# What Ansible's own fragments (constructed, inventory_cache) read; their values are checked by Ansible.
ANSIBLE_KEYS = (
    *("strict", "compose", "groups", "keyed_groups", "use_extra_vars", "leading_separator"),
    *("cache", "cache_plugin", "cache_timeout", "cache_connection", "cache_prefix"),
)
OUR_KEYS = ("plugin", "deployment_id", "instances", "defaults", "provider_settings", "report_directory")

# Whether Ansible would read anything in it differently: tags (a vault), templates, and options that are expressions.
_ONLY_ANSIBLE = re.compile("!|{[{%#]")
_EXPRESSIONS = frozenset(("compose", "groups", "keyed_groups"))

_INSTANCE_OPTION = "an option of an instance"
_ALREADY_GROUPS = frozenset(("all", "ungrouped", "localhost"))


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
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)  # as it was read

    @property
    def domain(self) -> str:
        """Peers are NAME.<this>."""
        return f"{self.deployment_id}.internal"

    @property
    def directory(self) -> str:
        """Relative paths in the file begin here."""
        return os.path.dirname(os.path.abspath(self.path))


def resolve_path(path: str, fleet_file: str) -> str:
    """A path that stands in the fleet file: ~ is the user's home, relative ones begin at the file's folder."""
    directory = os.path.dirname(os.path.abspath(fleet_file))
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))


def find(paths: Iterable[str]) -> list[str]:
    """The fleet files among these files and in these folders, as Ansible finds them when a folder is the inventory.

    A file that is named and is none is an error: taken for nothing, what it wants would look unwanted.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            for directory, folders, names in os.walk(path):
                folders[:] = sorted(name for name in folders if name not in ("group_vars", "host_vars"))
                found += [os.path.join(directory, name) for name in sorted(names) if name.endswith(FILE_ENDINGS)]
        elif path.endswith(FILE_ENDINGS):
            found.append(path)
        else:
            message = f"this is no fleet file: its name must end in {' or '.join(FILE_ENDINGS)}."
            raise FleetFileError(path, [Problem((), message)])
    return list(dict.fromkeys(os.path.abspath(path) for path in found))


def load(path: str) -> Fleet:
    """Read and check a fleet file without Ansible's loader: vaulted values stay closed."""
    return parse(read_file(path), path)


def parse(text: str, path: str, open_values: Callable[[], object] | None = None) -> Fleet:
    """Check the text of a fleet file and return what it says, or raise FleetFileError with every mistake in it.

    open_values is called when the text is good and holds what only Ansible understands, and returns the same document
    as Ansible reads it: with opened vaults and with templates that it trusts. Those values are what the fleet has then.
    """
    if text.startswith("$ANSIBLE_VAULT"):
        message = "the whole file is a vault, so it can't be checked. Encrypt single values instead."
        raise FleetFileError(path, [Problem((), message)])
    data, lines, problems = read_yaml(text, path)
    fleet = _Reader(path, lines, problems).fleet(data)
    if problems or fleet is None:
        raise FleetFileError(path, problems)
    if open_values is None or not (_ONLY_ANSIBLE.search(text) or _EXPRESSIONS.intersection(fleet.document)):
        return fleet
    reader = _Reader(path, lines, problems, preflight=False)
    opened = reader.fleet(open_values())
    if problems or opened is None:
        raise FleetFileError(path, problems)
    return replace(opened, warnings=fleet.warnings)


class _Reader(ValueReader):
    """Walks the data of a fleet file once."""

    def __init__(
        self, path: str, lines: Mapping[Where, int], problems: list[Problem], *, preflight: bool = True
    ) -> None:
        super().__init__(lines, problems)
        self.path = path
        self.with_preflight = preflight
        self.warnings: list[Problem] = []

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
            document=data,
        )

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
            elif name not in specs:
                self.wrong(
                    place,
                    f"provider '{name}' has no account, and so no settings; write what it needs at the instances.",
                )
            elif settings is None:
                result[str(name)] = {}
            else:
                what = f"a setting of provider {name}"
                result[str(name)] = self.settings(place, settings, specs[name]["options"], what)
                for problem in _provider_settings.check(str(name), result[str(name)]):
                    self.wrong((*place, problem.field), problem.message)
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
        # What ssh needs is not opened later: it is checked before it comes near a command line.
        checkable = {key: one for key, one in merged.items() if key in _owned.OPTIONS or not opened_later(one)}
        later = set(merged).difference(checkable)
        if "ssh_private_key_file" in checkable:
            checkable["ssh_private_key_file"] = resolve_path(checkable["ssh_private_key_file"], self.path)
        elif "ssh_private_key_file" in later:
            later.add("ssh_public_key")  # its .pub may be beside it
        for problem in _preflight.check_instance(checkable):
            if problem.field in later:
                continue  # it is not missing, only not known yet; the module checks it
            place: Where = ("instances", index)
            if problem.field:
                inherited = problem.field in merged and problem.field not in own
                place = ("defaults", problem.field) if inherited else (*place, problem.field)
            found = self.located(place, problem.message)
            # Without its key nothing can be rented or reached, but what lives must stay visible and destroyable.
            note(self.warnings if problem.field == "ssh_private_key_file" else self.problems, found)

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
        if merged.get("address"):
            machine = _owned.place(merged)  # no name of an instance: it has a colon
            if machine in first_use:
                other = f"instances[{first_use[machine]}]"
                self.wrong(
                    (*here, "address"), f"'{machine}' is already the machine of {other}; give it all roles there."
                )
            first_use.setdefault(machine, index)
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
