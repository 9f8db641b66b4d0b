# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of a certificate is the one that openssl prints."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.certificate_fingerprint import certificate_fingerprint


def test_it_is_what_openssl_prints_for_the_first_of_a_chain(tmp_path: pathlib.Path) -> None:
    made = []
    for name in ("own", "issuer"):
        file = tmp_path / f"{name}.pem"
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name}"
        subprocess.run([*command.split(), "-keyout", "/dev/null", "-out", str(file)], check=True, capture_output=True)
        made.append(file)
    printed = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(made[0])],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    chain = "\n".join(file.read_text() for file in made)
    expected = printed.partition("=")[2].strip().replace(":", "").lower()
    assert certificate_fingerprint(f"# a comment\n{chain}") == f"sha256:{expected}"


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMII", "-----BEGIN PRIVATE KEY-----"]
)
def test_what_is_no_certificate_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="This is no certificate as PEM text"):
        certificate_fingerprint(text)
