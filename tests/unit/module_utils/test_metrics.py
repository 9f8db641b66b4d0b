# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How waits are counted as Prometheus text, and the alert rules over it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _metrics, _probe
from ansible_collections.gpuops.fleet.plugins.module_utils._budgets import DEFAULT
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._readiness import Report

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "playbooks" / "files" / "alerts" / "readiness.yml"
INSTANCE = Instance("vastai", "9", Marker("acme-llm", "a", "abc123"), Status.RUNNING, gpu="A100_80GB")


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "home"))


def report(*probes: tuple[str, float]) -> Report:
    told = Report(DEFAULT)
    for kind, seconds in probes:
        told.add(Probe(kind), seconds)
    told.ready = told.last_class == "ok"
    return told


def written(*reports: Report) -> Path:
    paths = {_metrics.record(INSTANCE, one) for one in reports}
    (path,) = paths
    assert path is not None
    return path


def test_the_file_is_what_a_collector_of_text_files_reads() -> None:
    path = written(report(("closed", 1.0), ("ok", 45.5)), report(("closed", 1.0), ("refused", 600.0)))
    labels = 'provider="vastai",gpu="A100_80GB"'
    lines = path.read_text().splitlines()
    assert lines[:2] == [
        "# HELP gpufleet_ready_seconds Seconds from the beginning of a wait until the instance was ready.",
        "# TYPE gpufleet_ready_seconds histogram",
    ]
    for line in (
        f'gpufleet_ready_seconds_bucket{{{labels},le="30"}} 0',
        f'gpufleet_ready_seconds_bucket{{{labels},le="60"}} 1',
        f'gpufleet_ready_seconds_bucket{{{labels},le="+Inf"}} 1',
        f"gpufleet_ready_seconds_sum{{{labels}}} 45.5",
        f"gpufleet_ready_seconds_count{{{labels}}} 1",
        "# TYPE gpufleet_verifications_total counter",
        f"gpufleet_verifications_total{{{labels}}} 2",
        f'gpufleet_verification_failures_total{{{labels},class="refused"}} 1',
        f'gpufleet_verification_attempts_total{{{labels},class="closed"}} 2',
    ):
        assert line in lines
    for line in lines:
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+\{(\w+="[^"\\]*",?)+\} [0-9.]+', line), line
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 4  # a family that stands twice makes the whole file unreadable


def test_buckets_of_one_histogram_stand_together_and_rise() -> None:
    path = written(*(report(("ok", float(seconds))) for seconds in (2, 70, 5000)))
    values = [float(line.split()[-1]) for line in path.read_text().splitlines() if "_bucket" in line]
    assert values == sorted(values)
    assert len(values) == len(_metrics.BUCKETS_SECONDS) + 1
    assert values[-1] == 3


def test_writers_at_the_same_time_lose_no_count(tmp_path: Path) -> None:
    program = (
        "from ansible_collections.gpuops.fleet.plugins.module_utils import _metrics\n"
        "import sys; sys.path.insert(0, 'tests/unit/module_utils')\n"
        "from test_metrics import INSTANCE, report\n"
        "for _number in range(25):\n"
        "    assert _metrics.record(INSTANCE, report(('ok', 3.0)))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ) for _number in range(4)]
    assert [one.wait(timeout=120) for one in running] == [0] * 4
    path = tmp_path / "home" / "metrics" / _metrics.FILE
    assert _metrics.read(path)['gpufleet_ready_seconds_count{provider="vastai",gpu="A100_80GB"}'] == 100


def test_what_was_cut_off_or_is_foreign_is_left_out() -> None:
    path = written(report(("ok", 3.0)))
    path.write_text(path.read_text() + 'gpufleet_verifications_total{provider="va\nnonsense\nx{a="b"} 1e999e\n')
    assert written(report(("ok", 3.0))) == path
    assert _metrics.read(path)['gpufleet_verifications_total{provider="vastai",gpu="A100_80GB"}'] == 2
    assert "nonsense" not in path.read_text()


def test_a_reader_never_sees_half_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(report(("ok", 3.0)))
    before = path.read_text()

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        _metrics.record(INSTANCE, report(("ok", 3.0)))
    assert path.read_text() == before


def test_a_home_that_can_not_be_used_stops_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "metrics").write_text("a file where the folder should be")
    assert _metrics.record(INSTANCE, report(("ok", 3.0))) is None
    monkeypatch.setenv("GPUFLEET_HOME", "/proc/nowhere")
    assert _metrics.record(INSTANCE, report(("ok", 3.0))) is None


def test_the_alert_rules_use_what_is_written() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert "FleetVerificationFailures" in [rule["alert"] for rule in rules]
    text = written(report(("ok", 3.0)), report(("refused", 3.0))).read_text()
    exported = set(re.findall(r"^(gpufleet_\w+)", text, re.MULTILINE))
    labels = set(re.findall(r'(\w+)="', text))
    for rule in rules:
        assert {"alert", "expr", "labels", "annotations"} == set(rule)
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        used = set(re.findall(r"gpufleet_\w+", rule["expr"]))
        assert used
        assert used <= exported
        for grouping in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(grouping.split(", ")) <= labels
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels
        assert set(re.findall(r'class="(\w+)"', rule["expr"])) <= set(_probe.CLASSES)
        assert rule["expr"].count("(") == rule["expr"].count(")")
