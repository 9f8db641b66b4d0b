# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image that the demo built serves behind a rental, too: started with exactly what was ordered, and verified.

At the emulated Vast.ai, because more happens there: the container makes its own certificate, and clients pin it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.vllm_rental import vllm_rental
from demo import Fleet
from emulators.docker_machines import DockerMachines
from support import local_engine
from support.rented_models import KEY, Setting, rented

ENGINE = local_engine.engine()
pytestmark = pytest.mark.skipif(ENGINE is None, reason="no Docker Engine answers on this machine")

MODEL = "gpuops/tiny-random-llama"
TAG = "gpufleet/vllm-cpu:0.32.0"


@pytest.fixture(scope="module")
def image(fleet: Fleet) -> Iterator[str]:
    """The image of the demo's vLLM host, on this machine for a while."""
    assert ENGINE
    vllm = fleet.service("vllm")
    source = vllm.inspect()["Config"]["Image"]
    with subprocess.Popen(vllm.machine.ssh(f"docker save {source}"), stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, timeout=600)
    assert saved.returncode == 0
    ENGINE.images.get(source).tag(TAG)
    yield TAG
    for name in (TAG, source):
        ENGINE.images.remove(name)


@pytest.fixture(scope="module")
def machines() -> DockerMachines:
    return DockerMachines()


@pytest.fixture(scope="module")
def setting(machines: DockerMachines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    with rented(tmp_path_factory.mktemp("rented"), {"runpod": machines, "vastai": machines}) as made:
        yield made


def container(machines: DockerMachines) -> Any:
    assert ENGINE
    (found,) = ENGINE.containers.list(filters={"label": f"gpuops.fleet.deployment={machines.deployment_id}"})
    return found


def test_the_built_image_serves_behind_a_rental_as_ordered(
    image: str, setting: Setting, machines: DockerMachines
) -> None:
    file = setting.copy("vastai")
    variables = file.parent / "group_vars" / "all.yml"
    settings: dict[str, Any] = {"model": MODEL, "model_source": "generated", "max_model_len": 512}
    chosen = {f"vllm_{name}": value for name, value in settings.items()}
    # No card is behind the emulator, and the image is one for the CPU.
    chosen |= {"vllm_gpu": False, "vllm_image": image}
    variables.write_text(yaml.safe_dump({**yaml.safe_load(variables.read_text()), **chosen}))
    setting.play(file, "site")
    report = setting.verified()
    assert report["endpoint"]["model"] == MODEL
    assert report["endpoint"]["url"].startswith("https://127.0.0.1:")

    # Computed here once more, from the same variables.
    defaults = {"cpu_kv_cache_gib": 1, "enforce_eager": True, "gpu": False}
    result = vllm_rental({**settings, **defaults}, image, KEY)
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
    printed = machines.log(setting.alive("vastai")[0].id)
    assert report["endpoint"]["tls_fingerprint"] in printed
    assert KEY not in printed

    setting.destroy(file)
    assert setting.alive("vastai") == []
    assert json.loads((setting.work / "report" / "verify.json").read_text())["ok"]
