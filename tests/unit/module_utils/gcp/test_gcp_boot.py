# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a machine of Google Cloud: its scripts, by a shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp, gcp_boot
from emulators.server import serving
from emulators.world import World
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from support.fake_commands import Commands
from support.gcp_calls import KEY, marker, offer_in, rent, rental, request
from support.local_play import ROOT

PREEMPTED = "/computeMetadata/v1/instance/preempted"


@pytest.fixture
def metadata() -> Iterator[tuple[dict[str, str], str]]:
    """Google's metadata server, as far as it tells this; what it says can be changed."""
    said = {"word": "FALSE"}
    app = FastAPI()

    @app.get(PREEMPTED)
    async def preempted(asked: Request) -> PlainTextResponse:
        known = asked.headers.get("metadata-flavor") == "Google"
        return PlainTextResponse(said["word"], 200 if known else 403)

    with serving(app, World("metadata")) as url:
        yield said, url


def shut_down(url: str, hooks: Path) -> str:
    environment = {**os.environ, "GPUFLEET_METADATA": url, "GPUFLEET_DRAIN_HOOKS": str(hooks), "no_proxy": "127.0.0.1"}
    command = ["sh", "-c", gcp_boot.shutdown_script()]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def test_what_is_taken_back_is_drained_and_what_is_shut_down_is_not(
    metadata: tuple[dict[str, str], str], tmp_path: Path
) -> None:
    said, url = metadata
    hooks = tmp_path / "drain.d"
    hooks.mkdir()
    for name in ("10-first", "20-second"):
        hook = hooks / name
        hook.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/drained\n")
        hook.chmod(0o755)
    assert shut_down(url, hooks) == ""
    assert not (tmp_path / "drained").exists()
    said["word"] = "TRUE"
    assert "takes this machine back" in shut_down(url, hooks)
    assert (tmp_path / "drained").read_text() == "10-first\n20-second\n"
    assert "takes this machine back" in shut_down(url, tmp_path / "nothing")


def test_without_an_answer_nothing_is_drained(tmp_path: Path) -> None:
    assert shut_down("http://127.0.0.1:9", tmp_path) == ""


def test_only_a_spot_machine_is_drained(provider: gcp.GcpProvider, world: World) -> None:
    spot = provider.create(request(offer_in(provider, "us-central1-b", interruptible=True), marker=marker(name="a-1")))
    steady = rent(provider)
    for made, drained in ((spot, True), (steady, False)):
        items = {one["key"]: one["value"] for one in rental(world, made.id).wire["metadata"]["items"]}
        assert ("shutdown-script" in items) is drained
        assert gcp_boot.DRAIN_HOOKS_PATH in items["startup-script"]


def test_a_key_is_no_command() -> None:
    script = gcp_boot.startup_script("ssh-ed25519 AAAA'$(touch${IFS}x)' me")
    assert "echo 'ssh-ed25519 AAAA'\"'\"'$(touch${IFS}x)'\"'\"'' > /root/.ssh/authorized_keys" in script
    assert "nobody@nowhere" not in gcp_boot.startup_script(KEY)
    subprocess.run(["sh", "-n", "-c", script], check=True)
    subprocess.run(["sh", "-n", "-c", gcp_boot.shutdown_script()], check=True)


def test_a_boot_leaves_the_file_of_the_role_hardening_alone_and_behind_it(tmp_path: Path) -> None:
    """Else SSH would have its old options again after every reboot."""
    variables = yaml.safe_load((ROOT / "roles/hardening/vars/main.yml").read_text())
    theirs = Path(variables["__hardening_ssh_file"])
    script = gcp_boot.startup_script(KEY)
    assert str(theirs) not in script
    hardened = Path(f"{tmp_path}{theirs}")
    hardened.parent.mkdir(parents=True)
    hardened.write_text("AuthenticationMethods publickey\n")
    commands = Commands(tmp_path / "commands")
    commands.fake("systemctl", "")
    here = script.replace(" /", f" {tmp_path}/")
    for _boot in range(2):
        subprocess.run(["sh", "-c", here], env={"PATH": f"{commands.bin}:/usr/bin:/bin"}, check=True)
    # In the order in which sshd reads them.
    first, second = sorted(hardened.parent.iterdir(), key=lambda file: file.name)
    assert (first, first.read_text()) == (hardened, "AuthenticationMethods publickey\n")
    assert second.read_text() == "PermitRootLogin prohibit-password\n"
    assert [call.strip() for call in commands.called()] == ["systemctl reload ssh.service"] * 2
