# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process whose thread hangs or died ends, and systemd starts it again: nobody acts on a failed health check."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading

import pytest
from gpuops_telemetry import watchdog
from support.free_port import free_port

TELEMETRY = pathlib.Path(__file__).parents[3] / "roles" / "processor" / "files" / "telemetry"
SETTINGS = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "MONGO_HOST": "127.0.0.1", "FLEET_HOST": "p-1"}
SETTINGS |= {"VLLM_URL": "http://127.0.0.1:1", "MODEL": "tiny"}

HANGING_PROCESSOR = """
import threading
from gpuops_telemetry import processor, state

class Pump:
    def run(self):
        threading.Event().wait(60)

    def stop(self):
        pass

state.SILENT_SECONDS, processor.STOP_SECONDS = 0.2, 0.1
processor.make_pump = lambda *all: Pump()
main = processor.main
"""
PRODUCER_WITHOUT_SAMPLES = """
from gpuops_telemetry import producer

producer.Telemetry.sample_once = lambda self: 1 / 0
main = producer.main
"""
RUN = """
import sys
from gpuops_telemetry import watchdog

watchdog.WATCH_SECONDS = 0.02
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (HANGING_PROCESSOR, "The consuming thread has been silent"),
        (PRODUCER_WITHOUT_SAMPLES, "The thread gpu-samples ended."),
    ],
)
def test_it_ends_and_says_why(program: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program + RUN],
        env={**os.environ, **SETTINGS, "PORT": str(free_port()), "PYTHONPATH": str(TELEMETRY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "so that a restart can help" in done.stdout + done.stderr
    assert words in done.stdout + done.stderr


def test_a_stop_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "WATCH_SECONDS", 0.01)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert watchdog.watch(stop, list) is None
