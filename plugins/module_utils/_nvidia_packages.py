# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The packages of an NVIDIA driver: what they are called, and where they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import Host

# NVIDIA's long term support branch until June 2028. Source: Supported Drivers and CUDA Toolkit Versions,
# https://docs.nvidia.com/datacenter/tesla/drivers/615/supported-drivers-and-cuda-toolkit-versions.html
_DEFAULT_BRANCH = "580"
# Names without a branch, on Ubuntu, and no branch before it on Debian 13. Sources: Recent Updates of NVIDIA's Driver
# Installation Guide; https://github.com/NVIDIA/cuda-repo-management/issues/38
_UNNUMBERED_SINCE = 590


class NoPackages(Exception):
    """There is no driver for this host; the text says why, and what to do."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for; "" and "auto" leave it to the host."""

    branch: str = ""
    minimum_version: str = ""
    minimum_reason: str = ""  # who asks for it, where it is not the user
    source: str = "auto"  # ubuntu, cuda
    module: str = "auto"  # open, proprietary
    gpu_count: int = 0  # how many were rented
    replace: bool = False

    @property
    def minimum(self) -> str:
        """As the sentences name it."""
        why = f" ({self.minimum_reason})" if self.minimum_reason else ""
        return f"{self.minimum_version}{why}"


@dataclass(frozen=True)
class Repository:
    """A distribution's folder in NVIDIA's CUDA repository."""

    folder: str
    default_branch: str
    first_branch: int


# Folders of https://developer.download.nvidia.com/compute/cuda/repos/
REPOSITORIES = {
    "Ubuntu 22.04": Repository("ubuntu2204", _DEFAULT_BRANCH, 515),
    "Ubuntu 24.04": Repository("ubuntu2404", _DEFAULT_BRANCH, 555),
    "Debian 12": Repository("debian12", _DEFAULT_BRANCH, 545),
    "Debian 13": Repository("debian13", "595", _UNNUMBERED_SINCE),
}


@dataclass(frozen=True)
class Choice:
    """Packages to install, and what follows from them."""

    source: str
    title: str
    branch: str
    packages: list[str]
    prebuilt: bool
    reboot: bool


def _headers(host: Host) -> tuple[list[str], bool]:
    """Packages that DKMS needs to build a module, and whether they are for another kernel than the running one."""
    exact, general = f"linux-headers-{host.kernel}", f"linux-headers-{host.flavour}"
    if host.is_installed(exact) or exact in host.available:
        # The general one makes that the next kernel has its headers too.
        return [exact, *([general] if general in host.available or host.is_installed(general) else [])], False
    if general not in host.available:
        raise NoPackages(
            f"apt has no headers for kernel {host.kernel}, without which DKMS builds no module. Rent the machine with "
            "an image whose kernel is in the archive."
        )
    return [f"linux-image-{host.flavour}", general], True


def _from_ubuntu(host: Host, branch: str, kind: str) -> Choice | None:
    """Ubuntu's server branch; None where apt does not have it."""
    series = f"{branch}-server" + ("-open" if kind == "open" else "")
    bare, with_dkms = f"nvidia-headless-no-dkms-{series}", f"nvidia-headless-{series}"
    tools = [f"nvidia-utils-{branch}-server"]
    if host.nvswitches:
        tools.append(f"nvidia-fabricmanager-{branch}")
    title = f"Ubuntu's server branch {series}"
    modules = f"linux-modules-nvidia-{series}-{host.flavour}"
    if {bare, modules} <= host.available:
        # Built and signed by Ubuntu: nothing is compiled for minutes, and Secure Boot accepts it. Where it is not for
        # the running kernel, it brings its own.
        other_kernel = f"linux-modules-nvidia-{series}-{host.kernel}" not in host.available
        return Choice("ubuntu", title, branch, [modules, bare, *tools], True, other_kernel)
    if with_dkms in host.available:
        headers, other_kernel = _headers(host)
        return Choice("ubuntu", f"{title}, built by DKMS", branch, [*headers, with_dkms, *tools], False, other_kernel)
    return None


def _from_cuda(host: Host, branch: str, kind: str) -> Choice:
    """NVIDIA's own repository, compute only. Source: Compute-only and Desktop Installation,
    https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/compute-only-and-desktop-installation.html
    """
    repository = REPOSITORIES[host.distribution]
    if int(branch) < repository.first_branch:
        raise NoPackages(
            f"NVIDIA's repository for {host.distribution} has no driver branch below {repository.first_branch}, and "
            f"{branch} is needed. Rent the machine with Debian 12 or Ubuntu 24.04, or with newer GPUs."
        )
    numbered = int(branch) < _UNNUMBERED_SINCE
    suffix = f"-{branch}" if numbered else ""
    if host.distribution.startswith("Debian"):
        names = ["nvidia-driver-cuda", "nvidia-kernel-open-dkms" if kind == "open" else "nvidia-kernel-dkms"]
    else:
        dkms = f"nvidia-dkms{suffix}" + ("-open" if kind == "open" else "")
        names = [dkms, f"libnvidia-compute{suffix}", f"nvidia-utils{suffix}"]
    if host.nvswitches:
        names.append(f"nvidia-fabricmanager{suffix}")
    headers, other_kernel = _headers(host)
    return Choice(
        "cuda",
        f"NVIDIA's repository {repository.folder}",
        branch,
        # The pin comes first: without it a later upgrade leaves the branch.
        [f"nvidia-driver-pinning-{branch}", *headers, *names],
        False,
        other_kernel,
    )


def choose_packages(host: Host, wishes: Wishes, kind: str) -> Choice:
    """The packages for this host; NoPackages where there are none."""
    if host.distribution not in REPOSITORIES or host.architecture not in ("x86_64", "aarch64"):
        raise NoPackages(
            f"There is no driver for {host.distribution} on {host.architecture} that this role knows; it knows "
            f"{', '.join(REPOSITORIES)} on x86_64 and aarch64. Rent the machine with an image of one of these."
        )
    if wishes.branch and not re.fullmatch(r"\d{3}", wishes.branch):
        raise NoPackages(f"nvidia_driver_branch is {wishes.branch!r}, and a branch is a number such as 580.")
    ubuntu = host.distribution.startswith("Ubuntu")
    if wishes.source == "ubuntu" and not ubuntu:
        raise NoPackages(
            f"nvidia_driver_source is ubuntu, but the host runs {host.distribution}. Set nvidia_driver_source to auto."
        )
    if ubuntu and wishes.source != "cuda":
        choice = _from_ubuntu(host, wishes.branch or _DEFAULT_BRANCH, kind)
        if choice:
            return choice
        if wishes.source == "ubuntu":
            raise NoPackages(
                f"Ubuntu has no server branch {wishes.branch or _DEFAULT_BRANCH} for this host in its lists (component "
                "restricted). Set nvidia_driver_branch to one that it has, or nvidia_driver_source to auto."
            )
    return _from_cuda(host, wishes.branch or REPOSITORIES[host.distribution].default_branch, kind)
