# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives as the engine sends them, also of a host that is removed meanwhile."""

from __future__ import annotations

import io
import tarfile

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local_docker

TEXT = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@vllm-1\n"


def archive(*texts: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for text in texts:
            entry = tarfile.TarInfo("ssh_host_ed25519_key.pub")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_the_text_of_its_file() -> None:
    whole = archive(TEXT)
    assert local_docker.first_file([whole[:100], whole[100:]]) == TEXT


@pytest.mark.parametrize(
    "cut",
    [b"", archive(), archive(TEXT)[:300], archive(TEXT)[:520]],
    ids=["nothing", "no_file", "in_the_header", "in_the_file"],
)
def test_an_archive_that_was_cut_has_no_text(cut: bytes) -> None:
    assert local_docker.first_file([cut]) == ""
