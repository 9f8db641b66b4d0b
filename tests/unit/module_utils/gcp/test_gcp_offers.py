# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Google Cloud offers: sizes and GPUs as it names them, and prices by our table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _fleet_file, _gpus, _offers
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._prices_gcp import AS_OF, TABLE
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import ProviderUnavailable
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp, gcp_sizes, gcp_wire
from emulators import gcp as emulator
from emulators.world import Fault, World
from support.gcp_calls import query, request

FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: acme-llm
provider_settings:
  gcp: {{project: {project}, api_url: {url}}}
defaults: {{gpu: a100-sxm4-80gb, max_lifetime: 8h}}
instances:
  - {{name: g-1, providers: [gcp], ssh_public_key: ssh-ed25519 AAAA}}
  - {{name: r-1, providers: [runpod], image: 'x:1', wait: running}}
"""
# Accelerators of Compute, as its documentation names them.
ACCELERATORS = {
    "nvidia-l4": "L4",
    "nvidia-tesla-a100": "A100_40GB",
    "nvidia-a100-80gb": "A100_80GB",
    "nvidia-h100-80gb": "H100_80GB",
    "nvidia-h100-mega-80gb": "H100_80GB",
    "nvidia-h200-141gb": "H200",
    "nvidia-b200": "B200",
    "nvidia-rtx-pro-6000": "RTX_PRO_6000",
    "nvidia-tesla-t4": "T4",
    "nvidia-tesla-v100": "V100_16GB",
    "nvidia-tesla-p100": "P100",
    "nvidia-tesla-p4": "P4",
    "nvidia-tesla-k80": "K80",
}


@pytest.mark.parametrize(("written", "name"), ACCELERATORS.items())
def test_googles_names_of_cards_need_no_memory(written: str, name: str) -> None:
    assert _gpus.identify(written) == name


def test_every_size_names_a_gpu_of_the_table() -> None:
    for size in gcp_sizes.SIZES:
        assert _gpus.resolve(size.gpu).name == size.gpu
        assert size.attached is None or _gpus.identify(size.attached) == size.gpu


def test_the_cheapest_of_all_regions_comes_first(provider: gcp.GcpProvider) -> None:
    market = _offers.survey({"gcp": provider}, query(gpu="L4"))
    assert market.offers[0].instance_type == "g2-standard-4"
    prices = [one.price_per_hour_usd for one in market.offers]
    assert prices == sorted(one for one in prices if one is not None)
    assert {one.region for one in market.offers} == {"us-central1", "us-east4", "europe-west4"}
    first = market.offers[0]
    assert (first.gpu, first.gpu_count, first.cpu_count, first.memory_mib) == ("L4", 1, 4, 16384)
    assert first.price_per_hour_usd == pytest.approx(0.146310 + 0.558205)


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        ({"gpu": "L4"}, {"g2-standard-4", "g2-standard-8"}),
        ({"gpu": "L4", "gpu_count": 2}, {"g2-standard-24"}),
        ({"gpu": "L4", "gpu_count": 3}, set()),
        ({"gpu": "L4", "instance_type": "g2-standard-8"}, {"g2-standard-8"}),
        ({"gpu": "L4", "instance_type": "a2-highgpu-1g"}, set()),
        ({"gpu": "T4"}, {"n1-standard-4", "n1-standard-8"}),
        ({"gpu": "T4", "gpu_count": 2}, {"n1-standard-8"}),
        ({"gpu": "A100_40GB"}, {"a2-highgpu-1g"}),
        ({"gpu": "A100_80GB"}, {"a2-ultragpu-1g"}),
        ({"gpu": "H100_80GB", "gpu_count": 8}, {"a3-highgpu-8g"}),
        ({"gpu": "A40"}, set()),
        ({}, {"e2-standard-4"}),
        ({"instance_type": "e2-standard-2"}, {"e2-standard-2"}),
        ({"instance_type": "nothing-1"}, set()),
    ],
)
def test_only_what_fits_is_offered(provider: gcp.GcpProvider, wanted: dict[str, Any], types: set[str]) -> None:
    assert {one.instance_type for one in provider.offers(query(**wanted))} == types


def test_what_can_be_had_as_spot_alone_is_offered_only_so(provider: gcp.GcpProvider) -> None:
    assert provider.offers(query(gpu="H100_80GB")) == []
    found = provider.offers(query(gpu="H100_80GB", interruptible=True))
    assert {one.instance_type for one in found} == {"a3-highgpu-1g"}
    assert all(one.interruptible for one in found)


def test_regions_are_kept_to(provider: gcp.GcpProvider) -> None:
    found = provider.offers(query(gpu="L4", regions=["europe-west4"]))
    assert {one.region for one in found} == {"europe-west4"}


def test_an_unknown_price_is_none_and_refused_under_a_maximum(provider: gcp.GcpProvider) -> None:
    wanted = query(gpu="A100_80GB", regions=["us-central1"])
    assert {one.price_per_hour_usd for one in provider.offers(wanted)} == {None}
    market = _offers.survey({"gcp": provider}, wanted, max_price_per_hour_usd=100.0)
    assert market.offers == []
    assert {one["reason"] for one in market.refused} == {"its price is not known, and max_price_per_hour_usd is set"}
    told = _offers.survey({"gcp": provider}, wanted, max_price_per_hour_usd=6.0, price_per_hour_usd=5.07)
    assert {one.price_per_hour_usd for one in told.offers} == {5.07}


def test_every_row_has_a_date_and_a_source_and_no_price_is_for_nothing() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", AS_OF)
    assert len(TABLE.rows) > 400
    for row in TABLE.rows:
        assert row.as_of == AS_OF
        assert re.match(r"https://github\.com/.+/blob/[0-9a-f]{40}/", row.source)
        assert row.price_per_hour_usd is None or 0.005 < row.price_per_hour_usd < 100
    assert [row for row in TABLE.rows if row.price_per_hour_usd is None], "what nobody knows is said to be unknown"


def test_spot_is_never_dearer_than_on_demand() -> None:
    """Where a source says so, one of the two is wrong: then it is unknown."""
    for row in TABLE.rows:
        dear = TABLE.price_per_hour_usd(row.item, row.region)
        if row.interruptible and dear is not None and row.price_per_hour_usd is not None:
            assert row.price_per_hour_usd < dear, row


def test_one_part_without_a_price_makes_the_whole_unknown() -> None:
    assert gcp_wire.price("g2-standard-4", {"nvidia-l4": 1}, "us-central1", False) == pytest.approx(0.70683)
    assert gcp_wire.price("g2-standard-24", {"nvidia-l4": 2}, "us-central1", False) == pytest.approx(2.00082)
    assert gcp_wire.price("a2-ultragpu-1g", {"nvidia-a100-80gb": 1}, "us-central1", False) is None
    assert gcp_wire.price("n1-standard-4", {"nvidia-tesla-t4": 1}, "us-central1", False) is None
    assert gcp_wire.price("g2-standard-4", {"nvidia-l4": 1}, "mars-north1", False) is None


@pytest.mark.parametrize("path", ["machineTypes", "acceleratorTypes"])
def test_a_list_that_is_not_complete_offers_nothing(provider: gcp.GcpProvider, world: World, path: str) -> None:
    world.faults = [Fault("GET", f"/aggregated/{path}$", status=200, body={"items": {}}, times=None)]
    with pytest.raises(ProviderUnavailable, match="complete"):
        provider.offers(query(gpu="T4"))


def test_one_gpu_in_the_fleet_file_is_the_same_card_at_google_and_at_runpod(tmp_path: Path, url: str) -> None:
    """A fleet written once: neither place has a spelling of its own that could mean another card."""
    text = FLEET.format(url=url, project=emulator.PROJECT)
    file = tmp_path / "fleet.yml"
    file.write_text(text)
    fleet = _fleet_file.load(str(file))
    cards = {}
    for settings in fleet.instances:
        complete, problems = complete_instance(settings)
        assert problems == []
        cards[settings["name"]] = _gpus.resolve(complete["gpu"])
    google, runpod = cards["g-1"], cards["r-1"]
    assert google == runpod
    (offer, *_more) = gcp.make(fleet.provider_settings["gcp"]).offers(query(gpu=google.name))
    body = gcp_wire.create_body(request(offer), {})
    size = next(one for one in gcp_sizes.SIZES if one.name == body["machineType"].rpartition("/")[2])
    assert size.gpu == runpod.name == "A100_80GB"
    assert {_gpus.identify(one) for one in runpod.runpod} == {"A100_80GB"}
