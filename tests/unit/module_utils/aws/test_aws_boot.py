# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine at EC2 is told for its first boot: the scripts are run, against a metadata service of our own."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_boot

NOW_HOURS = int(time.time()) // 3600
SOON = Marker("acme-llm", "vllm-1", "abc123", NOW_HOURS + 5)
OVER = replace(SOON, expiry_epoch_hours=NOW_HOURS - 1)


@dataclass
class Metadata:
    """The metadata service's second version: nothing is told without a token."""

    url: str = ""
    told: dict[str, str] = field(default_factory=dict)
    told_from_look: int = 1  # before it, nothing is known
    asked: int = 0


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    known = Metadata()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            ok = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200 if ok else 404, "token-1")

        def do_GET(self) -> None:
            known.asked += 1
            known_now = known.told if known.asked >= known.told_from_look else {}
            found = known_now.get(self.path.removeprefix("/latest/meta-data/"))
            if self.headers["X-aws-ec2-metadata-token"] != "token-1":
                self.answer(401, "")
            else:
                self.answer(404 if found is None else 200, found or "")

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_rest: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture
def machine(tmp_path: Path, metadata: Metadata) -> dict[str, str]:
    """The environment of a machine on which systemctl only writes down what it was told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/systemctl.log\n')
    (programs / "systemctl").chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "GPUFLEET_METADATA": metadata.url,
        "GPUFLEET_PAUSE": "0.01",
        "GPUFLEET_UNITS": str(tmp_path / "units"),
        "GPUFLEET_DRAIN_HOOKS": str(tmp_path / "drain.d"),
        "HERE": str(tmp_path),
    }


def run(script: str, machine: dict[str, str]) -> str:
    """What systemctl was told."""
    subprocess.run(["bash", "-c", script], env=machine, check=True, timeout=60)
    log = Path(machine["HERE"]) / "systemctl.log"
    return log.read_text() if log.exists() else ""


def drop_in(machine: dict[str, str]) -> Path:
    return Path(machine["GPUFLEET_UNITS"]) / "gpuops-fleet-expiry.timer.d" / "expiry.conf"


def test_when_its_time_is_over_it_powers_itself_off(metadata: Metadata, machine: dict[str, str]) -> None:
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(OVER)
    assert run(aws_boot.expiry_script(OVER), machine) == "poweroff\n"


def test_what_was_given_more_time_sets_its_timer_anew(metadata: Metadata, machine: dict[str, str]) -> None:
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(SOON)
    assert run(aws_boot.expiry_script(OVER), machine) == (
        "daemon-reload\n--no-block restart gpuops-fleet-expiry.timer\n"
    )
    at = datetime.datetime.fromtimestamp(SOON.expiry_epoch_hours * 3600, datetime.UTC).strftime("%Y-%m-%d %H:00:00 UTC")
    assert drop_in(machine).read_text() == (
        f"# {SOON.expiry_epoch_hours * 3600}\n[Timer]\nOnCalendar=\nOnCalendar={at}\nOnBootSec=2min\n"
    )
    # The timer that was started again runs it at once, because its OnBootSec has passed; that is the end of it.
    assert run(aws_boot.expiry_script(OVER), machine).count("restart") == 1


def test_more_time_that_was_heard_of_once_holds_without_an_answer(metadata: Metadata, machine: dict[str, str]) -> None:
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(SOON)
    run(aws_boot.expiry_script(OVER), machine)
    known = drop_in(machine).read_text()
    metadata.told.clear()
    told = run(aws_boot.expiry_script(OVER), machine)
    assert "poweroff" not in told
    assert told.count("restart") == 1  # the one of the first run
    assert drop_in(machine).read_text() == known
    # An answer is worth more than what was heard before.
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(OVER)
    assert run(aws_boot.expiry_script(OVER), machine).endswith("poweroff\n")


@pytest.mark.parametrize("first", ["# {over}", "# 9999999999x", "[Timer]", ""])
def test_a_drop_in_that_says_no_later_time_puts_nothing_off(machine: dict[str, str], first: str) -> None:
    drop_in(machine).parent.mkdir(parents=True)
    drop_in(machine).write_text(first.format(over=OVER.expiry_epoch_hours * 3600) + "\n")
    assert run(aws_boot.expiry_script(OVER), machine) == "poweroff\n"


def test_after_a_reboot_before_its_end_it_goes_on(metadata: Metadata, machine: dict[str, str]) -> None:
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(SOON)
    assert "poweroff" not in run(aws_boot.expiry_script(SOON), machine)


def test_what_lives_for_ever_now_is_left_alone(metadata: Metadata, machine: dict[str, str]) -> None:
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(replace(SOON, expiry_epoch_hours=0))
    assert run(aws_boot.expiry_script(OVER), machine) == ""


@pytest.mark.parametrize(
    "tag",
    [
        None,
        "",
        "jupyter",
        _marker.encode(replace(SOON, nonce="zzzzzz")),
        _marker.encode(replace(SOON, name="vllm-12")),
        f"{_marker.encode(SOON)}$(reboot)",
    ],
)
def test_a_tag_that_says_nothing_of_it_puts_nothing_off(
    metadata: Metadata, machine: dict[str, str], tag: str | None
) -> None:
    """Nobody pays for ever because a tag was lost."""
    if tag is not None:
        metadata.told["tags/instance/gpuops-fleet"] = tag
    assert run(aws_boot.expiry_script(OVER), machine) == "poweroff\n"
    assert metadata.asked == (10 if tag is None else 1)


def test_the_notice_of_a_spot_machine_runs_the_hooks(metadata: Metadata, machine: dict[str, str]) -> None:
    hooks = Path(machine["GPUFLEET_DRAIN_HOOKS"])
    hooks.mkdir()
    (hooks / "10-first").write_text(f"#!/bin/sh\necho first >> {hooks.parent}/drained\n")
    (hooks / "20-second").write_text(f"#!/bin/sh\necho second >> {hooks.parent}/drained\n")
    for hook in hooks.iterdir():
        hook.chmod(0o755)
    metadata.told["spot/instance-action"] = '{"action": "terminate", "time": "soon"}'
    metadata.told_from_look = 3
    done = subprocess.run(
        ["bash", "-c", aws_boot.drain_script()], env=machine, check=True, timeout=60, capture_output=True, text=True
    )
    assert (hooks.parent / "drained").read_text() == "first\nsecond\n"
    assert "terminate" in done.stdout
    assert metadata.asked == 3


def test_the_config_is_what_cloud_init_reads() -> None:
    text = aws_boot.user_data(SOON, interruptible=True)
    assert text.startswith("#cloud-config\n")
    config = json.loads(text.removeprefix("#cloud-config\n"))
    files = {one["path"]: one for one in config["write_files"]}
    timer = files["/etc/systemd/system/gpuops-fleet-expiry.timer"]["content"]
    at = datetime.datetime.fromtimestamp(SOON.expiry_epoch_hours * 3600, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    for line in (f"OnCalendar={at}", "Persistent=true", "OnBootSec=2min", "WantedBy=timers.target"):
        assert line in timer.splitlines()
    assert files[aws_boot.EXPIRY_SCRIPT_PATH]["permissions"] == "0755"
    assert (
        f"ExecStart={aws_boot.EXPIRY_SCRIPT_PATH}"
        in files["/etc/systemd/system/gpuops-fleet-expiry.service"]["content"]
    )
    assert ["systemctl", "enable", "--now", "gpuops-fleet-expiry.timer"] in config["runcmd"]
    assert ["systemctl", "enable", "--now", "gpuops-fleet-drain.service"] in config["runcmd"]
    assert config["disable_root"] is False
    assert len(text) < 16384  # the most that EC2 takes
    assert "@" not in files[aws_boot.DRAIN_SCRIPT_PATH]["content"].replace('"$@"', "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_understands_the_units(tmp_path: Path, metadata: Metadata, machine: dict[str, str]) -> None:
    """Also the timer of a machine that was given more time: by its calendar, and after each boot."""
    metadata.told["tags/instance/gpuops-fleet"] = _marker.encode(SOON)
    machine["GPUFLEET_UNITS"] = str(tmp_path)
    run(aws_boot.expiry_script(OVER), machine)
    assert drop_in(machine).parent.parent == tmp_path
    config = json.loads(aws_boot.user_data(SOON, interruptible=True).removeprefix("#cloud-config\n"))
    units = []
    for one in config["write_files"]:
        if one["path"].startswith("/etc/systemd/"):
            units.append(tmp_path / Path(one["path"]).name)
            units[-1].write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", one["content"]))
    assert len(units) == 3
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *units],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_in_it_differs_between_two_that_rent_the_same() -> None:
    """Else EC2 would see two orders where there is one."""
    assert aws_boot.user_data(SOON, interruptible=False) == aws_boot.user_data(SOON, interruptible=False)
