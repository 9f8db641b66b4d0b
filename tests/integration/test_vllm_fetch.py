# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's own step that brings a model's files, from a hub on this machine; as talkative as Ansible can be."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.local_play import run_here, step
from support.planted_hub import COMMIT, MODEL, WANTED, PlantedHub

TOKEN = "hf_planted-canary-0123456789"  # noqa: S105 (opens nothing)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the role writes as root, and so does this test")


@pytest.fixture
def hub() -> Iterator[PlantedHub]:
    planted = PlantedHub()
    yield planted
    planted.close()


def fetch(work: pathlib.Path, hub: PlantedHub, **more: Any) -> subprocess.CompletedProcess[str]:
    values = {
        "vllm_model": MODEL,
        "vllm_hub_url": hub.url,
        "vllm_uid": os.getuid(),
        "vllm_gid": os.getgid(),
        "vllm_data_directory": str(work / "data"),
        "__vllm_directory": str(work / "vllm"),
        "__service_directory": str(work / "vllm"),
        **more,
    }
    return run_here(work, [step("vllm", "fetch")], values)


def test_files_come_with_a_token_that_nobody_sees_and_then_no_more(tmp_path: pathlib.Path, hub: PlantedHub) -> None:
    hub.token, hub.cuts_after = TOKEN, 2_000_000
    done = fetch(tmp_path, hub, vllm_hub_token=TOKEN)
    assert done.returncode == 0, done.stdout
    snapshot = tmp_path / f"data/cache/huggingface/hub/models--acme--assistant-1b/snapshots/{COMMIT}"
    assert [name for name in WANTED if (snapshot / name).read_bytes() != hub.files[name]] == []
    assert TOKEN not in done.stdout + done.stderr
    assert not (tmp_path / "vllm/secrets/hub_token").exists()
    hub.asked.clear()
    again = fetch(tmp_path, hub, vllm_hub_token=TOKEN)
    assert "changed=0" in again.stdout
    assert hub.asked == []


def test_a_refusal_is_one_sentence_and_leaves_no_token(tmp_path: pathlib.Path, hub: PlantedHub) -> None:
    hub.token = "another"  # noqa: S105 (opens nothing)
    done = fetch(tmp_path, hub, vllm_hub_token=TOKEN)
    assert done.returncode != 0
    said = f"localhost: 127.0.0.1 doesn't give {MODEL} for this vllm_hub_token (status 401). Accept the model's terms"
    assert said in " ".join(done.stdout.split())
    assert TOKEN not in done.stdout + done.stderr
    assert not (tmp_path / "vllm/secrets/hub_token").exists()
