# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second site.yml changes nothing, also from a controller that has never seen this fleet."""

from __future__ import annotations

from demo import SCALE, Fleet, Run


def test_second_run_from_an_empty_home_changes_nothing(second_run: Run) -> None:
    assert second_run.status == 0, second_run.output[-4000:]
    assert second_run.changed == {}


def test_second_run_says_so(second_run: Run) -> None:
    assert "changed=0: nothing had to be changed." in second_run.output


def test_check_mode_runs_clean(fleet: Fleet) -> None:
    # The host that has most to do, and in the long form all of them.
    some = () if SCALE > 1 else ("--limit", fleet.machine("vllm").name)
    run = fleet.playbook("site", "--check", *some)
    assert run.status == 0, run.output[-4000:]
    assert run.changed == {}
