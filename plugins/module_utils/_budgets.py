# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How long things may take, as data with the source of each number.

Three clocks, so that one kind of waiting never uses up the time of another: until the provider says that it runs
(placing it, pulling its image), then until it is ready, and, once its SSH server answers, until it knows our key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Runtime


@dataclass(frozen=True)
class Budget:
    """Seconds of patience for one rental."""

    provider_seconds: float
    ready_seconds: float
    key_seconds: float
    source: str = ""


DEFAULT = Budget(1800, 600, 60, "where nothing is known: what others give a provider that is in no hurry (10 min)")
TABLE: dict[tuple[str, Runtime], Budget] = {
    ("local", Runtime.VM): Budget(600, 600, 30, "measured: seconds. A busy machine that serves all hosts takes longer"),
    ("runpod", Runtime.CONTAINER): Budget(
        2400,
        1200,
        60,
        "the pull of a large serving image took 7 min and longer on community hosts; dstack raised its limit to 20 min",
    ),
    ("vastai", Runtime.VM): Budget(
        3600,
        600,
        60,
        "pulls of 10 to 60 min were seen; sshd comes 10 to 60 s after that, the key 10 to 15 s after sshd",
    ),
    ("vastai", Runtime.CONTAINER): Budget(3600, 900, 60, "pulls of 10 to 60 min were seen, 5 min were too short"),
    ("tensordock", Runtime.VM): Budget(
        1800,
        900,
        300,
        "one client gives a boot 20 min; the key comes by cloud-init 60 to 90 s after it, beside updates",
    ),
    ("gcp", Runtime.VM): Budget(
        1200,
        600,
        180,
        "guessed: a boot takes 1 to 2 min; the key comes by a script at its end, after the guest's agent",
    ),
    ("aws", Runtime.VM): Budget(
        900, 900, 120, "guessed: EC2 places at once or refuses; large sizes with GPUs test their memory for minutes"
    ),
    ("ssh", Runtime.VM): Budget(
        0, 600, 30, "guessed: it runs already, or boots; servers with much memory test it for minutes before"
    ),
}

# Beside what the table says.
DRIVER_SECONDS = 300  # wait: gpu; work on drivers took 2 to 5 min
WEIGHTS_MIB_PER_SECOND = 100  # wait: endpoint; a model that fills the cards has to be loaded first
LONGEST_READY_SECONDS = 7200


def budget_for(
    provider: str,
    runtime: Runtime,
    stage: str,
    *,
    gpu: str | None = None,
    gpu_count: int = 0,
    wait_timeout_seconds: int | None = None,
) -> Budget:
    """The patience for a rental there, of that kind, with those GPUs. What the user says about the wait wins."""
    budget = TABLE.get((provider, runtime), DEFAULT)
    if wait_timeout_seconds is not None:
        return replace(budget, ready_seconds=float(wait_timeout_seconds))
    more = 0.0
    if stage == "gpu":
        more = DRIVER_SECONDS
    elif stage == "endpoint" and gpu:
        more = _gpus.resolve(gpu).memory_mib * max(1, gpu_count) / WEIGHTS_MIB_PER_SECOND
    return replace(budget, ready_seconds=min(budget.ready_seconds + more, LONGEST_READY_SECONDS))
