"""What is on a host under the names that a service needs, and isn't ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).parents[4] / "roles/service"
UNIT = "etc/systemd/system/kafka.service"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    has(tmp_path / "bin", docker="#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    return tmp_path


def has(place: Path, **files: str) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        (place / name).chmod(0o755)


def ours(root: Path) -> None:
    """What the role leaves on a host: the head of its units, and the description of the service."""
    for template, unit in (("compose.service.j2", "kafka"), ("env-refresh.service.j2", "kafka-env-refresh")):
        text = (ROLE / "templates" / template).read_text()
        has(root, **{f"etc/systemd/system/{unit}.service": text})
    has(root, **{"etc/gpuops-fleet/drain.d/60-kafka": (ROLE / "templates/drain-hook.sh.j2").read_text()})
    has(root, **{"opt/kafka/service.json": description(), "opt/kafka/data/log/meta.properties": "version=1\n"})


def as_json(value: object, indent: int) -> str:
    return json.dumps(value, default=list, indent=indent)


def description() -> str:
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 no HTML
    environment.filters |= {"combine": lambda one, other: one | other, "to_nice_json": as_json}
    lists: dict[str, list[str]] = {f"service_{name}": [] for name in ("files", "secrets", "data_directories")}
    template = environment.from_string((ROLE / "templates/service.json.j2").read_text())
    return template.render(service_name="kafka", service_address_metadata="none", **lists)


def strangers(root: Path) -> list[str]:
    done = subprocess.run(
        ["sh", str(ROLE / "files/strangers.sh"), "kafka", str(root)],
        env={**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_new_host_has_none(root: Path) -> None:
    assert strangers(root) == []


def test_our_own_deployment_is_none(root: Path) -> None:
    ours(root)
    assert strangers(root) == []


def test_our_own_deployment_is_none_when_its_first_run_was_interrupted(root: Path) -> None:
    ours(root)
    (root / UNIT).unlink()
    (root / "etc/systemd/system/kafka-env-refresh.service").unlink()
    assert strangers(root) == []


def test_directories_that_were_made_beforehand_are_none(root: Path) -> None:
    (root / "opt/kafka/data/lost+found").mkdir(parents=True)
    assert strangers(root) == []


@pytest.mark.parametrize(
    "path",
    [
        UNIT,
        "etc/systemd/system/kafka-env-refresh.service",
        "usr/lib/systemd/system/kafka.service",
        "run/systemd/system/kafka.service",
        "etc/init.d/kafka",
    ],
)
def test_unit_of_a_native_service(root: Path, path: str) -> None:
    has(root, **{path: "[Unit]\nDescription=Apache Kafka\n"})
    (sentence,) = strangers(root)
    assert sentence.startswith(f"/{path} ")
    assert sentence.endswith("would be replaced. Move it away, or deploy kafka to another host.")


def test_drain_hook_under_our_name(root: Path) -> None:
    ours(root)
    has(root, **{"etc/gpuops-fleet/drain.d/10-kafka": "#!/bin/sh\nkafka-leave\n"})
    assert strangers(root) == [
        "/etc/gpuops-fleet/drain.d/10-kafka is a drain hook that gpuops.fleet did not write, and would be replaced. "
        "Give it another name."
    ]


def test_drain_hooks_under_other_names_are_left_alone(root: Path) -> None:
    ours(root)
    has(root, **{f"etc/gpuops-fleet/drain.d/{name}": "#!/bin/sh\n" for name in ("60-kafka-mine", "kafka", "x60-kafka")})
    assert strangers(root) == []


def test_masked_unit(root: Path) -> None:
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).symlink_to("/dev/null")
    assert strangers(root)[0].startswith(f"/{UNIT} is a unit")


def test_unit_of_a_package_that_ours_already_hides(root: Path) -> None:
    ours(root)
    has(root, **{"usr/lib/systemd/system/kafka.service": "[Unit]\n"})
    assert strangers(root) == []


@pytest.mark.parametrize(
    "path", ["opt/kafka/config/server.properties", "opt/kafka/data/a-0/1.log", "opt/kafka/service.json"]
)
def test_files_of_a_native_service(root: Path, path: str) -> None:
    has(root, **{path: '{"service": {"name": "kafka"}}\n'})
    assert strangers(root) == [
        f"/opt/kafka holds files that gpuops.fleet did not write, such as /{path}. "
        "Move it away, or deploy kafka to another host."
    ]


def test_native_service_behind_a_link(root: Path) -> None:
    has(root, **{"opt/kafka_2.13-3.9.1/LICENSE": "Apache"})
    (root / "opt/kafka").symlink_to("kafka_2.13-3.9.1")
    assert "such as /opt/kafka/LICENSE" in strangers(root)[0]


def test_compose_project_of_the_same_name(root: Path) -> None:
    ours(root)
    rows = "kafka-kafka-1\\t/opt/kafka\\nkafka-web-1\\t/home/me/kafka\\nkafka-tool-1\\t\\n"
    has(root / "bin", docker=f"#!/bin/sh\necho \"$*\" > {root}/asked\nprintf '{rows}'\n")
    (sentence,) = strangers(root)
    assert sentence.startswith(
        "The container kafka-web-1 belongs to another Compose project that is named kafka too, in"
    )
    assert "docker compose --project-directory /home/me/kafka down" in sentence
    assert "ps --all --filter label=com.docker.compose.project=kafka " in (root / "asked").read_text()
