# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What the engine talks about: offers, instances and requests, with units in the field names."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Status(enum.StrEnum):
    """Where a rented instance is in its life, in words that hold for every provider."""

    PENDING = "pending"  # rented, not running yet (also: created but never started)
    RUNNING = "running"
    STOPPED = "stopped"  # exists, costs what the provider asks for a stopped one
    FAILED = "failed"  # the provider says that it can't run
    TERMINATING = "terminating"


class Runtime(enum.StrEnum):
    """What was rented: a machine in which Docker works, or a container in which it can't."""

    VM = "vm"
    CONTAINER = "container"


@dataclass(frozen=True)
class Marker:
    """What stands on the rented thing itself and says whose it is.

    expiry_epoch_hours is rounded up; 0 means unlimited.
    """

    deployment_id: str
    name: str
    nonce: str
    expiry_epoch_hours: int = 0
    owner: str = "fleet"


@dataclass(frozen=True)
class Endpoint:
    """An address at which an instance answers from the controller."""

    host: str
    port: int
    kind: str = "direct"  # direct or proxy


@dataclass(frozen=True)
class Offer:
    """Something that can be rented now. price_per_hour_usd is None when unknown, never 0 for it."""

    provider: str
    id: str
    gpu: str | None = None
    gpu_count: int = 0
    instance_type: str | None = None
    memory_mib: int | None = None
    cpu_count: int | None = None
    disk_gib: int | None = None
    region: str | None = None
    runtime: Runtime = Runtime.VM
    interruptible: bool = False
    price_per_hour_usd: float | None = None
    machine_id: str | None = None  # the physical host behind it; None where the provider doesn't say


# In the environment of a container: what runs there ends it at its expiry where the provider gives it a key for that.
ENDS_ITSELF = "GPUFLEET_ENDS_ITSELF"


@dataclass(frozen=True)
class Request:
    """What a provider is asked to create: the user's wish, resolved to one offer and one marker."""

    marker: Marker
    offer: Offer
    image: str | None = None
    entrypoint: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: dict[str, str] = field(default_factory=dict, repr=False)
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)  # kept where the provider keeps secrets
    own_tls: bool = False  # args make the server end TLS itself
    ports: tuple[tuple[int, str], ...] = ()  # (port, "tcp" or "http")
    disk_gib: int = 50
    minimum_cuda_version: str = ""  # that the driver of the host has to know for the image; empty: not known
    ssh_public_key: str | None = None
    started_with: str = field(default="", repr=False)  # fingerprints of the start and the environment, to stand on it


@dataclass(frozen=True)
class Instance:
    """What was rented, as its provider describes it now. Addresses and keys are None while unknown."""

    provider: str
    id: str
    marker: Marker
    status: Status
    runtime: Runtime = Runtime.VM
    gpu: str | None = None
    gpu_count: int = 0
    price_per_hour_usd: float | None = None  # what it costs now
    running_price_per_hour_usd: float | None = None  # what it costs while it runs; None where nobody says so now
    instance_type: str | None = None
    region: str | None = None
    image: str | None = None
    disk_gib: int | None = None
    ports: tuple[tuple[int, str], ...] | None = None  # None: every port can be reached
    address: str | None = None  # the address its peers use
    ssh_endpoints: tuple[Endpoint, ...] = ()
    ssh_user: str = "root"
    urls: tuple[tuple[int, str], ...] = ()  # (port, where the provider makes it answer from outside)
    interruptible: bool | None = None  # None while unknown
    # Stopped because others bid more; None: by what its provider says it is that, or its user stopped it.
    outbid: bool | None = False
    started_with: str = field(default="", repr=False)  # what stands on it of its Request; never shown or kept
    own_tls: bool = False  # what answers at urls has a certificate that nobody signed, so it has to be pinned
    tls_fingerprint: str | None = None  # of that certificate: "sha256:" and 64 hexadecimal digits
    host_key: str | None = None  # "ssh-ed25519 AAAA…", without a comment
    created_at: float | None = None  # seconds since the epoch
    uptime_seconds: float | None = None  # since what runs inside was started the last time
    ends_itself: bool = False  # what runs there says that it ends itself when its lifetime is over
    watched_at: float | None = None  # when it was seen to look at its expiry; None: nobody asked, or no log says so
    needs_start: bool = False  # its creation was interrupted before the first start: start() completes it
    detail: str = ""  # the provider's own words about the status
    machine_id: str | None = None  # the physical host that it runs on; None where the provider doesn't say


@dataclass(frozen=True)
class Wish:
    """What the user wants of one instance. None and empty mean: not said, so nothing is changed for it."""

    deployment_id: str
    name: str
    state: str = "started"  # present, started, stopped, absent
    providers: tuple[str, ...] = ()  # where it may be rented
    look_at: tuple[str, ...] = ()  # where it may already live
    prefer_order: bool = False
    gpu: str | None = None
    gpu_count: int = 0
    instance_type: str | None = None
    regions: tuple[str, ...] = ()
    runtime: Runtime = Runtime.VM
    max_price_per_hour_usd: float | None = None
    price_per_hour_usd: float | None = None  # what the user knows about a price that the provider doesn't tell
    lifetime_seconds: int | None = None  # None: unlimited
    extend_to_epoch_hours: int | None = None  # what lives shall not expire before; None: leave its expiry alone
    image: str | None = None
    entrypoint: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    tls_args: tuple[str, ...] | None = None  # added to args where the provider ends no TLS
    env: dict[str, str] = field(default_factory=dict, repr=False)
    secret_env: dict[str, str] = field(default_factory=dict, repr=False)
    computed_from: dict[str, Any] | None = field(default=None, repr=False)  # what a role made the start of, if one did
    computed_env: dict[str, str] = field(default_factory=dict, repr=False)  # what of env it made
    ports: tuple[tuple[int, str], ...] = ()
    disk_gib: int = 50
    minimum_cuda_version: str = ""  # that the driver of a container's host has to know; empty: not known
    interruptible: bool = False
    ssh_public_key: str | None = None
    ssh_private_key_file: str | None = None
    wait: str = "ssh"  # none, running, ssh, gpu, endpoint
    wait_timeout_seconds: int | None = None  # None: by provider, runtime and GPU
    on_unready: str = "keep"  # keep, stop, replace, destroy
    on_drift: str = "fail"  # fail, replace
