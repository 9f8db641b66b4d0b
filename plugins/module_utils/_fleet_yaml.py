# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The text of a fleet file: its data, the line of each setting, and what YAML would accept in silence."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import FleetFileError, Problem, Where


def read_file(path: str) -> str:
    """The text of a fleet file; raises FleetFileError when it can't be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise FleetFileError(path, [Problem((), f"the fleet file can't be read: {reason}.")]) from error


class Closed(str):
    """A value behind a YAML tag that only Ansible opens (!vault, !unsafe)."""


def read_yaml(text: str, path: str) -> tuple[object, dict[Where, int], list[Problem]]:
    """The data, the line of every key and list entry, and what YAML would accept in silence."""
    import yaml  # ansible-core brings it; imported here, because modules that carry this file don't need it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Safe, and leaves the tags closed that it doesn't know."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: Closed(""))
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            message = "the file is empty; begin it with 'plugin', 'deployment_id' and 'instances'."
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
