# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `gcp`: machines of Google Cloud, rented through Compute v1 in one project.

Its list with our marker in a label is the state of record; the label is there from the insert on. Names are unique in a
zone alone, so two zones may have the same one: then the oldest stays, as elsewhere. What is rented is known by its
number, which is never used again. Google itself ends a machine whose time is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Request, Runtime, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    Ambiguous,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    ProviderUnavailable,
    missing,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_drift as drift
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_errors as errors
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_sizes as sizes
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.gcp_api import OPERATION_SECONDS, ComputeApi

STOP_DEADLINE_SECONDS = 300.0
_POLL_SECONDS = 2.0


def make(settings: Mapping[str, Any]) -> GcpProvider:
    """Called by _provider.load; talks to nobody yet."""
    return GcpProvider(settings)


class GcpProvider:
    """The provider contract over HTTP. Settings: project, api_url, network, subnetwork, network_tags."""

    name = errors.PROVIDER
    capabilities = CAPABILITIES[errors.PROVIDER]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._api = ComputeApi(settings)

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        if query.get("runtime", Runtime.VM.value) != Runtime.VM.value:
            return []
        spot = bool(query.get("interruptible"))
        gpu, count = query.get("gpu"), query.get("gpu_count") or 1
        candidates = sizes.candidates(gpu, count, query.get("instance_type"), spot)
        if not candidates:
            return []
        zones_with = self._zones_with({one.attached for one in candidates if one.attached})
        found: list[Offer] = []
        regions = {one.casefold() for one in query.get("regions") or ()}
        named = {"filter": wire.names_filter(one.name for one in candidates)}
        for page in self._api.pages("/aggregated/machineTypes", named):
            for zone, row in wire.rows_in(page, "machineTypes"):
                if regions and wire.region_of(zone) not in regions:
                    continue
                offers = [
                    wire.offer_from(zone, row, one, spot, zones_with) for one in candidates if one.name == row["name"]
                ]
                found += [offer for offer in offers if offer]
        return found

    def _zones_with(self, accelerators: set[str]) -> dict[str, set[str]]:
        """Where an accelerator can be attached."""
        found: dict[str, set[str]] = {}
        named = {"filter": wire.names_filter(sorted(accelerators))}
        for page in self._api.pages("/aggregated/acceleratorTypes", named) if accelerators else ():
            for zone, row in wire.rows_in(page, "acceleratorTypes"):
                found.setdefault(str(row["name"]), set()).add(zone)
        return found

    def create(self, request: Request) -> Instance:
        wire.check_request(request)
        zone, body = wire.zone_of(request.offer), wire.create_body(request, self._settings)
        answer = self._api.order("POST", f"/zones/{zone}/instances", body, request_id=wire.request_id(request.marker))
        try:
            done = self._api.finished(answer.body)
        except ProviderError as error:
            # It was ordered; only whether it came about is not known.
            raise Ambiguous(
                f"{self.name} took the order of {body['name']}, and what became of it is not known: {error.message}",
                provider=self.name,
                status=error.status,
                request_id=error.request_id,
                fix="Run again: it looks for what was done first.",
            ) from error
        problems = errors.operation_errors(done)
        if problems:
            raise self._not_created(done, request.offer)
        return wire.created(request, str(done.get("targetId")))

    def _not_created(self, operation: Mapping[str, Any], offer: Offer) -> ProviderError:
        refusal = errors.failed(operation, f"rent {offer.instance_type} in {wire.zone_of(offer)}")
        if isinstance(refusal, NoCapacity):
            zones = [zone for one in errors.operation_errors(operation) for zone in errors.zones_in_stock(one)]
            refusal.in_stock = frozenset(wire.elsewhere(offer.id, zones))
        return refusal

    def get(self, instance_id: str) -> Instance | None:
        row = self._row(instance_id)
        return self._ours(row) if row is not None else None

    def list(self) -> list[Instance]:
        found: dict[str, Instance] = {}
        # Without a filter: one that is not understood as we mean it would prove an absence that isn't.
        for page in self._api.pages("/aggregated/instances"):
            for _zone, row in wire.rows_in(page, "instances"):
                instance = self._instance(row)
                if instance:
                    found[instance.id] = instance
        return list(found.values())

    def _instance(self, row: Mapping[str, Any]) -> Instance | None:
        """In our words. What is being deleted looks like what is being stopped; only its operations tell."""
        instance = wire.instance_from(row)
        if instance and row.get("status") in wire.STOPPING and self._is_being_deleted(row):
            return replace(instance, status=Status.TERMINATING, detail="being deleted")
        if instance and instance.status is Status.RUNNING and wire.tells_host_keys(row):
            return replace(instance, host_key=self._host_key(instance.id))
        return instance

    def _host_key(self, instance_id: str) -> str | None:
        """What the guest's agent has written; None where it has not, or we can't read it.

        A machine is listed, and ended, without: what was read once stands in the journal.
        """
        query = {"queryPath": "hostkeys/"}
        path = f"{wire.path_of(instance_id)}/getGuestAttributes"
        try:
            answer = self._api.call("GET", path, query=query, accept=(400, 403, 404))
        except ProviderUnavailable:
            return None
        return wire.host_key_in(answer.body) if answer.status == 200 else None

    def _is_being_deleted(self, row: Mapping[str, Any]) -> bool:
        about = f'(targetId = {row["id"]}) (operationType = "delete")'
        pages = self._api.pages(f"/zones/{wire.last(row.get('zone'))}/operations", {"filter": about})
        orders = [one for page in pages for one in page.get("items") or ()]
        return any(not errors.operation_errors(one) for one in orders)

    def deviations(self, instance_id: str) -> dict[str, tuple[Any, Any]]:
        row = self._row(instance_id)
        marker = wire.marker_of(row) if row is not None else None
        return drift.deviations(row, marker, self._settings) if row is not None and marker else {}

    def untouchable(self, instance_id: str) -> Sequence[str]:
        row = self._row(instance_id)
        marker = wire.marker_of(row) if row is not None else None
        return drift.untouchable(row, marker) if row is not None and marker else ()

    def adjust(self, instance_id: str) -> Instance:
        row = self._row(instance_id)
        if row is None:
            raise missing(self.name, f"instance {instance_id}")
        current, path = self._ours(row), wire.path_of(instance_id)
        wrong = drift.deviations(row, current.marker, self._settings)
        if "network_tags" in wrong:
            body = {"items": wrong["network_tags"][1], "fingerprint": (row.get("tags") or {}).get("fingerprint")}
            self._finish(self._api.order("POST", f"{path}/setTags", body).body, "set its network tags")
        if "labels" in wrong:
            labels = {**(row.get("labels") or {}), **wrong["labels"][1]}
            body = {"labels": labels, "labelFingerprint": row.get("labelFingerprint")}
            self._finish(self._api.order("POST", f"{path}/setLabels", body).body, "set its labels")
        if "scheduling" in wrong:
            body = {**(row.get("scheduling") or {}), **wrong["scheduling"][1]}
            self._finish(self._api.order("POST", f"{path}/setScheduling", body).body, "set its scheduling")
        return self._must_get(instance_id)

    def start(self, instance_id: str) -> Instance:
        row = self._settled(instance_id)
        current = self._ours(row)
        if current.status is not Status.STOPPED:
            return current
        self._lease_anew(instance_id, current, row)
        answer = self._api.order("POST", f"{wire.path_of(instance_id)}/start")
        self._finish(answer.body, f"start {current.marker.name}")
        return self._must_get(instance_id)

    def _lease_anew(self, instance_id: str, current: Instance, row: Mapping[str, Any]) -> None:
        """Its time counts from each start anew, but it shall end when its marker says."""
        left = wire.seconds_left(current.marker)
        if left is None and not drift.has_limit(row):
            return
        if left is not None and left < wire.LEAST_RUN_SECONDS:
            raise InvalidRequest(
                f"{self.name}: the lifetime of {current.marker.name} ({instance_id}) is over: it is not started again.",
                provider=self.name,
                fix="Destroy it (absent), and rent another one.",
            )
        wanted = wire.scheduling(has_accelerators=current.gpu_count > 0, spot=wire.is_spot(row), seconds=left)
        answer = self._api.order("POST", f"{wire.path_of(instance_id)}/setScheduling", wanted)
        self._finish(answer.body, f"set the end of {current.marker.name}")

    def stop(self, instance_id: str) -> Instance:
        current = self._ours(self._settled(instance_id))  # what is not ours is not touched
        if current.status is Status.STOPPED:
            return current
        # Families with a local disk want to know what becomes of it.
        answer = self._api.order("POST", f"{wire.path_of(instance_id)}/stop", query={"discardLocalSsd": "false"})
        self._finish(answer.body, f"stop {current.marker.name}")
        return self._must_get(instance_id)

    def _finish(self, operation: Any, doing: str) -> None:
        done = self._api.finished(operation)
        if errors.operation_errors(done):
            raise errors.failed(done, doing)

    def _settled(self, instance_id: str) -> dict[str, Any]:
        """Our instance, when it is no longer on its way to a stop; after the deadline as it is."""
        deadline = _clock.monotonic() + STOP_DEADLINE_SECONDS
        while True:
            row = self._row(instance_id)
            if row is None:
                raise missing(self.name, f"instance {instance_id}")
            self._ours(row)
            if row.get("status") not in wire.STOPPING or _clock.monotonic() > deadline:
                return row
            _clock.sleep(_POLL_SECONDS)

    def delete(self, instance_id: str) -> bool:
        row = self._row(instance_id)
        if row is not None:
            self._ours(row)  # what is not ours is not touched
        path = wire.path_of(instance_id)

        def order() -> str | None:
            answer = self._api.order("DELETE", path, accept=(400, 404))
            if answer.status == 404:
                return None if errors.is_gone(answer, path) else errors.said(answer)
            if answer.status >= 400:  # its create is still under way, perhaps
                return errors.said(answer)
            problems = errors.operation_errors(self._api.finished(answer.body))
            return str(problems[0].get("message")) if problems else ""

        def look() -> Left | None:
            now = self._row(instance_id)
            return None if now is None else Left(self._ours(now).price_per_hour_usd)

        return Ending(
            self.name,
            f"instance {instance_id}",
            errors.CONSOLE,
            order,
            look,
            # Also of one whose end somebody else ordered, whose operation nobody here waits for.
            deadline_seconds=OPERATION_SECONDS,
        ).finish()

    def log(self, instance_id: str, words: str) -> str:
        return ""  # its serial port has what the boot prints, not what runs there

    def clean_up(self, deployment_id: str) -> bool:
        return False  # nothing is made beside the instances; firewall rules are the user's (gcp_firewall)

    def _row(self, instance_id: str) -> dict[str, Any] | None:
        """The provider's description; None only when it says that there is no such instance."""
        path = wire.path_of(instance_id)
        answer = self._api.call("GET", path, accept=(404,))
        if answer.status == 404:
            if errors.is_gone(answer, path):
                return None
            raise errors.strange(f"404 about something else than the instance ({errors.said(answer)[:100]})")
        if not isinstance(answer.body, dict) or str(answer.body.get("id")) != instance_id.partition("/")[2]:
            raise errors.strange("something that is not the instance we asked for")
        return answer.body

    def _ours(self, row: Mapping[str, Any]) -> Instance:
        instance = self._instance(row)
        if instance is None:
            raise not_ours(self.name, f"Instance {row.get('name')}", "labels")
        return instance

    def _must_get(self, instance_id: str) -> Instance:
        instance = self.get(instance_id)
        if instance is None:
            raise missing(self.name, f"instance {instance_id}")
        return instance
