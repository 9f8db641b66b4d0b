# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/mixed: a rented model server, measured by a pipeline on hosts; from the fleet file to a green verdict.

The hosts are those of the demo, so that nothing is built twice. The server is the image that the demo built, behind a
rental of the emulated Vast.ai, started with exactly what was ordered: RunPod, which is cheaper, is sold out. More
happens at Vast.ai: the container makes its own certificate, and clients pin it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from demo import Fleet, eventually
from emulators.docker_machines import DockerMachines
from emulators.world import Fault, Rental
from support import local_engine
from support.emulated_clouds import SOLD_OUT
from support.rented_models import KEY, ROOT, Setting, rented

ENGINE = local_engine.engine()
pytestmark = pytest.mark.skipif(ENGINE is None, reason="no Docker Engine answers on this machine")

DEPLOYMENT = "gpuops-demo"  # of the fleet of the demo
NAME = "model-1"
MODEL = "gpuops/tiny-random-llama"
SETTINGS: dict[str, Any] = {"model": MODEL, "model_source": "generated", "max_model_len": 512}
TAG = "gpufleet/vllm-cpu:0.32.0"


@pytest.fixture(scope="module")
def image(vllm_image: Callable[[], str]) -> Iterator[str]:
    """The image of the demo's vLLM host, on this machine for a while."""
    assert ENGINE
    source = vllm_image()
    ENGINE.images.get(source).tag(TAG)
    yield TAG
    for name in (TAG, source):
        ENGINE.images.remove(name)


@pytest.fixture(scope="module")
def outside() -> str:
    """This machine's address on the demo's network: hosts and containers reach what answers there."""
    assert ENGINE
    network = ENGINE.networks.get(f"gpufleet-{DEPLOYMENT}")
    return str(network.attrs["IPAM"]["Config"][0]["Gateway"])


@pytest.fixture(scope="module")
def machines(outside: str) -> DockerMachines:
    return DockerMachines(outside=outside)


@pytest.fixture(scope="module")
def setting(machines: DockerMachines, outside: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with rented(tmp_path_factory.mktemp("rented"), {"runpod": machines, "vastai": machines}, outside) as made:
        yield made


@pytest.fixture
def mixed(fleet: Fleet, image: str, setting: Setting) -> Iterator[Path]:
    """The example, with the demo's name, images and hosts; its model server has a name that the demo doesn't use."""
    file = setting.copy("mixed")
    wanted = yaml.safe_load(file.read_text())
    wanted["deployment_id"] = DEPLOYMENT
    wanted["defaults"]["ssh_private_key_file"] = str(ROOT / "build" / "ssh" / "id_ed25519")
    wanted["instances"][0]["name"] = NAME
    file.write_text(yaml.safe_dump(wanted))
    variables = file.parent / "group_vars" / "all.yml"
    demo = yaml.safe_load((ROOT / "examples" / "local" / "group_vars" / "all.yml").read_text())
    chosen = {f"vllm_{name}": value for name, value in SETTINGS.items()}
    # No card is behind the emulator, and the image is one for the CPU.
    chosen |= {"vllm_gpu": False, "vllm_image": image, "vllm_image_build": False}
    # The hosts keep the rules of the demo.
    chosen |= {"fleet_firewall": False, "fleet_hardening": False}
    variables.write_text(yaml.safe_dump({**demo, **yaml.safe_load(variables.read_text()), **chosen}))
    setting.worlds["runpod"].faults = [Fault(method="POST", path="/pods$", status=400, body=SOLD_OUT, times=None)]
    yield file
    setting.play(file, "destroy", "--limit", NAME, "-e", f"fleet_confirm={DEPLOYMENT}")
    assert setting.alive("vastai") == []
    restored = fleet.playbook("deploy", "--limit", "producer-1")
    assert restored.status == 0, restored.output[-3000:]


def asked(setting: Setting, rental: Rental) -> int:
    """How often somebody asked about it."""
    world, path = setting.worlds["vastai"], f"/api/v0/instances/{rental.id}/"
    with world.lock:
        return sum((call["method"], call["path"]) == ("GET", path) for call in world.calls)


def container(machines: DockerMachines) -> Any:
    assert ENGINE
    (found,) = ENGINE.containers.list(filters={"label": f"gpuops.fleet.deployment={machines.deployment_id}"})
    return found


def test_the_built_image_serves_as_ordered_and_the_pipeline_measures_it(
    mixed: Path, image: str, fleet: Fleet, setting: Setting, machines: DockerMachines
) -> None:
    # Broker and database are as the demo left them; that a second run finds nothing to do there is tested elsewhere.
    setting.play(mixed, "site", "--limit", f"{NAME},processor-1,producer-1")
    assert setting.alive("runpod") == []
    report = setting.verified(NAME)
    assert report["endpoint"]["model"] == MODEL
    (rental,) = setting.alive("vastai")
    assert report["endpoint"]["url"].startswith("https://")
    assert sorted(one["service"] for one in report["services"]) == ["processor", "producer", "vllm"]

    # Computed here once more, from the same variables.
    defaults = {"cpu_kv_cache_gib": 1, "enforce_eager": True, "gpu": False}
    result = vllm_rental({**SETTINGS, **defaults}, image, KEY)
    assert result["problem"] == ""
    ordered = result["request"]
    found = container(machines)
    config = found.attrs["Config"]
    # Vast.ai takes a program and its arguments, so that is where they are divided.
    started = config["Entrypoint"] + config["Cmd"]
    assert started == [*ordered["entrypoint"], *ordered["args"], *ordered["tls_args"]]
    given = dict(variable.split("=", 1) for variable in config["Env"])
    assert {**ordered["public_env"], "VLLM_API_KEY": KEY}.items() <= given.items()
    assert config["Image"] == image

    # What runs is what was ordered: the entry point has become the server, and nobody sees the key.
    status, running = found.exec_run(["cat", "/proc/1/cmdline"])
    assert status == 0
    words = running.decode().rstrip("\0").split("\0")
    assert words[words.index("serve") :] == started[started.index("serve") :]
    status, all_of_them = found.exec_run(["sh", "-c", "cat /proc/[0-9]*/cmdline"])
    assert KEY.encode() not in all_of_them
    printed = machines.log(rental.id)
    assert report["endpoint"]["tls_fingerprint"] in printed
    assert KEY not in printed

    # The producer asks it over TLS, and would talk to no other.
    environment = fleet.service("producer").inspect()["Config"]["Env"]
    assert f"VLLM_URL={report['endpoint']['url']}" in environment
    assert f"VLLM_TLS_FINGERPRINT={report['endpoint']['tls_fingerprint']}" in environment

    # When its lifetime is over it ends itself, with the key that it was given; the restart spares us five minutes.
    marker = _marker.parse(rental.owner)
    assert marker
    before = asked(setting, rental)
    found.restart(timeout=1)
    eventually(lambda: asked(setting, rental) > before, 60, "its look at its expiry")
    assert rental.alive, "it has time left"
    rental.wire["label"] = _marker.encode(replace(marker, expiry_epoch_hours=int(time.time() // 3600)))
    found.restart(timeout=1)
    eventually(lambda: not rental.alive, 120, "its end")
