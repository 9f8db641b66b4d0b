# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing events to the database, so that a replay stores nothing twice and one bad document stops nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import bson
from bson.errors import BSONError
from pymongo import MongoClient, WriteConcern
from pymongo.errors import BulkWriteError, PyMongoError

from gpuops_telemetry.settings import MongoSettings

DUPLICATE_KEY = 11000

# The database's answers that stand for this document, however often it is sent: bad value, failed to parse, type
# mismatch, failed validation, object too large. Anything else may pass, so it is tried again.
_PERMANENT = frozenset({2, 9, 14, 121, 10334, 17280})


class StoreUnavailableError(Exception):
    """The database can't store now; nothing is wrong with the events, and the same call may be repeated."""


@dataclass
class WriteResult:
    """What became of each document, by its position in the list that was written."""

    duplicates: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)


class Store(Protocol):
    """Where documents go."""

    def write(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> WriteResult: ...

    def ping(self) -> None: ...

    def latest(self, collection: str) -> dict[str, Any] | None: ...


def connect(mongo: MongoSettings) -> MongoClient[dict[str, Any]]:
    """A client; it connects (and looks the name up again) when it is used."""
    options: dict[str, Any] = {}
    if mongo.username:
        options = {
            "username": mongo.username,
            "password": mongo.password,
            "authSource": mongo.authentication_database,
            # Left to itself the driver falls back to SHA-1 where a server doesn't say what it can.
            "authMechanism": "SCRAM-SHA-256",
        }
    return MongoClient(
        host=mongo.host,
        port=mongo.port,
        appname="gpuops-telemetry",
        connectTimeoutMS=3_000,
        serverSelectionTimeoutMS=3_000,
        socketTimeoutMS=30_000,
        heartbeatFrequencyMS=5_000,
        retryWrites=False,  # repeating is ours to do: we know that a second insert of the same _id is harmless
        tz_aware=True,
        **options,
    )


class MongoStore:
    """The store over the Mongo protocol."""

    def __init__(self, client: MongoClient[dict[str, Any]], database: str) -> None:
        self._client = client
        # Acknowledged means on the journal: without it a database that is killed forgets the last 100 ms.
        self._database = client.get_database(database, write_concern=WriteConcern(w=1, j=True))

    def write(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> WriteResult:
        """Stores the documents; those that are stored already count as duplicates."""
        try:
            self._database[collection].insert_many(documents, ordered=False)  # type: ignore[arg-type]
        except BulkWriteError as error:
            return self._judge(error)
        except PyMongoError as error:
            raise StoreUnavailableError(_one_line(error)) from error
        except (BSONError, OverflowError, UnicodeError):
            return self._write_encodable(collection, documents)
        return WriteResult()

    def _write_encodable(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> WriteResult:
        """The slow path: something here can't even be encoded, so nothing of it was sent."""
        refused: dict[int, str] = {}
        good: list[int] = []
        for position, document in enumerate(documents):
            try:
                bson.encode(document)
                good.append(position)
            except (BSONError, OverflowError, UnicodeError) as error:
                refused[position] = f"the database can't hold it: {_one_line(error)}"
        result = WriteResult(refused=refused)
        if good and refused:
            written = self.write(collection, [documents[position] for position in good])
            result.duplicates = {good[position] for position in written.duplicates}
            result.refused |= {good[position]: reason for position, reason in written.refused.items()}
        elif not refused:
            raise StoreUnavailableError("the documents were refused as a whole, though each can be encoded")
        return result

    @staticmethod
    def _judge(error: BulkWriteError) -> WriteResult:
        result = WriteResult()
        details = error.details or {}
        for problem in details.get("writeErrors", []):
            code, position = problem.get("code"), problem["index"]
            if code == DUPLICATE_KEY:
                result.duplicates.add(position)
            elif code in _PERMANENT:
                result.refused[position] = f"the database refused it (code {code}): {problem.get('errmsg', '')[:256]}"
            else:
                raise StoreUnavailableError(f"code {code}: {problem.get('errmsg', '')[:256]}")
        if details.get("writeConcernErrors"):
            raise StoreUnavailableError("written, but not confirmed as durable")
        return result

    def ping(self) -> None:
        """Raises StoreUnavailableError unless the database answers us as the user that writes."""
        try:
            self._database.command("ping")
        except PyMongoError as error:
            raise StoreUnavailableError(_one_line(error)) from error

    def latest(self, collection: str) -> dict[str, Any] | None:
        """The newest document by its own time."""
        try:
            return self._database[collection].find_one(sort=[("ts", -1)], max_time_ms=5_000)
        except PyMongoError as error:
            raise StoreUnavailableError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    return str(error).split(", Timeout:", maxsplit=1)[0].replace("\n", " ")[:300]
