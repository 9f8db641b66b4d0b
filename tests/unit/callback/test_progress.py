"""The callback shows what takes long, where the time went, and that nothing had to be changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.callback import progress
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock

ROOT = Path(__file__).parents[3]


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_clock, "monotonic", made)
    return made


def test_only_what_takes_long_is_told_and_only_once_an_interval(clock: Clock) -> None:
    timeline = progress.Timeline(20)
    timeline.play_begins("Deploy")
    timeline.task_begins("t1", "vllm : Run | Wait")
    for host in ("vllm-1", "kafka-1"):
        timeline.host_begins("t1", host)
    clock.now += 19
    assert timeline.due_lines() == []
    clock.now += 1
    assert timeline.due_lines() == ["... 20 s in Deploy / vllm : Run | Wait: kafka-1, vllm-1"]
    assert timeline.due_lines() == []
    timeline.host_ends("t1", "kafka-1")
    clock.now += 45
    assert timeline.due_lines() == ["... 1 min 05 s in Deploy / vllm : Run | Wait: vllm-1"]
    timeline.host_ends("t1", "vllm-1")
    clock.now += 100
    assert timeline.due_lines() == []


def test_hosts_that_go_at_their_own_pace(clock: Clock) -> None:
    """With the strategy free, several tasks run at once, and a task ends and begins again on other hosts."""
    timeline = progress.Timeline(20)
    timeline.play_begins("Deploy")
    timeline.task_begins("t1", "one")
    timeline.host_begins("t1", "a")
    clock.now += 5
    timeline.host_ends("t1", "a")
    timeline.task_begins("t2", "two")
    timeline.host_begins("t2", "a")
    clock.now += 10
    timeline.host_begins("t1", "b")
    clock.now += 15
    assert timeline.due_lines() == ["... 25 s in Deploy / two: a"]
    clock.now += 5
    assert timeline.due_lines() == ["... 20 s in Deploy / one: b"]


def test_many_hosts_are_counted() -> None:
    assert progress._hosts([f"h{number}" for number in range(9)]) == "h0, h1, h2, h3, h4, h5 and 3 more"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_the_document(clock: Clock) -> None:
    timeline = progress.Timeline(20)
    timeline.play_begins("Rent")
    timeline.task_begins("t1", "Rent it")
    timeline.host_begins("t1", "a")
    clock.now += 30
    timeline.host_ends("t1", "a")
    timeline.play_begins("Deploy")
    clock.now += 5
    assert timeline.as_document("site.yml", False, None) == {
        "playbook": "site.yml",
        "finished": False,
        "total_seconds": 35.0,
        "changed": None,
        "steps": [{"step": "Rent", "seconds": 30.0}, {"step": "Deploy", "seconds": 5.0}],
        "slowest_tasks": [{"task": "Rent it", "play": "Rent", "seconds": 30.0}],
    }
    assert progress.table(timeline.as_document("site.yml", True, 0)) == [
        "",
        "Time: 35 s in all",
        "        30 s  Rent",
        "       5.0 s  Deploy",
        "Slowest tasks",
        "        30 s  Rent / Rent it",
    ]


def test_unknown_tasks_are_ignored(clock: Clock) -> None:
    timeline = progress.Timeline(20)
    timeline.host_begins("nobody", "a")
    timeline.host_ends("nobody", "a")
    assert timeline.due_lines() == []


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "timings.json"
    progress._replace_file(str(target), "1")
    progress._replace_file(str(target), "2")
    assert target.read_text() == "2"
    assert [path.name for path in target.parent.iterdir()] == ["timings.json"]


def test_results_of_both_ansible_generations() -> None:
    plugin = progress.CallbackModule()
    plugin._timeline.task_begins("t1", "one")
    for result in (
        SimpleNamespace(task=SimpleNamespace(_uuid="t1"), host=SimpleNamespace(get_name=lambda: "a")),
        SimpleNamespace(_task=SimpleNamespace(_uuid="t1"), _host=SimpleNamespace(get_name=lambda: "a")),
    ):
        plugin._timeline.host_begins("t1", "a")
        plugin.v2_runner_on_ok(result)
        assert plugin._timeline.tasks["t1"].busy == {}


def play(directory: Path, *arguments: str, name: str = "site.yml", tasks: str = "", **environment: str) -> str:
    """A real run over one host; returns what it printed."""
    playbook = directory / name
    tasks = tasks or "    - name: Look\n      ansible.builtin.command: 'true'\n      changed_when: false\n"
    playbook.write_text(f"- name: First\n  hosts: all\n  connection: local\n  gather_facts: false\n  tasks:\n{tasks}")
    inventory = directory / "hosts.yml"
    variables = {"ansible_python_interpreter": sys.executable, "fleet_report_directory": str(directory / "reports")}
    inventory.write_text(json.dumps({"all": {"hosts": {"a": None, "b": None}, "vars": variables}}))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GPUFLEET_", "MOLECULE_"))}
    result = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(playbook), *arguments],
        cwd=ROOT,
        env={**clean, "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def timings(directory: Path) -> Any:
    return json.loads((directory / "reports" / "timings.json").read_text())


def test_a_run_that_changes_nothing_says_so(tmp_path: Path) -> None:
    output = play(tmp_path)
    assert output.rstrip().endswith("changed=0: nothing had to be changed.")
    assert "Time:" not in output  # too short for a table
    document = timings(tmp_path)
    assert (document["playbook"], document["finished"], document["changed"]) == ("site.yml", True, 0)
    assert [step["step"] for step in document["steps"]] == ["First"]


def test_a_long_step_shows_progress_and_times(tmp_path: Path) -> None:
    tasks = (
        # No host runs this one, so it never ends, and none of the time is its own.
        "    - name: Run what was notified\n      ansible.builtin.meta: flush_handlers\n"
        "    - name: Wait a while\n      ansible.builtin.command: sleep 2\n      changed_when: true\n"
        f"    - name: Read the times so far\n      ansible.builtin.command: cat {tmp_path}/reports/timings.json\n"
        "      changed_when: false\n      register: so_far\n      run_once: true\n"
        '    - name: Show\n      ansible.builtin.debug: {msg: "FINISHED {{ (so_far.stdout | from_json).finished }}"}\n'
    )
    output = play(tmp_path, tasks=tasks, GPUFLEET_PROGRESS_INTERVAL_SECONDS="0.5")
    assert re.search(r"(?m)^\.\.\. [\d.]+ s in First / Wait a while: a, b$", output)
    assert "FINISHED False" in output
    assert re.search(r"(?m)^Time: .* in all$", output)
    assert re.search(r"(?m)^ +[\d.]+ s  First / Wait a while$", output)
    assert "changed=0: nothing" not in output
    assert timings(tmp_path)["changed"] == 2
    assert "Run what was notified" not in {task["task"] for task in timings(tmp_path)["slowest_tasks"]}


def test_check_mode_is_quiet(tmp_path: Path) -> None:
    assert "nothing had to be changed" not in play(tmp_path, "--check")
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("mode", "arguments", "environment", "quiet"),
    [
        ("auto", {}, {}, False),
        ("auto", {"check": True}, {}, True),
        ("auto", {}, {"MOLECULE_SCENARIO_NAME": "kafka"}, True),
        ("on", {"check": True}, {"MOLECULE_SCENARIO_NAME": "kafka"}, False),
        ("off", {}, {}, True),
    ],
)
def test_when_it_is_quiet(mode: str, arguments: dict[str, Any], environment: dict[str, str], quiet: bool) -> None:
    assert progress.is_quiet(mode, arguments, environment) is quiet


@pytest.mark.parametrize(
    ("playbook", "arguments", "whole"),
    [
        ("/x/playbooks/site.yml", {"tags": ["all"]}, True),
        ("/x/playbooks/site.yml", {}, True),
        ("/x/playbooks/verify.yml", {}, False),
        ("/x/playbooks/site.yml", {"subset": "kafka-1"}, False),
        ("/x/playbooks/site.yml", {"tags": ["kafka"]}, False),
        ("/x/playbooks/site.yml", {"skip_tags": ["kafka"]}, False),
    ],
)
def test_only_a_whole_site_run_proves_that_nothing_had_to_change(
    playbook: str, arguments: dict[str, Any], whole: bool
) -> None:
    assert progress.is_whole_site(playbook, arguments) is whole


def test_no_thread_is_left_behind(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = progress.CallbackModule()
    monkeypatch.setattr("os.register_at_fork", lambda **hooks: None)
    plugin.v2_playbook_on_start(SimpleNamespace(_file_name="/x/site.yml"))
    thread = plugin._thread
    assert thread is not None
    assert thread.is_alive()
    assert thread.daemon
    plugin.v2_playbook_on_stats(SimpleNamespace(processed={}, summarize=None))
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert thread not in threading.enumerate()
