# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from gpuops_telemetry.dead_letters import KEPT_BYTES, DeadLetter, TransactionalCommitter, origin_of, without_committed


def letter(offset: int = 7, value: bytes = b"{") -> DeadLetter:
    return DeadLetter.of("token.usage.v1", 2, offset, "Invalid JSON", b"key", value)


def test_rubbish_is_truncated_and_keeps_the_hash_of_the_whole() -> None:
    value = b"\xff" * 900_000
    refused = letter(value=value)
    assert len(refused.kept_value) == KEPT_BYTES
    headers = refused.headers()
    assert headers["sha256"].decode() == hashlib.sha256(value).hexdigest()
    assert headers["size_bytes"] == b"900000"
    assert headers["truncated"] == b"true"
    assert headers["reason"] == b"Invalid JSON"
    assert refused.destination == "token.usage.v1.dlq"
    assert refused.origin == "token.usage.v1/2/7"
    assert letter().headers()["truncated"] == b"false"


class FakeMessage:
    def __init__(self, headers: list[tuple[str, bytes]] | None) -> None:
        self._headers = headers

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers


def test_a_dead_letter_says_where_its_message_was() -> None:
    message = FakeMessage(list(letter().headers().items()))
    assert origin_of(cast(Message, message)) == ("token.usage.v1", 2, 7)
    assert origin_of(cast(Message, FakeMessage(None))) is None
    assert origin_of(cast(Message, FakeMessage([("origin_topic", b"t"), ("origin_partition", b"x")]))) is None


def test_what_is_behind_a_committed_offset_is_done() -> None:
    letters = [letter(5), letter(6), letter(7)]
    assert without_committed(letters, {("token.usage.v1", 2): 7}) == [letter(7)]
    assert without_committed(letters, {}) == letters


class FakeProducer:
    def __init__(self, calls: list[str], failing: dict[str, list[KafkaError]]) -> None:
        self.calls = calls
        self.failing = failing

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if errors := self.failing.get(name):
            raise KafkaException(errors.pop(0))

    def init_transactions(self, timeout: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, topic: str, **message: Any) -> None:
        self._call(f"produce {topic} {message['key'].decode()}")

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], group: object, timeout: float) -> None:
        self._call(f"offsets {[(p.topic, p.partition, p.offset) for p in offsets]}")

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit")

    def poll(self, timeout: float) -> int:
        return 0


class FakeConsumer:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.calls.append(f"plain {[(p.topic, p.partition, p.offset) for p in offsets]} {asynchronous}")

    def consumer_group_metadata(self) -> object:
        return object()

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [TopicPartition(p.topic, p.partition, 8 if p.partition == 2 else -1001) for p in partitions]


def make(calls: list[str], **failing: list[KafkaError]) -> TransactionalCommitter:
    return TransactionalCommitter(
        cast(Consumer, FakeConsumer(calls)), lambda: cast(Producer, FakeProducer(calls, failing))
    )


def test_without_dead_letters_offsets_are_simply_committed() -> None:
    calls: list[str] = []
    make(calls).commit({("token.usage.v1", 0): 3}, [])
    assert calls == ["plain [('token.usage.v1', 0, 3)] False"]
    make(calls).commit({}, [])
    assert len(calls) == 1


def test_dead_letters_and_offsets_are_one_transaction() -> None:
    calls: list[str] = []
    make(calls).commit({("token.usage.v1", 2): 8}, [letter()])
    assert calls == [
        "init",
        "begin",
        "produce token.usage.v1.dlq token.usage.v1/2/7",
        "offsets [('token.usage.v1', 2, 8)]",
        "commit",
    ]


def test_a_step_that_may_be_repeated_is_repeated() -> None:
    calls: list[str] = []
    make(calls, commit=[KafkaError(KafkaError._TIMED_OUT, retriable=True)]).commit({("t", 2): 8}, [letter()])
    assert calls[-2:] == ["commit", "commit"]


def test_after_a_failure_the_transactional_id_is_opened_anew_before_anything_is_asked() -> None:
    calls: list[str] = []
    committer = make(calls, commit=[KafkaError(KafkaError._STATE)])
    with pytest.raises(KafkaException):
        committer.commit({("token.usage.v1", 2): 8}, [letter()])
    assert committer.settled({("token.usage.v1", 2): 8, ("token.usage.v1", 1): 4}) == {("token.usage.v1", 2): 8}
    assert calls[-1] == "init"
    assert calls.count("init") == 2
