# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two model servers behind a gateway get another version, while clients ask all the time.

What stands in for vLLM is a small image, in three versions; all else is real. It ends as soon as it is told to, unlike
vLLM: a request that still runs then is lost, so a server that was not drained would be noticed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import yaml
from demo import Fleet, Machine, Run, Service, things_of
from demo import http as ask

REGISTRY_PORT = os.environ.get("GPUFLEET_REGISTRY_PORT", "5000")
REPOSITORY = "gpufleet/fake-vllm"
ENGINE_BAKED_IN = "gpufleet/host-docker:trixie"
ONE, TWO = "vllm-1", "vllm-2"
MODEL = "acme/tiny"
CLIENTS = 4
FIRST, GOOD, BAD = "1.0.0", "2.0.0", "3.0.0"
# Debian's Python out of the hosts' image, so that nothing is fetched.
PYTHON = "/usr/bin/python3* /usr/lib/python3* /usr/lib/*-linux-gnu/libexpat.so* /usr/lib/*-linux-gnu/libz.so*"
DOCKERFILE = """\
FROM gpufleet/base:trixie
ADD python.tar /
COPY vllm /usr/local/bin/
ENV FAKE_VERSION={version}
"""
SERVER = """\
#!/usr/bin/python3
import http.server, json, os, signal, sys, time

KEY, VERSION = "Bearer " + os.environ["VLLM_API_KEY"], os.environ["FAKE_VERSION"]
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/health" or self.headers.get("Authorization") == KEY else 401, {"data": []})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != KEY:
            return self.answer(401, {})
        if VERSION == "BAD":
            return self.answer(500, {"error": "EngineCore died"})
        time.sleep(0.5)
        self.answer(200, {"choices": [{"text": VERSION}], "usage": {"completion_tokens": 1}})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("", port), Handler).serve_forever()
""".replace('"BAD"', repr(BAD))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every version, in the registry of the provider local."""
    work = tmp_path_factory.mktemp("fake-vllm")
    (work / "vllm").write_text(SERVER)
    (work / "vllm").chmod(0o755)
    with (work / "python.tar").open("wb") as archive:
        pack = ["--entrypoint", "/bin/sh", "gpufleet/host:trixie", "-c", f"tar --create {PYTHON}"]
        subprocess.run(["docker", "run", "--rm", *pack], stdout=archive, check=True, timeout=120)
    for version in (FIRST, GOOD, BAD):
        (work / "Dockerfile").write_text(DOCKERFILE.format(version=version))
        name = f"127.0.0.1:{REGISTRY_PORT}/{REPOSITORY}:{version}"
        for command in (["build", "--quiet", "--tag", name, str(work)], ["push", "--quiet", name], ["rmi", name]):
            done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr


class TwoServers:
    """The fleet: the first server's host has the gateway, too."""

    def __init__(self, work: pathlib.Path, deployment_id: str) -> None:
        self.deployment_id = deployment_id
        registry = f"registry.{deployment_id}.internal:{REGISTRY_PORT}"
        self._image = f"{registry}/{REPOSITORY}"
        key = work / "id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        host: dict[str, object] = {"providers": ["local"], "instance_type": "medium"}
        # A host on which the engine must be installed first only takes longer.
        if subprocess.run(
            ["docker", "image", "ls", "--quiet", ENGINE_BAKED_IN], capture_output=True, check=True
        ).stdout:
            host["image"] = ENGINE_BAKED_IN
        wanted = {
            "plugin": "gpuops.fleet.fleet",
            "deployment_id": deployment_id,
            "defaults": {"ssh_private_key_file": str(key)},
            "instances": [
                {"name": ONE, "roles": ["vllm", "gateway"], **host},
                {"name": TWO, "roles": ["vllm"], **host},
            ],
        }
        (work / "fleet.yml").write_text(yaml.safe_dump(wanted))
        (work / "group_vars").mkdir()
        (work / "group_vars" / "all.yml").write_text(
            yaml.safe_dump(
                {
                    "vllm_model": MODEL,
                    "vllm_gpu": False,
                    "vllm_prefetch": False,
                    "vllm_cpu_kv_cache_gib": 1,
                    "vllm_memory_mib": 3500,
                    "docker_daemon_options": {"insecure-registries": [registry]},
                }
            )
        )
        home = {"GPUFLEET_REPORT_DIRECTORY": str(work / "report"), "GPUFLEET_HOME": str(work / "home")}
        self.fleet = Fleet(work / "fleet.yml", home)

    def deploy(self, version: str, *options: str) -> Run:
        return self.fleet.playbook("deploy", "--extra-vars", f"vllm_image={self._image}:{version}", *options)

    def machine(self, name: str) -> Machine:
        return Machine(name, self.fleet.variables(name))

    def containers(self) -> dict[str, str]:
        """Host → the id of its server's container, which is another one after each restart."""
        return {name: Service("vllm", self.machine(name)).container() for name in (ONE, TWO)}

    def versions(self) -> dict[str, str]:
        """Host → what it runs."""
        images = {name: Service("vllm", self.machine(name)).inspect()["Config"]["Image"] for name in (ONE, TWO)}
        return {name: image.rpartition(":")[2] for name, image in images.items()}

    def moment(self, name: str, what: str) -> int:
        """When the unit last became active (Enter), or ceased to be so (Exit): microseconds of the one clock of all."""
        shown = self.machine(name).run(f"systemctl show --property=Active{what}TimestampMonotonic --value vllm")
        return int(shown)

    @contextlib.contextmanager
    def asked(self) -> Iterator[list[str]]:
        """What clients get through the gateway meanwhile: the version that answered, or what went wrong."""
        gateway, answers, done = self.machine(ONE), list[str](), threading.Event()
        key = gateway.run("cat /opt/gateway/secrets/keys/verify").strip()
        certificate = gateway.run("cat /opt/gateway/certificate.pem")
        question = {"model": MODEL, "prompt": "The sky is", "max_tokens": 1}

        def ask_on() -> None:
            while not done.is_set():
                try:
                    status, text = ask(f"https://{gateway.address}/v1/completions", question, key, certificate)
                    answers.append(json.loads(text)["choices"][0]["text"] if status == 200 else f"{status}: {text}")
                except (OSError, http.client.HTTPException) as problem:
                    answers.append(repr(problem))
                time.sleep(0.05)

        clients = [threading.Thread(target=ask_on) for _number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            yield answers
        finally:
            done.set()
            for client in clients:
                client.join()


@pytest.fixture(scope="module")
def servers(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoServers]:
    """Two new hosts with the first version; destroyed afterwards, with proof."""
    two = TwoServers(tmp_path_factory.mktemp("rolling"), f"e2e-{uuid.uuid4().hex[:8]}")
    try:
        rented = two.fleet.playbook("provision", "playbooks/prepare.yml")
        assert rented.status == 0, rented.output[-3000:]
        yield two
    finally:
        ended = two.fleet.playbook("destroy")
        assert ended.status == 0, ended.output[-3000:]
        assert things_of(two.deployment_id) == ""


DRAINED = "Let the gateways send it no requests"
ONE_BY_ONE = r"PLAY \[Upgrade the model servers that serve already, one after the other\]"


def test_new_servers_are_deployed_at_once_and_have_one_key(servers: TwoServers) -> None:
    run = servers.deploy(FIRST)
    assert run.status == 0, run.output[-4000:]
    assert re.search(ONE_BY_ONE + r" \*+\nskipping: no hosts matched", run.output)
    keys = {servers.machine(name).run("cat /opt/vllm/secrets/api_key") for name in (ONE, TWO)}
    assert len(keys) == 1
    assert servers.versions() == {ONE: FIRST, TWO: FIRST}


def test_another_version_reaches_one_after_the_other_and_no_request_is_lost(servers: TwoServers) -> None:
    with servers.asked() as answers:
        run = servers.deploy(GOOD)
    assert run.status == 0, run.output[-4000:]
    assert servers.versions() == {ONE: GOOD, TWO: GOOD}
    assert set(answers) == {FIRST, GOOD}, "no request was lost"
    assert answers[-1] == GOOD
    assert len(re.findall(ONE_BY_ONE, run.output)) == 2
    assert servers.moment(TWO, "Exit") > servers.moment(ONE, "Enter")
    # The first one had requests again before the other one was drained.
    assert answers.index(GOOD) < len(answers) - answers[::-1].index(FIRST) - 1


def test_a_version_that_does_not_work_stops_at_the_first_server(servers: TwoServers) -> None:
    before = servers.containers()
    with servers.asked() as answers:
        run = servers.deploy(BAD)
    assert run.status != 0
    assert "so the last good one runs again" in run.words
    assert f"vLLM on {ONE} runs, but answered a completion with HTTP 500" in run.words
    assert servers.versions() == {ONE: GOOD, TWO: GOOD}
    after = servers.containers()
    assert after[ONE] != before[ONE]
    assert after[TWO] == before[TWO], "the second one was never touched"
    assert set(answers) == {GOOD}, "no request was lost"


@pytest.mark.parametrize(("version", "options"), [(GOOD, []), (BAD, ["--check"])], ids=["second-run", "check"])
def test_where_nothing_is_restarted_nothing_is_drained(servers: TwoServers, version: str, options: list[str]) -> None:
    before = servers.containers()
    run = servers.deploy(version, *options)
    assert run.status == 0, run.output[-4000:]
    assert set(run.changed) == ({ONE, TWO} if options else set())
    assert DRAINED not in run.output
    assert servers.containers() == before
