# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pathlib

import pytest
from gpuops_telemetry import processor, producer
from gpuops_telemetry.kafka_options import consumer_options, dead_letter_producer_options, producer_options
from gpuops_telemetry.settings import Environment, KafkaSettings, MongoSettings, ProcessorSettings, SettingsError
from gpuops_telemetry.store import connect

ENVIRONMENT = {"KAFKA_BOOTSTRAP_SERVERS": "kafka-1:9092", "MONGO_HOST": "mongo-1"}


def test_what_is_not_set_has_a_default() -> None:
    settings = ProcessorSettings.from_environment(Environment(ENVIRONMENT | {"PRICE_PER_HOUR_USD": ""}))
    assert settings.topics == ("gpu.metrics.v1", "token.usage.v1")
    assert settings.price_per_hour_usd is None
    assert settings.mongo.authentication_database == "gpuops"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"MONGO_HOST": " "}, "MONGO_HOST"),
        ({"PORT": "eighty"}, "PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"BATCH_SIZE": "1.5"}, "BATCH_SIZE"),
        ({"PRICE_PER_HOUR_USD": "-1"}, "PRICE_PER_HOUR_USD"),
        ({"PRICE_PER_HOUR_USD": "nan"}, "PRICE_PER_HOUR_USD"),
        ({"TOPICS": "gpu.metrics.v2"}, "TOPICS"),
        ({"MONGO_PASSWORD_FILE": "/nowhere/password"}, "MONGO_PASSWORD_FILE"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        ProcessorSettings.from_environment(Environment(ENVIRONMENT | change))


def test_a_password_comes_from_a_file_and_goes_into_no_text(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "password"
    file.write_text("planted-password\n")
    environment = Environment(ENVIRONMENT | {"MONGO_PASSWORD_FILE": str(file), "MONGO_USERNAME": "processor"})
    settings = ProcessorSettings.from_environment(environment)
    assert settings.mongo.password == "planted-password"  # noqa: S105
    assert "planted" not in f"{settings} {settings.mongo!r} {connect(settings.mongo)!r}"


def test_a_service_with_a_wrong_setting_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "VLLM_URL", "MONGO_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert processor.main() == 2
    assert producer.main() == 2
    assert capsys.readouterr().err.count("is not set") == 2


def test_the_clients_are_set_up_so_that_nothing_is_lost() -> None:
    kafka = KafkaSettings(bootstrap_servers="k:9092", client_id="p")
    assert consumer_options(kafka, "g")["enable.auto.commit"] is False
    assert producer_options(kafka)["enable.idempotence"] is True
    assert producer_options(kafka)["queue.buffering.max.messages"] <= 10_000
    assert dead_letter_producer_options(kafka, "g")["transactional.id"] == "g-p"
    assert MongoSettings.from_environment(Environment(ENVIRONMENT)).port == 27017
