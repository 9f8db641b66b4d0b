"""What systemd and the role ask on a host: leftovers, digest, health, secrets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.load_program import load_program

SCRIPT = Path(__file__).parents[4] / "roles/service/files/compose_service.py"
OWN = (os.getuid(), os.getgid())
COMPOSE: dict[str, Any] = {
    "services": {"kafka": {"healthcheck": {"test": ["CMD", "true"]}}, "sidecar": {"container_name": "side"}}
}


compose_service = load_program(SCRIPT)


class Docker:
    """Answers like the docker command line, from a table of containers."""

    def __init__(self) -> None:
        self.containers: list[tuple[str, str, str, str, str]] = []  # id, name, state, project, working directory
        self.health: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self.active = "active"
        self.array = False

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=self._answer(command), stderr="")

    def _answer(self, command: list[str]) -> str:
        if command[0] == "systemctl":
            return self.active + "\n"
        if command[0] == "journalctl":
            return "the last line\n"
        if command[1] == "rm":
            self.removed.append(command[-1])
            return ""
        if command[1] == "ps":
            condition = command[command.index("--filter") + 1]
            if condition.startswith("label="):
                project = condition.rpartition("=")[2]
                rows = [row for row in self.containers if row[3] == project]
            else:
                rows = [row for row in self.containers if f"name=^/{row[1]}$" == condition]
            return "".join("\t".join(row) + "\n" for row in rows)
        if "config" in command:
            return json.dumps(COMPOSE)
        if "ps" in command:
            return json.dumps(self.health) if self.array else "\n".join(json.dumps(row) for row in self.health)
        raise AssertionError(command)


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def service(tmp_path: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(compose_service, "RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(compose_service, "UNIT_DIRECTORY", str(tmp_path / "units"))
    for name in ("run/kafka", "units", "secrets", "config"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "service.json").write_text(json.dumps({"name": "kafka", "files": ["config/a"], "secrets": ["key"]}))
    for name in ("compose.yaml", ".env", "address.env", "config/a", "units/kafka.service", "secrets/key"):
        (tmp_path / name).write_text("first")
    (tmp_path / "secrets/key").chmod(0o400)
    return compose_service.Service(str(tmp_path), docker)


@pytest.mark.parametrize(
    "name", ["compose.yaml", ".env", "address.env", "config/a", "units/kafka.service", "secrets/key"]
)
def test_digest_notices_every_file(service: Any, tmp_path: Path, name: str) -> None:
    before = service.digest()
    assert service.digest() == before
    (tmp_path / name).chmod(0o600 if "secrets" in name else 0o644)
    (tmp_path / name).write_text("second!")
    assert service.digest() != before


def test_digest_says_nothing_about_a_secret(service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = open

    def watched(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", watched)
    service.digest()
    assert [path for path in opened if "secrets" in path] == []
    assert opened


def test_own_failed_containers_are_removed(service: Any, docker: Docker) -> None:
    docker.containers = [
        ("1", "kafka-kafka-1", "exited", "kafka", service.directory),
        ("2", "kafka-old-1", "created", "kafka", service.directory + "/"),
        ("3", "kafka-other-1", "running", "kafka", service.directory),
        ("4", "stranger", "exited", "other", "/srv/other"),
    ]
    assert service.remove_leftovers() == ["kafka-kafka-1", "kafka-old-1"]
    assert docker.removed == ["1", "2"]


def test_own_containers_are_known_where_the_directory_is_a_link(service: Any, docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    docker.containers = [("1", "kafka-kafka-1", "running", "kafka", str(tmp_path / "link"))]
    assert service.remove_leftovers() == []


@pytest.mark.parametrize("project", ["", "kafka"])
@pytest.mark.parametrize("name", ["kafka-kafka-1", "side"])
def test_leftover_that_no_compose_project_owns_is_removed(
    service: Any, docker: Docker, name: str, project: str
) -> None:
    docker.containers = [("1", name, "exited", project, "")]
    assert service.remove_leftovers() == [name]


@pytest.mark.parametrize(
    ("container", "sentence"),
    [
        # Compose names a project after its folder, so these are what a user's own ~/kafka has.
        (
            ("kafka-web-1", "running", "kafka", "/home/me/kafka"),
            r"another Compose project .* kafka too, in /home/me/kafka",
        ),
        (
            ("kafka-web-1", "exited", "kafka", "/home/me/kafka"),
            r"another Compose project .* kafka too, in /home/me/kafka",
        ),
        (("kafka-kafka-1", "exited", "kafka", "/home/me/kafka"), r"--project-directory /home/me/kafka down"),
        (
            ("kafka-kafka-1", "running", "other", "/srv/other"),
            "kafka-kafka-1 runs and isn't part of the Compose project",
        ),
        (("side", "exited", "other", "/srv/other"), r"side exists and isn't part of .*docker rename side NEW-NAME"),
        (("side", "exited", "other", ""), "side exists and isn't part of the Compose project"),
        (("side", "running", "", ""), "side runs and isn't part of the Compose project"),
        (("kafka-kafka-1", "running", "kafka", ""), "kafka-kafka-1 runs and isn't part of the Compose project"),
    ],
)
def test_stranger_is_an_error_before_anything_is_removed(
    service: Any, docker: Docker, container: tuple[str, str, str, str], sentence: str
) -> None:
    own = ("1", "kafka-sidecar-1", "exited", "kafka", service.directory)
    docker.containers = [own, ("2", *container)]
    with pytest.raises(compose_service.ServiceError, match=sentence):
        service.remove_leftovers()
    assert docker.removed == []


def healthy() -> list[dict[str, Any]]:
    return [
        {"Service": "kafka", "State": "running", "Health": "healthy"},
        {"Service": "sidecar", "State": "running", "Health": ""},
    ]


@pytest.mark.parametrize("array", [True, False])
def test_healthy_project(service: Any, docker: Docker, array: bool) -> None:
    docker.array, docker.health = array, healthy()
    service.prepare()
    assert service.status() == {"active": "active", "current": True, "healthy": True, "missing": []}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"Service": "kafka", "State": "running", "Health": ""}, "kafka runs, its health check says nothing yet"),
        ({"Service": "kafka", "State": "running", "Health": "starting"}, "kafka runs, its health check says starting"),
        ({"Service": "kafka", "State": "exited", "ExitCode": 137}, "kafka is exited (exit code 137)"),
        ({"Service": "other", "State": "running"}, "kafka has no container yet"),
    ],
)
def test_what_is_missing(service: Any, docker: Docker, row: dict[str, Any], sentence: str) -> None:
    docker.health = [row, healthy()[1]]
    assert service.health() == [sentence]


def test_inactive_unit_is_not_current(service: Any, docker: Docker) -> None:
    service.prepare()
    docker.active, docker.health = "activating", healthy()
    assert service.status()["current"] is False
    assert service.status()["missing"] == ["kafka.service is activating"]


def test_what_was_changed_after_the_start_is_not_current(service: Any, docker: Docker, tmp_path: Path) -> None:
    docker.health = healthy()
    service.prepare()
    (tmp_path / "compose.yaml").write_text("second")
    assert service.status()["current"] is False


def test_wait_ends_with_the_reason_and_the_log(service: Any, docker: Docker) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    docker.health = [{"Service": "kafka", "State": "running", "Health": "unhealthy"}, healthy()[1]]
    with pytest.raises(compose_service.ServiceError, match=r"not healthy after 5 s: kafka runs.*unhealthy") as error:
        service.wait(5, sleep=sleep, monotonic=lambda: now[0])
    assert "the last line" in str(error.value)


def test_what_worked_comes_back_with_its_owner_and_mode(service: Any, tmp_path: Path) -> None:
    (tmp_path / "config/a").chmod(0o640)
    service.keep()
    assert (tmp_path / "last-good.tar").stat().st_mode & 0o777 == 0o600
    (tmp_path / "compose.yaml").write_text("another image")
    (tmp_path / ".env").write_text("ANOTHER=1")
    (tmp_path / "config/a").unlink()
    assert service.go_back()["changed"] is True
    assert [(tmp_path / name).read_text() for name in ("compose.yaml", ".env", "config/a")] == ["first"] * 3
    assert (tmp_path / "config/a").stat().st_mode & 0o777 == 0o640
    assert not list(tmp_path.rglob("*.new"))


def test_what_works_is_not_changed_by_going_back(service: Any) -> None:
    assert service.go_back() == {"changed": False, "images": []}, "nothing was kept yet"
    service.keep()
    assert service.go_back() == {"changed": False, "images": []}


def test_going_back_says_which_images_run_again(service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPOSE["services"]["kafka"], "image", "acme/kafka:1.2.3")
    service.keep()
    (tmp_path / "compose.yaml").write_text("another image")
    assert service.go_back() == {"changed": True, "images": ["acme/kafka:1.2.3"]}


def test_secrets_are_neither_kept_nor_put_back(service: Any, tmp_path: Path) -> None:
    (tmp_path / "secrets/key").chmod(0o600)
    (tmp_path / "secrets/key").write_text("planted")
    service.keep()
    assert b"planted" not in (tmp_path / "last-good.tar").read_bytes()
    (tmp_path / "secrets/key").write_text("rotated")
    (tmp_path / "compose.yaml").write_text("another image")
    service.go_back()
    assert (tmp_path / "secrets/key").read_text() == "rotated"


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        (b"\x1b[2Ktiny-1  | ready\r\n", b"tiny-1  | ready\n"),
        (b"\x1b[1;32mINFO\x1b[0m \xc3\xa4\n", b"INFO \xc3\xa4\n"),
        (b"[24] plain \\x1b[0m\n", b"[24] plain \\x1b[0m\n"),
    ],
)
def test_log_is_freed_of_control_sequences(line: bytes, clean: bytes) -> None:
    assert compose_service.CONTROL_SEQUENCES.sub(b"", line) == clean


def test_up_passes_the_output_on_and_ends_like_compose(
    service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\nprintf '\\033[2Ktiny-1 | %s\\n' \"$*\"; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert service.up(30) == 3
    output = capfdbinary.readouterr().out
    assert output.startswith(b"tiny-1 | compose --ansi never --project-name kafka")
    assert output.endswith(b"--abort-on-container-exit --timeout 30\n")


def test_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert compose_service.ensure_secret(str(path), *OWN, 40) is True
    value = path.read_text()
    assert len(value) == 40
    assert value.isalnum()
    assert path.stat().st_mode & 0o7777 == 0o400
    assert compose_service.ensure_secret(str(path), *OWN, 40) is False
    assert path.read_text() == value
    assert os.listdir(tmp_path) == ["key"]


def test_mode_of_a_secret_is_mended_and_its_value_kept(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("given")
    path.chmod(0o644)
    assert compose_service.ensure_secret(str(path), *OWN, 32) is True
    assert path.stat().st_mode & 0o7777 == 0o400
    assert path.read_text() == "given"


def test_empty_secret_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    with pytest.raises(compose_service.ServiceError, match="is empty"):
        compose_service.ensure_secret(str(tmp_path / "key"), *OWN, 32)


def test_secret_is_never_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    assert compose_service.main(["secret", str(path), f"--uid={OWN[0]}", f"--gid={OWN[1]}"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == {"changed": True}
    assert path.read_text() not in output.out + output.err
