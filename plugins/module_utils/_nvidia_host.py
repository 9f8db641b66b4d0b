# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a host says about its NVIDIA GPUs and their driver, read from the raw answers of its own programs.

The answers come from roles/nvidia_driver/files/nvidia_facts.sh, which says what each of them is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECTION = re.compile(r"^@@ ([a-z_]+)$")

# Oldest first. What "open" and "proprietary" can drive is a matter of this order.
GENERATIONS = (
    "older", "Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell", "newer",
)  # fmt: skip

# PCI device ids of vendor 10de, first and last of each block. Source: https://pci-ids.ucw.cz/read/PC/10de, and for
# Turing and later the table in https://github.com/NVIDIA/open-gpu-kernel-modules/blob/main/README.md
_BLOCKS = (
    (0x0FC0, 0x0FFF, "Kepler"),
    (0x1001, 0x103F, "Kepler"),
    (0x1180, 0x11FF, "Kepler"),
    (0x1280, 0x12BF, "Kepler"),
    (0x1340, 0x143F, "Maxwell"),
    (0x15F0, 0x15FF, "Pascal"),
    (0x1600, 0x167F, "Maxwell"),
    (0x1725, 0x172F, "Pascal"),
    (0x1740, 0x17FF, "Maxwell"),
    (0x1B00, 0x1D7F, "Pascal"),
    (0x1D80, 0x1DFF, "Volta"),
    (0x1E00, 0x1FFF, "Turing"),
    (0x2000, 0x20FF, "Ampere"),
    (0x2180, 0x21FF, "Turing"),
    (0x2200, 0x22FF, "Ampere"),
    (0x2300, 0x23FF, "Hopper"),
    (0x2400, 0x25FF, "Ampere"),
    (0x2600, 0x28FF, "Ada"),
    (0x2900, 0x2FFF, "Blackwell"),
    (0x3180, 0x31FF, "Blackwell"),
)

# Whatever belongs to a driver, and nothing of the container toolkit, CUDA's compilers or DCGM.
_DRIVER_PACKAGE = re.compile(
    r"^(nvidia-|libnvidia-|linux-(modules|objects|signatures)-nvidia-|cuda-drivers|firmware-nvidia|libcuda1$|libnvsdm|"
    r"xserver-xorg-video-nvidia|nvlsm$)"
)
_NO_DRIVER_PACKAGE = re.compile(r"^(lib)?nvidia-(container|docker|cuda-|cudnn|nsight)|-dev$|^libnvidia-container")
_KERNEL_PACKAGE = re.compile(
    r"^linux-(?!.*\d+\.\d+\.\d+-)(?:(?:image|headers)-(?!\d|unsigned|extra)|"
    r"(?:generic|virtual|lowlatency|aws|azure|gcp|gke|ibm|oracle|nvidia)(?:-|$))"
)
_DKMS_LINE = re.compile(
    # nvidia, nvidia-srv (Ubuntu's server branch), nvidia-current (Debian); GPUDirect Storage is no driver
    r"^nvidia(?:-(?!fs\b|peermem)[a-z-]+)?[/,] ?(?P<version>[\d.]+)(?:, (?P<kernel>[^,: ]+), \w+)?: (?P<state>\w+)"
)
_VERSION = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def generation(device_id: int) -> str:
    """The generation of a GPU by its PCI device id; beyond the table "newer", before or between its blocks "older"."""
    for first, last, name in _BLOCKS:
        if first <= device_id <= last:
            return name
    return "newer" if device_id > 0x2FFF else "older"


def sections(text: str) -> dict[str, str]:
    """The answers of nvidia_facts.sh by name: a line "@@ NAME" begins each."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        match = SECTION.match(line)
        if match:
            lines = found.setdefault(match[1], [])
        else:
            lines.append(line)
    return {name: "\n".join(answer).strip() for name, answer in found.items()}


def version(text: str) -> tuple[int, ...]:
    """A driver's version for comparing: 580.95.05 → (580, 95, 5); () where there is none."""
    found = re.match(r"(\d+:)?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in found[2].split(".")) if found else ()


@dataclass(frozen=True)
class Dkms:
    """A line of `dkms status`."""

    version: str
    kernel: str  # empty while it is only added
    state: str  # added, built, installed, broken


@dataclass(frozen=True)
class Host:
    """A host, as far as the choice of a driver needs it. Versions and names are empty where there is none."""

    distribution: str  # "Ubuntu 24.04", "Debian 12"
    architecture: str  # x86_64, aarch64
    container: bool
    kernel: str  # uname -r
    generations: tuple[str, ...]  # one entry a GPU on the PCI bus
    nvswitches: int
    secure_boot: bool
    smi_exit_status: int  # 127: there is no nvidia-smi
    smi_text: str
    smi_versions: tuple[str, ...]  # one entry a GPU that answers
    loaded_version: str
    loaded_kind: str  # open, proprietary
    disk_version: str  # of the module that the running kernel would load
    disk_kind: str
    nouveau: bool  # it holds the GPU
    states: Mapping[str, str]  # package → the second letter of dpkg's state: i is installed, F half configured, …
    versions: Mapping[str, str]
    held: frozenset[str]
    dkms: tuple[Dkms, ...]
    runfile: bool  # NVIDIA's own installer was here
    available: frozenset[str]  # what apt could install

    @property
    def works(self) -> bool:
        return self.smi_exit_status == 0 and bool(self.smi_versions)

    @property
    def mismatch(self) -> bool:
        return "version mismatch" in self.smi_text

    def is_installed(self, package: str) -> bool:
        return self.states.get(package) == "i"

    def driver_packages(self) -> list[str]:
        """Installed or half installed, and part of a driver."""
        return [
            name
            for name, state in sorted(self.states.items())
            if state not in "cn" and _DRIVER_PACKAGE.match(name) and not _NO_DRIVER_PACKAGE.search(name)
        ]

    def kernel_packages(self) -> list[str]:
        """Installed packages that bring the next kernel: linux-image-gcp, linux-gcp, never one of a version."""
        return [
            name
            for name, state in sorted(self.states.items())
            if state == "i" and _KERNEL_PACKAGE.match(name) and not _DRIVER_PACKAGE.match(name)
        ]

    @property
    def flavour(self) -> str:
        """What the packages of this host's kernel end with: generic, generic-hwe-24.04, gcp, cloud-amd64."""
        own = re.sub(r"^[\d.]+(?:\+[^-]+)?-(?:\d+-)?", "", self.kernel)
        names = [
            name.removeprefix("linux-image-") for name in self.kernel_packages() if name.startswith("linux-image-")
        ]
        # A virtual kernel is the generic one with fewer modules.
        names = [name.replace("virtual", "generic") for name in names]
        fitting = [name for name in names if re.split(r"-(?:hwe|lts|edge|\d)", name)[0] == own]
        return (fitting or [own])[0]


def _kind(text: str) -> str:
    """By the text of /proc/driver/nvidia/version, or a module's licence."""
    if not text:
        return ""
    return "open" if "Open Kernel Module" in text or "GPL" in text else "proprietary"


def _first_version(text: str) -> str:
    found = _VERSION.search(text)
    return found[1] if found else ""


def read_host(raw: Mapping[str, Any]) -> Host:
    """Understand the answers. A missing one means that there is nothing of the kind."""
    answers = {name: str(value if value is not None else "").strip() for name, value in raw.items()}

    def lines(name: str) -> list[list[str]]:
        return [line.split() for line in answers.get(name, "").splitlines() if line.strip()]

    devices = [
        (int(device, 16), int(kind, 16) >> 8)
        for _address, vendor, device, kind in (row for row in lines("pci") if len(row) == 4)
        if int(vendor, 16) == 0x10DE
    ]
    packages = [row for row in lines("packages") if len(row) >= 2]
    smi_head, _newline, smi_text = answers.get("smi", "127").partition("\n")
    module = answers.get("module", "").splitlines()
    loaded = next((line for line in answers.get("loaded", "").splitlines() if "NVRM" in line), "")
    smi_exit_status = int(smi_head or 127)
    return Host(
        distribution=answers.get("distribution", ""),
        architecture=answers.get("architecture", ""),
        container=answers.get("container", "none") not in ("none", ""),
        kernel=answers.get("kernel", ""),
        # Class 03xx drives a display or computes; a card's audio part (0403) and its USB port are no GPU.
        generations=tuple(generation(device) for device, kind in devices if kind in (0x0300, 0x0302)),
        nvswitches=sum(kind == 0x0680 for _device, kind in devices),
        secure_boot=answers.get("secure_boot") == "1",
        smi_exit_status=smi_exit_status,
        smi_text=smi_text,
        smi_versions=tuple(
            line.rsplit(",", 1)[1].strip()
            for line in smi_text.splitlines()
            if smi_exit_status == 0 and re.search(r", *\d+\.[\d.]+$", line)
        ),
        loaded_version=_first_version(loaded),
        loaded_kind=_kind(loaded),
        disk_version=module[0].strip() if module else "",
        disk_kind=_kind(module[1] if len(module) > 1 else ""),
        nouveau="nouveau" in answers.get("modules", "").split(),
        states={row[1].split(":")[0]: row[0][1:2] for row in packages},
        versions={row[1].split(":")[0]: row[2] if len(row) > 2 else "" for row in packages},
        held=frozenset(name.split(":")[0] for name in answers.get("held", "").split()),
        dkms=tuple(
            Dkms(found["version"], found["kernel"] or "", found["state"])
            for found in map(_DKMS_LINE.match, answers.get("dkms", "").splitlines())
            if found
        ),
        runfile=bool(answers.get("runfile")),
        available=frozenset(answers.get("available", "").split()),
    )
