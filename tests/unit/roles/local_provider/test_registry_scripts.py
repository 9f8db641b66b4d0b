"""The image registry of the provider local: where it listens, what is pushed, and that it stays while it is used."""

from __future__ import annotations

import http.server
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import yaml
from support.fake_commands import NONE_RUNS, ROOT, Commands

FILES = ROOT / "roles/local_provider/files"


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Commands:
    return Commands(tmp_path / "commands")


def engine(hosts: str = "", others: str = "") -> str:
    """A docker in whose engine are the registry, these hosts of the provider and these other containers."""
    return f"""
case "$*" in
"ps --all --filter label=gpuops.fleet=instance"*) printf '%s' '{hosts}' ;;
"ps --format"*) printf '%s' '{others}' ;;
*inspect*"{{{{.Id}}}}"*) echo sha256:new ;;
*inspect*Gateway*) echo 10.209.255.1 ;;
*inspect*"{{{{.Image}}}}"*) exit 1 ;;
esac"""


def test_registry_and_network_are_removed_when_nobody_needs_them(commands: Commands) -> None:
    commands.fake("docker", engine())
    done = commands.run(FILES / "remove-registry", "gpufleet-registry")
    assert (done.returncode, done.stdout) == (0, "")
    assert commands.called()[-2:] == ["docker network rm gpufleet-registry", "docker ps --format {{.Names}}"]
    assert "docker rm --force --volumes gpufleet-registry" in commands.called()


def test_registry_is_kept_while_hosts_of_any_deployment_pull_from_it(commands: Commands) -> None:
    commands.fake("docker", engine(hosts="gpufleet-acme--kafka-1\ngpufleet-other--vllm-1\n"))
    done = commands.run(FILES / "remove-registry", "gpufleet-registry")
    assert done.returncode == 0
    assert done.stdout == (
        "kept: the registry and the engine, because hosts of the provider local still exist: "
        "gpufleet-acme--kafka-1 gpufleet-other--vllm-1\n"
    )
    assert [call for call in commands.called() if " rm " in call] == []


def test_engine_is_kept_while_containers_of_somebody_else_run_in_it(commands: Commands) -> None:
    commands.fake("docker", engine(others="their-database\n"))
    done = commands.run(FILES / "remove-registry", "gpufleet-registry")
    assert done.stdout == "kept: the engine, because other containers run in it: their-database\n"
    assert "docker rm --force --volumes gpufleet-registry" in commands.called()


def test_without_an_engine_there_is_no_registry_to_remove(commands: Commands) -> None:
    commands.fake("docker", NONE_RUNS)
    done = commands.run(FILES / "remove-registry", "gpufleet-registry")
    assert (done.returncode, done.stdout) == (0, "")


# What was asked for --------------------------------------------------------------------------------------------------

ASKED = {"storage": "/srv/registry", "port": "5999", "subnet": "10.209.255.0/24"}


def run_registry(commands: Commands, listening: str = "", **asked: str) -> subprocess.CompletedProcess[str]:
    commands.fake("ss", f"printf '%s' '{listening}'")
    return commands.run(
        FILES / "run-registry", "gpufleet-registry", "gpufleet/registry:trixie", *(ASKED | asked).values()
    )


def remember(commands: Commands) -> None:
    """A docker whose engine keeps the registry's container and network, with what they were made with."""
    kept = commands.directory
    commands.fake(
        "docker",
        f"""
case "$*" in
"image inspect"*) echo sha256:image ;;
"run "*) printf '%s' "$*" | sed 's/.*registry.asked=//; s/ --restart.*//' >'{kept}/container' ;;
"rm "*) rm -f '{kept}/container' ;;
"container inspect"*) [ -e '{kept}/container' ] && echo "sha256:image true $(cat '{kept}/container')" ;;
"network create"*) printf '%s' "$*" | sed 's/.*--subnet //; s/ .*//' >'{kept}/network' ;;
"network rm"*) rm -f '{kept}/network' ;;
"network inspect"*Subnet*) cat '{kept}/network' ;;
"network inspect"*Gateway*) sed 's/0.24$/1/' '{kept}/network' ;;
esac""",
    )


def started(commands: Commands) -> list[str]:
    return [call for call in commands.called() if call.startswith("docker run")]


def test_a_registry_as_it_was_asked_for_is_left_alone(commands: Commands) -> None:
    remember(commands)
    assert run_registry(commands).returncode == 0
    done = run_registry(commands, listening="LISTEN 0 128 127.0.0.1:5999")  # itself
    assert (done.returncode, done.stdout) == (0, "unchanged\n")
    assert len(started(commands)) == 1


@pytest.mark.parametrize(
    ("asked", "shows"),
    [
        ({"port": "5001"}, "--publish 127.0.0.1:5001:5000 --publish 10.209.255.1:5001:5000 "),
        ({"storage": "/srv/elsewhere"}, "--volume /srv/elsewhere:/var/lib/registry "),
        ({"subnet": "10.209.7.0/24"}, "--publish 127.0.0.1:5999:5000 --publish 10.209.7.1:5999:5000 "),
    ],
)
def test_a_registry_that_differs_from_what_is_asked_for_is_replaced(
    commands: Commands, asked: dict[str, str], shows: str
) -> None:
    remember(commands)
    run_registry(commands)
    done = run_registry(commands, **asked)
    assert done.returncode == 0, done.stderr
    assert "unchanged" not in done.stdout
    assert shows in started(commands)[1]
    networks = [call for call in commands.called() if call.startswith("docker network create")]
    assert len(networks) == (2 if "subnet" in asked else 1)
    assert run_registry(commands, **asked).stdout == "unchanged\n"


def test_registry_listens_on_the_port_that_was_chosen(commands: Commands) -> None:
    commands.fake("docker", engine())
    assert run_registry(commands).returncode == 0
    (call,) = started(commands)
    assert "--publish 127.0.0.1:5999:5000 --publish 10.209.255.1:5999:5000 " in call


def test_a_port_of_another_program_is_named_with_the_variable_that_chooses_another(commands: Commands) -> None:
    commands.fake("docker", engine())
    done = run_registry(commands, "LISTEN 0 128 0.0.0.0:5999")
    assert done.returncode == 1
    assert "Port 5999 of this machine is in use" in done.stderr
    assert "export GPUFLEET_REGISTRY_PORT=" in done.stderr
    assert started(commands) == []


# What is pushed ------------------------------------------------------------------------------------------------------


class _Registry(http.server.BaseHTTPRequestHandler):
    """One that holds a single image."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/gpufleet/base/manifests/trixie" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the outcome says enough."""


@pytest.fixture
def registry() -> Iterator[str]:
    """Its address and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def push(commands: Commands, target: str) -> str:
    """What push-image prints, behind a proxy that answers nobody."""
    nowhere = "http://127.0.0.1:9"
    arguments = ("gpufleet/base:trixie", target)
    done = commands.run(FILES / "push-image", *arguments, http_proxy=nowhere, HTTP_PROXY=nowhere, all_proxy=nowhere)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pushed(commands: Commands) -> list[str]:
    return [call for call in commands.called() if call.startswith("docker push")]


def test_what_the_registry_has_is_not_pushed_again(commands: Commands, registry: str) -> None:
    commands.fake("docker", engine())
    assert push(commands, f"{registry}/gpufleet/base:trixie") == "unchanged\n"
    assert pushed(commands) == []


@pytest.mark.parametrize("target", ["gpufleet/base:bookworm", "gpufleet/another:trixie"])
def test_what_the_registry_lacks_is_pushed(commands: Commands, registry: str, target: str) -> None:
    commands.fake("docker", engine())
    assert "unchanged" not in push(commands, f"{registry}/{target}")
    assert pushed(commands) == [f"docker push --quiet {registry}/{target}"]


def test_another_image_under_the_same_tag_is_pushed(commands: Commands, registry: str) -> None:
    target = f"{registry}/gpufleet/base:trixie"
    commands.fake("docker", f'case "$*" in *"{{{{.Id}}}} {target}") echo sha256:old ;; *) echo sha256:new ;; esac')
    assert "unchanged" not in push(commands, target)
    assert pushed(commands) == [f"docker push --quiet {target}"]


# The port ------------------------------------------------------------------------------------------------------------

PORTS = """{{ {'registry': service_build_registry, 'base image': service_build_base_image,
               'engine': docker_daemon_options['insecure-registries'][0],
               'role': local_provider_registry_port} | to_json }}"""


@pytest.mark.parametrize(("chosen", "port"), [({"GPUFLEET_REGISTRY_PORT": "5999"}, "5999"), ({}, "5000")])
def test_one_variable_chooses_the_port_of_role_and_example(
    commands: Commands, chosen: dict[str, str], port: str
) -> None:
    options = ("--inventory", "examples/local/fleet.yml", "--extra-vars", "@roles/local_provider/defaults/main.yml")
    done = commands.run(
        pathlib.Path(sys.executable).parent / "ansible",
        *("kafka-1", *options, "--module-name", "debug", "--args", f'msg="{PORTS}"'),
        directory=ROOT,
        user=None,
        DOCKER_HOST="unix:///nowhere/docker.sock",
        **chosen,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(yaml.safe_load(done.stdout.partition("=>")[2])["msg"]) == {
        "registry": f"registry.gpuops-demo.internal:{port}/gpufleet",
        "base image": f"registry.gpuops-demo.internal:{port}/gpufleet/base:trixie",
        "engine": f"registry.gpuops-demo.internal:{port}",
        "role": port,
    }


def test_scenarios_of_molecule_take_the_port_of_the_same_variable() -> None:
    lines = (ROOT / ".config/molecule/config.yml").read_text().splitlines()
    places = [line for line in lines if "5000" in line]
    assert len(places) > 1
    assert [line for line in places if "${GPUFLEET_REGISTRY_PORT:-5000}" not in line] == []
