# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose files of all services, as the roles' own templates and defaults make them, and who watches what runs."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from support import watched_fleet
from support.local_play import ROOT, run_plays

MODEL = "acme/Planted-8B"
SERVICES = sorted(path.name.partition(".")[0] for path in ROOT.glob("roles/*/templates/*.compose.yaml.j2"))
PLANTED = {
    "service_image_reference": "registry.example/planted@sha256:" + "0" * 64,
    "service_extra_hosts": {},
    "vllm_model": MODEL,
    "vllm_gpu": True,
    "__vllm_start": "{{ __vllm_settings | gpuops.fleet.vllm_command }}",
}


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By the name of its role: what Docker Compose will read."""
    work = tmp_path_factory.mktemp("compose")
    plays = [
        {
            "hosts": name,
            "gather_facts": False,
            "vars_files": [str(ROOT / "roles" / name / part / "main.yml") for part in ("defaults", "vars")],
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROOT / "roles" / name / "templates" / f"{name}.compose.yaml.j2"),
                        "dest": str(work / name),
                        "mode": "0600",
                    }
                }
            ],
        }
        for name in SERVICES
    ]
    done = run_plays(work, plays, dict.fromkeys(SERVICES, PLANTED))
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: yaml.safe_load((work / name).read_text()) for name in SERVICES}


def containers(compose: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {f"{role}/{name}": one for role, file in compose.items() for name, one in file["services"].items()}
    assert {"kafka/kafka", "mongodb/mongodb", "processor/processor", "producer/producer", "vllm/vllm"} <= {*found}
    return found


def test_the_model_stands_in_the_command_as_it_was_said(compose: dict[str, dict[str, Any]]) -> None:
    command = compose["vllm"]["services"]["vllm"]["command"]
    assert command[:2] == ["vllm", "serve"]
    assert MODEL in command
    assert command[command.index("--served-model-name") + 1] == MODEL


def test_compose_is_left_nothing_to_fill_in_but_the_address(compose: dict[str, dict[str, Any]]) -> None:
    """A variable that nobody sets is an empty text to Compose, and at most a warning."""
    text = yaml.safe_dump(compose).replace("$$", "")
    assert set(re.findall(r"\$\{?(\w+)", text)) == {"HOST_ADDRESS"}


def test_no_container_is_root_or_without_limits(compose: dict[str, dict[str, Any]]) -> None:
    for name, one in containers(compose).items():
        user, _colon, group = str(one["user"]).partition(":")
        assert user.isdigit(), name
        assert int(user) > 0, name
        assert group.isdigit(), name
        assert one["cap_drop"] == ["ALL"], name
        assert "cap_add" not in one, name
        assert "no-new-privileges:true" in one["security_opt"], name
        assert one["read_only"] is True, name
        assert not one.get("privileged"), name
        assert re.fullmatch(r"[1-9][0-9]+m", str(one.get("mem_limit"))), name
        assert one["memswap_limit"] == one["mem_limit"], name
        assert int(one.get("pids_limit", 0)) > 0, name


def test_whatever_runs_is_looked_after(compose: dict[str, dict[str, Any]], tmp_path: pathlib.Path) -> None:
    """By its health check, by the rotation of its log, and by the monitoring."""
    every = containers(compose)
    checks = {name: one.get("healthcheck", {}) for name, one in every.items()}
    logs = {name: one.get("logging", {}) for name, one in every.items()}
    rotated = ("json-file", {"max-size", "max-file"})
    wanted = {("node", host) for host in watched_fleet.FLEET}
    wanted |= {("processor", "processor-1"), ("vllm", "vllm-1"), ("gateway", "gateway-1")}
    # All at once: where several are gone, each is named.
    assert {
        "without a health check": [
            name for name, check in checks.items() if not check.get("test") or check.get("disable")
        ],
        "with a log that grows": [
            name for name, log in logs.items() if (log.get("driver"), {*log.get("options", {})}) != rotated
        ],
        "not watched": wanted - watched_fleet.asked(tmp_path),
        "no alert": watched_fleet.KINDS - watched_fleet.alerts(),
    } == {"without a health check": [], "with a log that grows": [], "not watched": set(), "no alert": set()}
