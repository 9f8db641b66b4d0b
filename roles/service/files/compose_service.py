# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd and the role `service` ask about a Compose project on its host.

  prepare DIRECTORY   before each start: remove our failed leftovers, note what is started
  up DIRECTORY        run the project in the foreground, with a log that the journal can show
  status DIRECTORY    one line of JSON: is what runs what is configured, and is it healthy?
  wait DIRECTORY      wait until every container is healthy; on failure say why, with the last lines of the log
  keep DIRECTORY      remember what is configured as the last one that worked
  go-back DIRECTORY   put back what was kept, where something else is configured now
  secret PATH         create a secret once, here on the host, and keep its owner and mode right

Nothing outside Python's own library and the `docker` command is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import secrets
import signal
import stat
import string
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from typing import Any

SECRET_ALPHABET = string.ascii_letters + string.digits
RUNTIME_DIRECTORY = "/run/gpuops-fleet"
UNIT_DIRECTORY = "/etc/systemd/system"
LOG_LINES = 50
# Compose clears the line before each message even without a terminal (2.26), and programs like to use colours. The
# journal shows a line with such bytes as "[24B blob data]" only.
CONTROL_SEQUENCES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|\r(?=\n)")

Runner = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


class ServiceError(Exception):
    """Something that a person has to mend; the text says what."""


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _mark(path: str) -> str:
    """What changes when the file changes; never anything that follows from the content of a private file."""
    try:
        entry = os.stat(path)
        if entry.st_mode & stat.S_IROTH == 0:
            return f"{entry.st_ino}:{entry.st_size}:{entry.st_mtime_ns}"
        with open(path, "rb") as source:
            return hashlib.sha256(source.read()).hexdigest()
    except FileNotFoundError:
        return "missing"


class Service:
    """One Compose project, described by its DIRECTORY/service.json."""

    def __init__(self, directory: str, runner: Runner = run) -> None:
        self.directory = directory
        self._run = runner
        description = os.path.join(directory, "service.json")
        try:
            with open(description, encoding="utf-8") as source:
                wanted = json.load(source)
            self.name = str(wanted["name"])
            self.files = [str(name) for name in wanted["files"]]
            self.secrets = [str(name) for name in wanted["secrets"]]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ServiceError(f"{description} can't be used ({problem!r}); run the role `service` again.") from problem

    def docker(self, *arguments: str) -> str:
        done = self._run(["docker", *arguments])
        if done.returncode != 0:
            raise ServiceError(f"`docker {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _compose_arguments(self, *arguments: str) -> list[str]:
        where = self.directory
        return [
            *("compose", "--ansi", "never", "--project-name", self.name, "--project-directory", where),
            *("--file", f"{where}/compose.yaml", "--env-file", f"{where}/.env", "--env-file", f"{where}/address.env"),
            *arguments,
        ]

    def compose(self, *arguments: str) -> str:
        return self.docker(*self._compose_arguments(*arguments))

    # What is configured, and what was started ----------------------------------------------------------------

    def digest(self) -> str:
        """One value that differs whenever something differs that the running service would have to notice."""
        units = [f"{UNIT_DIRECTORY}/{self.name}.service", f"{UNIT_DIRECTORY}/{self.name}-env-refresh.service"]
        own = ["compose.yaml", ".env", "address.env", *sorted(self.files)]
        own += [f"secrets/{name}" for name in sorted(self.secrets)]
        marks = [f"{path}={_mark(path)}\n" for path in [*(os.path.join(self.directory, name) for name in own), *units]]
        return hashlib.sha256("".join(marks).encode()).hexdigest()

    @property
    def started_path(self) -> str:
        return os.path.join(RUNTIME_DIRECTORY, self.name, "started")

    def started(self) -> str:
        try:
            with open(self.started_path, encoding="ascii") as source:
                return source.read().strip()
        except FileNotFoundError:
            return ""

    # Before a start -------------------------------------------------------------------------------------------

    def wanted_services(self) -> dict[str, dict[str, Any]]:
        """The Compose services by name, as Compose understands its file."""
        services: dict[str, dict[str, Any]] = json.loads(self.compose("config", "--format", "json"))["services"]
        return services

    def wanted_names(self) -> list[str]:
        """The container names that Compose will use."""
        return [
            str(service.get("container_name") or f"{self.name}-{key}-1")
            for key, service in self.wanted_services().items()
        ]

    def containers(self, *filters: str) -> list[dict[str, str]]:
        arguments = [word for one in filters for word in ("--filter", one)]
        labels = [f'{{{{.Label "com.docker.compose.{label}"}}}}' for label in ("project", "project.working_dir")]
        template = "\t".join(["{{.ID}}", "{{.Names}}", "{{.State}}", *labels])
        lines = self.docker("ps", "--all", "--no-trunc", *arguments, "--format", template).splitlines()
        names = ("id", "name", "state", "project", "home")
        return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]

    def check_ours(self, container: dict[str, str]) -> None:
        """Refuse a stranger's container. Compose itself would take it over, by its project's name alone."""
        name, project, home = container["name"], container["project"], container["home"]
        if home and os.path.realpath(home) == os.path.realpath(self.directory):
            return
        runs = container["state"] in ("running", "paused", "restarting")
        if home and project == self.name:
            raise ServiceError(
                f"The container {name} belongs to another Compose project that is named {project} too, in {home}, and "
                f"Compose can't tell the two apart. Remove it (docker compose --project-directory {home} down) or give "
                f"that project another name; {self.name}.service then starts by itself."
            )
        # A container without a home that doesn't run is what a start of ours by hand has left.
        if home or project not in ("", self.name) or runs:
            raise ServiceError(
                f"The container {name} {'runs' if runs else 'exists'} and isn't part of the Compose project "
                f"{self.name} in {self.directory}, but has the name that {self.name}.service needs. "
                f"{'Stop it' if runs else 'Remove it'} or give it another name "
                f"(docker rename {name} NEW-NAME); the service then starts by itself."
            )

    def remove_leftovers(self) -> list[str]:
        """Remove our containers that stand in the way of a start, unless a stranger's stands there as well."""
        standing = {one["id"]: one for one in self.containers(f"label=com.docker.compose.project={self.name}")}
        for name in self.wanted_names():
            standing |= {one["id"]: one for one in self.containers(f"name=^/{name}$")}
        for one in standing.values():
            self.check_ours(one)
        doomed = [one for one in standing.values() if one["state"] not in ("running", "paused", "restarting")]
        for one in doomed:
            self.docker("rm", "--force", one["id"])
        return [one["name"] for one in doomed]

    def prepare(self) -> None:
        for name in self.remove_leftovers():
            print(f"Removed the leftover container {name}.")
        with open(self.started_path, "w", encoding="ascii") as target:
            target.write(self.digest() + "\n")

    def up(self, stop_timeout_seconds: int) -> int:
        """Run the project until one of its containers ends; systemd then starts it again."""
        options = ["--no-build", "--pull", "never", "--no-color", "--remove-orphans", "--abort-on-container-exit"]
        command = ["docker", *self._compose_arguments("up", *options, "--timeout", str(stop_timeout_seconds))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: process.send_signal(received))
        if process.stdout is not None:
            for line in process.stdout:
                sys.stdout.buffer.write(CONTROL_SEQUENCES.sub(b"", line))
                sys.stdout.buffer.flush()
        return process.wait()

    # The last one that worked ---------------------------------------------------------------------------------

    @property
    def kept_path(self) -> str:
        return os.path.join(self.directory, "last-good.tar")

    def keep(self) -> None:
        """In one file, which is replaced in one step. Secrets stay out: there is one of each, and it stays as it is."""
        new = f"{self.kept_path}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            with tarfile.open(fileobj=target, mode="w") as archive:
                for name in ["compose.yaml", ".env", *sorted(self.files)]:
                    archive.add(os.path.join(self.directory, name), name, recursive=False)
            target.flush()
            os.fsync(target.fileno())
        os.replace(new, self.kept_path)

    def go_back(self) -> dict[str, Any]:
        """Put back what was kept: whether anything was another one, and with which images it runs now."""
        try:
            with open(self.kept_path, "rb") as source:
                kept = source.read()
        except FileNotFoundError:
            return {"changed": False, "images": []}
        changed = False
        with tarfile.open(fileobj=io.BytesIO(kept)) as archive:
            for member in archive:
                content = archive.extractfile(member)
                text = content.read() if content else b""
                changed = self._put_back(os.path.join(self.directory, member.name), text, member) or changed
        images = sorted({str(one["image"]) for one in self.wanted_services().values() if "image" in one})
        return {"changed": changed, "images": images if changed else []}

    def _put_back(self, path: str, text: bytes, kept: tarfile.TarInfo) -> bool:
        try:
            with open(path, "rb") as current:
                if current.read() == text:
                    return False
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(text)
            target.flush()
            os.fchown(descriptor, kept.uid, kept.gid)
            os.fchmod(descriptor, kept.mode)
            os.fsync(descriptor)
        os.replace(f"{path}.new", path)
        return True

    # While it runs --------------------------------------------------------------------------------------------

    def health(self) -> list[str]:
        """What is missing until the project is healthy; nothing when it is."""
        text = self.compose("ps", "--all", "--format", "json").strip()
        # Compose prints a JSON array up to 2.20, from 2.21 on one object a line.
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        missing = []
        for service, configuration in sorted(self.wanted_services().items()):
            # A container that has just started reports no health at all for a moment: only the word itself counts.
            checked = "healthcheck" in configuration and not configuration["healthcheck"].get("disable")
            mine = [row for row in rows if row["Service"] == service]
            if not mine:
                missing.append(f"{service} has no container yet")
            for row in mine:
                if row["State"] != "running":
                    missing.append(f"{service} is {row['State']} (exit code {row.get('ExitCode', 'unknown')})")
                elif checked and row.get("Health") != "healthy":
                    missing.append(f"{service} runs, its health check says {row.get('Health') or 'nothing yet'}")
        return missing

    def active(self) -> str:
        return self._run(["systemctl", "is-active", f"{self.name}.service"]).stdout.strip()

    def status(self) -> dict[str, Any]:
        active, wanted, started = self.active(), self.digest(), self.started()
        missing = self.health() if active == "active" else [f"{self.name}.service is {active or 'unknown'}"]
        current = active == "active" and wanted == started
        if active == "active" and not current:
            missing.append(f"{self.name}.service has not started yet with what is configured now")
        return {
            "active": active,
            "current": current,
            "healthy": not missing,
            "missing": missing,
        }

    def wait(
        self,
        timeout_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        began = monotonic()
        while True:
            try:
                status = self.status()
                missing = status["missing"]
            except ServiceError as problem:  # Docker restarts, or a container vanished between two questions
                status, missing = {"healthy": False}, [str(problem)]
            if status["healthy"]:
                return
            if monotonic() - began >= timeout_seconds:
                log = self._run(
                    ["journalctl", "--unit", f"{self.name}.service", "--lines", str(LOG_LINES), "--no-pager"]
                )
                raise ServiceError(
                    f"{self.name} is not healthy after {timeout_seconds:g} s: {'; '.join(missing)}. The last "
                    f"{LOG_LINES} log lines follow; more: journalctl -u {self.name}.service\n{log.stdout.strip()}"
                )
            sleep(2.0)


def ensure_secret(path: str, uid: int, gid: int, length: int) -> bool:
    """Create the file once with random letters and digits; afterwards only keep its owner and mode."""
    changed = False
    try:
        # Created under another name and linked: a half-written secret never stands at its place.
        os.lstat(path)
    except FileNotFoundError:
        temporary = f"{path}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as target:
                target.write("".join(secrets.choice(SECRET_ALPHABET) for position in range(length)))
                target.flush()
                os.fchown(descriptor, uid, gid)
                os.fsync(descriptor)
            try:
                os.link(temporary, path)
                changed = True
            except FileExistsError:
                changed = False  # another run was faster; its secret stays
        finally:
            os.unlink(temporary)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        entry = os.fstat(descriptor)
        if not stat.S_ISREG(entry.st_mode) or entry.st_size == 0:
            raise ServiceError(f"{path} is empty or not a file; remove it and run the role again.")
        if (entry.st_uid, entry.st_gid) != (uid, gid):
            os.fchown(descriptor, uid, gid)
            changed = True
        if stat.S_IMODE(entry.st_mode) != 0o400:
            os.fchmod(descriptor, 0o400)
            changed = True
    finally:
        os.close(descriptor)
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ask about, or prepare, a Compose project that systemd runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "up", "status", "wait", "keep", "go-back"):
        command = commands.add_parser(name)
        command.add_argument("directory")
        if name == "up":
            command.add_argument("--stop-timeout", type=int, required=True, metavar="SECONDS")
        if name == "wait":
            command.add_argument("--timeout", type=float, required=True, metavar="SECONDS")
    secret = commands.add_parser("secret")
    secret.add_argument("path")
    secret.add_argument("--uid", type=int, required=True)
    secret.add_argument("--gid", type=int, required=True)
    secret.add_argument("--length", type=int, default=32)
    options = parser.parse_args(arguments)
    try:
        if options.command == "secret":
            print(json.dumps({"changed": ensure_secret(options.path, options.uid, options.gid, options.length)}))
        elif options.command == "prepare":
            Service(options.directory).prepare()
        elif options.command == "keep":
            Service(options.directory).keep()
        elif options.command == "go-back":
            print(json.dumps(Service(options.directory).go_back()))
        elif options.command == "up":
            return Service(options.directory).up(options.stop_timeout)
        elif options.command == "status":
            print(json.dumps(Service(options.directory).status()))
        else:
            Service(options.directory).wait(options.timeout)
    except (ServiceError, OSError) as problem:
        print(f"{problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
