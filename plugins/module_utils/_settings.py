# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What can't work in the settings of a role, one sentence each; settings that are missing are not looked at."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# By the setting: the smallest and the largest, and of what.
Limits = Mapping[str, tuple[int, int, str]]

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)


def within(value: Any, smallest: int, largest: int) -> int | None:
    """None for what is no whole number, or too small or large. Text counts, as it comes from the command line."""
    try:
        number = None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and smallest <= number <= largest else None


def port(value: Any) -> int | None:
    return within(value, 1, 65535)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    return is_address(text) or _HOST_NAME.fullmatch(text) is not None


def numbers(role: str, settings: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    for option, (smallest, largest, unit) in limits.items():
        if option in settings and within(settings[option], smallest, largest) is None:
            yield f"{role}_{option} is {settings[option]}; it must be between {smallest} and {largest} {unit}."


def ports(role: str, settings: Mapping[str, Any], options: Iterable[str], optional: str = "") -> Iterator[str]:
    """No two of them are the same; the optional one may be 0, for none."""
    taken: dict[int, str] = {}
    for option in options:
        number = within(settings.get(option, 0), 0, 65535)
        if number is None or (number == 0 and option in settings and option != optional):
            none = " (or 0 for none)" if option == optional else ""
            yield f"{role}_{option} is {settings[option]}; it must be between 1 and 65535{none}."
        elif number in taken:
            yield f"{role}_{taken[number]} and {role}_{option} are both {number}; give each its own port."
        elif number:
            taken[number] = option


def listening_address(variable: str, address: str, everywhere: str) -> Iterator[str]:
    """An address as it stands before a colon and a port; everywhere says how all of the host's are written."""
    if not is_address(address.removeprefix("[").removesuffix("]")):
        yield f"{variable}: {address} is no address; write one of this host's, {everywhere}."
    elif ":" in address and not address.startswith("["):
        yield f"{variable}: an address of IPv6 needs brackets here; write [{address}]."


def repeated(variable: str, things: str, names: Iterable[Any]) -> Iterator[str]:
    for name, times in Counter(map(str, names)).items():
        if times > 1:
            yield f"{variable}: {times} {things} are named {name}; give each its own name."
