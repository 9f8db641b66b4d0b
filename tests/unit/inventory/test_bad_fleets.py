# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus of bad configurations: each is refused by one sentence of its own, and nobody is called for it."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.utils.display import Display
from ansible_collections.gpuops.fleet.plugins.inventory.fleet import InventoryModule
from ansible_collections.gpuops.fleet.plugins.module_utils import _listing, _provider

CORPUS = Path(__file__).parents[1] / "corpus" / "bad_fleets.txt"
# The sentence about a file as a whole has no field, and what can't be read as YAML has no line for it.
WHOLE = re.compile(
    r"fleet\.yml(, line \d+)?: (this is not valid YAML|a fleet file is|the file is empty|the whole file)"
)
LOCATED = re.compile(r"fleet\.yml, line \d+, ([a-z_]+(?:\[\d+\])?(?:\.[\w\[\]]+)*): ")


def cases() -> list[tuple[str, str]]:
    """(the text of a fleet file, what is said about it)"""
    _words, *parts = CORPUS.read_text().split("====\n")
    pairs = [part.split(">>>>\n") for part in parts]
    return [(text, said.strip()) for text, said in pairs]


def place(case: tuple[str, str]) -> str:
    match = LOCATED.match(case[1])
    return match[1] if match else "file"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that would ask anybody anything."""
    found: list[str] = []
    monkeypatch.setattr(_provider, "load", lambda name, settings=None: found.append(f"load {name}"))
    monkeypatch.setattr(_listing, "list_all", lambda *arguments: found.append("list"))
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: found.append(f"connect {address}"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: found.append("resolve"))
    return found


@pytest.mark.parametrize(("text", "said"), cases(), ids=[f"{n}-{place(one)}" for n, one in enumerate(cases(), 1)])
def test_a_bad_configuration_is_refused_offline_by_its_own_sentence(
    text: str, said: str, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    sentences: list[str] = []
    monkeypatch.setattr(Display, "error", lambda self, message, **options: sentences.append(message))
    inventory: Any = InventoryData()
    with pytest.raises(AnsibleParserError, match=r"fleet\.yml can't be used"):
        InventoryModule().parse(inventory, DataLoader(), "fleet.yml")
    assert sentences == [said]
    assert calls == []
    assert list(inventory.hosts) == []


def test_every_sentence_is_one_of_a_kind_and_says_where() -> None:
    sentences = [said for _text, said in cases()]
    assert len(sentences) >= 60
    assert len(set(sentences)) == len(sentences)
    assert [said for said in sentences if not (WHOLE.match(said) or LOCATED.match(said))] == []
    assert [said for said in sentences if not said.endswith((".", "?"))] == []
