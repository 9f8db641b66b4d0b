"""The refresh that runs at every boot: address, data ownership, and what it refuses."""

from __future__ import annotations

import configparser
import json
import os
from pathlib import Path
from typing import Any

import jinja2
import pytest
from support.load_program import load_program

ROLE = Path(__file__).parents[4] / "roles/service"
SCRIPT = ROLE / "files/env_refresh.py"
UNIT = ROLE / "templates/env-refresh.service.j2"


env_refresh = load_program(SCRIPT)
OWN = (os.getuid(), os.getgid())
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="changing owners needs root")


@pytest.fixture
def service(tmp_path: Path) -> Path:
    description = {
        "name": "kafka",
        "address_metadata": "none",
        "data_directories": [
            {"path": str(tmp_path / "data"), "uid": OWN[0], "gid": OWN[1], "mode": "0750"},
        ],
        "files": [],
        "secrets": [],
    }
    (tmp_path / "service.json").write_text(json.dumps(description))
    return tmp_path


def at(address: str) -> Any:
    return lambda _metadata, _wait: address


def test_first_run_creates_and_second_changes_nothing(service: Path) -> None:
    first = env_refresh.refresh(str(service), 0, at("10.0.0.5"))
    assert first["changed"]
    assert (service / "address.env").read_text() == "HOST_ADDRESS=10.0.0.5\n"
    assert (service / "data").stat().st_mode & 0o7777 == 0o750
    assert env_refresh.refresh(str(service), 0, at("10.0.0.5")) == {
        "changed": False,
        "address": "10.0.0.5",
        "actions": [],
    }


def test_new_address_is_written(service: Path) -> None:
    env_refresh.refresh(str(service), 0, at("10.0.0.5"))
    assert env_refresh.refresh(str(service), 0, at("10.0.0.6"))["actions"] == ["wrote the address 10.0.0.6"]
    assert (service / "address.env").read_text() == "HOST_ADDRESS=10.0.0.6\n"
    assert (service / "address.env").stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in service.iterdir() if entry.name.startswith(".refresh")] == []


def test_data_is_mended_also_when_no_address_is_found(service: Path) -> None:
    def nowhere(_metadata: str, _wait: float) -> str:
        raise env_refresh.RefreshError("no address")

    with pytest.raises(env_refresh.RefreshError):
        env_refresh.refresh(str(service), 0, nowhere)
    assert (service / "data").is_dir()


@needs_root
def test_only_wrong_owners_are_changed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not ours")
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep/file").write_text("x")
    (data / "link").symlink_to(outside)
    for path in (data, data / "deep"):
        os.chown(path, 4242, 4242)
    before = (data / "deep/file").stat().st_ctime_ns
    os.chown(data / "deep/file", 1000, 1000)
    assert env_refresh.mend_data_directory(str(data), 1000, 1000, 0o750)[0].startswith("re-owned 3 entries")
    assert {path.lstat().st_uid for path in (data, data / "deep", data / "deep/file", data / "link")} == {1000}
    assert outside.stat().st_uid == 0, "what a link points to is not ours"
    assert before is not None
    assert env_refresh.mend_data_directory(str(data), 1000, 1000, 0o750) == []


@pytest.mark.parametrize("path", ["/", "/etc", "/var/lib", "/opt", "relative/path", "/opt/kafka/../../etc", "/opt/x/"])
def test_what_must_never_be_owned_is_refused(path: str) -> None:
    with pytest.raises(env_refresh.RefreshError):
        env_refresh.checked_data_directory(path)


@needs_root
def test_link_that_root_did_not_make_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "data"
    link.symlink_to("/etc")
    os.lchown(link, 1000, 1000)
    with pytest.raises(env_refresh.RefreshError, match="root did not make"):
        env_refresh.checked_data_directory(str(link))
    os.lchown(link, 0, 0)
    with pytest.raises(env_refresh.RefreshError, match="belongs to the system"):
        env_refresh.checked_data_directory(str(link))


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def test_metadata_comes_first_and_the_route_is_the_fallback() -> None:
    def broken() -> str:
        raise OSError("timed out")

    assert (
        env_refresh.find_address("aws", 0, sources={"aws": lambda: "10.1.1.1"}, route=lambda: "10.2.2.2") == "10.1.1.1"
    )
    assert env_refresh.find_address("aws", 0, sources={"aws": broken}, route=lambda: "10.2.2.2") == "10.2.2.2"


def test_metadata_is_not_asked_where_none_is_configured() -> None:
    def forbidden() -> str:
        raise AssertionError("asked")

    sources = {"aws": forbidden, "google": forbidden}
    assert env_refresh.find_address("none", 0, sources=sources, route=lambda: "10.2.2.2") == "10.2.2.2"


def test_waits_for_the_network() -> None:
    time = Time()

    def late() -> str:
        if time.now < 7:
            raise OSError("Network is unreachable")
        return "10.2.2.2"

    assert env_refresh.find_address("none", 60, route=late, sleep=time.sleep, monotonic=time.monotonic) == "10.2.2.2"
    assert time.now == 7


def test_at_boot_it_waits_for_a_network_that_is_ten_minutes_late(
    service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line of the unit: when it gives up, the service itself stays down until somebody comes."""
    time = Time()

    def late() -> str:
        if time.now < 600:
            raise OSError("Network is unreachable")
        return "10.2.2.2"

    def find(metadata: str, wait_seconds: float) -> str:
        found = env_refresh.find_address(metadata, wait_seconds, route=late, sleep=time.sleep, monotonic=time.monotonic)
        return str(found)

    monkeypatch.setattr(env_refresh.refresh, "__defaults__", (find,))
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = jinja2.Environment(autoescape=False).from_string(UNIT.read_text())  # noqa: S701 no HTML
    values = {"service_name": "kafka", "service_data_directories": [], "__service_tools": "/tools"}
    unit.read_string(text.render(values, __service_directory=service))
    program, *arguments = unit["Service"]["ExecStart"].removeprefix("/usr/bin/python3 ").split()
    assert program == "/tools/env_refresh.py"
    assert env_refresh.main(arguments) == 0, capsys.readouterr().err
    assert (service / "address.env").read_text() == "HOST_ADDRESS=10.2.2.2\n"
    # The limit that systemd sets must leave it the time to say why it gave up.
    minutes = unit["Service"]["TimeoutStartSec"].removesuffix("min")
    assert float(arguments[arguments.index("--wait") + 1]) < 60 * int(minutes)


@pytest.mark.parametrize("answer", ["127.0.0.1", "169.254", "not an address", ""])
def test_useless_addresses_end_with_a_sentence(answer: str) -> None:
    time = Time()
    with pytest.raises(env_refresh.RefreshError, match=r"not found within 3 s.*Check the network"):
        env_refresh.find_address("none", 3, route=lambda: answer, sleep=time.sleep, monotonic=time.monotonic)


def test_unknown_metadata_source_is_refused() -> None:
    with pytest.raises(env_refresh.RefreshError, match="must be one of: none, aws, google"):
        env_refresh.find_address("azure", 0)


def test_aws_uses_a_session_token() -> None:
    calls = []

    def http(method: str, url: str, headers: dict[str, str]) -> str:
        calls.append((method, url.removeprefix("http://169.254.169.254"), headers))
        return "token" if method == "PUT" else "10.1.1.1"

    assert env_refresh.aws_address(http) == "10.1.1.1"
    assert calls == [
        ("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}),
        ("GET", "/latest/meta-data/local-ipv4", {"X-aws-ec2-metadata-token": "token"}),
    ]


def test_google_sends_its_header() -> None:
    calls = []

    def http(method: str, url: str, headers: dict[str, str]) -> str:
        calls.append((method, headers))
        return "10.1.1.1"

    assert env_refresh.google_address(http) == "10.1.1.1"
    assert calls == [("GET", {"Metadata-Flavor": "Google"})]


@pytest.mark.parametrize(
    "content", ["", "not json", "[]", '{"name": "x"}', '{"address_metadata": "none", "data_directories": [{}]}']
)
def test_broken_description_says_what_to_do(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "service.json").write_text(content)
    assert env_refresh.main([str(tmp_path)]) == 1
    assert "run the role `service` again" in capsys.readouterr().err
