# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rented from an emulator is real: a machine with SSH, and a container with exactly what was ordered."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Marker, Request, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import probe_login, probe_socket
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp as gcp_provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod as runpod_provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock as tensordock_provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import vastai as vastai_provider
from emulators import gcp, runpod, tensordock, vastai
from emulators.docker_machines import DockerMachines
from emulators.server import serving
from emulators.world import Fault, World
from support import local_engine

ROOT = Path(__file__).resolve().parents[2]
CLIENT = local_engine.engine()
IMAGE = local_engine.host_image(CLIENT) if CLIENT else None
pytestmark = [
    pytest.mark.skipif(CLIENT is None, reason="no Docker Engine answers"),
    pytest.mark.skipif(IMAGE is None, reason="no host image; run `make setup` or set GPUFLEET_TEST_HOST_IMAGE"),
]
SCALE = 100.0
SERVE = "mkdir -p /srv/www && cd /srv/www && printenv GREETING > health && exec python3 -m http.server 8000"


@pytest.fixture(scope="module")
def machines() -> Iterator[DockerMachines]:
    assert IMAGE
    made = DockerMachines(IMAGE)
    yield made
    made.close()
    assert CLIENT
    assert local_engine.left_behind(CLIENT, made.deployment_id) == []


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def wait_for(question: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s")


@pytest.fixture(scope="module")
def vast(machines: DockerMachines) -> Iterator[tuple[World, vastai_provider.VastaiProvider]]:
    world = World("vastai", scale=SCALE, machines=machines)
    with serving(vastai.make(world), world) as base:
        yield world, vastai_provider.make({"api_key": "any", "api_url": base})


def test_a_machine_has_ssh_at_a_port_that_changes_and_a_key_that_stays(
    vast: tuple[World, vastai_provider.VastaiProvider], key_file: Path
) -> None:
    world, provider = vast
    (offer, *_more) = provider.offers({"gpu": "A40", "gpu_count": 1, "runtime": "vm", "disk_gib": 20})
    public = key_file.with_suffix(".pub").read_text()
    world.faults = [Fault(trouble="key_late", seconds=12)]
    marker = Marker("emulated-test", "m-1", "abc123", 500_000)
    made = provider.create(Request(marker, offer, disk_gib=20, ssh_public_key=public))

    def probed(host_key: str | None) -> Any:
        now = provider.get(made.id)
        assert isinstance(now, Instance)
        if now.status is not Status.RUNNING or probe_socket(now.ssh_endpoints[0]).kind != "ok":
            return None
        return now.ssh_endpoints[0], probe_login(now.ssh_endpoints[0], "root", host_key, "true", str(key_file))

    first, probe = wait_for(lambda: probed(None), "SSH")
    assert probe.kind == "auth", "the key is late"
    first, probe = wait_for(lambda: (found := probed(None)) and found[1].kind == "ok" and found, "the key's arrival")
    pinned = probe.host_key
    assert pinned.startswith("ssh-ed25519 ")

    world.faults = [Fault(trouble="host_key_changed")]
    provider.stop(made.id)
    assert probe_socket(first).kind == "refused"
    provider.start(made.id)
    second, probe = wait_for(lambda: probed(pinned), "SSH after the start")
    assert second.port != first.port
    probe = wait_for(
        lambda: (found := probed(pinned)) and found[1].kind == "host_key_changed" and found[1], "the change"
    )
    assert provider.delete(made.id)
    wait_for(lambda: probe_socket(second).kind == "refused", "the end of the machine")


def test_a_machine_of_tensordock_is_reached_by_the_ports_that_are_read_back(
    machines: DockerMachines, key_file: Path
) -> None:
    world = World("tensordock", scale=SCALE, machines=machines)
    with serving(tensordock.make(world), world) as base:
        provider = tensordock_provider.make({"api_key": "any", "api_url": base + tensordock.URL_PATH})
        offers = provider.offers({"gpu": "A40", "gpu_count": 1, "disk_gib": 100})
        public = key_file.with_suffix(".pub").read_text()
        assert {one.id.rpartition("/")[2] for one in offers} == {"address", "ports"}
        for number, offer in enumerate(offers):
            marker = Marker("emulated-test", f"td-{number}", f"abc12{number}", 500_000)
            made = provider.create(Request(marker, offer, disk_gib=100, ssh_public_key=public))

            def logged_in(identity: str = made.id) -> bool:
                now = provider.get(identity)
                found = now.ssh_endpoints if now and now.status is Status.RUNNING else ()
                return bool(found) and probe_login(found[0], "root", None, "true", str(key_file)).kind == "ok"

            wait_for(logged_in, "a login with the key that cloud-init brought")
            assert provider.delete(made.id)


def test_a_machine_of_google_is_reached_at_its_address_and_tells_its_host_key(
    machines: DockerMachines, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCP_ACCESS_TOKEN", "any")
    world = World("gcp", scale=SCALE, machines=machines)
    with serving(gcp.make(world), world) as base:
        provider = gcp_provider.make({"project": gcp.PROJECT, "api_url": base + gcp.URL_PATH})
        offer = provider.offers({"gpu": "T4", "gpu_count": 1})[0]
        public = key_file.with_suffix(".pub").read_text()
        made = provider.create(Request(Marker("emulated-test", "gc-1", "abc123"), offer, ssh_public_key=public))

        def logged_in() -> bool:
            now = provider.get(made.id)
            if now is None or now.status is not Status.RUNNING or not (now.ssh_endpoints and now.host_key):
                return False
            return probe_login(now.ssh_endpoints[0], "root", now.host_key, "true", str(key_file)).kind == "ok"

        wait_for(logged_in, "a login with the key of the startup script, by the host key that Google tells")
        assert provider.delete(made.id)


def test_a_container_runs_exactly_what_was_ordered_and_again_after_its_end(machines: DockerMachines) -> None:
    assert CLIENT
    assert IMAGE
    world = World("runpod", scale=SCALE, machines=machines)
    with serving(runpod.make(world), world) as base:
        settings = {"api_key": "any", "api_url": base + "/v2", "proxy_url": base + "/proxy/{id}/{port}"}
        provider = runpod_provider.make(settings)
        (offer, *_more) = provider.offers({"gpu": "A40", "gpu_count": 1, "runtime": "container"})
        marker = Marker("emulated-test", "c-1", "abc123", 500_000)
        made = provider.create(
            Request(
                marker,
                offer,
                image=IMAGE,
                entrypoint=("/bin/sh", "-c"),
                args=(SERVE,),
                env={"GREETING": "hello"},
                ports=((8000, "http"),),
            )
        )
        (url,) = [url for _port, url in made.urls]

        def asked() -> requests.Response | None:
            answer = requests.get(f"{url}/health", timeout=10)
            return answer if answer.status_code == 200 else None

        assert requests.get(f"{url}/health", timeout=10).status_code == 502
        assert wait_for(asked, "the endpoint").text == "hello\n"
        assert "GET /health" in machines.log(made.id)
        (container,) = CLIENT.containers.list(filters={"name": f"{machines.deployment_id}--m{made.id}"})
        config = container.attrs["Config"]
        assert (config["Entrypoint"], config["Cmd"]) == (["/bin/sh", "-c"], [SERVE])
        assert {"GREETING=hello", f"GPUFLEET_MARKER={world.rentals[made.id].owner}"} <= set(config["Env"])
        before = json.dumps(container.attrs["State"]["StartedAt"])
        container.exec_run(["sh", "-c", "kill -INT 1"])  # its own end, not one that the engine was asked for

        def restarted() -> bool:
            container.reload()
            return container.status == "running" and json.dumps(container.attrs["State"]["StartedAt"]) != before

        wait_for(restarted, "the container's second start")
        assert wait_for(asked, "the endpoint after it").text == "hello\n"
        assert requests.get(f"{base}/proxy/{made.id}/9000/", timeout=10).status_code == 404
        assert provider.stop(made.id).status is Status.STOPPED
        assert requests.get(f"{url}/health", timeout=10).status_code == 502
        assert provider.delete(made.id)
        with pytest.raises(docker.errors.NotFound):
            wait_for(container.reload, "the end of the container", 20)


def test_an_image_that_is_not_there_is_told_as_the_provider_tells_it(machines: DockerMachines) -> None:
    world = World("vastai", scale=SCALE, machines=machines)
    with serving(vastai.make(world), world) as base:
        provider = vastai_provider.make({"api_key": "any", "api_url": base})
        (offer, *_more) = provider.offers({"gpu": "A40", "gpu_count": 1, "runtime": "container", "disk_gib": 20})
        marker = Marker("emulated-test", "n-1", "abc123", 500_000)
        made = provider.create(Request(marker, offer, image="localhost:1/no/such:image", disk_gib=20))

        def failed() -> Instance | None:
            now = provider.get(made.id)
            return now if now and now.status is Status.FAILED else None

        assert "Error response from daemon" in wait_for(failed, "the failure").detail
        assert provider.delete(made.id)


def test_a_signal_ends_everything_that_was_rented() -> None:
    assert CLIENT
    assert IMAGE
    command = [sys.executable, "-m", "tests.emulators", "--host-image", IMAGE]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        url = json.loads(running.stdout.readline())["runpod"]
        wish = {"name": "a", "image": IMAGE, "gpu": {"id": "NVIDIA A40", "count": 1}, "args": "sleep 600"}
        pod = requests.post(f"{url}/pods", json=wish, headers={"Authorization": "Bearer any"}, timeout=10).json()

        def started() -> list[Any]:
            found = CLIENT.containers.list(filters={"label": f"gpuops.fleet.name=m{pod['id']}"})
            return [one for one in found if one.attrs["Config"]["Cmd"] == ["sleep", "600"]]

        (container, *_none) = wait_for(started, "the container")
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=120) == 0
    deployment_id = container.labels["gpuops.fleet.deployment"]
    assert re.fullmatch("emulated-[0-9a-f]{8}", deployment_id), "what scripts/leftovers looks for"
    assert local_engine.left_behind(CLIENT, deployment_id) == []
