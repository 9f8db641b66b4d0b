# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the vLLM server in a rented container.

Its text travels inside the rental's entry point, and so do the files that it writes, because such a container has none
of ours: _vllm_rental.py packs both. The secrets come from the environment, which vLLM reads itself: a command line can
be read by many.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import zlib
from pathlib import Path


def make_certificate(key_file: Path, certificate_file: Path) -> None:
    """A key that never leaves this disk, and its certificate, which clients pin: nobody else signs it."""
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gpuops.fleet")])
    start = datetime(2020, 1, 1)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), start, start + timedelta(days=36500)
    ).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    os.close(os.open(key_file, os.O_CREAT, 0o600))
    key_file.write_bytes(private)
    whole = certificate_file.with_suffix(".new")
    whole.write_bytes(certificate.public_bytes(encoding))
    whole.replace(certificate_file)  # it stands for both: who is killed before begins again


def end_when_over() -> None:
    """End this rental when the expiry in its own label has passed, by the provider's clock; looks every five minutes.

    The label is read each time, because the expiry can be moved; the marker before it must be the one that it was
    rented with. Whatever can't be read ends nothing: sweep does. Each look is printed, because only the log shows that
    somebody looks.
    """
    import re
    import time
    from email.utils import parsedate_to_datetime

    import requests

    url = f"{os.environ['GPUFLEET_VAST_URL']}/api/v0/instances/{os.environ['CONTAINER_ID']}/"
    marker = re.escape(os.environ["GPUFLEET_MARKER"][:-4])
    header = {"Authorization": f"Bearer {os.environ['CONTAINER_API_KEY']}"}
    while True:
        try:
            answer = requests.get(f"{url}?owner=me", headers=header, timeout=30)
            answer.raise_for_status()
            found = re.fullmatch(f"{marker}([0-9a-z]{{4}})", answer.json()["instances"]["label"])
            date = answer.headers["Date"]
            if found:
                print("gpuops-fleet-watch", date, flush=True)
            if found and 0 < int(found[1], 36) * 3600 <= parsedate_to_datetime(date).timestamp():
                answer = requests.delete(url, headers=header, json={}, timeout=30)
                print(f"gpuops-fleet: its lifetime is over; told to end it: {answer.text[:99]}", flush=True)
        except Exception as error:  # the server goes on
            print(f"gpuops-fleet: can't end itself now: {error}", flush=True)
        time.sleep(300)


def main(files: dict[str, str], command: list[str]) -> None:
    """Write the files, make what the command needs, and become it."""
    key = os.environ.get("VLLM_API_KEY", "")
    if not key or key.startswith("{{"):
        sys.exit("vllm: VLLM_API_KEY is missing, and without a key anybody could use this server.")
    directory = Path(os.environ["PYTHONPATH"])
    directory.mkdir(0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    generator = os.environ.pop("GPUFLEET_MODEL_GENERATOR", "")
    if generator and not Path(command[2], "config.json").exists():
        script = directory / "generate_model.py"
        Path(command[2]).mkdir(parents=True, exist_ok=True)  # on a host it is mounted
        script.write_bytes(zlib.decompress(base64.b64decode(generator)))
        subprocess.run([sys.executable, str(script), command[2]], check=True)
    if "--ssl-certfile" in command:
        import hashlib
        import ssl

        key_file, certificate_file = (
            Path(command[command.index(word) + 1]) for word in ("--ssl-keyfile", "--ssl-certfile")
        )
        if not certificate_file.exists():
            make_certificate(key_file, certificate_file)
        der = ssl.PEM_cert_to_DER_cert(certificate_file.read_text())
        print(f"gpuops-fleet-tls-fingerprint sha256:{hashlib.sha256(der).hexdigest()}", flush=True)
    if "GPUFLEET_VAST_URL" in os.environ:
        if not os.environ.get("CONTAINER_API_KEY"):
            print("gpuops-fleet: can't end itself without CONTAINER_API_KEY", flush=True)
        elif not os.fork():
            end_when_over()
    os.execvp(command[0], command)  # noqa: S606 (no shell is wanted)
