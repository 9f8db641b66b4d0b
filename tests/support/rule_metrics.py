# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The series that the rules of the role monitoring ask for, read from the rules themselves; whether a page has them.

A rule about a metric that nobody shows never fires, and says so to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import yaml
from support.role_templates import ROLES, render

# Where each page comes from: the role's own program, HAProxy, the node exporter, vLLM. Prometheus itself says `up`.
FAMILIES = ("fleet_", "haproxy_", "node_", "vllm:")
# What comes to a series on its way, and stands on no page.
_ADDED_LABELS = {"host", "instance", "job", "relay"}
_WORDS = {"and", "bool", "offset", "or", "unless"}
# Of an expression: the labels that join or group, and how far back it looks.
_NO_SERIES = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^]]*\]")
# No function, whose name has a parenthesis behind it.
_SELECTOR = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?![\w:])\s*(?:\{([^}]*)\}|(?!\s*\())")
_LABEL = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_SERIES = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+\S+")


class Series(NamedTuple):
    """Of a rule: its labels are those that must have just this value."""

    name: str
    labels: Mapping[str, str]


def of_expression(text: str) -> list[Series]:
    found = _SELECTOR.findall(_NO_SERIES.sub(" ", text))
    return [Series(name, dict(_LABEL.findall(labels))) for name, labels in found if name not in _WORDS]


def of_rules(prefix: str = "") -> list[Series]:
    """Of the rules as the role's defaults make them."""
    groups = yaml.safe_load(render(ROLES / "monitoring/templates/rules.yml.j2"))["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    return [one for text in expressions for one in of_expression(text) if one.name.startswith(prefix)]


def missing(prefix: str, page: str) -> list[Series]:
    """Which series of the rules, of those that begin so, are not on this page; it is in Prometheus's text format."""
    found = [_SERIES.fullmatch(line) for line in page.splitlines() if not line.startswith("#")]
    series = [Series(one[1], dict(_LABEL.findall(one[2] or ""))) for one in found if one]
    wanted = of_rules(prefix)
    assert wanted, f"no rule asks for anything that begins with {prefix}"
    return [one for one in wanted if not any(_is(one, other) for other in series)]


def _is(wanted: Series, found: Series) -> bool:
    asked = {(name, value) for name, value in wanted.labels.items() if name not in _ADDED_LABELS}
    return wanted.name == found.name and asked <= set(found.labels.items())
