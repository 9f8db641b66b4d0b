# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify.yml and report.yml say, when all is well and when a service is not."""

from __future__ import annotations

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest
from demo import SERVICES, Fleet, Run, balance, http, wait_until_healthy


@pytest.fixture(scope="module")
def report_directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("reports")


def verify(fleet: Fleet, directory: pathlib.Path, tag: str) -> tuple[Run, dict[str, Any]]:
    run = fleet.playbook("verify", "--tags", tag, GPUFLEET_REPORT_DIRECTORY=str(directory))
    verdict: dict[str, Any] = json.loads((directory / "verify.json").read_text())
    return run, verdict


def test_a_tag_verifies_one_service(fleet: Fleet, report_directory: pathlib.Path) -> None:
    run, verdict = verify(fleet, report_directory, "processor")
    assert run.status == 0, run.output[-3000:]
    assert run.changed == {}
    assert verdict["ok"] is True
    names = [check["name"] for check in verdict["checks"]]
    assert {name.split(": ")[1] for name in names} == {"can be reached", "processor"}
    assert all(set(check) == {"name", "ok", "detail", "fix"} for check in verdict["checks"])
    environment = next(check["detail"] for check in verdict["checks"] if "environment" in check["name"])
    assert "KAFKA_BOOTSTRAP_SERVERS" in environment
    assert fleet.service("mongodb").secret("app_password") not in json.dumps(verdict)
    for peer in ("Kafka", "the database"):
        assert [name for name in names if f"reaches {peer} from inside" in name], f"{peer} is not asked from inside"
    # What it sent is acknowledged, so it is a document like all others, and shows in no figure.
    told = next(check["detail"] for check in verdict["checks"] if "an event that was sent" in check["name"])
    sent = told.partition(":")[0]
    line = {"event_id": sent, "topic": "token.usage.v1", "partition": 0, "offset": -1}
    assert balance(fleet, json.dumps(line), wait_seconds=0)["documents"] == 1
    url = f"http://{fleet.machine('processor').address}:8080/usage"
    assert "verify" not in json.loads(http(url)[1])["models"]


def test_a_service_that_is_down_fails_the_verdict_with_its_log(fleet: Fleet, report_directory: pathlib.Path) -> None:
    machine = fleet.machine("producer")
    machine.run("systemctl stop producer.service")
    try:
        run, verdict = verify(fleet, report_directory, "producer")
    finally:
        machine.run("systemctl start producer.service")
    assert run.status != 0
    assert verdict["ok"] is False
    failed = [check for check in verdict["checks"] if not check["ok"]]
    assert all(check["fix"] for check in failed)
    log = next(check["detail"] for check in failed if check["name"].endswith("the last 50 lines of its log"))
    assert 0 < len(log.splitlines()) <= 50
    assert "checks failed" in run.words
    wait_until_healthy(fleet, "producer")


@pytest.fixture(scope="module")
def report(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """report.json and the text of report.html, written now, by a controller that has neither verified nor reported."""
    directory = tmp_path_factory.mktemp("report")
    run = fleet.playbook("report", GPUFLEET_REPORT_DIRECTORY=str(directory))
    assert run.status == 0, run.output[-3000:]
    assert run.changed == {}
    return json.loads((directory / "report.json").read_text()), (directory / "report.html").read_text()


def test_report_for_programs(fleet: Fleet, report: tuple[dict[str, Any], str]) -> None:
    told = report[0]
    assert told["endpoint"]["url"] == f"https://{fleet.machine('gateway').address}"
    assert {host["name"] for host in told["hosts"]} == {fleet.machine(role).name for role in SERVICES}
    assert {one["service"]: one["health"] for one in told["services"]} == dict.fromkeys(
        (*SERVICES, "gateway"), "healthy"
    )
    images = {one["service"]: one["image"] for one in told["services"]}
    assert re.match(r"haproxy \d+\.\d+", images.pop("gateway"))
    assert all(re.search(r"@sha256:[0-9a-f]{64}$|:[0-9a-f]{12}$", image) for image in images.values()), images
    assert all(re.match(r"\d+\.\d+", host["docker"]) and host["operating_system"] for host in told["hosts"])
    assert told["price_per_hour_usd"] == 0.0
    assert set(told["versions"]) == {"ansible-core", "gpuops.fleet"}
    assert told["steps"] == [], "the times of a report alone say nothing about the fleet"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine to paste the line for")
def test_the_curl_line_works_when_pasted(report: tuple[dict[str, Any], str]) -> None:
    pasted = report[0]["endpoint"]["curl"]
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] > 0


class _Text(html.parser.HTMLParser):
    """What a browser would show, and what the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = ""
        self.loaded: list[str] = []

    def handle_data(self, data: str) -> None:
        self.shown += data + " "

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [
            value or "" for name, value in attrs if name in ("src", "srcset") or (tag, name) == ("link", "href")
        ]


def read(html_text: str) -> _Text:
    page = _Text()
    page.feed(html_text)
    page.close()
    return page


def test_report_for_people(fleet: Fleet, report: tuple[dict[str, Any], str]) -> None:
    page = read(report[1])
    for role in SERVICES:
        machine = fleet.machine(role)
        for word in (machine.name, machine.address, role):
            assert word in page.shown
    assert re.search(r"\bhealthy\b", page.shown)
    for service in report[0]["services"]:
        assert service["image"] in page.shown
    assert "$" in page.shown, "its price"
    assert page.loaded == [], "the page must be complete without a network"


# At the end of a whole run --------------------------------------------------------------------------------------------


def test_report_of_a_whole_run_says_where_the_time_went(second_run: Run, second_reports: pathlib.Path) -> None:
    assert second_run.status == 0, second_run.output[-3000:]
    steps = json.loads((second_reports / "report.json").read_text())["steps"]
    shown = " ".join(read((second_reports / "report.html").read_text()).shown.split())
    for beginning in ("Rent ", "Prepare ", "Deploy ", "Verify "):
        long = [step for step in steps if step["step"].startswith(beginning) and step["seconds"] >= 0.5]
        assert long, f"no time of a step '{beginning}…' in {steps}"
        for step in long:
            assert f"{step['step']} {step['seconds']:.1f}" in shown


def test_a_whole_run_ends_with_its_report_on_the_terminal(
    fleet: Fleet, second_run: Run, second_reports: pathlib.Path
) -> None:
    rows = [line.split() for line in second_run.output.splitlines()]
    for role in SERVICES:
        machine = fleet.machine(role)
        assert [row for row in rows if row[:1] == [machine.name] and {"running", machine.address} <= set(row)], role
        assert [role, machine.name, "healthy"] in [row[:3] for row in rows]
    assert re.search(r"^ *Verified: +ok, (\d+) of \1 checks passed$", second_run.output, re.MULTILINE)
    assert re.search(r"^ *Price per hour: +\$", second_run.output, re.MULTILINE)
    assert f"Report:         {second_reports}/report.html" in second_run.output
    curl = json.loads((second_reports / "report.json").read_text())["endpoint"]["curl"]
    assert f"Ask the model:  {curl}\n" in second_run.output
