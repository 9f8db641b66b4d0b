# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules against the real local provider: real containers, real SSH, real crashes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _probe
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint
from support import local_engine

DOCKER = local_engine.engine()
IMAGE = local_engine.host_image(DOCKER) if DOCKER else None
pytestmark = [
    pytest.mark.skipif(DOCKER is None, reason="no Docker Engine answers on this machine"),
    pytest.mark.skipif(DOCKER is not None and IMAGE is None, reason="the host image is missing; run make setup"),
]

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def client() -> docker.DockerClient:
    assert DOCKER
    return DOCKER


@pytest.fixture
def deployment(client: docker.DockerClient) -> Iterator[str]:
    """A deployment of this test's own; whatever it leaves behind is removed, however the test ended."""
    name = f"it-{random.randrange(16**8):08x}"  # noqa: S311 (no secret)
    yield name
    label: dict[str, str | list[str] | bool] = {"label": f"gpuops.fleet.deployment={name}"}
    for container in client.containers.list(all=True, filters=label):
        container.remove(v=True, force=True)
    for network in client.networks.list(filters=label):
        network.remove()


@pytest.fixture
def arguments(deployment: str) -> dict[str, Any]:
    return {
        "deployment_id": deployment,
        "name": "a-1",
        "providers": ["local"],
        "provider_settings": {"local": {"image": IMAGE}},
        "wait": "none",
    }


@pytest.fixture
def instance(arguments: dict[str, Any], tmp_path: Path) -> Module:
    """Run the instance module, in a process with an empty home; fails the test when the module fails."""

    def run(**values: Any) -> dict[str, Any]:
        result = local_engine.run_module("instance", tmp_path / "home", **{**arguments, **values})
        assert not result.get("failed"), result["msg"]
        return result

    return run


@pytest.fixture
def private_key(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def instances(client: docker.DockerClient, deployment: str) -> list[Any]:
    labels = ["gpuops.fleet.marker", f"gpuops.fleet.deployment={deployment}"]
    return list(client.containers.list(all=True, filters={"label": labels}))


def inside(client: docker.DockerClient, deployment: str, name: str, command: str) -> str:
    try:
        code, out = client.containers.get(f"gpufleet-{deployment}--{name}").exec_run(["sh", "-c", command])
    except docker.errors.APIError:
        return "down"  # between its end and its next start
    return b"".join([out] if isinstance(out, bytes) else out).decode().strip() if code == 0 else f"exit {code}"


def registry_address(client: docker.DockerClient, deployment: str) -> str:
    """Gateway of the registry's network where set-up made one, else of the deployment's own."""
    found = client.networks.list(names=["gpufleet-registry"]) or client.networks.list(names=[f"gpufleet-{deployment}"])
    return str(found[0].attrs["IPAM"]["Config"][0]["Gateway"])


def eventually(check: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.5)
    return False


def test_the_life_of_a_host(
    instance: Module, client: docker.DockerClient, deployment: str, private_key: Path, tmp_path: Path
) -> None:
    ssh = {"wait": "ssh", "ssh_private_key_file": str(private_key)}
    created = instance(**ssh)
    (volume,) = client.volumes.list(filters={"label": f"gpuops.fleet.deployment={deployment}"})
    assert volume.attrs["Labels"]["gpuops.fleet.name"] == "a-1", "what scripts/leftovers finds it by"
    assert created["actions"] == ["create"]
    one = created["instance"]
    assert (one["status"], one["ssh_port"], one["price_per_hour_usd"]) == ("running", 22, 0.0)
    assert one["peer_name"] == f"a-1.{deployment}.internal"
    # The host key that the provider attests is the one that SSH shows.
    scanned = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", one["ssh_host"]], check=True, capture_output=True, text=True
    ).stdout
    assert one["host_key"] in scanned
    assert eventually(lambda: inside(client, deployment, "a-1", "systemctl is-system-running") == "running")
    mounts = inside(client, deployment, "a-1", "sort /proc/1/mounts")
    assert "/sys" in mounts
    assert not instance(**ssh)["changed"]
    assert inside(client, deployment, "a-1", "sort /proc/1/mounts") == mounts, "a look leaves nothing behind"

    # Peers resolve each other, the registry and the world, at addresses that nested containers can use as well.
    instance(name="b-1")
    resolve = f"getent ahostsv4 a-1.{deployment}.internal | cut -d' ' -f1 | head -n 1"
    assert eventually(lambda: inside(client, deployment, "b-1", resolve) == one["address"])
    registry = f"getent ahostsv4 registry.{deployment}.internal | cut -d' ' -f1 | head -n 1"
    # A name server that is busy is asked again.
    assert eventually(lambda: inside(client, deployment, "b-1", registry) == registry_address(client, deployment), 30)
    assert inside(client, deployment, "b-1", f"getent hosts nobody.{deployment}.internal") == "exit 2"
    assert "127.0.0.11" not in inside(client, deployment, "b-1", "cat /etc/resolv.conf")

    # A reboot keeps the address, stop and start changes it; the name follows.
    boot = "cat /proc/1/stat | cut -d' ' -f22"
    before = inside(client, deployment, "a-1", boot)
    client.containers.get(f"gpufleet-{deployment}--a-1").exec_run(["systemctl", "reboot"])
    assert eventually(lambda: (now := inside(client, deployment, "a-1", boot)).isdigit() and now != before)
    assert instance(**ssh)["instance"]["address"] == one["address"]
    assert instance(state="stopped")["instance"]["status"] == "stopped"
    assert not instance(state="stopped")["changed"]
    assert not instance()["changed"]  # present: whatever its power state
    started = instance(state="started", **ssh)
    assert started["actions"] == ["start"]
    assert started["instance"]["address"] != one["address"]
    assert started["instance"]["host_key"] == one["host_key"]
    assert eventually(lambda: inside(client, deployment, "b-1", resolve) == started["instance"]["address"])

    # A crash between the steps of a start: stopped, and without any network.
    instance(state="stopped")
    network = client.networks.get(f"gpufleet-{deployment}")
    network.disconnect(f"gpufleet-{deployment}--a-1")
    assert instance(state="started", **ssh)["instance"]["address"]

    for name in ("a-1", "b-1"):
        assert instance(name=name, state="absent")["changed"]
        assert not instance(name=name, state="absent")["changed"]
    assert local_engine.left_behind(client, deployment) == []
    assert client.volumes.list(filters={"label": f"gpuops.fleet.deployment={deployment}"}) == []


def test_what_a_real_ssh_server_answers_has_its_class(
    instance: Module, deployment: str, private_key: Path, client: docker.DockerClient, tmp_path: Path
) -> None:
    """The words of ssh by which classes are told, from a real client and a real server."""
    one = instance(wait="ssh", ssh_private_key_file=str(private_key))["instance"]
    there = Endpoint(one["ssh_host"], one["ssh_port"])
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    other_key = " ".join((tmp_path / "stranger.pub").read_text().split()[:2])
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n-----END OPENSSH PRIVATE KEY-----\n")
    broken.chmod(0o600)

    def login(host_key: str | None = one["host_key"], command: str = "true", key: Path = private_key) -> _probe.Probe:
        return _probe.probe_login(there, "root", host_key, command, str(key))

    assert _probe.probe_socket(there).kind == "ok"
    assert login().kind == "ok"
    assert login(host_key=None).host_key == one["host_key"]  # learnt at the first login
    assert login(key=stranger).kind == "auth"
    assert login(key=broken).kind == "local_key"
    assert login(host_key=other_key).kind == "host_key_changed"
    assert login(host_key="ecdsa-sha2-nistp384 AAAAE2VjZHNh").kind == "host_key_unknown"
    assert login(command="exit 7").kind == "command_failed"
    assert inside(client, deployment, "a-1", "systemctl stop ssh.socket ssh.service") == ""
    assert _probe.probe_socket(there).kind == "refused"


def test_check_mode_and_drift(instance: Module, arguments: dict[str, Any], deployment: str, tmp_path: Path) -> None:
    assert DOCKER
    planned = instance(_ansible_check_mode=True, instance_type="small")
    assert planned["changed"]
    assert planned["offer"]["id"] == "small"
    assert local_engine.left_behind(DOCKER, deployment) == []
    instance(instance_type="small")
    wish = {**arguments, "instance_type": "medium"}
    drifted = local_engine.run_module("instance", tmp_path, **wish)
    assert drifted["failure"]["code"] == "drift"
    assert drifted["differences"] == [{"field": "instance_type", "current": "small", "wanted": "medium"}]
    replaced = instance(instance_type="medium", on_drift="replace")
    assert replaced["actions"] == ["delete", "create"]
    assert len(instances(DOCKER, deployment)) == 1


def test_many_controllers_at_once_end_with_one_rental_of_each(
    arguments: dict[str, Any], client: docker.DockerClient, deployment: str, tmp_path: Path
) -> None:
    """Eight controllers that share nothing want three instances, and make their network at the same time."""
    names = ["a-1", "b-1", "c-1", "a-1", "b-1", "c-1", "a-1", "a-1"]
    started = [
        local_engine.start_module("instance", tmp_path / f"home-{index}", **{**arguments, "name": name})
        for index, name in enumerate(names)
    ]
    results = [local_engine.finish(process) for process in started]
    assert [result.get("msg") for result in results if result.get("failed")] == []
    assert {(one["name"], one["id"]) for one in (result["instance"] for result in results)} == {
        (container.labels["gpuops.fleet.name"], container.id) for container in instances(client, deployment)
    }
    assert len(instances(client, deployment)) == 3
    addresses = [result["instance"]["address"] for result in results]
    assert len(set(addresses)) == 3
    assert len(client.networks.list(filters={"label": f"gpuops.fleet.deployment={deployment}"})) == 1

    # All at once they go, also twice, and nothing is left.
    started = [
        local_engine.start_module("instance", tmp_path, **{**arguments, "name": name, "state": "absent"})
        for name in names
    ]
    results = [local_engine.finish(process) for process in started]
    assert [result.get("msg") for result in results if result.get("failed")] == []
    assert local_engine.left_behind(client, deployment) == []


@pytest.mark.parametrize("state", ["started", "absent"])
def test_a_controller_killed_at_any_point_is_repaired_by_running_again(
    instance: Module,
    arguments: dict[str, Any],
    client: docker.DockerClient,
    deployment: str,
    tmp_path: Path,
    state: str,
) -> None:
    began = time.monotonic()
    instance(state=state)
    usual_seconds = max(0.8, time.monotonic() - began)
    for step in range(8):
        if state == "absent":
            instance()
        else:
            instance(state="absent")
        process = local_engine.start_module("instance", tmp_path / "home", **{**arguments, "state": state})
        time.sleep(usual_seconds * (0.25 + 0.1 * step))
        process.send_signal(signal.SIGKILL)
        process.wait()
        result = instance(state=state)
        alive = instances(client, deployment)
        if state == "absent":
            assert local_engine.left_behind(client, deployment) == []
        else:
            assert [container.id for container in alive] == [result["instance"]["id"]]
            assert result["instance"]["status"] == "running"
            assert result["instance"]["address"]
        assert not instance(state=state)["changed"]


def test_the_last_one_goes_while_another_comes(instance: Module, client: docker.DockerClient, deployment: str) -> None:
    """Network and resolver are removed with the last instance; a create at the same moment must not lose them."""
    for _round in range(3):
        instance(name="a-1")
        with ThreadPoolExecutor() as pool:
            gone = pool.submit(instance, name="a-1", state="absent")
            came = pool.submit(instance, name="b-1")
            assert gone.result()["changed"]
            assert came.result()["instance"]["address"]
        assert eventually(
            lambda: inside(client, deployment, "b-1", f"getent hosts registry.{deployment}.internal").endswith(
                "internal"
            )
        )
        instance(name="b-1", state="absent")
        assert local_engine.left_behind(client, deployment) == []


def test_failures_say_what_to_do(
    arguments: dict[str, Any], deployment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failure(**values: Any) -> str:
        result = local_engine.run_module("instance", tmp_path, **{**arguments, **values})
        assert result["failed"]
        assert set(result["failure"]) == {"provider", "code", "status", "request_id", "message", "fix"}
        return str(result["msg"])

    assert "'no/such:image' is not on this Docker Engine. Run 'make setup'" in failure(image="no/such:image")
    assert "too generic" in failure(deployment_id="test")
    assert "use one of: local" in failure(providers=["lokal"])
    assert "No offer of local fits" in failure(gpu="L4")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert "No Docker Engine answers at" in failure()
    assert DOCKER
    assert local_engine.left_behind(DOCKER, deployment) == []


def test_info_modules_see_what_is_there(
    instance: Module, arguments: dict[str, Any], deployment: str, tmp_path: Path
) -> None:
    common = {key: arguments[key] for key in ("deployment_id", "providers", "provider_settings")}
    instance()
    found = local_engine.run_module("instance_info", tmp_path, **common)
    assert [one["name"] for one in found["instances"]] == ["a-1"]
    assert found["complete"]
    market = local_engine.run_module("offer_info", tmp_path, providers=["local"])
    assert [offer["price_per_hour_usd"] for offer in market["offers"]] == [0.0] * len(market["offers"])
    cost = local_engine.run_module("cost_info", tmp_path, **common)
    assert (cost["price_per_hour_usd"], cost["complete"]) == (0.0, True)
    fleet = tmp_path / "fleet.yml"
    fleet.write_text(f"plugin: gpuops.fleet.fleet\ndeployment_id: {deployment}\ninstances: []\n")
    common["fleet_files"] = [str(fleet)]
    orphan = local_engine.run_module("orphan", tmp_path, **common)
    assert [one["name"] for one in orphan["orphans"]] == ["a-1"]
    assert not orphan["changed"]
    young = local_engine.run_module("orphan", tmp_path, confirm=deployment, **common)
    assert not young["changed"]
    old = {"confirm": deployment, "grace_seconds": 0, "_ansible_check_mode": True}
    doomed = local_engine.run_module("orphan", tmp_path, **old, **common)
    assert [one["name"] for one in doomed["deleted"]] == ["a-1"]
    assert DOCKER
    assert len(instances(DOCKER, deployment)) == 1
