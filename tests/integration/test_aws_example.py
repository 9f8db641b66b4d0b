# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/aws with real playbooks against moto: planned, rented, found by others, given more time, and ended.

There are no machines behind moto, so nobody waits for SSH, and no role runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire
from support import moto_cloud
from support.moto_cloud import MotoServer, MotoWorld

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
DEPLOYMENT = "it-aws"


@pytest.fixture(scope="module")
def server() -> Iterator[MotoServer]:
    server = MotoServer(MotoWorld("aws"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example with what its user changes, and without what only a machine can answer."""
    shutil.copytree(ROOT / "examples" / "aws", tmp_path / "fleet")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    file = tmp_path / "fleet" / "fleet.yml"
    text = file.read_text()
    for was, becomes in (
        ("deployment_id: acme-aws", f"deployment_id: {DEPLOYMENT}"),
        ("~/.ssh/id_ed25519", f"{key}\n    wait: running"),
    ):
        assert text.count(was) == 1
        text = text.replace(was, becomes)
    file.write_text(text)
    return file


def play(
    server: MotoServer, fleet: Path, playbook: str, *arguments: str, ok: bool = True, home_name: str | None = None
) -> str:
    """By a controller with an empty home each time, unless it is one with a name."""
    home = fleet.parent / (home_name or f"home-{len(list(fleet.parent.glob('home-*')))}")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "planted-secret-7d20",
        "AWS_ENDPOINT_URL": server.url,
        "GPUFLEET_HOME": str(home),
        "GPUFLEET_REPORT_DIRECTORY": str(home / "report"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), "-i", str(fleet), f"playbooks/{playbook}.yml", "-v", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode == 0) is ok, done.stdout
    assert "planted-secret" not in done.stdout
    return done.stdout


def listed(server: MotoServer, fleet: Path) -> dict[str, Any]:
    """What the inventory of another controller shows."""
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_ENDPOINT_URL": server.url,
        "GPUFLEET_HOME": str(fleet.parent / "another"),
    }
    done = subprocess.run(
        [str(BIN / "ansible-inventory"), "-i", str(fleet), "--list"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return dict(json.loads(done.stdout))


def test_the_example_is_planned_rented_and_ended(server: MotoServer, example: Path) -> None:
    world = server.world
    ec2 = moto_cloud.client(server.url)
    planned = play(server, example, "plan")
    assert "g6.xlarge" in planned
    assert "0.8048" in planned
    assert "vllm-1: ends itself when its max_lifetime is over" in planned
    assert world.alive() == []

    assert "changed=1" in play(server, example, "provision")
    (one,) = world.alive()
    marker = _marker.parse(one.owner)
    assert marker is not None
    assert (marker.deployment_id, marker.name) == (DEPLOYMENT, "vllm-1")
    row = one.wire["machine"]
    assert (row.instance_type, row.metadata_options.http_tokens) == ("g6.xlarge", "required")
    assert row.instance_initiated_shutdown_behavior == "terminate"

    inventory = listed(server, example)
    assert inventory["provider_aws"]["hosts"] == inventory["gpu_L4"]["hosts"] == ["vllm-1"]
    variables = inventory["_meta"]["hostvars"]["vllm-1"]
    told = [variables[f"fleet_{name}"] for name in ("instance_id", "price_per_hour_usd")]
    assert [*told, variables["ansible_user"]] == [one.id, 0.8048, "root"]

    assert "changed=0" in play(server, example, "provision")  # a new controller finds it
    play(server, example, "provision", "-e", "fleet_extend=3d")
    (same,) = world.alive()
    renewed = _marker.parse(same.owner)
    assert renewed is not None
    assert (same.id, renewed.nonce) == (one.id, marker.nonce)
    assert renewed.expiry_epoch_hours > marker.expiry_epoch_hours

    status = play(server, example, "status")
    assert one.id in status or "vllm-1" in status
    assert "machine" in status

    play(server, example, "destroy", "-e", f"fleet_confirm={DEPLOYMENT}")
    assert world.alive() == []
    assert [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]] == ["default"]
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    assert "changed=0" in play(server, example, "destroy", "-e", f"fleet_confirm={DEPLOYMENT}")


def test_where_nobody_looks_any_more_is_named_by_who_rented_there(server: MotoServer, example: Path) -> None:
    """The playbooks say so beside that nothing is left; who looks there again can end it."""
    play(server, example, "provision", home_name="same")
    (one,) = server.world.alive()
    text = example.read_text()
    assert text.count("regions: [us-east-1]") == 1
    example.write_text(text.replace("regions: [us-east-1]", "regions: [us-west-2]"))
    confirmed = ("destroy", "-e", f"fleet_confirm={DEPLOYMENT}")
    said = play(server, example, *confirmed, home_name="same")
    words = " ".join(said.split())
    assert f"vllm-1 ({one.id}) was rented at aws in us-east-1, where nobody looks any more" in words
    assert f"of deployment {DEPLOYMENT} is left where they looked. Nobody looked for vllm-1 in us-east-1." in words
    status = play(server, example, "status", home_name="same")
    assert f"Nothing of deployment {DEPLOYMENT} lives where its providers look." in status
    assert "perhaps alive: vllm-1 in us-east-1" in status
    assert [alive.id for alive in server.world.alive()] == [one.id]
    example.write_text(text)
    said = play(server, example, *confirmed, home_name="same")
    assert f"nothing that was to be destroyed of deployment {DEPLOYMENT} is left." in " ".join(said.split()), said
    assert server.world.alive() == []


def test_a_fleet_without_a_way_in_is_told_so_by_the_plan(server: MotoServer, example: Path) -> None:
    example.write_text(example.read_text().replace("    source_ranges: [203.0.113.7/32]\n", ""))
    said = play(server, example, "plan", ok=False)
    assert "source_ranges" in said
    assert aws_wire.PROVIDER in said
    assert server.world.alive() == []
