# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules in a real kernel, tried by connections of IPv4 and IPv6 between network namespaces of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _firewall
from support import debian_program

NETWORK = Path(__file__).parents[3] / "support/firewall_network.py"
SERVICES: list[dict[str, Any]] = [
    {"name": "kafka", "ports": [9092, "9100-9200"], "from_groups": ["processor"]},
    {"name": "gateway", "ports": [8443], "from_cidrs": ["10.9.2.0/24", "fd09:2::/64"]},
    {"name": "empty-group", "ports": [9093], "from_groups": ["nobody"]},
    {"name": "published", "ports": [8080, 80], "from_groups": ["processor"]},
]
GROUPS: dict[str, list[str]] = {"processor": ["peer.acme.internal"], "nobody": []}
OWN = {
    "container to its host",
    "container to its host by ipv6",
    "container to the outside",
    "container to the outside by ipv6",
    "host to the outside",
    "host to itself",
    "host to its container",
    "host to its container by ipv6",
}
ALLOWED = OWN | {
    *("peer ipv4 22", "peer ipv6 22", "other ipv4 22", "other ipv6 22"),
    *("peer ipv4 9092", "peer ipv6 9092", "peer ipv4 9150", "peer ipv6 9150"),
    *("other ipv4 8443", "other ipv6 8443"),
    *("peer ipv4 8080", "peer ipv6 8080"),
}


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> Iterator[None]:
    """Without a namespace of its own nothing can be tried; the Molecule scenario firewall does it on hosts."""
    if os.getuid() != 0:
        pytest.skip("a network namespace needs root")
    try:
        programs = [debian_program.program("nft", "nftables"), debian_program.program("ip", "iproute2", "-V")]
    except debian_program.Missing as missing:
        pytest.skip(str(missing))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", ":".join([*(str(program.parent) for program in programs), os.environ["PATH"]]))
        if in_namespace("nft", "list", "tables").returncode != 0:
            pytest.skip("this machine may make no namespace, or its kernel has no nftables")
        yield


def in_namespace(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["unshare", "--net", "--mount", *words], capture_output=True, text=True, check=False)


def tried(directory: Path, how: str) -> dict[str, bool]:
    (directory / "rules.nft").write_text(_firewall.rules(SERVICES, [22], ["docker0", "docker_gwbridge", "br-*"]))
    (directory / "peers.json").write_text(json.dumps(_firewall.peers(SERVICES, GROUPS)))
    done = in_namespace(sys.executable, str(NETWORK), str(directory), how)
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_nft_takes_the_rules_without_a_table_of_ours_before(tmp_path: Path) -> None:
    for number, (services, networks) in enumerate((([], []), (SERVICES, []), ([], ["10.0.0.0/8", "2001:db8::/32"]))):
        (tmp_path / f"{number}.nft").write_text(_firewall.rules(services, [22, 2222], ["docker0", "br-*"], networks))
        done = in_namespace("nft", "--check", "--file", str(tmp_path / f"{number}.nft"))
        assert done.returncode == 0, done.stderr


def test_exactly_what_is_named_answers(tmp_path: Path) -> None:
    answers = tried(tmp_path, "guarded")
    assert {attempt for attempt, answered in answers.items() if answered} == ALLOWED


def test_without_the_rules_all_of_it_answers(tmp_path: Path) -> None:
    """Or the test above would be content with a network that doesn't work."""
    answers = tried(tmp_path, "open")
    assert {attempt for attempt, answered in answers.items() if not answered} == set()
