# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A broker and a database for a benchmark, as throw-away containers built from the roles' own files."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
LABEL = "gpuops.fleet.bench=true"

_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
controller.listener.names=CONTROLLER
listeners=PEERS://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093
advertised.listeners=PEERS://{address}:9092
listener.security.protocol.map=PEERS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PEERS
log.dirs=/opt/kafka/logs/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
"""

_KAFKA_START = """\
until [ -s /tmp/server.properties ]; do sleep 0.1; done
export LOG_DIR=/tmp KAFKA_HEAP_OPTS=-Xmx512m EXTRA_ARGS="-name kafkaServer"
/opt/kafka/bin/kafka-storage.sh format --cluster-id MkU3OEVBNTcwNTJENDM2Qg --config /tmp/server.properties
exec /opt/kafka/bin/kafka-server-start.sh /tmp/server.properties
"""

_FERRETDB_START = [
    "/usr/local/bin/ferretdb",
    "--handler=sqlite",
    "--sqlite-url=file:/data/db/",
    "--state-dir=/data/db",
    "--telemetry=disable",
    "--listen-addr=:27017",
]


def docker(*arguments: str) -> str:
    """Runs docker and returns what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def ensure_image(name: str, source: pathlib.Path, base_image: str) -> str:
    """The image, built from a role's files if it isn't there."""
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode == 0:
        return name
    sys.stderr.write(f"Building {name} from {source.relative_to(ROOT)} (some minutes, once)\n")
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(source, context, dirs_exist_ok=True)
        bundle = os.environ.get("SSL_CERT_FILE", "")
        text = pathlib.Path(bundle).read_text(encoding="utf-8") if bundle else ""
        (pathlib.Path(context) / "ca-bundle.crt").write_text(text, encoding="utf-8")
        docker("build", "--quiet", "--tag", name, "--build-arg", f"BASE_IMAGE={base_image}", context)
    return name


@contextlib.contextmanager
def running(kafka_image: str, mongo_image: str) -> Iterator[tuple[str, str]]:
    """Starts both; yields the broker's HOST:PORT and the database's address."""
    run = uuid.uuid4().hex[:8]
    names = [f"gpufleet-bench-kafka-{run}", f"gpufleet-bench-mongo-{run}"]
    flags = ["--detach", "--label", LABEL]
    try:
        docker("run", *flags, "--name", names[0], "--entrypoint", "bash", kafka_image, "-c", _KAFKA_START)
        docker("run", *flags, "--name", names[1], mongo_image, *_FERRETDB_START)
        kafka, mongo = (
            docker("inspect", "--format", "{{.NetworkSettings.Networks.bridge.IPAddress}}", name) for name in names
        )
        write = f"cat > /tmp/server.new <<'END'\n{_KAFKA_PROPERTIES.format(address=kafka)}END\n"
        docker("exec", names[0], "sh", "-c", write + "mv /tmp/server.new /tmp/server.properties")
        wait_for(kafka, 9092)
        wait_for(mongo, 27017)
        yield f"{kafka}:9092", mongo
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", *names], capture_output=True, check=False)


def wait_for(address: str, port: int, seconds: float = 90) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{address}:{port} did not answer within {seconds:.0f} s") from None
            time.sleep(0.2)
