# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from ansible_collections.gpuops.fleet.plugins.filter.mask_environment import mask_environment
from ansible_collections.gpuops.fleet.plugins.filter.probe_checks import probe_checks
from ansible_collections.gpuops.fleet.plugins.filter.text_table import text_table

PROBE = {"name": "topics", "fix": "Run deploy.", "expect": "^gpu[.]metrics[.]v1$"}


def test_probe_that_prints_what_is_expected_is_ok() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 0, "stdout": "a\ngpu.metrics.v1\n", "stderr": ""}], "kafka-1: ")
    assert check == {"name": "kafka-1: topics", "ok": True, "detail": "gpu.metrics.v1", "fix": ""}


def test_probe_that_prints_something_else_is_not() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 0, "stdout": "gpuxmetrics", "stderr": ""}])
    assert not check["ok"]
    assert "was expected, found: gpuxmetrics" in check["detail"]
    assert check["fix"] == "Run deploy."


def test_probe_that_fails_shows_its_last_error_shortened() -> None:
    (check,) = probe_checks([{"item": PROBE, "rc": 1, "stdout": "gpu.metrics.v1", "stderr": "first\n" + "x" * 999}])
    assert not check["ok"]
    assert check["detail"] == "x" * 300


def test_probe_that_could_not_start_is_not_ok_and_one_that_was_skipped_is_no_check() -> None:
    results = [{"item": PROBE, "msg": "No such file or directory"}, {"item": PROBE, "skipped": True}]
    assert [check["detail"] for check in probe_checks(results)] == ["No such file or directory"]


def test_table_aligns_numbers_right_and_shows_what_is_missing() -> None:
    rows = [{"name": "kafka-1", "price_usd": 0.5, "roles": ["kafka"]}, {"name": "v", "price_usd": 12, "roles": []}]
    assert text_table(rows, ["name", "price_usd", "roles", "gpu"]) == [
        "NAME     PRICE USD  ROLES  GPU",
        "kafka-1        0.5  kafka  -",
        "v               12  -      -",
    ]


def test_table_of_nothing_has_only_its_heading() -> None:
    assert text_table([], ["name", "state"]) == ["NAME  STATE"]
    assert text_table([]) == [""]


def test_secrets_of_an_environment_are_hidden_and_file_names_are_not() -> None:
    environment = [
        "MONGO_PASSWORD=hunter2",
        "MONGO_PASSWORD_FILE=/run/secrets/app_password",
        "API_KEY=abc",
        "MONGO_URL=mongodb://processor:hunter2@mongo:27017/gpuops",
        "KAFKA_BOOTSTRAP=kafka:9092",
        "KEYBOARD=us",
        "EMPTY_TOKEN=",
    ]
    assert mask_environment(environment) == [
        "API_KEY=********",
        "EMPTY_TOKEN=",
        "KAFKA_BOOTSTRAP=kafka:9092",
        "KEYBOARD=us",
        "MONGO_PASSWORD=********",
        "MONGO_PASSWORD_FILE=/run/secrets/app_password",
        "MONGO_URL=mongodb://processor:********@mongo:27017/gpuops",
    ]
