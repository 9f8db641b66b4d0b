# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TensorDock's words in ours: rows in every shape that was seen, statuses, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Status
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    NoCapacity,
    ProviderError,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import tensordock_wire
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer
from support.tensordock_calls import MARKER, ROW

# Shapes

FLAT = {"id": "7d0c", "name": "x", "status": "running"}
NESTED = {"type": "virtualmachine", "id": "7d0c", "attributes": {"name": "x", "status": "running"}}


@pytest.mark.parametrize("row", [FLAT, NESTED])
@pytest.mark.parametrize("around", ["data", "instances", "attributes"])
def test_a_list_in_each_shape(row: dict[str, Any], around: str) -> None:
    shapes: dict[str, Any] = {
        "data": {"data": [row, row]},
        "instances": {"data": {"instances": [row, row]}},
        "attributes": {"data": {"attributes": {"instances": [row, row]}}},
    }
    rows = tensordock_wire.rows_of(shapes[around])
    assert rows is not None
    assert [(one["id"], one["name"], one["status"]) for one in rows] == [("7d0c", "x", "running")] * 2


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"data": None},
        {"data": {}},
        {"data": {"attributes": {}}},
        {"data": [FLAT, {"name": "no id"}]},
        {"data": [FLAT, "text"]},
        {"data": [{"id": "7d0c", "status": "running"}]},  # whose it is can't be told
        {"data": [FLAT], "links": {"next": "/instances?page=2"}},
    ],
)
def test_what_may_be_half_a_list_is_none(body: Any) -> None:
    assert tensordock_wire.rows_of(body) is None


def test_an_empty_list_is_a_list() -> None:
    assert tensordock_wire.rows_of({"data": []}) == []
    assert tensordock_wire.rows_of({"data": [FLAT | {"name": None}]}) == [FLAT | {"name": None}]


@pytest.mark.parametrize("wrap", [lambda row: row, lambda row: {"data": row}, lambda row: {"data": nested(row)}, None])
def test_one_instance_in_each_shape(wrap: Any) -> None:
    row = tensordock_wire.row_of(wrap(ROW) if wrap else nested(ROW))
    assert row is not None
    found = tensordock_wire.instance_from(row)
    assert found is not None
    assert (found.marker, found.status, found.gpu, found.gpu_count) == (MARKER, Status.RUNNING, "A40", 1)
    assert (found.disk_gib, found.price_per_hour_usd, found.address) == (100, 0.513, "198.51.100.7")


def nested(row: dict[str, Any]) -> dict[str, Any]:
    attributes = {name: value for name, value in row.items() if name not in ("type", "id")}
    return {"type": row["type"], "id": row["id"], "attributes": attributes}


@pytest.mark.parametrize("missing", ["resources", "rateHourly", "portForwards"])
def test_a_row_of_a_list_that_does_not_say_all(missing: str) -> None:
    assert tensordock_wire.is_complete(ROW)
    assert not tensordock_wire.is_complete({name: value for name, value in ROW.items() if name != missing})


# Rows


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("running", Status.RUNNING),
        ("Running", Status.RUNNING),
        ("RUNNING ", Status.RUNNING),
        *((word, Status.PENDING) for word in ("creating", "Starting", "PROVISIONING", "deploying", "Relocating")),
        *((word, Status.STOPPED) for word in ("stopped", "Stopping", "StoppedDisassociated", "Outbid")),
        *((word, Status.PENDING) for word in ("a new word", "", None)),
        *((word, Status.FAILED) for word in ("error", "Failed", "Terminated")),
        *((word, Status.TERMINATING) for word in ("deleting", "Deleted")),
    ],
)
def test_words_for_what_it_does(word: str | None, status: Status) -> None:
    found = tensordock_wire.instance_from(ROW | {"status": word})
    assert found is not None
    assert found.status is status


@pytest.mark.parametrize(("word", "outbid"), [("Outbid", True), ("stopped", False), ("running", False)])
def test_its_own_word_for_what_is_outbid_is_certain(word: str, outbid: bool) -> None:
    found = tensordock_wire.instance_from(ROW | {"status": word})
    assert found is not None
    assert found.outbid is outbid
    assert ("outbid by others" in found.detail) is outbid


def test_a_stopped_one_without_its_gpu_says_so() -> None:
    found = tensordock_wire.instance_from(ROW | {"status": "StoppedDisassociated"})
    assert found is not None
    assert "its GPU was given away" in found.detail


@pytest.mark.parametrize(
    ("row", "endpoints", "detail"),
    [
        ({}, (Endpoint("198.51.100.7", 22),), "no port is forwarded"),
        (
            {
                "portForwards": [
                    {"internal_port": 8000, "external_port": 30001},
                    {"internal_port": 22, "external_port": 20456},
                ]
            },
            (Endpoint("198.51.100.7", 20456),),
            "port 8000 is 30001 outside, port 22 is 20456 outside",
        ),
        ({"portForwards": [{"internal_port": "22", "external_port": "20456"}]}, (Endpoint("198.51.100.7", 20456),), ""),
        ({"portForwards": [{"internal_port": 22}, "x", None]}, (Endpoint("198.51.100.7", 22),), ""),
        ({"portForwards": None}, (Endpoint("198.51.100.7", 22),), ""),
        ({"ipAddress": ""}, (), "no address"),
        ({"ipAddress": None}, (), "no address"),
    ],
)
def test_where_ssh_answers(row: dict[str, Any], endpoints: tuple[Endpoint, ...], detail: str) -> None:
    found = tensordock_wire.instance_from(ROW | row)
    assert found is not None
    assert found.ssh_endpoints == endpoints
    assert detail in found.detail
    assert found.ssh_user == "root"


@pytest.mark.parametrize(("rate", "price"), [(0.5, 0.5), (0, None), (None, None), ("0.5", None)])
def test_what_it_costs_now(rate: Any, price: float | None) -> None:
    found = tensordock_wire.instance_from(ROW | {"rateHourly": rate})
    assert found is not None
    assert found.price_per_hour_usd == price


@pytest.mark.parametrize(
    ("gpus", "gpu", "count"),
    [
        ({"h100-sxm5-80gb": {"count": 2}}, "H100_80GB", 2),
        ({"geforcertx4090-pcie-24gb": 1}, "RTX_4090", 1),
        ({"nobodyknows": {"count": 1}}, None, 1),
        ({}, None, 0),
        (None, None, 0),
    ],
)
def test_its_gpus(gpus: Any, gpu: str | None, count: int) -> None:
    found = tensordock_wire.instance_from(ROW | {"resources": {"gpus": gpus}})
    assert found is not None
    assert (found.gpu, found.gpu_count) == (gpu, count)


# What is refused


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"status": 400, "error": "No available nodes found"}, NoCapacity),
        (200, {"status": 500, "error": "No available public IPs on hostnode"}, NoCapacity),
        (500, {"error": "No available nodes found"}, NoCapacity),
        (200, {"status": 400, "error": "You need at least $1.00 in your account"}, QuotaError),
        (200, {"status": 400, "error": "Not enough credit"}, QuotaError),
        (402, {"error": "pay"}, QuotaError),
        (401, {"error": "Unauthorized"}, AuthError),
        (200, {"status": 403, "error": "Forbidden"}, AuthError),
        (200, {"status": 429, "error": "slow down"}, RateLimited),
        (200, {"status": 503, "error": "Internal"}, Ambiguous),
        (200, {"error": "something"}, InvalidRequest),
        (400, {"status": 400, "error": {"message": "SSH port (22) must be forwarded"}}, InvalidRequest),
        (400, [{"code": "too_small", "message": "at least 100", "path": ["storage_gb"]}], InvalidRequest),
        (400, [], InvalidRequest),
        (400, None, InvalidRequest),
    ],
)
def test_a_refusal_in_our_words(status: int, body: Any, error: type[ProviderError]) -> None:
    refused = tensordock_wire.refusal(Answer(status, body, ""))
    assert refused.code == error.code
    assert (refused.provider, refused.status) == ("tensordock", status)
    assert refused.fix.endswith(".")
    said = body["error"] if isinstance(body, dict) else "at least 100" if body else ""
    assert (said["message"] if isinstance(said, dict) else said) in refused.message


@pytest.mark.parametrize(
    ("status", "body", "real"),
    [
        (200, ROW, 200),  # whose status is a word
        (200, {"data": [], "error": None}, 200),
        (200, {"data": {"id": "x"}, "error": "left over"}, 200),
        (200, {"status": 404, "error": "gone"}, 404),
        (200, {"status": "x", "error": "gone"}, 400),
        (409, {"status": 200, "error": "gone"}, 409),
        (200, [], 200),
    ],
)
def test_what_an_answer_means(status: int, body: Any, real: int) -> None:
    assert tensordock_wire.real_status(Answer(status, body, "")) == real
