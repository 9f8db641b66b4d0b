# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `local`: hosts with systemd, SSH and room for their own Docker Engine, as containers of a Docker Engine.

To the rest they are ordinary rented machines. The engine's list of containers with our marker is the state of record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Offer,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Ambiguous,
    InvalidRequest,
    NameTaken,
    ProviderUnavailable,
    missing,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local_docker as dock
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local_host
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.local_network import (
    DEFAULT_SUBNET_POOL,
    DeploymentNetwork,
    addresses,
    is_gone,
)

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_IMAGE = "gpufleet/host:trixie"
HOST_KEY_FILE = "/etc/ssh/ssh_host_ed25519_key.pub"

# Sizes that can be rented: what the host's control group allows it. Nothing is reserved.
SIZES = {"small": (2, 2048), "medium": (4, 4096), "large": (8, 8192), "xlarge": (16, 16384)}  # CPUs, MiB

_CREATE_ATTEMPTS = 3

_STATUS = {
    "created": Status.PENDING,
    "restarting": Status.PENDING,
    "running": Status.RUNNING,
    "paused": Status.STOPPED,
    "exited": Status.STOPPED,
    "removing": Status.TERMINATING,
    "dead": Status.FAILED,
}


def _runs(container: Mapping[str, Any]) -> bool:
    return container["State"] in ("running", "restarting")


def make(settings: Mapping[str, Any]) -> LocalProvider:
    """Called by _provider.load; talks to nobody yet."""
    return LocalProvider(settings)


class LocalProvider:
    """The provider contract over the Docker SDK for Python."""

    name = dock.PROVIDER
    capabilities = CAPABILITIES[dock.PROVIDER]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._connection: APIClient | None = None

    @property
    def _client(self) -> APIClient:
        if self._connection is None:
            self._connection = dock.connect(self._settings)
        return self._connection

    def _image(self) -> str:
        return self._settings.get("image") or DEFAULT_IMAGE

    def _network(self, deployment_id: str) -> DeploymentNetwork:
        pool = self._settings.get("subnet_pool") or DEFAULT_SUBNET_POOL
        return DeploymentNetwork(self._client, deployment_id, self._image(), pool)

    @dock.translated
    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        if query.get("gpu") or query.get("interruptible") or query.get("runtime", "vm") != "vm":
            return []
        machine = self._client.info()
        cpu_count, memory_mib = machine["NCPU"], machine["MemTotal"] // 2**20
        found = [
            Offer(
                provider=self.name,
                id=size,
                instance_type=size,
                memory_mib=memory,
                cpu_count=min(cpus, cpu_count),
                price_per_hour_usd=0.0,
            )
            for size, (cpus, memory) in SIZES.items()
            if memory <= memory_mib
        ]
        wanted = query.get("instance_type")
        return [offer for offer in found if wanted in (None, offer.instance_type)]

    @dock.translated
    def create(self, request: Request) -> Instance:
        image = request.image or self._image()
        self._check_image(image)
        network = self._network(request.marker.deployment_id)
        for attempt in range(_CREATE_ATTEMPTS):
            instance_id = None
            try:
                network.ensure()
                instance_id = self._create_container(request, image, network)
                return self._complete(instance_id, network)
            except Exception as error:
                # The network went away between our look and the start: the last instance of this deployment was
                # just deleted elsewhere. What was created never ran, so it can be thrown away and made again.
                if attempt == _CREATE_ATTEMPTS - 1 or not is_gone(error):
                    raise
                if instance_id:
                    self.delete(instance_id)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _check_image(self, image: str) -> None:
        try:
            self._client.inspect_image(image)  # type: ignore[no-untyped-call]
        except Exception as error:
            if not dock.is_status(error, 404):
                raise
            raise InvalidRequest(
                f"The host image '{image}' is not on this Docker Engine.",
                provider=self.name,
                status=404,
                fix=f"{dock.SET_UP}; or name another one (option image, or provider_settings.local.image).",
            ) from error

    def _create_container(self, request: Request, image: str, network: DeploymentNetwork) -> str:
        marker = request.marker
        labels = {
            dock.LABEL_KIND: "instance",
            dock.LABEL_MARKER: _marker.encode(marker),
            dock.LABEL_OWNER: marker.owner,
            dock.LABEL_DEPLOYMENT: marker.deployment_id,
            dock.LABEL_NAME: marker.name,
            dock.LABEL_SIZE: request.offer.id,
            dock.LABEL_IMAGE: image,
        }
        of_the_volume = {name: labels[name] for name in (dock.LABEL_KIND, dock.LABEL_DEPLOYMENT, dock.LABEL_NAME)}
        isolation = self._settings.get("isolation") or "auto"
        address = network.free_address()
        body = local_host.container_body(self._client, isolation, request, network.name, address, of_the_volume)
        try:
            created = self._client.create_container(
                image,
                name=dock.container_name(marker.deployment_id, marker.name),
                hostname=marker.name,
                domainname=f"{marker.deployment_id}.internal",
                labels=labels,
                environment={
                    "GPUFLEET_SSH_PUBLIC_KEY": request.ssh_public_key or "",
                    "GPUFLEET_DNS": network.resolver_address,
                },
                **body,
            )
        except Exception as error:
            if dock.is_status(error, 409):
                raise NameTaken(
                    f"A container for instance '{marker.name}' of deployment '{marker.deployment_id}' exists already.",
                    provider=self.name,
                    status=409,
                    fix="Run again.",
                ) from error
            if dock.is_unanswered(error):
                raise Ambiguous(
                    f"The Docker Engine did not answer the create: {error}",
                    provider=self.name,
                    fix="Run again: it looks for what was created first.",
                ) from error
            raise
        return str(created["Id"])

    @dock.translated
    def get(self, instance_id: str) -> Instance | None:
        container = self._find(instance_id)
        return self._as_instance(container) if container else None

    @dock.translated
    def list(self) -> list[Instance]:
        containers = self._client.containers(all=True, filters={"label": dock.LABEL_MARKER})
        instances = [self._as_instance(container) for container in containers]
        return [instance for instance in instances if instance]

    @dock.translated
    def start(self, instance_id: str) -> Instance:
        container = self._must_find(instance_id)
        if _runs(container):
            return self._must_be_ours(container)
        network = self._network(container["Labels"].get(dock.LABEL_DEPLOYMENT, ""))
        network.ensure()
        return self._complete(instance_id, network)

    def _complete(self, instance_id: str, network: DeploymentNetwork) -> Instance:
        """Give it an address that it didn't have before (a new one has its first), publish that, and start it.

        Can be interrupted and repeated at every point.
        """
        for attempt in range(5):
            container = self._must_find(instance_id)
            if _runs(container):
                break  # another controller completed it since we looked: its address stays
            name = container["Labels"].get(dock.LABEL_NAME, "")
            promised = next(iter(addresses(container)), None)
            if promised is None or container["State"] != "created" or attempt:
                self._move(container, network, network.free_address(not_this=promised))
                promised = next(iter(addresses(self._must_find(instance_id))), None)
            network.publish(name, promised)
            try:
                self._client.start(instance_id)
                break
            except Exception as error:
                if attempt == 4 or "already in use" not in str(error).lower():
                    raise
                _clock.sleep(0.1 * (attempt + 1))  # a parallel create chose the same address: take another
        return self._must_be_ours(self._must_find(instance_id))

    def _move(self, container: dict[str, Any], network: DeploymentNetwork, address: str) -> None:
        for endpoint in (container["NetworkSettings"].get("Networks") or {}).values():
            try:
                self._client.disconnect_container_from_network(
                    container["Id"], endpoint["NetworkID"] or network.id, force=True
                )
            except Exception as error:
                if not dock.is_status(error, 404):
                    raise
        self._client.connect_container_to_network(container["Id"], network.id, ipv4_address=address)

    @dock.translated
    def stop(self, instance_id: str) -> Instance:
        container = self._must_find(instance_id)
        # First the name, so that nobody is sent to an address that no longer answers, even if we are interrupted.
        self._network(container["Labels"][dock.LABEL_DEPLOYMENT]).unpublish(container["Labels"][dock.LABEL_NAME])
        self._client.stop(instance_id, timeout=60)
        return self._must_be_ours(self._must_find(instance_id))

    @dock.translated
    def delete(self, instance_id: str) -> bool:
        container = self._find(instance_id)
        if container is None:
            return False
        deployment_id = container["Labels"].get(dock.LABEL_DEPLOYMENT, "")
        self._network(deployment_id).unpublish(container["Labels"].get(dock.LABEL_NAME, ""))
        deadline = _clock.monotonic() + 60
        why = self._remove(instance_id)
        while self._find(instance_id):
            if _clock.monotonic() > deadline:
                raise ProviderUnavailable(
                    f"The Docker Engine still lists container {instance_id[:12]} 60 s after its removal{why}.",
                    provider=self.name,
                    fix=f"Look at: docker inspect {instance_id[:12]}; then run again.",
                )
            _clock.sleep(1.0 if why else 0.3)
            if why:
                why = self._remove(instance_id)
        self.clean_up(deployment_id)
        return True

    @dock.translated
    def log(self, instance_id: str, words: str) -> str:
        return ""  # machines only, and those are asked by SSH

    def clean_up(self, deployment_id: str) -> bool:
        return self._network(deployment_id).remove_if_empty()

    def _remove(self, instance_id: str) -> str:
        """Order it; returns why the engine could not yet: it gives up where something still holds a mount of it."""
        try:
            self._client.remove_container(instance_id, v=True, force=True)
        except Exception as error:
            if dock.is_status(error, 500):
                return f" ({error})"
            if not dock.is_status(error, 404) and not dock.is_status(error, 409):  # 409: it is being removed already
                raise
        return ""

    def _find(self, instance_id: str) -> dict[str, Any] | None:
        found = self._client.containers(all=True, filters={"id": instance_id, "label": dock.LABEL_MARKER})
        # The engine matches beginnings of ids too; ours are compared in full.
        return next((container for container in found if container["Id"] == instance_id), None)

    def _must_find(self, instance_id: str) -> dict[str, Any]:
        container = self._find(instance_id)
        if container is None:
            raise missing(self.name, f"instance {instance_id[:12]}")
        return container

    def _must_be_ours(self, container: dict[str, Any]) -> Instance:
        instance = self._as_instance(container)
        if instance is None:
            raise not_ours(self.name, f"Container {container['Id'][:12]}", "labels")
        return instance

    def _as_instance(self, container: dict[str, Any]) -> Instance | None:
        """What the engine's list says, in our words; None when the marker isn't exactly one of ours."""
        labels = container["Labels"]
        marker = _marker.parse(labels.get(dock.LABEL_MARKER), labels.get(dock.LABEL_OWNER, "fleet"))
        if marker is None:
            return None
        status = _STATUS.get(container["State"], Status.FAILED)
        address = next(iter(addresses(container)), None) if status is Status.RUNNING else None
        return Instance(
            provider=self.name,
            id=container["Id"],
            marker=marker,
            status=status,
            price_per_hour_usd=0.0,
            instance_type=labels.get(dock.LABEL_SIZE),
            image=labels.get(dock.LABEL_IMAGE, container["Image"]),
            address=address,
            ssh_endpoints=(Endpoint(address, 22),) if address else (),
            host_key=None if container["State"] == "created" else self._host_key(container["Id"]),
            created_at=float(container["Created"]),
            needs_start=container["State"] == "created",
            detail=container["Status"],
        )

    def _host_key(self, instance_id: str) -> str | None:
        """Read from the host's disk through the engine, so nobody on the network can put another in its place."""
        try:
            chunks, _stat = dock.patiently(
                lambda: self._client.get_archive(instance_id, HOST_KEY_FILE), lambda: self._find(instance_id) is None
            )
            words = dock.first_file(chunks).split()
        except Exception as error:
            # The first boot has not made it yet, or the host is gone, or goes at this moment.
            if dock.is_status(error, 404) or (dock.is_status(error, 500) and self._find(instance_id) is None):
                return None
            raise
        return " ".join(words[:2]) if len(words) >= 2 else None
