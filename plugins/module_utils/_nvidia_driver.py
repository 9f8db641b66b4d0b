# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Which NVIDIA driver a host needs, and what is to be done for it: pure, from what the host says.

A driver that works is left and held, whoever brought it. What is broken is mended with what is installed. Only a host
without a driver gets one, and every plan needs one reboot at most.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import GENERATIONS, Host, version
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_packages import (
    NoPackages,
    Wishes,
    choose_packages,
)

_MODULE_PACKAGE = re.compile(
    r"^(linux-(modules|objects)-nvidia-|nvidia-(headless|dkms|kernel-source|kernel-open|kernel-dkms|open|driver-\d)|"
    r"cuda-drivers)"
)
_UNFINISHED = "UFHWt"
_TURING = GENERATIONS.index("Turing")
# The last branch that drives a generation. Source: CUDA Toolkit, Driver, and Architecture Matrix,
# https://docs.nvidia.com/datacenter/tesla/drivers/cuda-toolkit-driver-and-architecture-matrix.html
_LAST_BRANCH = {"older": 390, "Kepler": 470, "Maxwell": 580, "Pascal": 580, "Volta": 580}
# The first one, for those where somebody could ask for an older branch.
_FIRST_BRANCH = {"Ada": 525, "Hopper": 525, "Blackwell": 570, "newer": 580}


@dataclass(frozen=True)
class Decision:
    """What to do. `action` is one word; the lists say what the role does for it, in its order."""

    action: str  # none, leave, repair, reboot, install, refuse
    reason: str  # a sentence for people; with refuse it also says what to do
    module: str = ""  # open or proprietary
    source: str = ""  # ubuntu or cuda
    branch: str = ""
    prebuilt: bool = False  # modules that the distribution built and signed, instead of DKMS
    unhold: list[str] = field(default_factory=list)
    configure: bool = False  # let dpkg finish what it began
    remove: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    build: bool = False  # let DKMS build for the running kernel
    load: bool = False  # the module, without a reboot
    reboot: bool = False
    replaces: bool = False  # a driver that works: pointless where nothing newer is to be had
    hold: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _refuse(reason: str) -> Decision:
    return Decision("refuse", reason)


def _wanted_kind(host: Host, wishes: Wishes) -> str:
    """Open or proprietary; NoPackages where no module drives these GPUs, or not the one that is asked for."""
    order = sorted(set(host.generations), key=GENERATIONS.index)
    oldest, newest = order[0], order[-1]
    before_turing = GENERATIONS.index(oldest) < _TURING
    open_only = newest in ("Blackwell", "newer")
    if before_turing and open_only:
        raise NoPackages(
            f"It has GPUs of the generations {oldest} and {newest}: the first need the proprietary kernel module, the "
            "second the open one, and a kernel loads only one. Rent machines with GPUs of one kind."
        )
    needed = "proprietary" if before_turing else "open"
    if wishes.module == "open" and before_turing:
        raise NoPackages(
            f"nvidia_driver_module is open, but its GPUs are of the generation {oldest}, and the open module drives "
            "Turing and newer. Set nvidia_driver_module to auto."
        )
    if wishes.module == "proprietary" and open_only:
        raise NoPackages(
            f"nvidia_driver_module is proprietary, but GPUs of the generation {newest} need the open one. Set "
            "nvidia_driver_module to auto."
        )
    return needed if wishes.module == "auto" else wishes.module


def _check_branch(host: Host, branch: str, wishes: Wishes) -> None:
    """NoPackages where the branch does not drive the GPUs, or is below what is asked for."""
    for name in sorted(set(host.generations), key=GENERATIONS.index):
        if int(branch) > _LAST_BRANCH.get(name, 10_000):
            raise NoPackages(
                f"Driver branch {branch} does not drive GPUs of the generation {name}; {_LAST_BRANCH[name]} is their "
                f"last one. Set nvidia_driver_branch to {_LAST_BRANCH[name]} if what you run can live with it, or rent "
                "newer GPUs."
            )
        if int(branch) < _FIRST_BRANCH.get(name, 0):
            raise NoPackages(
                f"Driver branch {branch} does not know GPUs of the generation {name} yet. Set nvidia_driver_branch to "
                f"{_FIRST_BRANCH[name]} or above."
            )
    if wishes.minimum_version and int(branch) < version(wishes.minimum_version)[0]:
        raise NoPackages(
            f"Driver branch {branch} is below nvidia_driver_minimum_version {wishes.minimum}. Change one of them."
        )


def _hold(host: Host) -> list[str]:
    """What must not change by the way: the driver, and the kernel where nothing builds the module for the next one."""
    names = [name for name in host.driver_packages() if host.is_installed(name)]
    # A new kernel without a module takes the GPU away at the next reboot. DKMS builds it, where the kernel's headers
    # come along; nobody else does.
    if not host.dkms or not host.is_installed(f"linux-headers-{host.flavour}"):
        names += host.kernel_packages()
    return sorted(set(names) - host.held)


def _has_wrong_kind(host: Host, wanted: str) -> bool:
    """Whether the module that is there can't drive these GPUs (not: whether another one would be nicer)."""
    kind = host.loaded_kind or host.disk_kind
    if not kind or kind == wanted:
        return False
    before_turing = any(GENERATIONS.index(name) < _TURING for name in host.generations)
    open_only = any(name in ("Blackwell", "newer") for name in host.generations)
    return (kind == "open" and before_turing) or (kind == "proprietary" and open_only)


def _install(host: Host, wishes: Wishes, *, why: str, remove: list[str], reboot: bool) -> Decision:
    kind = _wanted_kind(host, wishes)
    choice = choose_packages(host, wishes, kind)
    _check_branch(host, choice.branch, wishes)
    held = sorted(host.held & set(host.driver_packages() + host.kernel_packages() + choice.packages))
    if held and not wishes.replace:
        raise NoPackages(
            f"{why}, but {', '.join(held)} {'is' if len(held) == 1 else 'are'} held (apt-mark showhold). Somebody "
            "wanted that: run `apt-mark unhold` for them, or set nvidia_driver_replace to true."
        )
    if host.secure_boot and not choice.prebuilt:
        raise NoPackages(
            f"{why}, and the module would be built on the host; but Secure Boot is on, and the kernel loads no module "
            "that only the host signed. Turn Secure Boot off for this machine, or rent it with an image that has the "
            "driver or, on Ubuntu, with a kernel for which there are signed modules."
        )
    notes = []
    if host.nvswitches and not any("fabricmanager" in name for name in choice.packages):
        notes.append("The GPUs hang on NVSwitches and need NVIDIA's fabric manager, which this source does not have.")
    return Decision(
        "install",
        f"{why}: installing the {kind} module of branch {choice.branch} from {choice.title}.",
        module=kind,
        source=choice.source,
        branch=choice.branch,
        prebuilt=choice.prebuilt,
        unhold=held,
        configure=any(state in _UNFINISHED for state in host.states.values()),
        remove=[name for name in remove if name not in choice.packages],
        packages=choice.packages,
        load=not (reboot or choice.reboot or host.nouveau),
        reboot=reboot or choice.reboot or host.nouveau,
        notes=notes,
    )


def _working(host: Host, wishes: Wishes) -> Decision:
    """nvidia-smi answers."""
    found = host.smi_versions[0]
    kind = host.loaded_kind
    if len(host.smi_versions) < len(host.generations):
        return _refuse(
            f"nvidia-smi shows {len(host.smi_versions)} of the {len(host.generations)} GPUs on the PCI bus. Look for "
            "`Xid` in `journalctl --dmesg`; a GPU that fell off the bus needs a stop and start of the machine, or "
            "another machine."
        )
    unfinished = [name for name in host.driver_packages() if host.states[name] in _UNFINISHED]
    if unfinished:
        return Decision(
            "repair",
            f"Driver {found} works, but dpkg did not finish {', '.join(unfinished)}.",
            module=kind,
            configure=True,
            # What is being installed may be another version than what is loaded.
            reboot=any(not host.versions[name].removeprefix("1:").startswith(found) for name in unfinished),
        )
    if wishes.minimum_version and version(found) < version(wishes.minimum_version):
        if not wishes.replace:
            return _refuse(
                f"Driver {found} works, and nvidia_driver_minimum_version asks for {wishes.minimum}. A driver that "
                "works is not replaced under running containers: set nvidia_driver_replace to true, which reboots the "
                "host, or rent it with another image."
            )
        if host.runfile and not host.driver_packages():
            return _refuse(
                f"Driver {found} is older than {wishes.minimum_version} and was installed by NVIDIA's .run file, over "
                "which packages can't be installed. Run `nvidia-uninstall` on the host, then this role again."
            )
        decision = _install(host, wishes, why=f"Driver {found} is too old", remove=[], reboot=True)
        return replace(decision, replaces=True)
    notes = []
    if host.nvswitches and not any("fabricmanager" in name for name in host.states):
        notes.append(
            "The GPUs hang on NVSwitches, and NVIDIA's fabric manager is not installed: CUDA answers 802 (system not "
            f"yet initialized) until nvidia-fabricmanager of version {found} runs."
        )
    return Decision("leave", f"Driver {found} works and stays.", module=kind, hold=_hold(host), notes=notes)


def _broken(host: Host, wishes: Wishes) -> Decision:
    """There is a GPU, and nvidia-smi does not answer."""
    mine = host.driver_packages()
    wanted = _wanted_kind(host, wishes)
    dkms = bool(host.dkms) or any("dkms" in name.replace("no-dkms", "") for name in mine if _MODULE_PACKAGE.match(name))
    unfinished = [name for name in mine if host.states[name] in _UNFINISHED]
    module = host.disk_kind or host.loaded_kind

    if _has_wrong_kind(host, wanted):
        wrong = [
            name
            for name in mine
            if _MODULE_PACKAGE.match(name) and ("-open" in name) is (wanted == "proprietary") and name != "cuda-drivers"
        ]
        why = f"The {module} module does not drive GPUs of the generation {host.generations[0]}"
        if host.runfile and not wrong:
            return _refuse(
                f"{why}. It was installed by NVIDIA's .run file: run `nvidia-uninstall`, then this role again."
            )
        return _install(host, wishes, why=why, remove=wrong, reboot=True)
    if host.runfile and not any(_MODULE_PACKAGE.match(name) for name in mine):
        return _refuse(
            "A driver that NVIDIA's .run file installed is here and does not work; packages can't be installed over "
            "it. Run `nvidia-uninstall` on the host and this role again, or rent the machine with another image."
        )
    if not any(_MODULE_PACKAGE.match(name) for name in mine):
        return _install(host, wishes, why="No driver is installed", remove=[], reboot=False)

    if dkms and host.secure_boot:
        return _refuse(
            "The driver's module was built on this host, and Secure Boot is on: the kernel does not load it (modprobe "
            "says: Key was rejected by service). Turn Secure Boot off for this machine, or enrol the key of DKMS by "
            "hand at the machine's console."
        )
    installed = any(entry.kernel == host.kernel and entry.state == "installed" for entry in host.dkms)
    if unfinished or (dkms and not installed and not host.disk_version):
        what = f"dpkg did not finish {', '.join(unfinished)}" if unfinished else "DKMS has no module for this kernel"
        headers = (
            [f"linux-headers-{host.kernel}"] if dkms and not host.is_installed(f"linux-headers-{host.kernel}") else []
        )
        if headers and headers[0] not in host.available:
            # Headers of an old kernel vanish from the archive; those of the next one build for the next one.
            headers = [f"linux-image-{host.flavour}", f"linux-headers-{host.flavour}"]
        next_kernel = len(headers) > 1
        reboot = host.nouveau or bool(host.loaded_version) or next_kernel
        return Decision(
            "repair",
            f"{what} (kernel {host.kernel}): finishing it.",
            module=module or wanted,
            configure=True,
            packages=headers,
            build=dkms and not next_kernel,
            load=not reboot,
            reboot=reboot,
        )
    if not host.disk_version:
        return _modules_for_this_kernel(host, module or wanted)
    why = (
        f"The module {host.loaded_version} is loaded and {host.disk_version} is installed"
        if host.mismatch or (host.loaded_version and host.loaded_version != host.disk_version)
        else "nouveau holds the GPU"
        if host.nouveau
        else "The driver is loaded and does not answer"
        if host.loaded_version
        else ""
    )
    if why:
        return Decision("reboot", f"{why}: a reboot mends it.", module=module, reboot=True)
    return Decision("repair", "The driver is installed and not loaded.", module=module, load=True)


def _modules_for_this_kernel(host: Host, kind: str) -> Decision:
    """Ubuntu's prebuilt modules are there, but not for the kernel that runs."""
    # linux-modules-nvidia-580-server-open-gcp → 580-server-open, and what it is for
    names = [name for name in host.driver_packages() if name.startswith("linux-modules-nvidia-")]
    series = {
        match[1]
        for match in (re.match(r"linux-modules-nvidia-(\d+(?:-server)?(?:-open)?)-", name) for name in names)
        if match
    }
    wanted = sorted(series)[-1] if series else ""
    exact = f"linux-modules-nvidia-{wanted}-{host.kernel}"
    general = f"linux-modules-nvidia-{wanted}-{host.flavour}"
    if not wanted or not {exact, general} & host.available:
        return _refuse(
            f"The driver's packages are installed, but there is no kernel module for kernel {host.kernel} and none to "
            "install. Boot the kernel that it was installed for, or rent the machine with another image."
        )
    return Decision(
        "repair",
        f"The driver has no module for kernel {host.kernel}.",
        module=kind,
        prebuilt=True,
        packages=[exact] if exact in host.available else [general],
        load=exact in host.available and not host.nouveau,
        reboot=exact not in host.available or host.nouveau,
    )


def decide(host: Host, wishes: Wishes) -> Decision:
    """The one decision for this host."""
    if host.container:
        if host.works:
            return Decision(
                "leave", "A container: its driver belongs to the machine around it.", module=host.loaded_kind
            )
        if wishes.gpu_count:
            return _refuse(
                "This is a container in which nvidia-smi does not answer. A driver belongs to the machine around it: "
                "give the container its GPUs there."
            )
        return Decision("none", "A container without a GPU.")
    if len(host.generations) < wishes.gpu_count:
        return _refuse(
            f"{len(host.generations)} NVIDIA GPUs are on the PCI bus, and {wishes.gpu_count} were rented "
            "(nvidia_driver_gpu_count). Stop and start the machine, or end it and rent another one."
        )
    if not host.generations:
        return Decision("none", "There is no NVIDIA GPU.")
    try:
        decision = _working(host, wishes) if host.works else _broken(host, wishes)
    except NoPackages as problem:
        return _refuse(str(problem))
    if decision.action in ("repair", "install") and decision.reboot:
        return replace(decision, load=False)
    return decision
