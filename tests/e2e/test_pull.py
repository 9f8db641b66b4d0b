# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way that images take to most users' hosts: pulled, by digest, onto a host that has none of them.

The demo built them and pushed them to its registry. A host of another deployment gets nothing but their digests.
"""

from __future__ import annotations

import http.client as http_client
import json
import os
import pathlib
import re
import subprocess
import uuid
from collections.abc import Iterator

import pytest
import yaml
from demo import SCALE, Fleet, Run, eventually, http, things_of

PORT = int(os.environ.get("GPUFLEET_REGISTRY_PORT", "5000"))
ENGINE_BAKED_IN = "gpufleet/host-docker:trixie"
REPOSITORIES = {"kafka": "kafka", "mongodb": "ferretdb", "processor": "telemetry", "producer": "telemetry"}
# All images come the same way, so one of them is enough but for the long form.
PULLED = list(REPOSITORIES) if SCALE > 1 else ["kafka"]
MANIFESTS = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")


@pytest.fixture(scope="module")
def digests(fleet: Fleet) -> dict[str, str]:
    """Of the images that the demo runs, as its registry reports them."""
    found = {}
    for service in PULLED:
        repository = REPOSITORIES[service]
        image = fleet.service(service).inspect()["Config"]["Image"]
        known = re.fullmatch(rf"registry\.[^/]+:{PORT}/gpufleet/{repository}@(sha256:[0-9a-f]{{64}})", image)
        if known is None:
            pytest.skip(f"this deployment runs {image}, which is not from the registry of the provider local")
        connection = http_client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        path = f"/v2/gpufleet/{repository}/manifests/{known[1]}"
        connection.request("HEAD", path, headers={"Accept": ", ".join(MANIFESTS)})
        answer = connection.getresponse()
        assert answer.status == 200, f"{path}: {answer.status}"
        found[service] = str(answer.getheader("Docker-Content-Digest"))
        connection.close()
    return found


@pytest.fixture(scope="module")
def images(digests: dict[str, str], deployment_id: str) -> dict[str, str]:
    """What the variables of the roles say: a registry, a name and a digest, and no tag."""
    registry = f"registry.{deployment_id}.internal:{PORT}/gpufleet"
    return {service: f"{registry}/{REPOSITORIES[service]}@{digest}" for service, digest in digests.items()}


@pytest.fixture(scope="module")
def deployment_id() -> str:
    return f"e2e-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def fresh(
    images: dict[str, str], deployment_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, Run]]:
    """One new host for all of these services, and the run that deployed them; destroyed afterwards, with proof."""
    directory = tmp_path_factory.mktemp("pull")
    key = directory / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host = {"name": "one-1", "roles": list(images), "providers": ["local"], "instance_type": "medium"}
    # A host on which the engine must be installed first only takes longer.
    if subprocess.run(["docker", "image", "ls", "--quiet", ENGINE_BAKED_IN], capture_output=True, check=True).stdout:
        host["image"] = ENGINE_BAKED_IN
    write(
        directory / "fleet.yml",
        plugin="gpuops.fleet.fleet",
        deployment_id=deployment_id,
        defaults={"ssh_private_key_file": str(key)},
        instances=[host],
    )
    write(
        directory / "group_vars" / "all.yml",
        **{f"{service}_image": image for service, image in images.items()},
        **{f"{service}_image_build": False for service in images},
        docker_daemon_options={"insecure-registries": [f"registry.{deployment_id}.internal:{PORT}"]},
        mongodb_engine="ferretdb",
        # Nobody serves there: the producer waits for its answers, and samples its host meanwhile.
        producer_vllm_url="http://127.0.0.1:8000",
        producer_vllm_api_key="planted-api-key-90ab",
        producer_model="absent",
        producer_gpu_sample_interval_seconds=1,
        firewall_services=[{"name": "costs", "ports": [8080], "from_cidrs": ["10.231.0.0/16"]}],
    )
    home = {"GPUFLEET_REPORT_DIRECTORY": str(directory / "report"), "GPUFLEET_HOME": str(directory / "home")}
    fleet = Fleet(directory / "fleet.yml", home)
    try:
        rented = fleet.playbook("provision", "playbooks/prepare.yml")
        assert rented.status == 0, rented.output[-3000:]
        assert fleet.machine("kafka").run("docker image ls --all --quiet") == "", "a host that has no image yet"
        yield fleet, fleet.playbook("deploy")
    finally:
        ended = fleet.playbook("destroy")
        assert ended.status == 0, ended.output[-3000:]
        assert things_of(deployment_id) == ""


def write(file: pathlib.Path, **content: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content))


def test_images_are_pulled_by_digest_and_nothing_is_built(fresh: tuple[Fleet, Run], images: dict[str, str]) -> None:
    fleet, run = fresh
    assert run.status == 0, run.output[-4000:]
    pulled = re.findall(r"TASK \[gpuops\.fleet\.service : Install \| Pull the image (\S+)\]", run.output)
    assert set(pulled) == set(images.values())
    found = json.loads(fleet.machine("kafka").run("docker image inspect $(docker image ls --all --quiet --no-trunc)"))
    # What is built, or pulled by a tag, has a tag.
    assert [image["RepoTags"] for image in found] == [[]] * len(found)
    assert {name for image in found for name in image["RepoDigests"]} == set(images.values())


@pytest.mark.parametrize("service", PULLED)
def test_the_service_runs_that_very_digest(fresh: tuple[Fleet, Run], images: dict[str, str], service: str) -> None:
    running = fresh[0].service(service)
    inspected = running.inspect()
    assert inspected["State"]["Health"]["Status"] == "healthy"
    assert inspected["Config"]["Image"] == images[service]
    (identity,) = json.loads(running.machine.run(f"docker image inspect {images[service]}"))
    assert inspected["Image"] == identity["Id"]


@pytest.mark.skipif(SCALE == 1, reason="only the long form (make soak) pulls all services")
def test_events_flow_through_what_was_pulled(fresh: tuple[Fleet, Run]) -> None:
    url = f"http://{fresh[0].machine('processor').address}:8080/gpu/info"
    eventually(lambda: http(url)[0] == 200, 60, "a GPU sample of the new host")
