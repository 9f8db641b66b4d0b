# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One life of a machine and of a firewall rule by google-cloud-compute: run by the Python in which that is installed.

Prints what was seen as one JSON object. Arguments: the address of the API, the project.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from google.api_core.exceptions import BadRequest, PreconditionFailed
from google.cloud import compute_v1
from google.oauth2.credentials import Credentials

ZONE, FULL_ZONE = "us-central1-c", "us-central1-a"


def wish(name: str, zone: str, **scheduling: Any) -> compute_v1.Instance:
    disk = compute_v1.AttachedDiskInitializeParams(source_image="projects/x/global/images/family/y", disk_size_gb=60)
    outside = compute_v1.AccessConfig(name="nat", type_="ONE_TO_ONE_NAT")
    network = compute_v1.NetworkInterface(network="global/networks/default", access_configs=[outside])
    return compute_v1.Instance(
        name=name,
        machine_type=f"zones/{zone}/machineTypes/g2-standard-4",
        labels={"who": "somebody"},
        disks=[compute_v1.AttachedDisk(boot=True, auto_delete=True, initialize_params=disk)],
        network_interfaces=[network],
        scheduling=compute_v1.Scheduling(**scheduling),
        metadata=compute_v1.Metadata(items=[compute_v1.Items(key="enable-guest-attributes", value="TRUE")]),
    )


class Client:
    """What a caller of that library does. Its own waiting asks the public address whatever api_endpoint says."""

    def __init__(self, url: str, project: str) -> None:
        who = Credentials("any")  # type: ignore[no-untyped-call]
        options: dict[str, Any] = {"credentials": who, "client_options": {"api_endpoint": url}}
        self.project = project
        self.machines = compute_v1.InstancesClient(**options)
        self.types = compute_v1.MachineTypesClient(**options)
        self.walls = compute_v1.FirewallsClient(**options)
        self._in_zone = compute_v1.ZoneOperationsClient(**options)
        self._in_project = compute_v1.GlobalOperationsClient(**options)

    def done(self, operation: Any) -> Any:
        """The operation when it is done, whether it failed or not."""
        while operation.status != compute_v1.Operation.Status.DONE:
            named: dict[str, Any] = {"project": self.project, "operation": operation.name}
            if operation.zone:
                operation = self._in_zone.wait(**named, zone=operation.zone.rpartition("/")[2])
            else:
                operation = self._in_project.wait(**named)
        return operation


def change_tags(client: Client, here: dict[str, Any]) -> list[Any]:
    """The tags of the machine after a change, and what a second one by the same fingerprint comes to."""
    tags = client.machines.get(**here, instance="one").tags
    wanted = compute_v1.Tags(items=["ours"], fingerprint=tags.fingerprint)
    order: dict[str, Any] = {"instance": "one", "tags_resource": wanted}
    client.done(client.machines.set_tags_unary(**here, **order))
    now = list(client.machines.get(**here, instance="one").tags.items)
    try:
        client.machines.set_tags_unary(**here, **order)
    except PreconditionFailed as error:
        return [now, error.code]
    return [now]


def change_scheduling(client: Client, here: dict[str, Any], **wanted: Any) -> list[Any] | str:
    """What the machine has then of host maintenance, restart, seconds and action at its end; or why it is refused."""
    scheduling = compute_v1.Scheduling(**wanted)
    try:
        client.done(client.machines.set_scheduling_unary(**here, instance="one", scheduling_resource=scheduling))
    except BadRequest as error:
        return str(error.message)
    now = client.machines.get(**here, instance="one").scheduling
    seconds = now.max_run_duration.seconds if "max_run_duration" in now else None
    return [now.on_host_maintenance, now.automatic_restart, seconds, now.instance_termination_action]


def guest_attributes(client: Client, here: dict[str, Any]) -> list[list[str]]:
    """What the guest's agent has written about its host keys, once the machine runs."""
    while client.machines.get(**here, instance="one").status != "RUNNING":
        pass  # its time passes faster than ours
    asked = compute_v1.GetGuestAttributesInstanceRequest(**here, instance="one", query_path="hostkeys/")
    told = client.machines.get_guest_attributes(request=asked)
    return [[one.namespace, one.key, one.value] for one in told.query_value.items]


def main() -> None:
    client = Client(*sys.argv[1:])
    machines, project = client.machines, client.project
    here: dict[str, Any] = {"project": project, "zone": ZONE}
    seen: dict[str, Any] = {}

    named = compute_v1.AggregatedListMachineTypesRequest(project=project, filter="(name = g2-standard-4)")
    seen["zones"] = sorted(scope for scope, part in client.types.aggregated_list(request=named) if part.machine_types)
    kept = client.types.get(**here, machine_type="g2-standard-4").accelerators[0]
    seen["own"] = [kept.guest_accelerator_type, kept.guest_accelerator_count]

    try:
        machines.insert_unary(**here, instance_resource=wish("one", ZONE))
    except BadRequest as error:
        seen["migrating"] = error.message
    away = {"on_host_maintenance": "TERMINATE"}
    full = client.done(
        machines.insert_unary(project=project, zone=FULL_ZONE, instance_resource=wish("two", FULL_ZONE, **away))
    )
    told = full.error.errors[0]
    stocked = dict(told.error_details[0].error_info.metadatas)["zonesAvailable"]
    seen["sold out"] = [full.http_error_status_code, told.code, stocked]

    order = compute_v1.InsertInstanceRequest(
        **here, instance_resource=wish("one", ZONE, **away), request_id="7a2d0b38-98a5-4d6c-a2a4-6a2b1d1a4b6f"
    )
    first, again = machines.insert_unary(request=order), machines.insert_unary(request=order)
    seen["once"] = first.name == again.name
    seen["error"] = [each.code for each in client.done(first).error.errors]
    one = machines.get(**here, instance="one")
    seen["made"] = [one.name, one.labels["who"], one.disks[0].disk_size_gb, one.scheduling.on_host_maintenance]
    seen["by number"] = machines.get(**here, instance=str(one.id)).name
    seen["listed"] = [each.name for each in machines.list(**here)]
    everywhere = machines.aggregated_list(project=project)
    seen["everywhere"] = [each.name for _scope, part in everywhere for each in part.instances]

    fresh = compute_v1.InstancesSetLabelsRequest(labels={"who": "me"}, label_fingerprint=one.label_fingerprint)
    labels: dict[str, Any] = {"instance": "one", "instances_set_labels_request_resource": fresh}
    client.done(machines.set_labels_unary(**here, **labels))
    try:
        machines.set_labels_unary(**here, **labels)
    except PreconditionFailed as error:
        seen["stale"] = error.code
    seen["tags"] = change_tags(client, here)
    seen["kept on"] = change_scheduling(client, here, automatic_restart=False, **away)
    seen["to migrate"] = change_scheduling(client, here, on_host_maintenance="MIGRATE")
    lease: dict[str, Any] = {
        "max_run_duration": compute_v1.Duration(seconds=3600),
        "instance_termination_action": "DELETE",
        **away,
    }
    seen["its end while it runs"] = change_scheduling(client, here, **lease)
    seen["told by the guest"] = guest_attributes(client, here)
    for verb in ("stop", "start"):
        client.done(getattr(machines, f"{verb}_unary")(**here, instance="one"))
        seen[verb] = machines.get(**here, instance="one").status
        if verb == "stop":
            seen["its end while it is stopped"] = change_scheduling(client, here, **lease)
    client.done(machines.delete_unary(**here, instance="one"))
    seen["left"] = [each.name for each in machines.list(**here)]

    rule = compute_v1.Firewall(
        name="ssh",
        network="global/networks/default",
        allowed=[compute_v1.Allowed(I_p_protocol="tcp", ports=["22"])],
        source_ranges=["203.0.113.0/24"],
        target_tags=["ours"],
    )
    walls = client.walls
    client.done(walls.insert_unary(project=project, firewall_resource=rule))
    narrow = compute_v1.Firewall(source_ranges=["198.51.100.7/32"], name="ssh")
    client.done(walls.patch_unary(project=project, firewall="ssh", firewall_resource=narrow))
    known = walls.get(project=project, firewall="ssh")
    seen["rule"] = [list(known.source_ranges), list(known.target_tags), known.allowed[0].ports[0]]
    client.done(walls.delete_unary(project=project, firewall="ssh"))
    seen["rules"] = [each.name for each in walls.list(project=project)]
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
