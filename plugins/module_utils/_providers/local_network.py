# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The network of a local deployment and its resolver, which answers peer names with current addresses.

Both are shared by the deployment's instances and may be made or removed by several controllers at once, so each step
looks first, accepts that another was faster, and writes nothing that another writes too.
"""

from __future__ import annotations

import ipaddress
import secrets
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local_docker as dock
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import local_host

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_SUBNET_POOL = "10.231.0.0/16"
RECORDS_DIRECTORY = "gpufleet-hosts"  # under /etc of the resolver; one file for each name, so nobody shares a file
REGISTRY_NETWORK = "gpufleet-registry"
_FIRST_INSTANCE = 10  # .1 is the gateway, .2 the resolver
_ATTEMPTS = 5


class NetworkGone(ProviderUnavailable):
    """Another controller removed the network or its resolver while we used it, because nothing else did."""


def is_gone(error: Exception) -> bool:
    """Whether this says that network or resolver are there no more: make them again, then repeat what failed."""
    return isinstance(error, NetworkGone) or dock.is_status(error, 404)


class DeploymentNetwork:
    """Network `gpufleet-DEPLOYMENT` and the resolver container of the same name."""

    def __init__(self, client: APIClient, deployment_id: str, image: str, subnet_pool: str) -> None:
        self._client = client
        self._deployment_id = deployment_id
        self._image = image
        self._pool = ipaddress.ip_network(subnet_pool)
        self.name = f"gpufleet-{deployment_id}"
        self.id = ""
        self.subnet = ipaddress.ip_network("0.0.0.0/32")

    @property
    def resolver_address(self) -> str:
        return str(self.subnet[2])

    def ensure(self) -> None:
        """Make network and resolver unless they are there; harmless when others make or remove them now."""
        for attempt in range(_ATTEMPTS):
            try:
                self._ensure()
                return
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not is_gone(error):
                    raise
                _clock.sleep(0.2 * (attempt + 1))

    def _ensure(self) -> None:
        network = self._find() or self._create()
        self.id = network["Id"]
        self.subnet = ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])
        self._ensure_resolver()

    def free_address(self, not_this: str | None = None) -> str:
        """An address that no instance of the deployment has or was promised. Random: parallel creates differ."""
        used = {address for container in self._containers() for address in addresses(container)} | {not_this}
        hosts = [str(host) for host in list(self.subnet.hosts())[_FIRST_INSTANCE - 1 :]]
        free = [host for host in hosts if host not in used]
        if not free:
            raise ProviderUnavailable(
                f"Network {self.name} has no free address.", provider=dock.PROVIDER, fix="Destroy what you don't need."
            )
        return secrets.choice(free)

    def publish(self, name: str, address: str | None) -> None:
        """Let the peers resolve that name to this address, or to nothing (None)."""
        text = f"{address} {name}.{self._deployment_id}.internal\n" if address else ""
        self._write({f"{RECORDS_DIRECTORY}/{name}": text})
        try:
            self._client.kill(self.name, "SIGHUP")  # re-reads the records, and forgets the old ones
        except Exception as error:
            if not dock.is_status(error, 409):  # not running: it reads them when it starts
                raise

    def unpublish(self, name: str) -> None:
        """Like publish(name, None), but content when there is no resolver any more."""
        try:
            self.publish(name, None)
        except Exception as error:
            if not is_gone(error):
                raise

    def _write(self, records: dict[str, str]) -> None:
        try:
            data = dock.archive(records)
            dock.patiently(lambda: self._client.put_archive(self.name, "/etc", data), self._resolver_goes)
        except Exception as error:
            if dock.is_status(error, 500) and self._resolver_goes():
                raise NetworkGone(
                    f"The name server of deployment {self._deployment_id} was removed while it was written to.",
                    provider=dock.PROVIDER,
                    fix="Run again.",
                ) from error
            raise

    def _resolver_goes(self) -> bool:
        try:
            state = self._client.inspect_container(self.name)["State"]["Status"]
        except Exception as error:
            return dock.is_status(error, 404)
        return state in ("removing", "dead")

    def remove_if_empty(self) -> bool:
        """Remove resolver and network when the deployment has no instance left; True when there was something."""
        if self._containers():
            return False
        removed = False
        try:
            self._client.remove_container(self.name, v=True, force=True)
            removed = True
        except Exception as error:
            if not dock.is_status(error, 404) and not dock.is_status(error, 409):
                raise
        for network in self._all():
            try:
                self._client.remove_network(network["Id"])
                removed = True
            except Exception as error:
                # 404: another controller removed it. 403: another controller uses it for a new instance.
                if not dock.is_status(error, 404) and not dock.is_status(error, 403):
                    raise
        if self._containers():  # an instance came while we removed what it needs
            self.ensure()
        return removed

    def _containers(self) -> list[dict[str, Any]]:
        labels = [dock.LABEL_MARKER, f"{dock.LABEL_DEPLOYMENT}={self._deployment_id}"]
        return list(self._client.containers(all=True, filters={"label": labels}))

    def _all(self) -> list[dict[str, Any]]:
        found = self._client.networks(filters={"label": f"{dock.LABEL_DEPLOYMENT}={self._deployment_id}"})
        return sorted(found, key=lambda network: (network["Created"], network["Id"]))

    def _find(self) -> dict[str, Any] | None:
        found = self._all()
        return found[0] if found else None

    def _candidates(self) -> Iterator[str]:
        """The pool's subnets of 256 addresses, beginning at one that depends on the deployment alone."""
        subnets = list(self._pool.subnets(new_prefix=max(24, self._pool.prefixlen)))
        first = zlib.crc32(self._deployment_id.encode()) % len(subnets)
        for index in range(len(subnets)):
            yield str(subnets[(first + index) % len(subnets)])

    def _create(self) -> dict[str, Any]:
        # Docker lets two networks have the same name, but no two the same addresses. As all controllers try the
        # subnets in the same order, the subnet is what decides who makes the network; the others find it then.
        for subnet in self._candidates():
            if self._is_used_by_others(subnet):
                continue
            gateway = str(ipaddress.ip_network(subnet)[1])
            addresses_to_use: Any = {"Driver": "default", "Config": [{"Subnet": subnet, "Gateway": gateway}]}
            try:
                self._client.create_network(
                    self.name,
                    driver="bridge",
                    check_duplicate=True,
                    labels={dock.LABEL_KIND: "network", dock.LABEL_DEPLOYMENT: self._deployment_id},
                    ipam=addresses_to_use,
                )
            except Exception as error:
                if not (dock.is_status(error, 409) or "overlap" in str(error)):
                    raise
            found = self._wait_until_visible()
            if found:
                return found
        raise ProviderUnavailable(
            f"No free subnet in {self._pool} for network {self.name}.",
            provider=dock.PROVIDER,
            fix="Set provider_settings.local.subnet_pool to a range that nothing else uses.",
        )

    def _wait_until_visible(self) -> dict[str, Any] | None:
        for attempt in range(20):
            found = self._find()
            if found:
                return found
            _clock.sleep(0.05 * (attempt + 1))
        return None

    def _is_used_by_others(self, subnet: str) -> bool:
        wanted = ipaddress.ip_network(subnet)
        configs = [config for net in self._client.networks() for config in (net["IPAM"].get("Config") or [])]
        others = [ipaddress.ip_network(config["Subnet"]) for config in configs if config.get("Subnet")]
        return any(other.version == wanted.version and other.overlaps(wanted) for other in others)

    def _ensure_resolver(self) -> None:
        try:
            container = self._client.inspect_container(self.name)
            if container["State"]["Running"]:
                return
        except Exception as error:
            if not dock.is_status(error, 404):
                raise
            self._create_resolver()
            self._wait_for_resolver()
        # All records again, as a resolver that was removed in between knows none.
        registry = f"{self._registry_address()} registry.{self._deployment_id}.internal\n"
        records = {f"{RECORDS_DIRECTORY}/registry": registry}
        for container in self._containers():
            name = container["Labels"].get(dock.LABEL_NAME, "")
            for address in addresses(container):
                records[f"{RECORDS_DIRECTORY}/{name}"] = f"{address} {name}.{self._deployment_id}.internal\n"
        self._write(records)
        self._client.start(self.name)

    def _wait_for_resolver(self) -> None:
        """Another controller that makes it at this moment has reserved its name before the container can be found."""
        for attempt in range(30):
            try:
                self._client.inspect_container(self.name)
                return
            except Exception as error:
                if not dock.is_status(error, 404):
                    raise
            _clock.sleep(0.1 * (attempt + 1))

    def _registry_address(self) -> str:
        """The gateway of the registry's own network (role local_provider), which all deployments can route to."""
        for network in self._client.networks(names=[REGISTRY_NETWORK]):
            for config in network["IPAM"].get("Config") or []:
                if network["Name"] == REGISTRY_NETWORK and config.get("Gateway"):
                    return str(config["Gateway"])
        return str(self.subnet[1])

    def _create_resolver(self) -> None:
        domain = f"{self._deployment_id}.internal"
        command = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--no-hosts", "--local-ttl=1"]
        command += [f"--hostsdir=/etc/{RECORDS_DIRECTORY}", f"--local=/{domain}/", "--max-cache-ttl=5", "--no-negcache"]
        client = self._client
        try:
            client.create_container(
                self._image,
                command=command,
                name=self.name,
                hostname="resolver",
                labels={dock.LABEL_KIND: "resolver", dock.LABEL_DEPLOYMENT: self._deployment_id},
                host_config=client.create_host_config(
                    network_mode=self.name,
                    restart_policy={"Name": "unless-stopped"},
                    cap_drop=["ALL"],
                    cap_add=["NET_BIND_SERVICE", "SETGID", "SETUID"],  # it gives up root itself
                    mem_limit="64m",
                    pids_limit=32,
                ),
                networking_config=local_host.networking_config(client, self.name, self.resolver_address),
            )
        except Exception as error:
            if not dock.is_status(error, 409):  # 409: another controller was faster
                raise


def addresses(container: dict[str, Any]) -> set[str]:
    """The addresses that a container of the engine's list has or was promised."""
    found = set()
    for endpoint in (container.get("NetworkSettings", {}).get("Networks") or {}).values():
        promised = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
        found |= {address for address in (promised, endpoint.get("IPAddress")) if address}
    return found
