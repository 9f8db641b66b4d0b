# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real things behind rentals: a host of the provider `local` for a machine, the ordered image for a container.

All of it belongs to one deployment `emulated-…` of this process, and is gone after close().
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import docker
import docker.errors
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Offer, Request
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local, local_docker

from .gates import Gate
from .machines import NoMachines, Order, WayIn

DEFAULT_HOST_IMAGE = "gpufleet/host-docker:trixie"
SIZE = ("small", 2, 2048)  # its name, CPUs, MiB: of a host that is used for minutes
_OTHER_HOST_KEY = (
    "rm -f /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -C '' -f /etc/ssh/ssh_host_ed25519_key; "
    "systemctl try-restart ssh.service || true"  # fails where the boot has not come to that yet
)
_BOOTED = "for _ in $(seq 200); do systemctl is-active --quiet ssh.service && exit 0; sleep 0.3; done; exit 1"
_ADD_KEY = (
    'mkdir -p ~/.ssh; chmod 700 ~/.ssh; grep -qxF "$KEY" ~/.ssh/authorized_keys 2>/dev/null '
    '|| printf "%s\\n" "$KEY" >> ~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys'
)


@dataclass
class _Machine:
    """One rental's machine: what is wanted of it, and what there is."""

    order: Order
    wanted: str = "running"  # running, stopped, gone
    must_halt: bool = False  # a stop came, which nobody has carried out yet; perhaps a start came after it
    container: str | None = None
    began: bool = False  # whether its start script has run
    key_after_seconds: float = 0.0
    keys_wait: threading.Timer | None = None  # until when they are late
    other_host_key: bool = False
    keys: list[str] = field(default_factory=list)
    gates: dict[int, Gate] = field(default_factory=dict)
    problem: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class DockerMachines(NoMachines):
    """Starts, stops and removes in the background, one thing after the other for each rental."""

    def __init__(self, host_image: str = DEFAULT_HOST_IMAGE, outside: str = "127.0.0.1") -> None:
        """outside: the address of this machine at which what is rented answers."""
        self._outside = outside
        self.deployment_id = f"emulated-{secrets.token_hex(4)}"
        self._host_image = host_image
        self._client = docker.from_env()
        self._client.ping()
        self._hosts = local.make({"image": host_image})
        self._machines: dict[str, _Machine] = {}
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="machines")

    def start(
        self, rental_id: str, order: Order | None, *, key_after_seconds: float = 0.0, other_host_key: bool = False
    ) -> None:
        if order:
            self._machines[rental_id] = _Machine(order)
        machine = self._machines.get(rental_id)
        if machine is None or machine.wanted == "gone":
            return
        machine.wanted, machine.problem = "running", None
        machine.key_after_seconds, machine.other_host_key = key_after_seconds, other_host_key
        for gate in machine.gates.values():
            gate.close()
        machine.gates = {port: Gate(self._outside) for port in machine.order.ports}  # others than before
        self._workers.submit(self._settle, rental_id, machine)

    def add_key(self, rental_id: str, public_key: str) -> None:
        machine = self._machines.get(rental_id)
        if machine and machine.order.machine:
            machine.keys.append(public_key)
            self._workers.submit(self._settle, rental_id, machine)

    def stop(self, rental_id: str) -> None:
        self._want(rental_id, "stopped")

    def delete(self, rental_id: str) -> None:
        self._want(rental_id, "gone")

    def _want(self, rental_id: str, wanted: str) -> None:
        machine = self._machines.get(rental_id)
        if machine is None or machine.wanted == "gone":
            return
        machine.wanted, machine.must_halt = wanted, True
        for gate in machine.gates.values():
            gate.close()
        self._workers.submit(self._settle, rental_id, machine)

    def way_in(self, rental_id: str, port: int) -> WayIn | None:
        machine = self._machines.get(rental_id)
        gate = machine.gates.get(port) if machine else None
        return WayIn(gate.host, gate.port) if gate else None

    def address(self, rental_id: str) -> str | None:
        machine = self._machines.get(rental_id)
        if machine is None or machine.container is None or machine.wanted != "running":
            return None
        try:
            return self._address(machine.container) or None
        except docker.errors.NotFound:
            return None

    def host_key(self, rental_id: str) -> str | None:
        machine = self._machines.get(rental_id)
        if machine is None or machine.container is None or not machine.order.machine:
            return None
        found = self._hosts.get(machine.container)
        return found.host_key if found else None

    def log(self, rental_id: str) -> str:
        machine = self._machines.get(rental_id)
        if machine is None or machine.container is None:
            return ""
        try:
            return bytes(self._client.api.logs(machine.container, tail=500)).decode(errors="replace")
        except docker.errors.NotFound:
            return ""

    def problem(self, rental_id: str) -> str | None:
        machine = self._machines.get(rental_id)
        return machine.problem if machine else None

    def close(self) -> None:
        for rental_id in list(self._machines):
            self._want(rental_id, "gone")
        self._workers.shutdown(wait=True)
        self._remove_rest()
        self._client.close()

    def _remove_rest(self) -> None:
        """What a failed removal left, and the deployment's network."""
        label: dict[str, str | list[str] | bool] = {"label": f"{local_docker.LABEL_DEPLOYMENT}={self.deployment_id}"}
        for container in self._client.containers.list(all=True, filters=label, ignore_removed=True):
            container.remove(v=True, force=True)
        self._hosts.clean_up(self.deployment_id)

    # In the background ------------------------------------------------------------------------------------------

    def _settle(self, rental_id: str, machine: _Machine) -> None:
        """Make what there is what is wanted; what changes meanwhile comes after this, as another turn."""
        with machine.lock:
            try:
                if machine.wanted == "gone":
                    self._remove(machine)
                    return
                if machine.must_halt:
                    machine.must_halt = False
                    self._halt(machine)
                if machine.wanted == "running":
                    self._run(rental_id, machine)
            except Exception as error:  # the engine's words are what the provider would show
                explanation = getattr(error, "explanation", None) or getattr(error, "message", None) or error
                machine.problem = f"Error response from daemon: {explanation}"
                sys.stderr.write(f"rental {rental_id}: {explanation}\n")

    def _run(self, rental_id: str, machine: _Machine) -> None:
        if machine.container is None:
            make = self._make_host if machine.order.machine else self._make_container
            machine.container = make(rental_id, machine.order)
        elif machine.order.machine:
            self._hosts.start(machine.container)
        else:
            self._client.api.start(machine.container)
        if machine.other_host_key:
            self._execute(machine, _OTHER_HOST_KEY)
            machine.other_host_key = False
        for port, gate in machine.gates.items():
            gate.open(functools.partial(self._address, machine.container), port)
        if machine.order.machine:
            if machine.key_after_seconds and machine.keys_wait is None:
                self._execute(machine, _BOOTED)  # late is what comes after the server, however long that takes to boot
                machine.keys_wait = threading.Timer(machine.key_after_seconds, self._late_keys, (machine,))
                machine.keys_wait.daemon = True
                machine.keys_wait.start()
            elif machine.keys_wait is None:
                self._install_keys(machine)

    def _late_keys(self, machine: _Machine) -> None:
        with machine.lock:
            machine.key_after_seconds, machine.keys_wait = 0.0, None
            if machine.wanted == "running":
                self._install_keys(machine)

    def _install_keys(self, machine: _Machine) -> None:
        """What the owner's start script does, once the machine has booted, and the keys that came by the API."""
        if not machine.began and machine.order.start_script:
            self._execute(machine, _BOOTED)
            self._execute(machine, machine.order.start_script)
        machine.began = True
        for key in machine.keys:
            self._execute(machine, _ADD_KEY, KEY=key)

    def _execute(self, machine: _Machine, script: str, **environment: str) -> None:
        assert machine.container
        container = self._client.containers.get(machine.container)
        variables = [f"{name}={value}" for name, value in {"HOME": "/root", **environment}.items()]
        status, output = container.exec_run(["sh", "-c", script], environment=variables)
        if status:  # no provider stops a machine for that
            sys.stderr.write(f"a script failed in {container.name}: {output!r}\n")

    def _halt(self, machine: _Machine) -> None:
        if machine.container is None:
            return
        if not machine.order.keeps_disk:
            self._remove(machine)
        elif machine.order.machine:
            self._hosts.stop(machine.container)
        else:
            self._client.api.stop(machine.container, timeout=10)

    def _remove(self, machine: _Machine) -> None:
        if machine.container is None:
            return
        if machine.order.machine:
            self._hosts.delete(machine.container)
        else:
            with contextlib.suppress(docker.errors.NotFound):
                self._client.api.remove_container(machine.container, v=True, force=True)
        machine.container = None

    def _make_host(self, rental_id: str, order: Order) -> str:
        name, cpus, memory_mib = SIZE
        offer = Offer("local", name, instance_type=name, cpu_count=cpus, memory_mib=memory_mib, price_per_hour_usd=0.0)
        marker = Marker(self.deployment_id, _name(rental_id), secrets.token_hex(3))
        return self._hosts.create(Request(marker, offer, image=self._host_image)).id

    def _make_container(self, rental_id: str, order: Order) -> str:
        container = self._client.containers.create(
            order.image,
            entrypoint=None if order.entrypoint is None else list(order.entrypoint),
            command=None if order.args is None else list(order.args),
            environment=order.env,
            name=f"{self.deployment_id}--{_name(rental_id)}",
            labels={
                local_docker.LABEL_KIND: "emulated",
                local_docker.LABEL_DEPLOYMENT: self.deployment_id,
                local_docker.LABEL_NAME: _name(rental_id),
            },
            restart_policy={"Name": "always"} if order.restarts else None,
            mem_limit="6g",
            shm_size="1g",
            pids_limit=4096,
        )
        try:
            container.start()
        except docker.errors.APIError:
            container.remove(v=True, force=True)
            raise
        return str(container.id)

    def _address(self, container: str) -> str:
        found: dict[str, Any] = self._client.api.inspect_container(container)["NetworkSettings"]["Networks"]
        return next((str(network["IPAddress"]) for network in found.values() if network["IPAddress"]), "")


def _name(rental_id: str) -> str:
    """A name of the provider local: pod00000000001 is mpod00000000001, 9000001 is m9000001."""
    return f"m{rental_id}"[:16]
