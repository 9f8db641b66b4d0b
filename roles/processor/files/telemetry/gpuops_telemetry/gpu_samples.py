# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of the GPUs here; where there are none, figures of the host, marked as simulated."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal, Protocol

_QUERY = "index,name,utilization.gpu,memory.used,memory.total,power.draw"


class SampleError(Exception):
    """No sample could be taken; the text says why."""


@dataclass(frozen=True)
class GpuSample:
    """What one GPU does now."""

    gpu_index: int
    name: str
    utilization: float
    mem_used_mb: float
    mem_total_mb: float
    power_w: float | None


class Sampler(Protocol):
    """Takes samples."""

    @property
    def source(self) -> Literal["nvidia-smi", "simulated"]: ...

    def sample(self) -> list[GpuSample]: ...


class NvidiaSmi:
    """Asks nvidia-smi."""

    source: Literal["nvidia-smi"] = "nvidia-smi"

    def sample(self) -> list[GpuSample]:
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SampleError(f"nvidia-smi does not work: {error}") from None
        if answer.returncode != 0:
            raise SampleError(f"nvidia-smi ended with {answer.returncode}: {answer.stdout.strip()[:200]}")
        return parse_nvidia_smi(answer.stdout)


def parse_nvidia_smi(output: str) -> list[GpuSample]:
    """The lines of nvidia-smi. It says [N/A] or [Not Supported] for what a GPU can't tell."""
    samples = []
    for line in output.splitlines():
        if not line.strip():
            continue
        # The name is the only field that may hold a comma.
        index, rest = (part.strip() for part in line.split(",", 1))
        name, utilization, used, total, power = (part.strip() for part in rest.rsplit(",", 4))
        memory_used, memory_total = _number(used), _number(total)
        if memory_used is None or memory_total is None:
            raise SampleError(f"GPU {index} does not say how much memory it has")
        samples.append(
            GpuSample(
                gpu_index=int(index),
                name=name,
                utilization=min(1.0, (_number(utilization) or 0.0) / 100),
                mem_used_mb=memory_used,
                mem_total_mb=memory_total,
                power_w=_number(power),
            )
        )
    return samples


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class SimulatedGpu:
    """The host's processor and memory in place of a GPU's."""

    source: Literal["simulated"] = "simulated"

    def __init__(self, proc: pathlib.Path = pathlib.Path("/proc")) -> None:
        self._proc = proc
        self._before = self._ticks()

    def _ticks(self) -> tuple[int, int]:
        fields = [int(text) for text in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:]]
        idle = fields[3] + (fields[4] if len(fields) > 4 else 0)
        return sum(fields[:8]), idle

    def sample(self) -> list[GpuSample]:
        total, idle = self._ticks()
        passed, rested = total - self._before[0], idle - self._before[1]
        self._before = total, idle
        memory = {
            name: int(rest.split()[0]) / 1024
            for name, _colon, rest in (
                line.partition(":") for line in (self._proc / "meminfo").read_text().splitlines()
            )
        }
        return [
            GpuSample(
                gpu_index=0,
                name="simulated (host processor)",
                utilization=round(min(1.0, max(0.0, 1 - rested / passed)), 4) if passed > 0 else 0.0,
                mem_used_mb=round(memory["MemTotal"] - memory["MemAvailable"], 1),
                mem_total_mb=round(memory["MemTotal"], 1),
                power_w=None,
            )
        ]


def choose_sampler(source: str) -> Sampler:
    """auto: nvidia-smi where it is installed."""
    if source == "nvidia-smi" or (source == "auto" and shutil.which("nvidia-smi")):
        return NvidiaSmi()
    return SimulatedGpu()
