# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the node exporter doesn't know about a host of the fleet, as files for its textfile collector.

  host_metrics.py OUTPUT_DIRECTORY RELAYS

Services of the fleet, their containers by Compose project (state, health, restarts, memory, CPU) and failed units go to
fleet.prom. RELAYS is a JSON file with metrics pages of this host that nobody else can read, as {name, url, prefix,
bearer_token_file}: each goes to relay-NAME.prom, so that neither its port nor its key leaves the host.

From `docker inspect` only the named fields are asked for: no environment and no command line reaches this program.
Nothing outside Python's own library, systemctl and the `docker` command is needed.
"""

from __future__ import annotations

import glob
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

SERVICES = "/opt/*/service.json"  # what the role service leaves for each service of a host
CGROUPS = pathlib.Path("/sys/fs/cgroup")
PROCESSES = pathlib.Path("/proc")
COMMAND_TIMEOUT_SECONDS = 10
RELAY_TIMEOUT_SECONDS = 5
RELAY_MAX_BYTES = 8 * 1024 * 1024

FIELDS = (
    '{"name":{{json .Name}},"state":{{json .State.Status}},"process":{{json .State.Pid}},'
    '"health":{{if .State.Health}}{{json .State.Health.Status}}{{else}}""{{end}},'
    '"restarts":{{json .RestartCount}},"memory_limit":{{json .HostConfig.Memory}},'
    '"project":{{json (index .Config.Labels "com.docker.compose.project")}},'
    '"service":{{json (index .Config.Labels "com.docker.compose.service")}},'
    '"one_off":{{json (index .Config.Labels "com.docker.compose.oneoff")}}}'
)
DESCRIPTIONS = {
    "fleet_docker_up": ("gauge", "1 when the Docker Engine answers; missing where there is none."),
    "fleet_container_running": ("gauge", "1 when the container runs."),
    "fleet_container_unhealthy": ("gauge", "1 when its health check fails; 0 also while it starts."),
    "fleet_container_restarts_total": ("counter", "How often Docker itself restarted it."),
    "fleet_container_memory_bytes": ("gauge", "Memory that can't be taken back at once."),
    "fleet_container_memory_limit_bytes": ("gauge", "Its memory limit; missing without one."),
    "fleet_container_cpu_seconds_total": ("counter", "CPU time that it used."),
    "fleet_service_active": ("gauge", "1 when the unit of a service of the fleet is active."),
    "fleet_service_restarts_total": ("counter", "How often systemd restarted it."),
    "fleet_unit_failed": ("gauge", "1 for each unit that failed."),
    "fleet_relay_up": ("gauge", "1 when the relayed metrics could be read."),
}
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?")


class Sample(NamedTuple):
    name: str
    labels: Mapping[str, str]
    value: float


Runner = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """As a command that failed where it takes too long: one hung answer must not hide all others."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "took too long")


def exposition(samples: Iterable[Sample]) -> str:
    """Prometheus's text format, each metric described once, in a steady order."""
    lines = []
    described = ""
    for name, labels, value in sorted(samples, key=lambda sample: (sample.name, sorted(sample.labels.items()))):
        if name != described:
            kind, words = DESCRIPTIONS[name]
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
            described = name
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{inside}}} {int(value) if value.is_integer() else value}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def container_samples(
    ask: Runner, services: Iterable[str], cgroups: pathlib.Path = CGROUPS, processes: pathlib.Path = PROCESSES
) -> Iterator[Sample]:
    """The containers of these services, but not those of `docker compose run`, which end by themselves.

    Others' are not told of: what somebody ran once on a machine of their own ended on purpose, and is no alert.
    """
    projects = set(services)
    listed = ask(["docker", "ps", "--all", "--quiet", "--no-trunc"])
    yield Sample("fleet_docker_up", {}, float(listed.returncode == 0))
    names = listed.stdout.split() if listed.returncode == 0 else []
    if not names:
        return
    # One that ended meanwhile is an error of the command as a whole; the lines of all others are there.
    inspected = ask(["docker", "inspect", "--type", "container", "--format", FIELDS, *names])
    for line in inspected.stdout.splitlines():
        try:
            container = json.loads(line)
        except ValueError:
            continue
        if container["project"] in projects and str(container["one_off"]) != "True":
            yield from _of_container(container, cgroups, processes)


def _of_container(container: Mapping[str, Any], cgroups: pathlib.Path, processes: pathlib.Path) -> Iterator[Sample]:
    labels = {
        "project": container["project"],
        "service": container["service"] or "",
        "container": str(container["name"]).lstrip("/"),
    }
    running = container["state"] == "running"
    yield Sample("fleet_container_running", labels, float(running))
    yield Sample("fleet_container_unhealthy", labels, float(running and container["health"] == "unhealthy"))
    yield Sample("fleet_container_restarts_total", labels, float(container["restarts"]))
    if container["memory_limit"]:
        yield Sample("fleet_container_memory_limit_bytes", labels, float(container["memory_limit"]))
    if running:
        for name, value in cgroup_usage(int(container["process"]), cgroups, processes).items():
            yield Sample(name, labels, value)


def cgroup_usage(
    process: int, cgroups: pathlib.Path = CGROUPS, processes: pathlib.Path = PROCESSES
) -> dict[str, float]:
    """Memory in bytes and CPU time in seconds of a process's cgroup; nothing where it can't be read.

    Both versions: a host that is a container shares the kernel of a machine that may still have the first.
    """
    try:
        lines = [line.split(":", 2) for line in (processes / str(process) / "cgroup").read_text().splitlines()]
        paths = {name: path.lstrip("/") for _number, names, path in lines for name in names.split(",")}
        if (group := cgroups / paths.get("", "nowhere") / "memory.current").exists():
            memory, cached = group, _value_of(group.parent / "memory.stat", "inactive_file")
            seconds = _value_of(group.parent / "cpu.stat", "usage_usec") / 1e6
        else:
            memory = cgroups / "memory" / paths["memory"] / "memory.usage_in_bytes"
            cached = _value_of(memory.parent / "memory.stat", "total_inactive_file")
            seconds = int((cgroups / "cpuacct" / paths["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        # What is only cached from files is given back before anything is killed, so it is not counted.
        used = max(int(memory.read_text()) - cached, 0)
    except (OSError, KeyError, StopIteration, ValueError):
        return {}
    return {"fleet_container_memory_bytes": float(used), "fleet_container_cpu_seconds_total": seconds}


def _value_of(path: pathlib.Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name} "))


def unit_samples(ask: Runner, services: Iterable[str]) -> Iterator[Sample]:
    """The fleet's services, running or not, and all units that failed."""
    units = [f"{name}.service" for name in services]
    if units:
        shown = ask(["systemctl", "show", "--property=Id,ActiveState,NRestarts", *units])
        for block in shown.stdout.strip().split("\n\n"):
            fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            labels = {"service": fields.get("Id", "").removesuffix(".service")}
            if labels["service"]:
                yield Sample("fleet_service_active", labels, float(fields.get("ActiveState") == "active"))
                yield Sample("fleet_service_restarts_total", labels, float(fields.get("NRestarts") or 0))
    failed = ask(["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full", "--no-pager"])
    for line in failed.stdout.splitlines():
        if line.split():
            yield Sample("fleet_unit_failed", {"unit": line.split()[0]}, 1.0)


def service_names(pattern: str = SERVICES) -> list[str]:
    return sorted(pathlib.Path(path).parent.name for path in glob.glob(pattern))


def fetch(url: str, key: str) -> str:
    """One page of metrics. Without proxies and redirects, so that the key goes nowhere else."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port or 80, timeout=RELAY_TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path or "/", headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read(RELAY_MAX_BYTES + 1)
    finally:
        connection.close()
    if answer.status != 200 or len(body) > RELAY_MAX_BYTES:
        raise OSError(f"HTTP {answer.status}, {len(body)} bytes")
    return body.decode("utf-8", "replace")


def relayed(text: str, prefix: str, name: str) -> str:
    """Only the metrics of this prefix, with a label that says which relay they came by.

    The label keeps two servers of one host apart: a series that is there twice would cost all metrics of the host.
    """
    lines = []
    for line in text.splitlines():
        words = line.split(None, 3)
        if line.startswith("#"):
            if len(words) > 2 and words[1] in ("HELP", "TYPE") and words[2].startswith(prefix):
                lines.append(line)
        elif line.startswith(prefix) and (found := SAMPLE.match(line)):
            inside = f'{{relay="{name}"' + ("," if found[2] else "}")
            lines.append(found[1] + inside + line[found.end() :])
    return "".join(f"{line}\n" for line in lines)


def relay_pages(relays: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], list[Sample]]:
    """File name → content of what could be read, and a sample for each relay."""
    pages, samples = {}, []
    for relay in relays:
        try:
            file = relay.get("bearer_token_file")
            page = fetch(relay["url"], pathlib.Path(file).read_text().strip() if file else "")
            pages[f"relay-{relay['name']}.prom"] = relayed(page, relay["prefix"], relay["name"])
            good = True
        except (OSError, ValueError, http.client.HTTPException) as error:
            # The kind alone: what a server says may hold what was sent to it.
            print(f"<4>The metrics of {relay['name']} could not be read: {type(error).__name__}", file=sys.stderr)
            good = False
        samples.append(Sample("fleet_relay_up", {"relay": relay["name"]}, float(good)))
    return pages, samples


def write(directory: pathlib.Path, pages: Mapping[str, str]) -> None:
    """Exactly these pages, each whole or not at all; the collector reads what ends in .prom."""
    for name, content in pages.items():
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=name)
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, directory / name)
    for path in directory.iterdir():
        if path.is_file() and path.name not in pages:
            path.unlink()


def main(arguments: list[str]) -> int:
    directory, relays = pathlib.Path(arguments[0]), json.loads(pathlib.Path(arguments[1]).read_text())
    pages, samples = relay_pages(relays)
    services = service_names()
    samples += unit_samples(run, services)
    if shutil.which("docker"):
        samples += container_samples(run, services)
    write(directory, {**pages, "fleet.prom": exposition(samples)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
