# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from gpuops_telemetry.store import MongoStore, StoreUnavailableError
from pymongo import WriteConcern
from pymongo.errors import AutoReconnect, BulkWriteError


class FakeCollection:
    """Answers each insert_many with the next outcome: None, or an exception."""

    def __init__(self, outcomes: list[Exception | None]) -> None:
        self.outcomes = outcomes
        self.sent: list[list[Any]] = []

    def insert_many(self, documents: Sequence[Any], ordered: bool) -> None:
        assert not ordered
        self.sent.append(list(documents))
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome


class FakeClient:
    def __init__(self, *outcomes: Exception | None) -> None:
        self.collection = FakeCollection(list(outcomes))
        self.concern: WriteConcern | None = None

    def get_database(self, name: str, write_concern: WriteConcern) -> dict[str, FakeCollection]:
        self.concern = write_concern
        return {"token_usage": self.collection}


def store(client: FakeClient) -> MongoStore:
    return MongoStore(cast(Any, client), "gpuops")


def bulk(*errors: dict[str, Any], unconfirmed: bool = False) -> BulkWriteError:
    return BulkWriteError({"writeErrors": list(errors), "writeConcernErrors": [{}] if unconfirmed else []})


def test_writes_are_acknowledged_on_the_journal() -> None:
    client = FakeClient(None)
    assert store(client).write("token_usage", [{"_id": "a"}]).duplicates == set()
    assert client.concern == WriteConcern(w=1, j=True)


def test_duplicates_are_found_by_position() -> None:
    client = FakeClient(bulk({"index": 1, "code": 11000}, {"index": 3, "code": 11000}))
    result = store(client).write("token_usage", [{"_id": n} for n in range(4)])
    assert result.duplicates == {1, 3}
    assert result.refused == {}


def test_a_document_that_the_database_refuses_for_good_is_named() -> None:
    client = FakeClient(bulk({"index": 0, "code": 121, "errmsg": "Document failed validation"}))
    result = store(client).write("token_usage", [{"_id": "a"}])
    assert "code 121" in result.refused[0]


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        bulk({"index": 0, "code": 11600, "errmsg": "interrupted at shutdown"}),
        bulk({"index": 0, "code": 11000}, {"index": 1, "code": 13, "errmsg": "not authorized"}),
        bulk(unconfirmed=True),
    ],
)
def test_what_may_pass_is_never_blamed_on_a_document(error: Exception) -> None:
    with pytest.raises(StoreUnavailableError):
        store(FakeClient(error)).write("token_usage", [{"_id": "a"}, {"_id": "b"}])


def test_one_document_that_cannot_be_encoded_does_not_stop_the_others() -> None:
    client = FakeClient(OverflowError("too large"), bulk({"index": 1, "code": 11000}))
    result = store(client).write("token_usage", [{"_id": "a"}, {"_id": "b", "n": 10**40}, {"_id": "c"}])
    assert client.collection.sent[1] == [{"_id": "a"}, {"_id": "c"}]
    assert set(result.refused) == {1}
    assert result.duplicates == {2}
