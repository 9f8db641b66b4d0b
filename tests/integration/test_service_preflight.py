# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What services refuse: an image that can be another one tomorrow, a host that is too small, what isn't theirs."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest
from support.refusals import refusals, said

# What each role needs beside an image to come that far.
ROLES: dict[str, dict[str, Any]] = {
    "kafka": {"fleet_peer_name": "kafka-1.example.internal"},
    "mongodb": {"mongodb_engine": "ferretdb"},
    "vllm": {"vllm_model": "gpuops/tiny", "vllm_model_source": "generated", "vllm_memory_mib": 3072},
    "processor": {
        "processor_kafka_bootstrap_servers": "kafka-1:9092",
        "processor_mongodb_host": "mongo-1",
        "processor_mongodb_password": "planted-password-1f0c",
    },
    "producer": {
        "producer_kafka_bootstrap_servers": "kafka-1:9092",
        "producer_vllm_url": "http://vllm-1:8000",
        "producer_vllm_api_key": "planted-api-key-90ab",
        "producer_model": "m",
    },
}
IMAGES = {
    "latest": "registry.example.internal:5000/acme/own:latest",
    "untagged": "registry.example.internal:5000/acme/own",
}


@pytest.fixture(scope="module")
def refused_images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    hosts = {
        f"{role}-{what}": (role, {**values, f"{role}_image_build": False, f"{role}_image": image})
        for role, values in ROLES.items()
        for what, image in IMAGES.items()
    }
    return refusals(tmp_path_factory.mktemp("images"), hosts)


@pytest.mark.parametrize("what", IMAGES)
@pytest.mark.parametrize("role", ROLES)
def test_an_image_that_can_be_another_one_tomorrow_is_refused(
    refused_images: pathlib.Path, role: str, what: str
) -> None:
    sentence = f"The image of {role} is {IMAGES[what]}, which doesn't say which version runs. Give a full version tag"
    assert sentence in said(refused_images, f"{role}-{what}")


@pytest.fixture(scope="module")
def small_hosts(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A host on which every look at the memory finds 300 MiB, whatever the kernel of this machine has."""
    work = tmp_path_factory.mktemp("memory")
    awk = work / "bin" / "awk"
    awk.parent.mkdir()
    awk.write_text("#!/bin/sh\necho 300\n")
    awk.chmod(0o755)
    # A number is text when it comes from the command line (-e kafka_memory_mib=4200).
    hosts = {
        role: (role, {**ROLES[role], f"{role}_image_build": True, f"{role}_memory_mib": "4200"})
        for role in ("kafka", "mongodb", "vllm")
    }
    return refusals(work, hosts, PATH=f"{awk.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("role", ["kafka", "mongodb", "vllm"])
def test_a_host_that_may_use_less_than_the_service_needs_is_refused(small_hosts: pathlib.Path, role: str) -> None:
    words = said(small_hosts, role)
    assert "300 MiB" in words
    assert f"{role}_memory_mib" in words
    assert "4200" in words


STRANGER = "The container kafka-web-1 belongs to another Compose project that is named kafka too, in /home/me/kafka."


@pytest.fixture(scope="module")
def hosts_of_others(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A host on which a Compose project runs that somebody else named kafka."""
    work = tmp_path_factory.mktemp("strangers")
    docker = work / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\nprintf 'kafka-web-1\\t/home/me/kafka\\n'\n")
    docker.chmod(0o755)
    kafka = {**ROLES["kafka"], "kafka_image_build": True}
    hosts = {
        "deploy": ("kafka", {**kafka, "tried_as_if_systemd_ran": True}),
        "remove": ("service", {"service_name": "kafka", "tried_entry_point": "remove"}),
        "claim": ("service", {"service_name": "kafka", "tried_entry_point": "claim"}),
    }
    return refusals(work, hosts, PATH=f"{docker.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("what", ["deploy", "remove", "claim"])
def test_what_others_named_alike_is_neither_taken_over_nor_removed(hosts_of_others: pathlib.Path, what: str) -> None:
    words = said(hosts_of_others, what)
    assert f"{what}: {STRANGER} Remove it (docker compose --project-directory /home/me/kafka down) or give" in words


GENERATED, GIVEN = "generated-password-8c44", "given-password-51d0"
# What stands on the host, and whether it is the end of the preflight. A person's editor ends a file with a line's end.
PASSWORDS: dict[str, tuple[str | None, bool]] = {
    "another": (GENERATED, True),
    "same": (GIVEN, False),
    "same-line": (GIVEN + "\n", False),
    "new-host": (None, False),
}


@pytest.fixture(scope="module")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("passwords")
    mongodb = {**ROLES["mongodb"], "mongodb_image_build": True, "mongodb_admin_password": GIVEN}
    for name, (stands, _refused) in PASSWORDS.items():
        if stands is not None:
            (work / f"{name}.password").write_text(stands)
    # What gets past the password ends, like all of this, before it could deploy here.
    hosts = {name: ("mongodb", {**mongodb, "mongodb_engine": "mongodb"}) for name in PASSWORDS}
    return refusals(work, hosts, {"__mongodb_admin_password_file": f"{work}/{{{{ inventory_hostname }}}}.password"})


@pytest.mark.parametrize("what", PASSWORDS)
def test_another_password_of_the_administrator_is_refused_before_it_is_written(
    passwords: pathlib.Path, what: str
) -> None:
    words = said(passwords, what)
    refused = f"mongodb_admin_password is not the password in {passwords / what}.password on {what}" in words
    assert refused == PASSWORDS[what][1]
    assert refused or "mongodb_image_build is true, but MongoDB itself can't be built" in words
    assert GENERATED not in words
    assert GIVEN not in words
