# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `aws`: machines at EC2.

The instances of all enabled regions with our marker in their tags are the state of record. Renting is settled by EC2:
all controllers ask with the same token, so one of them makes the machine and the others are given it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _lifetime, _marker, _provider_settings
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Request, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._prices_aws import TABLE
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Ambiguous,
    InvalidRequest,
    NameTaken,
    NoCapacity,
    NonceSpent,
    missing,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_network as network
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_api import Api
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_sizes import SIZES, Size

STOP_DEADLINE_SECONDS = 300.0
END_DEADLINE_SECONDS = 900.0  # large sizes with GPUs take minutes; what shuts down costs nothing any more
_POLL_SECONDS = 2.0
_NONCES = 50  # how many rentals of one name and day EC2 may remember the tokens of, before chance decides again
_SPOT_PRODUCT = "Linux/UNIX"


def make(settings: Mapping[str, Any]) -> AwsProvider:
    """Called by _provider.load; talks to nobody yet."""
    return AwsProvider(settings)


class AwsProvider:
    """The provider contract over boto3.

    Settings: api_url (else AWS_ENDPOINT_URL), regions, source_ranges, security_group_ids, subnet_ids.
    """

    name = wire.PROVIDER
    capabilities = CAPABILITIES[wire.PROVIDER]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._api = Api(self.name, settings)
        self._region_of: dict[str, str] = {}  # by id of an instance
        self._lost: set[tuple[str, str]] = set()  # (region, nonce) of tokens that somebody used for something else

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        if query.get("runtime", Runtime.VM.value) != Runtime.VM.value:
            return []
        self._need_a_way_in()
        regions = list(query.get("regions") or ()) or [self._api.default_region]
        for region in regions:
            self._allowed(region)
        return [offer for region in regions for offer in self._offers_in(region, query)]

    def _offers_in(self, region: str, query: Mapping[str, Any]) -> list[Offer]:
        sizes = {size.name: size for size in self._sizes(region, query)}
        if not sizes:
            return []
        rows = self._api.pages(
            region,
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            LocationType="region",
            Filters=[{"Name": "instance-type", "Values": sorted(sizes)}],
        )
        there = sorted({str(row["InstanceType"]) for row in rows} & set(sizes))
        spot = bool(query.get("interruptible"))
        prices = self._spot_prices(region, there) if spot and there else {}
        return [
            Offer(
                provider=self.name,
                id=f"{region}/{name}{'/spot' if spot else ''}",
                gpu=sizes[name].gpu,
                gpu_count=sizes[name].gpu_count,
                instance_type=name,
                memory_mib=sizes[name].memory_mib,
                cpu_count=sizes[name].cpu_count,
                region=region,
                interruptible=spot,
                price_per_hour_usd=prices.get(name) if spot else TABLE.price_per_hour_usd(name, region),
            )
            for name in there
        ]

    def _sizes(self, region: str, query: Mapping[str, Any]) -> Iterable[Size]:
        """What fits the wish; of sizes that nobody here knows, only the one that is named."""
        kind, gpu = query.get("instance_type"), query.get("gpu")
        sizes: Iterable[Size] = SIZES.values()
        if kind:
            sizes = [SIZES[kind]] if kind in SIZES else self._described(region, str(kind))
        elif not gpu:
            return [size for size in sizes if size.general]
        if gpu:
            count = query.get("gpu_count") or 1
            return [size for size in sizes if size.gpu == gpu and size.gpu_count == count]
        return sizes

    def _described(self, region: str, kind: str) -> list[Size]:
        """A size that is not in our table, as EC2 describes it; none where our images do not run on it."""
        try:
            rows = self._api.pages(region, "describe_instance_types", "InstanceTypes", InstanceTypes=[kind])
        except InvalidRequest as error:
            if wire.code_of(error).startswith("InvalidInstanceType"):
                return []
            raise
        return [size for row in rows for size in wire.size_from(row)]

    def _spot_prices(self, region: str, kinds: list[str]) -> dict[str, float]:
        """The highest of its zones for each: EC2 chooses the zone."""
        rows = self._api.pages(
            region,
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=kinds,
            ProductDescriptions=[_SPOT_PRODUCT],
            StartTime=_clock.now(),
        )
        prices: dict[str, float] = {}
        for row in rows:
            kind, price = str(row["InstanceType"]), float(row["SpotPrice"])
            prices[kind] = max(price, prices.get(kind, 0.0))
        return prices

    def create(self, request: Request) -> Instance:
        wire.check_request(request)
        self._need_a_way_in()
        region = request.offer.id.split("/")[0]
        self._allowed(region)
        image = self._image(region, request)
        key = network.key_pair(self._api, region, request.marker, str(request.ssh_public_key))
        own_groups = bool(self._settings.get("security_group_ids"))
        subnets = self._settings.get("subnet_ids") or (None,)
        for subnet in subnets:
            groups = self._groups(region, request, subnet)
            try:
                return self._launch(region, wire.order(request, image, key, groups, subnet, own_groups))
            except NoCapacity:
                if subnet == subnets[-1]:
                    raise
            except NameTaken:
                self._lost.add((region, request.marker.nonce))
                raise
        raise AssertionError("unreachable: the last subnet is tried or raises")

    def _launch(self, region: str, order: Mapping[str, Any]) -> Instance:
        rows = self._api.call("ec2", region, "run_instances", **order).get("Instances") or []
        made = wire.instance_from(rows[0], region) if len(rows) == 1 else None
        if made is None:
            raise Ambiguous(
                "aws answered a create with neither yes nor no, so it may have taken effect.",
                provider=self.name,
                fix="Run again: it looks for what was done first.",
            )
        if made.status is Status.TERMINATING:
            raise NonceSpent(f"What was rented with this token was {made.id}, which ends.", provider=self.name)
        self._region_of[made.id] = region
        return made

    def nonces(self, deployment_id: str, name: str, offer: Offer) -> tuple[str, ...]:
        """The chain that begins with the last machine of that name there; without those that somebody else used."""
        region = offer.id.split("/")[0]
        dead = [
            (wire.created_at(row) or 0.0, marker.nonce)
            for row in self._rows_in(region)
            for marker in [wire.marker_of(row)]
            if marker
            and (marker.deployment_id, marker.name) == (deployment_id, name)
            and wire.state_of(row) in wire.ENDED
        ]
        previous = max(dead)[1] if dead else ""
        chain = wire.nonces_after(deployment_id, name, region, previous, _NONCES)
        left = tuple(one for one in chain if (region, one) not in self._lost)
        # EC2 may say of tokens whose machines ended what it says of those in use: who lost two leaves it to chance.
        return left if len(left) > len(chain) - 2 else ()

    def _image(self, region: str, request: Request) -> dict[str, Any]:
        """The AMI, which must fit onto the disk that is wanted."""
        wanted = request.image or (wire.GPU_IMAGE if request.offer.gpu_count else wire.UBUNTU_IMAGE)
        if wanted.startswith("/"):
            wanted = str(self._api.call("ssm", region, "get_parameter", Name=wanted)["Parameter"]["Value"])
        rows = self._api.pages(region, "describe_images", "Images", ImageIds=[wanted])
        if not rows:
            raise InvalidRequest(
                f"There is no image {wanted} in {region}.", provider=self.name, fix="Give another image."
            )
        least = wire.least_disk_gib(rows[0])
        if request.disk_gib < least:
            raise InvalidRequest(
                f"disk_gib {request.disk_gib} is too small for the image {wanted}, which has {least} GiB.",
                provider=self.name,
                fix=f"Set disk_gib to {least} or more.",
            )
        return rows[0]

    def _groups(self, region: str, request: Request, subnet: str | None) -> tuple[str, ...]:
        given = self._settings.get("security_group_ids")
        if given:
            return tuple(given)
        vpc = network.network_of(self._api, region, subnet)
        ports = [port for port, _protocol in request.ports]
        return network.groups(self._api, region, vpc, request.marker, ports, self._settings["source_ranges"])

    def _need_a_way_in(self) -> None:
        if not (self._settings.get("security_group_ids") or self._settings.get("source_ranges")):
            raise InvalidRequest(
                "Nobody says who may reach what is rented at aws.",
                provider=self.name,
                fix="Set provider_settings.aws.source_ranges, such as ['203.0.113.7/32'] (your own address), or "
                "security_group_ids.",
            )
        for problem in _provider_settings.check(self.name, self._settings):
            raise InvalidRequest(
                f"provider_settings.aws.{problem.field}: {problem}", provider=self.name, fix="Correct the input."
            )

    def _allowed(self, region: str) -> None:
        """What is rented where nobody looks is forgotten."""
        if region not in self._api.regions():
            raise InvalidRequest(
                f"Region {region} is not among those that are looked into: {', '.join(self._api.regions())}.",
                provider=self.name,
                fix="Enable it for the account, or add it to provider_settings.aws.regions.",
            )

    def get(self, instance_id: str) -> Instance | None:
        found = self._find(instance_id)
        return self._ours(*found) if found else None

    def list(self) -> list[Instance]:
        found: list[Instance] = []
        for region, rows in self._api.everywhere(self._rows_in).items():
            for row in rows:
                instance = wire.instance_from(row, region)
                if instance and wire.state_of(row) != wire.TERMINATED:
                    self._region_of[instance.id] = region
                    found.append(instance)
        return found

    def regions_looked_into(self) -> Collection[str]:
        return self._api.regions()

    def _rows_in(self, region: str) -> wire.Rows:
        """What carries our tag there, also what was terminated within the last hour."""
        filters = [{"Name": "tag-key", "Values": [wire.MARKER_TAG]}]
        pages = self._api.pages(region, "describe_instances", "Reservations", Filters=filters)
        return [row for reservation in pages for row in reservation.get("Instances") or ()]

    def _find(self, instance_id: str) -> tuple[dict[str, Any], str] | None:
        """The provider's description and its region; None only when EC2 says that it doesn't exist any more."""
        wire.check_id(instance_id)

        def look(region: str) -> dict[str, Any] | None:
            try:
                answer = self._api.call("ec2", region, "describe_instances", InstanceIds=[instance_id])
            except InvalidRequest as error:
                if wire.code_of(error) == wire.NOT_FOUND:
                    return None
                raise
            rows = [row for one in answer.get("Reservations") or () for row in one.get("Instances") or ()]
            return rows[0] if rows else None

        known = self._region_of.get(instance_id)
        rows = {known: look(known)} if known else self._api.everywhere(look)
        for region, row in rows.items():
            if row is not None:
                self._region_of[instance_id] = region
                return None if wire.state_of(row) == wire.TERMINATED else (row, region)
        return None

    def _ours(self, row: Mapping[str, Any], region: str) -> Instance:
        instance = wire.instance_from(row, region)
        if instance is None:
            raise not_ours(self.name, f"Instance {row.get('InstanceId')}", "tags")
        return instance

    def _must_find(self, instance_id: str) -> tuple[dict[str, Any], str]:
        """Ours, as EC2 describes it; what is not ours is not touched."""
        found = self._find(instance_id)
        if found is None:
            raise missing(self.name, f"instance {instance_id}")
        self._ours(*found)
        return found

    def start(self, instance_id: str) -> Instance:
        row, region = self._until(instance_id, lambda state: state != wire.STOPPING)
        if wire.state_of(row) == "stopped":
            marker = self._ours(row, region).marker
            if _lifetime.is_over(marker.expiry_epoch_hours, _clock.now()):
                raise InvalidRequest(
                    f"{self.name}: the lifetime of {marker.name} ({instance_id}) is over: started, it would end itself "
                    "and its disk.",
                    provider=self.name,
                    fix="Give it more time (extend, fleet_extend), or destroy it (absent).",
                )
            self._api.call("ec2", region, "start_instances", InstanceIds=[instance_id])
            row, region = self._must_find(instance_id)
        current = self._ours(row, region)
        # The order was taken; until it shows, this is no longer a stopped one.
        return replace(current, status=Status.PENDING) if current.status is Status.STOPPED else current

    def stop(self, instance_id: str) -> Instance:
        row, region = self._must_find(instance_id)
        if row.get("InstanceLifecycle") == "spot":
            raise InvalidRequest(
                f"EC2 can't stop {instance_id}: it is a spot machine that was rented once.",
                provider=self.name,
                fix="End it (absent), or rent it with interruptible: false.",
            )
        if wire.state_of(row) not in (wire.STOPPING, "stopped"):
            row, region = self._until(instance_id, lambda state: state != "pending")
            self._api.call("ec2", region, "stop_instances", InstanceIds=[instance_id])
        row, region = self._until(instance_id, lambda state: state == "stopped")
        return self._ours(row, region)

    def _until(self, instance_id: str, arrived: Callable[[str], bool]) -> tuple[dict[str, Any], str]:
        """Our instance, once its state is that; after the deadline as it is."""
        deadline = _clock.monotonic() + STOP_DEADLINE_SECONDS
        while True:
            row, region = self._must_find(instance_id)
            if arrived(wire.state_of(row)) or _clock.monotonic() > deadline:
                return row, region
            _clock.sleep(_POLL_SECONDS)

    def renew(self, instance_id: str, expiry_epoch_hours: int) -> Instance:
        """The machine's own timer reads the tag before it ends anything."""
        row, region = self._must_find(instance_id)
        marker = replace(self._ours(row, region).marker, expiry_epoch_hours=expiry_epoch_hours)
        tag = {"Key": wire.MARKER_TAG, "Value": _marker.encode(marker)}
        self._api.call("ec2", region, "create_tags", Resources=[instance_id], Tags=[tag])
        return self._ours(*self._must_find(instance_id))

    def delete(self, instance_id: str) -> bool:
        """Gone is what EC2 describes as terminated, or doesn't know."""
        found = self._find(instance_id)
        if found is None:
            return False
        known = self._ours(*found)  # what is not ours is not touched
        region = found[1]

        def order() -> str | None:
            try:
                self._api.call("ec2", region, "terminate_instances", InstanceIds=[instance_id])
            except InvalidRequest as error:
                if wire.code_of(error) == wire.NOT_FOUND:
                    return None
                raise
            return ""

        def look() -> Left | None:
            now = self._find(instance_id)
            return None if now is None else Left(0.0 if wire.state_of(now[0]) == wire.SHUTTING_DOWN else price)

        price = known.price_per_hour_usd
        ending = Ending(
            self.name,
            f"instance {instance_id}",
            f"{wire.CONSOLE} ({region})",
            order,
            look,
            Left(price),
            deadline_seconds=END_DEADLINE_SECONDS,
        )
        return ending.finish()

    def log(self, instance_id: str, words: str) -> str:
        return ""  # the console of a machine is asked for nothing

    def clean_up(self, deployment_id: str) -> bool:
        """The key pairs and security groups of a deployment, where no machine of it is left."""
        alive = {one.region or "": True for one in self.list() if one.marker.deployment_id == deployment_id}
        return network.clear_up(self._api, deployment_id, alive)
