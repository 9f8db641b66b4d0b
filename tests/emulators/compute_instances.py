# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Instances of the emulated Compute v1: what is ordered, what becomes of it, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .compute_market import SIZES, Quotas, Size, Zone
from .compute_operations import Operation, Operations, moment
from .compute_rules import (
    Refused,
    check_instance,
    check_labels,
    check_metadata,
    check_scheduling,
    check_tags,
    fingerprint,
    full_scheduling,
    last,
    not_found,
    provisioning,
    quota_error,
    sold_out_error,
)
from .machines import Order
from .world import Rental, World

# Of the world, since the order.
PROVISIONING_SECONDS, RUNNING_SECONDS, INSERT_SECONDS, REFUSAL_SECONDS = 4.0, 12.0, 8.0, 7.0
STOP_SECONDS, DELETE_SECONDS, CHANGE_SECONDS = 30.0, 25.0, 2.0
FIRST_ID = 4_000_000_000
SSH_PORT = 22
PUBLIC_NETWORK = "198.51.100."
SPOT_DISCOUNT = 0.4
MARKER_LABEL = "gpufleet-marker"

Values = dict[str, str]
Answer = dict[str, Any]


@dataclass
class Instances:
    """The wire of a rental is what is shown of it; what begins with "_" is nobody's business."""

    world: World
    operations: Operations
    zones: dict[str, Zone]
    quotas: Quotas
    base: str

    # Orders -----------------------------------------------------------------------------------------------------------

    def insert(self, at: Values, query: Values, wish: Answer) -> Answer:
        zone = self.zones.get(at["zone"])
        if zone is None:
            raise not_found(f"projects/p/zones/{at['zone']}")
        what = f"insert {zone.name} {wish['name']}"
        repeated = self.operations.repeated(query.get("requestId"), what)
        if repeated:
            return repeated.wire
        size, gpus = check_instance(wish, zone)
        path = f"zones/{zone.name}/instances/{wish['name']}"
        if any(one.wire["name"] == wish["name"] for one in self._in(zone)):
            raise Refused(409, "alreadyExists", f"The resource 'projects/p/{path}' already exists")
        errors = self._errors(zone, size, gpus)
        rental = self._new(zone, size, gpus, wish)
        rental.wire["_failing"] = bool(errors)
        self.world.rent(rental, None if errors else _order(wish))
        operation = self.operations.order(
            "insert",
            f"zones/{zone.name}",
            (path, rental.id),
            REFUSAL_SECONDS if errors else INSERT_SECONDS,
            (lambda: self.world.delete(rental)) if errors else (lambda: None),
            errors=errors,
            request=(query.get("requestId"), what),
        )
        rental.wire["_busy_with"] = operation
        return operation.wire

    def _errors(self, zone: Zone, size: Size, gpus: Mapping[str, int]) -> list[Answer]:
        """Why there can be no such instance; a quota counts before what is left."""
        if not gpus and not self.world.trouble("offer_gone", f"{zone.name}/{size.name}"):
            return []
        quota = quota_error(zone.region, gpus, self.used_gpus(), self.quotas)
        if quota:
            return [quota]
        if self._has(zone, size, gpus):
            return []
        stocked = [one.name for one in self.zones.values() if one is not zone and self._has(one, size, gpus)]
        return [sold_out_error(size, zone, stocked, details=bool(stocked))]

    def _has(self, zone: Zone, size: Size, gpus: Mapping[str, int]) -> bool:
        if self.world.trouble("offer_gone", f"{zone.name}/{size.name}"):
            return False
        taken = [one.wire["_gpus"] for one in self._in(zone) if _holds_gpus(one)]
        return all(
            sum(one.get(name, 0) for one in taken) + count <= zone.left.get(name, 0) for name, count in gpus.items()
        )

    def used_gpus(self) -> list[tuple[str, dict[str, int]]]:
        """(region, GPUs) of what counts against the quota."""
        living = [one for one in self.world.alive() if _holds_gpus(one)]
        return [(self.zones[one.wire["_zone"]].region, one.wire["_gpus"]) for one in living]

    def _new(self, zone: Zone, size: Size, gpus: dict[str, int], wish: Answer) -> Rental:
        now, number = self.world.now(), next(self.world.numbers)
        identity = str(FIRST_ID + number)
        here = f"{self.base}/zones/{zone.name}"
        disk = wish["disks"][0]
        gigabytes = int((disk.get("initializeParams") or {}).get("diskSizeGb", 10))
        nic = wish["networkInterfaces"][0]
        wire: dict[str, Any] = {
            "kind": "compute#instance",
            "id": identity,
            "name": wish["name"],
            "zone": here,
            "machineType": f"{here}/machineTypes/{size.name}",
            "creationTimestamp": moment(now),
            "labels": dict(wish.get("labels") or {}),
            "tags": dict(wish.get("tags") or {}),
            "metadata": {"kind": "compute#metadata", **(wish.get("metadata") or {})},
            "scheduling": full_scheduling(wish.get("scheduling") or {}),
            "disks": [
                {
                    "kind": "compute#attachedDisk",
                    "type": "PERSISTENT",
                    "mode": "READ_WRITE",
                    "source": f"{here}/disks/{wish['name']}",
                    "deviceName": "persistent-disk-0",
                    "index": 0,
                    "boot": True,
                    "autoDelete": bool(disk.get("autoDelete")),
                    "diskSizeGb": str(gigabytes),
                    "interface": "SCSI",
                }
            ],
            "networkInterfaces": [
                {
                    "kind": "compute#networkInterface",
                    "name": "nic0",
                    "network": f"{self.base}/global/networks/{last(nic.get('network') or 'default')}",
                    "networkIP": f"{zone.local_ips}.{number % 250 + 2}",
                    "accessConfigs": [
                        {
                            "kind": "compute#accessConfig",
                            "type": "ONE_TO_ONE_NAT",
                            "name": one.get("name", "external-nat"),
                        }
                        for one in nic.get("accessConfigs") or []
                    ],
                }
            ],
            "guestAccelerators": [
                {"acceleratorType": f"{here}/acceleratorTypes/{name}", "acceleratorCount": count}
                for name, count in gpus.items()
            ],
            "serviceAccounts": wish.get("serviceAccounts") or [],
            "canIpForward": False,
            "deletionProtection": bool(wish.get("deletionProtection")),
            "startRestricted": False,
            "selfLink": f"{here}/instances/{wish['name']}",
            "_zone": zone.name,
            "_size": size.name,
            "_gpus": gpus,
            "_since": now,  # when the last order came
            "_wanted": "running",
            "_running_since": None,
        }
        spot = provisioning(wire["scheduling"]) == "SPOT"
        price = size.price_per_hour_usd * (SPOT_DISCOUNT if spot else 1.0)
        owner = wire["labels"].get(MARKER_LABEL, wish["name"])
        return Rental(identity, "gcp", owner, "PROVISIONING", now, price, wire)

    def start(self, at: Values, query: Values, body: Any) -> Answer:
        rental = self.must_find(at)
        what = f"start {rental.id}"
        repeated = self.operations.repeated(query.get("requestId"), what)
        if repeated:
            return repeated.wire
        wire = rental.wire
        if rental.status == "STOPPING":
            raise _not_ready(at)
        errors: list[Answer] = []
        if rental.status == "TERMINATED":
            zone, size = self.zones[wire["_zone"]], SIZES[wire["_size"]]
            if self.world.trouble("no_gpu", rental.id, rental.owner):
                errors = [sold_out_error(size, zone, [], details=False)]
            else:
                wire["_wanted"], wire["_since"], rental.status = "running", self.world.now(), "PROVISIONING"
                self.world.start_machine(rental)
        seconds = REFUSAL_SECONDS if errors else RUNNING_SECONDS
        request = (query.get("requestId"), what)
        return self._change("start", rental, seconds, request=request, errors=errors).wire

    def stop(self, at: Values, query: Values, body: Any) -> Answer:
        rental = self.must_find(at)
        what = f"stop {rental.id}"
        repeated = self.operations.repeated(query.get("requestId"), what)
        if repeated:
            return repeated.wire
        self._must_be_idle(rental, at)
        if SIZES[rental.wire["_size"]].local_ssds and "discardLocalSsd" not in query:
            raise Refused(
                400, "badRequest", "VM has a Local SSD attached but an undefined value for `discard-local-ssd`."
            )
        if rental.status != "TERMINATED":
            self._begin_to_stop(rental, "stopped")
        return self._change(
            "stop",
            rental,
            STOP_SECONDS if rental.status == "STOPPING" else CHANGE_SECONDS,
            lambda: self._stopped(rental),
            request=(query.get("requestId"), what),
        ).wire

    def delete(self, at: Values, query: Values, body: Any) -> Answer:
        rental = self.must_find(at)
        what = f"delete {rental.id}"
        repeated = self.operations.repeated(query.get("requestId"), what)
        if repeated:
            return repeated.wire
        self._must_be_idle(rental, at)
        if rental.wire["deletionProtection"]:
            raise Refused(400, "badRequest", "Resource cannot be deleted if it's protected against deletion.")
        self._begin_to_stop(rental, "gone")
        late = self.world.trouble("delete_late", rental.id, rental.owner)
        rental.wire["_ends_at"] = self.world.now() + DELETE_SECONDS + (late.seconds if late else 0.0)
        return self._change("delete", rental, DELETE_SECONDS, request=(query.get("requestId"), what)).wire

    def _must_be_idle(self, rental: Rental, at: Values) -> None:
        busy: Operation | None = rental.wire.get("_busy_with")
        if busy and not busy.done and busy.wire["operationType"] == "insert":
            raise _not_ready(at)

    def _begin_to_stop(self, rental: Rental, wanted: str) -> None:
        rental.wire["_wanted"], rental.wire["_since"], rental.status = wanted, self.world.now(), "STOPPING"
        self.world.machines.stop(rental.id)

    def _stopped(self, rental: Rental) -> None:
        if rental.wire["_wanted"] == "stopped" and rental.alive:
            rental.status, rental.wire["_running_since"] = "TERMINATED", None
            self.world.bill(rental, costs=False)

    def _change(
        self, kind: str, rental: Rental, seconds: float, finish: Callable[[], None] = lambda: None, **more: Any
    ) -> Operation:
        scope = f"zones/{rental.wire['_zone']}"
        target = (f"{scope}/instances/{rental.wire['name']}", rental.id)
        return self.operations.order(kind, scope, target, seconds, finish, **more)

    def set_labels(self, at: Values, query: Values, body: Answer) -> Answer:
        check_labels(body.get("labels") or {})
        rental = self._with_fingerprint(at, "labels", body.get("labelFingerprint"))
        rental.wire["labels"] = dict(body.get("labels") or {})
        rental.owner = rental.wire["labels"].get(MARKER_LABEL, rental.wire["name"])
        return self._change("setLabels", rental, CHANGE_SECONDS).wire

    def set_tags(self, at: Values, query: Values, body: Answer) -> Answer:
        check_tags(body.get("items") or [])
        rental = self._with_fingerprint(at, "tags", body.get("fingerprint"))
        rental.wire["tags"] = {"items": list(body.get("items") or [])}
        return self._change("setTags", rental, CHANGE_SECONDS).wire

    def set_metadata(self, at: Values, query: Values, body: Answer) -> Answer:
        check_metadata(body.get("items") or [])
        rental = self._with_fingerprint(at, "metadata", body.get("fingerprint"))
        rental.wire["metadata"] = {"kind": "compute#metadata", "items": list(body.get("items") or [])}
        return self._change("setMetadata", rental, CHANGE_SECONDS).wire

    def _with_fingerprint(self, at: Values, name: str, told: str | None) -> Rental:
        """The rental, if who changes it has seen it as it is now."""
        rental = self.must_find(at)
        shown = self.show(rental)
        known = shown["labelFingerprint"] if name == "labels" else shown[name]["fingerprint"]
        if told != known:
            raise Refused(412, "conditionNotMet", f"Supplied fingerprint does not match current {name} fingerprint.")
        return rental

    def set_scheduling(self, at: Values, query: Values, body: Answer) -> Answer:
        rental = self.must_find(at)
        check_scheduling(body, has_accelerators=bool(rental.wire["_gpus"]))
        old = rental.wire["scheduling"]
        ends = ("maxRunDuration", "terminationTime", "instanceTerminationAction", "provisioningModel")
        wanted = full_scheduling(body)
        if rental.status != "TERMINATED" and any(old.get(name) != wanted.get(name) for name in ends):
            raise Refused(400, "badRequest", "The instance must be stopped before this part of scheduling can be set.")
        rental.wire["scheduling"] = wanted
        return self._change("setScheduling", rental, CHANGE_SECONDS).wire

    def guest_attributes(self, at: Values, query: Values, body: Any) -> Answer:
        """Where the guest's agent writes its host keys, when it may."""
        rental = self.must_find(at)
        items = {one["key"]: one.get("value") for one in rental.wire["metadata"].get("items") or []}
        key = self.world.machines.host_key(rental.id) if items.get("enable-guest-attributes") == "TRUE" else None
        if rental.status != "RUNNING" or key is None or query.get("queryPath") != "hostkeys/":
            raise not_found(f"projects/p/zones/{rental.wire['_zone']}/instances/{rental.id}/guestAttributes")
        kind, value = key.split()[:2]
        entry = {"namespace": "hostkeys", "key": kind, "value": value}
        return {"kind": "compute#guestAttributes", "queryPath": "hostkeys/", "queryValue": {"items": [entry]}}

    # Looks ------------------------------------------------------------------------------------------------------------

    def _in(self, zone: Zone) -> list[Rental]:
        return [one for one in self.world.alive() if one.wire["_zone"] == zone.name]

    def must_find(self, at: Values) -> Rental:
        """By its name or its number."""
        wanted = at["instance"]
        for one in self.world.alive():
            if one.wire["_zone"] == at["zone"] and wanted in (one.wire["name"], one.id):
                return one
        raise not_found(f"projects/p/zones/{at['zone']}/instances/{wanted}")

    def listed(self, zone: Zone) -> list[Answer]:
        found = []
        for one in self._in(zone):
            late = self.world.trouble("list_late", one.id, one.owner)
            if late is None or self.world.now() - one.created_at >= late.seconds:
                found.append(self.show(one))
        return found

    def refresh_all(self) -> None:
        for one in self.world.alive():
            self._refresh(one)

    def _refresh(self, rental: Rental) -> None:
        """Bring its status, and what it costs, up to date."""
        wire, now = rental.wire, self.world.now()
        if wire.get("_ends_at") is not None:
            if now >= wire["_ends_at"]:
                self.world.delete(rental)
            return
        if wire["_wanted"] != "running":
            return
        age = now - wire["_since"]
        if wire["_running_since"] is None:
            stuck = wire.get("_failing") or self.world.trouble("boot_stuck", rental.id, rental.owner)
            if age < RUNNING_SECONDS or stuck:
                rental.status = "PROVISIONING" if age < PROVISIONING_SECONDS else "STAGING"
                return
            since = float(wire["_since"]) + RUNNING_SECONDS
            rental.status, wire["_running_since"], wire["lastStartTimestamp"] = "RUNNING", since, moment(since)
            self.world.bill(rental, costs=True)
        runs = now - wire["_running_since"]
        taken_back = self.world.trouble("exits", rental.id, rental.owner)
        limit = (wire["scheduling"].get("maxRunDuration") or {}).get("seconds")
        if (limit is not None and runs >= int(limit)) or (taken_back and runs >= taken_back.seconds):
            self._end(rental)

    def _end(self, rental: Rental) -> None:
        """What happens when its time is over, or Google takes it back."""
        if rental.wire["scheduling"].get("instanceTerminationAction") == "DELETE":
            self.world.delete(rental)
        else:
            self._begin_to_stop(rental, "stopped")
            self._stopped(rental)

    def show(self, rental: Rental) -> Answer:
        shown = {name: value for name, value in rental.wire.items() if not name.startswith("_")}
        shown["status"] = rental.status
        shown["labelFingerprint"] = fingerprint(shown["labels"])
        shown["tags"] = {**shown["tags"], "fingerprint": fingerprint(shown["tags"].get("items"))}
        shown["metadata"] = {**shown["metadata"], "fingerprint": fingerprint(shown["metadata"].get("items"))}
        shown["fingerprint"] = fingerprint(sorted(shown["labels"].items()))
        limit = (shown["scheduling"].get("maxRunDuration") or {}).get("seconds")
        if limit is not None and rental.status == "RUNNING":
            ends = moment(rental.wire["_running_since"] + int(limit))
            shown["resourceStatus"] = {"scheduling": {"terminationTimestamp": ends}}
        (nic,) = shown["networkInterfaces"]
        if rental.status in ("STAGING", "RUNNING"):
            address = self.world.machines.address(rental.id) or f"{PUBLIC_NETWORK}{int(rental.id) % 250 + 2}"
            shown["networkInterfaces"] = [
                nic | {"accessConfigs": [one | {"natIP": address} for one in nic["accessConfigs"]]}
            ]
        return shown


def _holds_gpus(rental: Rental) -> bool:
    return rental.status not in ("TERMINATED",) and not rental.wire.get("_failing")


def _not_ready(at: Values) -> Refused:
    path = f"projects/p/zones/{at['zone']}/instances/{at['instance']}"
    return Refused(400, "resourceNotReady", f"The resource '{path}' is not ready")


def _order(wish: Answer) -> Order:
    """A machine that runs its startup script, as the guest's agent does. Here it runs at the first boot alone."""
    items = {one["key"]: one.get("value", "") for one in (wish.get("metadata") or {}).get("items") or []}
    return Order(image="", machine=True, start_script=items.get("startup-script", ""), ports=(SSH_PORT,))
