# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renting at Google Cloud, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _clock, _marker, _rent
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NameTaken,
    NoCapacity,
    ProviderError,
    QuotaError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp, gcp_errors, gcp_wire
from emulators import compute_instances
from emulators import gcp as emulator
from emulators.compute_market import Quotas
from emulators.server import serving
from emulators.world import Fault, World
from support.gcp_calls import INSERT, KEY, PLANTED, marker, offer_in, orders, query, rent, rental, request

WISH = Wish("acme-llm", "vllm-1", providers=("gcp",), look_at=("gcp",), gpu="L4", gpu_count=1, ssh_public_key=KEY)


def tried(world: World) -> list[str]:
    """The zones in which a machine was ordered, in their order."""
    return [one.split("/")[1] for one in orders(world) if one.startswith("POST") and one.endswith("/instances")]


def test_the_longest_marker_is_a_label_and_round_trips(provider: gcp.GcpProvider, world: World) -> None:
    longest = marker(deployment_id="a" * 24, name="b" * 16, nonce="zzzzzz", owner="job:42")
    made = rent(provider, marker=longest)
    (listed,) = provider.list()
    got = provider.get(made.id)
    assert got is not None
    assert longest == made.marker == listed.marker == got.marker
    labels = rental(world, made.id).wire["labels"]
    assert labels == {"gpufleet-marker": _marker.encode(longest), "gpufleet-owner": "job_42"}
    assert len(labels["gpufleet-marker"]) == 60


def test_what_is_rented_is_what_is_listed(provider: gcp.GcpProvider) -> None:
    """Else the next run would see a drift."""
    made = rent(provider, image="projects/x/global/images/family/y", disk_gib=77)
    (listed,) = provider.list()
    same = ("id", "marker", "runtime", "gpu", "gpu_count", "instance_type", "region", "image", "disk_gib", "ports")
    assert {name: getattr(made, name) for name in same} == {name: getattr(listed, name) for name in same}
    assert made.price_per_hour_usd == listed.price_per_hour_usd == pytest.approx(0.70683)
    assert made.created_at is not None
    assert listed.created_at == pytest.approx(made.created_at, abs=3600)


def test_a_machine_with_gpus_never_migrates_and_ends_by_itself(provider: gcp.GcpProvider, world: World) -> None:
    wanted = marker(8)
    ends_at = wanted.expiry_epoch_hours * 3600
    longest = ends_at - _clock.now()
    made = rent(provider, marker=wanted)
    scheduling = rental(world, made.id).wire["scheduling"]
    assert (scheduling["onHostMaintenance"], scheduling["automaticRestart"]) == ("TERMINATE", True)
    assert scheduling["instanceTerminationAction"] == "DELETE"
    assert ends_at - _clock.now() - 1 <= int(scheduling["maxRunDuration"]["seconds"]) <= longest


def test_a_spot_machine_without_an_end_is_deleted_when_it_is_taken_back(
    provider: gcp.GcpProvider, world: World
) -> None:
    made = provider.create(request(offer_in(provider, "us-central1-b", interruptible=True), marker=marker(0)))
    scheduling = rental(world, made.id).wire["scheduling"]
    assert (scheduling["provisioningModel"], scheduling["instanceTerminationAction"]) == ("SPOT", "DELETE")


@pytest.mark.parametrize(("wanted", "maintenance"), [({"instance_type": "e2-standard-2"}, "MIGRATE"), ({}, "MIGRATE")])
def test_a_machine_without_gpus_may_migrate(
    provider: gcp.GcpProvider, world: World, wanted: dict[str, Any], maintenance: str
) -> None:
    offer = provider.offers(query(**wanted))[0]
    made = provider.create(request(offer, marker=marker(0)))
    wire = rental(world, made.id).wire
    assert wire["scheduling"]["onHostMaintenance"] == maintenance
    assert "maxRunDuration" not in wire["scheduling"]
    assert "instanceTerminationAction" not in wire["scheduling"]
    assert wire["guestAccelerators"] == []


def test_that_it_has_gpus_is_googles_word_not_its_name(provider: gcp.GcpProvider, world: World) -> None:
    """A wish that names only a type, of which nobody here knows that it brings a GPU."""
    (offer, *_more) = provider.offers(query(instance_type="g2-standard-4"))
    assert (offer.gpu, offer.gpu_count) == ("L4", 1)
    odd = replace(offer, gpu=None)
    assert gcp_wire.create_body(request(odd), {})["scheduling"]["onHostMaintenance"] == "TERMINATE"


def test_an_attached_gpu_is_ordered_with_its_host(provider: gcp.GcpProvider, world: World) -> None:
    made = provider.create(request(offer_in(provider, "us-central1-b", gpu="T4")))
    wire = rental(world, made.id).wire
    (accelerator,) = wire["guestAccelerators"]
    assert accelerator["acceleratorType"].endswith("/zones/us-central1-b/acceleratorTypes/nvidia-tesla-t4")
    assert accelerator["acceleratorCount"] == 1
    (listed,) = provider.list()
    assert (listed.gpu, listed.gpu_count, listed.instance_type) == ("T4", 1, "n1-standard-4")


def test_a_spot_machine_is_ordered_as_such(provider: gcp.GcpProvider, world: World) -> None:
    offer = offer_in(provider, "us-central1-b", interruptible=True)
    made = provider.create(request(offer))
    scheduling = rental(world, made.id).wire["scheduling"]
    assert (scheduling["provisioningModel"], scheduling["automaticRestart"]) == ("SPOT", False)
    (listed,) = provider.list()
    assert "(spot)" in listed.detail
    assert listed.price_per_hour_usd == offer.price_per_hour_usd == pytest.approx(0.28184)


def test_a_zone_that_is_sold_out_is_followed_by_one_that_the_error_names(
    provider: gcp.GcpProvider, world: World
) -> None:
    offers = sorted(provider.offers(query(gpu="L4")), key=lambda one: (one.region != "us-east4", one.id))
    world.faults = [Fault(trouble="offer_gone", of=f"{zone}/") for zone in ("us-east4-a", "europe-west4-b")]
    instance, offer = _rent.rent({"gcp": provider}, WISH, offers)
    # europe-west4-b and us-central1-a stood before it, and have nothing, as the first error told.
    assert tried(world) == ["us-east4-a", "us-central1-b"]
    assert offer.id.startswith("us-central1-b/g2-standard-4/")
    assert [rental(world, instance.id)] == world.alive()


def test_a_stock_out_is_read_from_the_operation(provider: gcp.GcpProvider, world: World) -> None:
    with pytest.raises(NoCapacity, match="ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS") as caught:
        rent(provider, "us-central1-a")
    zones = ("us-central1-b", "us-central1-c", "us-east4-a", "europe-west4-b")
    assert caught.value.in_stock == {f"{zone}/g2-standard-4/-/standard" for zone in zones}
    assert (caught.value.scope, caught.value.status) == ("offer", 503)
    assert world.alive() == []
    world.faults = [Fault(trouble="offer_gone", of=".*")]
    with pytest.raises(NoCapacity, match=r"\(ZONE_RESOURCE_POOL_EXHAUSTED\)") as caught:
        rent(provider)
    assert caught.value.in_stock == frozenset()


def test_a_regions_quota_is_not_tried_again_there_but_elsewhere(world: World) -> None:
    quotas = Quotas(regional={("us-central1", "nvidia-l4"): 0})
    with serving(emulator.make(world, quotas=quotas), world) as base:
        provider = gcp.make({"project": emulator.PROJECT, "api_url": base + emulator.URL_PATH})
        _instance, offer = _rent.rent({"gcp": provider}, WISH, provider.offers(query(gpu="L4")))
    assert tried(world) == ["us-central1-a", "us-east4-a"]
    assert offer.region == "us-east4"


def test_a_quota_of_the_whole_project_is_tried_nowhere_again(world: World) -> None:
    with serving(emulator.make(world, quotas=Quotas(all_regions=0)), world) as base:
        provider = gcp.make({"project": emulator.PROJECT, "api_url": base + emulator.URL_PATH})
        with pytest.raises(QuotaError, match="GPUS_ALL_REGIONS") as caught:
            _rent.rent({"gcp": provider}, WISH, provider.offers(query(gpu="L4")))
    assert tried(world) == ["us-central1-a"]
    assert "console.cloud.google.com/iam-admin/quotas" in caught.value.fix
    assert world.alive() == []


def test_of_several_errors_the_quota_counts(provider: gcp.GcpProvider) -> None:
    stock = {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "no room"}
    quota = {"code": "QUOTA_EXCEEDED", "message": "Quota 'X' exceeded. Limit: 1.0 in region us-east4."}
    error = gcp_errors.failed({"error": {"errors": [stock, quota]}, "httpErrorStatusCode": 403}, "rent it")
    assert isinstance(error, QuotaError)
    assert error.scope == "region"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", NoCapacity),
        ("VM_MIN_COUNT_NOT_REACHED", NoCapacity),
        ("RESOURCE_NOT_READY", NoCapacity),
        ("UNSUPPORTED_OPERATION", NoCapacity),
        ("INVALID_USAGE", InvalidRequest),
        ("RESOURCE_NOT_FOUND", InvalidRequest),
        ("PERMISSIONS_ERROR", InvalidRequest),
    ],
)
def test_what_another_zone_would_refuse_too_is_not_tried_there(code: str, kind: type[ProviderError]) -> None:
    error = gcp_errors.failed({"error": {"errors": [{"code": code, "message": "no"}]}}, "rent it")
    assert error.__class__ is kind


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_answer_is_asked_for_again_and_nothing_is_rented_twice(
    provider: gcp.GcpProvider, world: World, lost: int
) -> None:
    offer = offer_in(provider, "us-central1-b")
    world.faults = [Fault("POST", INSERT, drop="after", times=lost)]
    made = provider.create(request(offer))
    assert [rental(world, made.id)] == world.alive()
    assert len(tried(world)) == lost + 1


def test_the_same_claim_ordered_again_is_the_same_machine(provider: gcp.GcpProvider, world: World) -> None:
    """As by a caller that was cut off, and knows nothing of the answer."""
    claim = request(offer_in(provider, "us-central1-b"))
    assert provider.create(claim).id == provider.create(claim).id
    assert len(world.rentals) == 1


def test_the_id_of_an_order_follows_from_its_claim() -> None:
    one = marker()
    assert gcp_wire.request_id(one) == gcp_wire.request_id(replace(one, expiry_epoch_hours=0, owner="job:1"))
    assert gcp_wire.request_id(one) != gcp_wire.request_id(replace(one, nonce="abc124"))


def test_an_order_whose_end_is_not_known_is_looked_for(provider: gcp.GcpProvider, world: World) -> None:
    offer = offer_in(provider, "us-central1-b")
    world.faults = [
        Fault("GET", "/operations/", status=403, body={"error": {"message": "no", "code": 403}}, times=None)
    ]
    with pytest.raises(Ambiguous, match="what became of it is not known"):
        provider.create(request(offer))
    instance, _offer = _rent.rent({"gcp": provider}, WISH, [offer])
    assert [rental(world, instance.id)] == world.alive()


def test_a_name_is_taken_in_its_zone(provider: gcp.GcpProvider, world: World) -> None:
    first = rent(provider)
    with pytest.raises(NameTaken):
        rent(provider, marker=marker(nonce="abc124"))
    assert [rental(world, first.id)] == world.alive()


def test_the_same_name_in_two_zones_is_settled_by_age(provider: gcp.GcpProvider, world: World) -> None:
    """Two controllers that share nothing, of which one found the first zone sold out."""
    older = rent(provider, "us-east4-a", marker=marker(nonce="zzzzzz"))
    instance, _offer = _rent.rent({"gcp": provider}, WISH, [offer_in(provider, "us-central1-b")])
    assert instance.id == older.id
    assert [rental(world, older.id)] == world.alive()
    assert [one.status for one in world.rentals.values() if not one.alive] == ["deleted"]


def test_what_another_controller_ordered_in_vain_is_followed_to_what_it_has_now(
    provider: gcp.GcpProvider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken by an order that fails later, and its controller goes on to another zone."""
    monkeypatch.setattr(compute_instances, "REFUSAL_SECONDS", 1e6)
    theirs = marker(nonce="theirs")
    wanted = [offer_in(provider, zone) for zone in ("us-central1-a", "us-central1-c")]
    order = gcp_wire.create_body(request(wanted[0], marker=theirs), {})
    provider._api.order("POST", "/zones/us-central1-a/instances", order)  # sold out there, and shown for a while
    real = provider.list
    made: list[Instance] = []

    def their_next_zone() -> Any:
        found = real()
        if found and not made:  # they see the failure after we saw what will never be
            world.delete(world.alive()[0])
            made.append(provider.create(request(wanted[1], marker=replace(theirs, nonce="theirt"))))
        return found

    provider.list = their_next_zone  # type: ignore[method-assign]
    instance, _offer = _rent.rent({"gcp": provider}, WISH, [wanted[0]])
    assert [instance.id] == [made[0].id]
    assert [rental(world, instance.id)] == world.alive()


def test_nothing_else_than_a_machine_is_rented(provider: gcp.GcpProvider) -> None:
    offer = offer_in(provider, "us-central1-b")
    assert provider.offers(query(gpu="L4", runtime="container")) == []
    with pytest.raises(InvalidRequest, match="neither args nor"):
        provider.create(request(offer, args=("x",)))
    with pytest.raises(InvalidRequest, match="is no offer of gcp"):
        provider.create(request(replace(offer, id="us-central1-b")))
    with pytest.raises(InvalidRequest, match="120 days"):
        provider.create(request(offer, marker=marker(24 * 130)))


def test_a_key_reaches_the_machine_and_no_credential_does(provider: gcp.GcpProvider, world: World) -> None:
    made = rent(provider)
    wire = rental(world, made.id).wire
    items = {one["key"]: one["value"] for one in wire["metadata"]["items"]}
    assert KEY.rpartition(" ")[0] in items["startup-script"]
    assert "nobody@nowhere" not in items["startup-script"]
    assert (items["block-project-ssh-keys"], items["enable-oslogin"]) == ("TRUE", "FALSE")
    assert wire["serviceAccounts"] == []
    assert PLANTED not in str(wire)


def test_settings_decide_the_network_and_more_tags(url: str, world: World) -> None:
    settings = {
        "project": emulator.PROJECT,
        "api_url": url,
        "network": "mine",
        "subnetwork": "gpu",
        "network_tags": ["web"],
    }
    provider = gcp.make(settings)
    body = gcp_wire.create_body(request(offer_in(provider, "us-east4-a")), settings)
    (nic,) = body["networkInterfaces"]
    assert (nic["network"], nic["subnetwork"]) == ("global/networks/mine", "regions/us-east4/subnetworks/gpu")
    assert body["tags"]["items"] == ["gpuops-fleet", "gpuops-fleet-acme-llm", "web"]
    assert provider.create(request(offer_in(provider, "us-east4-a"))).status is Status.PENDING


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "required", AuthError),
        (403, "forbidden", AuthError),
        (403, "quotaExceeded", QuotaError),
        (400, "invalid", InvalidRequest),
        (409, "alreadyExists", NameTaken),
    ],
)
def test_what_is_refused_at_once_is_told_apart(
    provider: gcp.GcpProvider, world: World, status: int, reason: str, kind: type[ProviderError]
) -> None:
    offer = offer_in(provider, "us-central1-b")
    error = {"code": status, "message": "because", "errors": [{"reason": reason, "message": "because"}]}
    world.faults = [Fault("POST", INSERT, status=status, body={"error": error})]
    with pytest.raises(kind, match="because") as caught:
        provider.create(request(offer))
    assert caught.value.status == status
    assert caught.value.fix
    assert PLANTED not in str(caught.value.as_failure())
