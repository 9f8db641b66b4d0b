# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Shows that long steps go on, and where the time went
version_added: 0.1.0
author:
  - The gpuops.fleet contributors (@gpuops)
description:
  - When a task takes longer than O(interval_seconds), prints one line each interval, with the play, the step, the time
    since it began and the hosts that are still busy with it.
  - At the end of a run that took longer than that, prints the time of each play and the slowest tasks.
  - Writes C(timings.json) into the directory that the inventory names as C(fleet_report_directory), when a play begins
    and at the end. Without that variable nothing is written.
  - After a whole run of a C(site) playbook in which nothing was changed, prints one line that says so.
  - "C(timings.json) is C({playbook, finished, total_seconds, changed, steps: [{step, seconds}],
    slowest_tasks: [{task, play, seconds}]})."
requirements:
  - Enabled in the configuration, with C(callbacks_enabled = gpuops.fleet.progress).
options:
  interval_seconds:
    description: Seconds between two lines about the same task.
    type: float
    default: 20
    env:
      - name: GPUFLEET_PROGRESS_INTERVAL_SECONDS
    ini:
      - section: callback_gpuops_fleet_progress
        key: interval_seconds
  mode:
    description:
      - V(auto) prints and writes nothing in check mode and in runs of Molecule.
      - V(on) always does, V(off) never does.
    type: str
    choices: [auto, 'on', 'off']
    default: auto
    env:
      - name: GPUFLEET_PROGRESS_MODE
    ini:
      - section: callback_gpuops_fleet_progress
        key: mode
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock

SLOWEST_TASKS = 5
_HOSTS_SHOWN = 6


@dataclass
class Step:
    """A play, or a task in one, and what is known of its time."""

    name: str
    play: str
    started_at: float
    ended_at: float | None = None
    busy: dict[str, float] = field(default_factory=dict)  # host → when it began
    next_line_at: float = 0.0

    def seconds(self, now: float) -> float:
        """How long it took, or takes so far."""
        return max((now if self.ended_at is None else self.ended_at) - self.started_at, 0.0)


class Timeline:
    """Which plays and tasks ran when, and which hosts are busy. Not thread-safe by itself."""

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self.started_at = _clock.monotonic()
        self.plays: list[Step] = []
        self.tasks: dict[str, Step] = {}

    def play_begins(self, name: str) -> None:
        self.end(_clock.monotonic())
        self.plays.append(Step(name, name, _clock.monotonic()))

    def task_begins(self, uuid: str, name: str) -> None:
        play = self.plays[-1].name if self.plays else ""
        self.tasks.setdefault(uuid, Step(name, play, _clock.monotonic()))

    def host_begins(self, uuid: str, host: str) -> None:
        task = self.tasks.get(uuid)
        if task is None:
            return
        now = _clock.monotonic()
        if not task.busy:
            task.next_line_at = now + self.interval_seconds
        task.busy[host] = now
        task.ended_at = None

    def host_ends(self, uuid: str, host: str) -> None:
        task = self.tasks.get(uuid)
        if task is None:
            return
        task.busy.pop(host, None)
        if not task.busy:
            task.ended_at = _clock.monotonic()

    def end(self, now: float) -> None:
        """What still seems to run does not any more."""
        for step in [*self.plays, *self.tasks.values()]:
            if step.ended_at is None:
                step.ended_at = now
            step.busy.clear()

    def due_lines(self) -> list[str]:
        """One line for each task that is busy for long and had no line in this interval."""
        now = _clock.monotonic()
        lines = []
        for task in self.tasks.values():
            if task.busy and now >= task.next_line_at:
                task.next_line_at = now + self.interval_seconds
                since = now - min(task.busy.values())
                lines.append(f"... {duration(since)} in {task.play} / {task.name}: {_hosts(sorted(task.busy))}")
        return lines

    def slowest_tasks(self, now: float) -> list[Step]:
        """The tasks that took longest, longest first."""
        return sorted(self.tasks.values(), key=lambda task: -task.seconds(now))[:SLOWEST_TASKS]

    def as_document(self, playbook: str, finished: bool, changed: int | None) -> dict[str, Any]:
        """What stands in timings.json."""
        now = _clock.monotonic()
        return {
            "playbook": playbook,
            "finished": finished,
            "total_seconds": round(now - self.started_at, 1),
            "changed": changed,
            "steps": [{"step": play.name, "seconds": round(play.seconds(now), 1)} for play in self.plays],
            "slowest_tasks": [
                {"task": task.name, "play": task.play, "seconds": round(task.seconds(now), 1)}
                for task in self.slowest_tasks(now)
            ],
        }


def table(document: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    lines = ["", f"Time: {duration(document['total_seconds'])} in all"]
    lines += [
        f"{duration(step['seconds']):>12}  {step['step']}" for step in document["steps"] if step["seconds"] >= 0.1
    ]
    slow = [task for task in document["slowest_tasks"] if task["seconds"] >= 1]
    if slow:
        lines.append("Slowest tasks")
        lines += [f"{duration(task['seconds']):>12}  {task['play']} / {task['task']}" for task in slow]
    return lines


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s, 1 h 02 min: as precise as people need it."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def is_quiet(mode: str, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Check mode changes nothing that could be timed; Molecule prints its own progress and makes no report."""
    if mode == "auto":
        return bool(arguments.get("check")) or "MOLECULE_SCENARIO_NAME" in environment
    return mode == "off"


def is_whole_site(playbook: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the run was of everything. gpuops.fleet.site is a file site.yml as well."""
    limited = arguments.get("subset") or arguments.get("skip_tags") or list(arguments.get("tags") or ["all"]) != ["all"]
    return os.path.basename(playbook).split(".")[0] == "site" and not limited


def _hosts(names: list[str]) -> str:
    shown = ", ".join(names[:_HOSTS_SHOWN])
    return f"{shown} and {len(names) - _HOSTS_SHOWN} more" if len(names) > _HOSTS_SHOWN else shown


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Listens to the run; a thread prints about what takes long."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "gpuops.fleet.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._timeline = Timeline(20.0)
        self._playbook = ""
        self._report_directory: str | None = None

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        """Read the options; a quiet run doesn't call this plugin again."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self.disabled = is_quiet(self.get_option("mode"), context.CLIARGS, os.environ)
        self._timeline = Timeline(max(float(self.get_option("interval_seconds")), 0.1))

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """The clock begins, and the thread that looks at it."""
        # A worker is a fork of this process; while a line is printed none may begin, or it would inherit the locks of
        # the terminal as held and wait for ever.
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )
        self._playbook = str(getattr(playbook, "_file_name", ""))
        self._timeline = Timeline(self._timeline.interval_seconds)
        self._thread = threading.Thread(target=self._watch, name="fleet-progress", daemon=True)
        self._thread.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A step of the run begins; the file is written, so that a report made in this run has the times so far."""
        with self._lock:
            self._timeline.play_begins(play.get_name().strip())
        self._report_directory = _report_directory(play) or self._report_directory
        self._write(finished=False, changed=None)

    # Not where a task is announced: `meta` is too, and never ends, because no host runs it.
    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        with self._lock:
            self._timeline.task_begins(task._uuid, task.get_name().strip())
            self._timeline.host_begins(task._uuid, host.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        self._host_ends(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._host_ends(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._host_ends(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._host_ends(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end: stop the thread, say where the time went and whether anything was changed."""
        self._over.set()
        with self._lock:
            self._timeline.end(_clock.monotonic())
        totals = [stats.summarize(host) for host in sorted(stats.processed)]
        changed = sum(total["changed"] for total in totals)
        document = self._write(finished=True, changed=changed)
        lines = table(document) if document["total_seconds"] >= self._timeline.interval_seconds else []
        bad = any(total["failures"] or total["unreachable"] for total in totals)
        if totals and not changed and not bad and is_whole_site(self._playbook, context.CLIARGS):
            lines += ["", "changed=0: nothing had to be changed."]
        for line in lines:
            self._display.display(line)

    def _host_ends(self, result: Any) -> None:
        # The public names came with ansible-core 2.19.
        task = getattr(result, "task", None) or result._task
        host = getattr(result, "host", None) or result._host
        with self._lock:
            self._timeline.host_ends(task._uuid, host.get_name())

    def _watch(self) -> None:
        while not self._over.wait(min(self._timeline.interval_seconds / 4, 1.0)):
            with self._lock:
                if self._over.is_set():
                    return
                for line in self._timeline.due_lines():
                    self._display.display(line)

    def _write(self, finished: bool, changed: int | None) -> dict[str, Any]:
        with self._lock:
            document = self._timeline.as_document(os.path.basename(self._playbook), finished, changed)
        if self._report_directory:
            path = os.path.join(self._report_directory, "timings.json")
            try:
                _replace_file(path, json.dumps(document, indent=2) + "\n")
            except OSError as error:
                self._display.vv(f"timings.json can't be written: {error}")
        return document


def _report_directory(play: Any) -> str | None:
    """fleet_report_directory of any host; None where the inventory isn't a fleet file."""
    variables = play.get_variable_manager().get_vars(play=play)
    for host in variables.get("groups", {}).get("all", [])[:1]:
        directory = variables["hostvars"][host].get("fleet_report_directory")
        return str(directory) if directory else None
    return None


def _replace_file(path: str, text: str) -> None:
    """Readers see the old file or the new one, never half of one."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)
