# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every event that the broker acknowledged is stored once or dead-lettered once."""

from __future__ import annotations

import json

from demo import LOAD, Fleet, balance, eventually, http


def test_ledger_balances_for_good_bad_and_repeated_events(fleet: Fleet) -> None:
    ledger = fleet.service("producer").inside(
        *LOAD, "--count", "3000", "--bad-share", "0.1", "--duplicate-share", "0.05"
    )
    verdict = balance(fleet, ledger)
    assert verdict["ok"], verdict
    assert verdict["acknowledged"] == verdict["documents"] + verdict["dead_letters"]
    assert verdict["messages"] == 3000
    assert verdict["documents"] > 2000
    assert verdict["dead_letters"] > 100


def test_real_completions_become_documents(fleet: Fleet) -> None:
    """The producer asks the model by itself; what it publishes shows in what the processor answers."""
    url = f"http://{fleet.machine('processor').address}:8080/usage"

    def tokens_flow() -> bool:
        usage = json.loads(http(url)[1])
        return bool(usage["tokens_per_second"] > 0)

    eventually(tokens_flow, 90, "tokens per second above zero")
