# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of what providers can do and how long is waited: the same in the docs, and enforced before any call."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import TABLE
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import CAPABILITIES, Capability
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.local import SIZES

DOCS = Path(__file__).parents[3] / "docs" / "providers" / "README.md"

# What asks for a capability, and words of the refusal.
WISHES: dict[Capability, list[tuple[dict[str, Any], str]]] = {
    Capability.STOP: [({"state": "stopped"}, "can't stop"), ({"on_unready": "stop"}, "can't stop")],
    Capability.SPOT: [({"interruptible": True}, "interruptible")],
    Capability.VM: [({"runtime": "vm"}, "doesn't rent such")],
    Capability.CONTAINER: [({"runtime": "container"}, "doesn't rent such")],
    Capability.ENTRYPOINT: [({"entrypoint": ["sh"]}, "entry point")],
    Capability.ARGS: [({"args": ["--help"]}, "arguments")],
    Capability.ENV: [({"env": {"A": "1"}}, "environment")],
    Capability.REGIONS: [({"regions": ["x"]}, "no regions")],
    Capability.RENEW: [({"extend": "8h"}, "can't change the expiry")],
    Capability.ENDPOINT: [({"wait": "endpoint"}, "endpoint")],
    Capability.TLS: [({"wait": "endpoint"}, "TLS|a machine has no endpoint")],
    Capability.FREE: [({"max_lifetime": None}, "costs money")],
    Capability.PORTS: [({"ports": [{"port": 8000}]}, "opens no ports")],
}
# What nobody asks for: it says how a provider is, and the code goes another way without it.
FACTS = {
    Capability.UNIQUE_NAMES,
    Capability.BILLING,
    Capability.HOST_KEY,
    Capability.PRIVATE_ZONE,
    Capability.STABLE_ADDRESS,
    Capability.TAGS,
    Capability.LEASE,
    Capability.OWN_KEY,
    Capability.OWNED,
    Capability.ADJUST,
    Capability.AGREES,
    Capability.TIMER,
    Capability.DATES,
    Capability.SOME_REGIONS,
}


@pytest.fixture(autouse=True)
def _nobody_is_called(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls: list[str] = []
    monkeypatch.setattr(_provider, "load", lambda name, settings=None: calls.append(f"load {name}"))
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: calls.append(f"connect {address}"))
    yield
    assert calls == []


def parameters(provider: str, **settings: Any) -> dict[str, Any]:
    """A wish that this provider can meet, but for what the settings add."""
    can = CAPABILITIES[provider]
    base: dict[str, Any] = {
        "name": "a-1",
        "providers": [provider],
        "runtime": "vm" if Capability.VM in can else "container",
        "wait": "running",
        "max_lifetime": "8h",
        "state": "started",
    }
    if Capability.OWNED in can:
        base |= {"address": "203.0.113.20", "max_lifetime": None}
    wanted = {**base, **settings}
    of_the_module = {key: wanted.pop(key, None) for key in ("state", "extend")}
    complete, errors = complete_instance(wanted)
    assert not errors
    return {**complete, "deployment_id": "acme-llm", **of_the_module, "provider_settings": {}}


LACKING = [
    (provider, wish, words)
    for provider in CAPABILITIES
    for capability, wishes in WISHES.items()
    if capability not in CAPABILITIES[provider]
    # What is owned may cost money, and has no lifetime all the same.
    and not (capability is Capability.FREE and Capability.OWNED in CAPABILITIES[provider])
    for wish, words in wishes
]


@pytest.mark.parametrize(("provider", "wish", "words"), LACKING)
def test_what_a_provider_can_not_do_is_refused_before_any_call(provider: str, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        _engine.run_instance(parameters(provider, **wish), check_mode=False)
    assert f"'{provider}'" in str(caught.value) or "wait" in wish


@pytest.mark.parametrize("capability", sorted(WISHES))
def test_each_capability_is_refused_where_it_lacks(capability: Capability, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a provider that can do everything else, so also for what all of today's providers can do."""
    monkeypatch.setitem(CAPABILITIES, "local", frozenset(set(Capability) - {capability, Capability.OWNED}))
    http = {"ports": [{"port": 8000, "protocol": "http"}]}
    of_endpoints = capability in (Capability.ENDPOINT, Capability.TLS)
    container = {"runtime": "container"} if of_endpoints else {}
    for wish, words in WISHES[capability]:
        more = http if of_endpoints else {}
        with pytest.raises(ValueError, match=words):
            _engine.run_instance(parameters("local", **{**container, **more, **wish}), check_mode=False)


def test_every_capability_is_asked_for_or_a_fact() -> None:
    assert {*WISHES, *FACTS} == set(Capability)
    assert not FACTS.intersection(WISHES)


def rows(heading: str) -> list[list[str]]:
    section = DOCS.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in [lines[0], *lines[2:]]]


def test_the_table_in_the_docs_is_the_one_that_is_enforced() -> None:
    head, *table = rows("What each can do")
    assert head[2:] == list(CAPABILITIES)
    assert [row[0] for row in table] == [capability.value for capability in Capability]
    for name, meaning, *cells in table:
        assert meaning
        assert cells == ["yes" if Capability(name) in CAPABILITIES[one] else "no" for one in CAPABILITIES], name


def test_the_times_in_the_docs_are_those_that_are_waited() -> None:
    _head, *table = rows("How long is waited")
    assert [[*row[:2], *map(int, row[2:])] for row in table] == [
        [name, runtime.value, budget.provider_seconds, budget.ready_seconds, budget.key_seconds]
        for (name, runtime), budget in TABLE.items()
    ]


def test_the_sizes_in_the_docs_are_those_that_local_offers() -> None:
    told = re.findall(r"`(\w+)` \((\d+) CPUs, (\d+) GiB\)", DOCS.with_name("local.md").read_text())
    assert {size: (int(cpus), int(memory) * 1024) for size, cpus, memory in told} == SIZES


def test_every_provider_but_local_has_a_page_with_the_same_headings() -> None:
    for name in CAPABILITIES:
        if name != "local":
            page = (DOCS.parent / f"{name}.md").read_text()
            assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [
                "Credentials",
                "What it can do",
                "Where the marker lives",
                "Who ends it",
                "What costs money when it is stopped",
                "Known quirks",
            ]
