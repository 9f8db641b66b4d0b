# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The contract of a provider: what it can do, how it fails, and where to find one by its name."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, cast

from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Offer, Request


class Capability(enum.StrEnum):
    """What some providers can do and others can't; refused before any call where it is missing."""

    STOP = "stop"  # stop and start again
    UNIQUE_NAMES = "unique_names"  # the provider refuses a second thing of the same name
    SPOT = "spot"  # interruptible offers
    RENEW = "renew"  # the expiry can be changed in place
    BILLING = "billing"  # the provider says what a rental has cost, also after its end
    VM = "vm"  # rents machines
    CONTAINER = "container"  # rents containers
    ENTRYPOINT = "entrypoint"  # can replace an image's entry point
    ARGS = "args"  # can pass arguments to an image
    ENV = "env"  # can set environment variables
    REGIONS = "regions"
    HOST_KEY = "host_key"  # the provider itself says which host key a machine has
    ENDPOINT = "endpoint"  # a container's HTTP port answers from outside
    TLS = "tls"  # and the provider ends TLS there, with a certificate that everybody's client accepts
    PRIVATE_ZONE = "private_zone"  # peers resolve NAME.DEPLOYMENT.internal to current addresses
    FREE = "free"  # costs nothing: max_lifetime is not required
    PORTS = "ports"  # the ports that are asked for answer from outside, at the same or at another number
    STABLE_ADDRESS = "stable_address"  # addresses and ports outside are the same after a stop and a start
    TAGS = "tags"  # has room for key and value beside the name
    LEASE = "lease"  # ends a rental by itself when its lifetime is over
    OWN_KEY = "own_key"  # gives a container a key with which it can end itself
    OWNED = "owned"  # the machines are the user's own: used as they are, never created or ended
    ADJUST = "adjust"  # what differs at the provider from what would be rented now is put right in place
    AGREES = "agrees"  # makes one rental of what several controllers order at once: all ask with the same nonce
    TIMER = "timer"  # a machine has a timer of its own that ends the rental when its lifetime is over
    DATES = "dates"  # says when something was rented; elsewhere the nonce of its marker does
    SOME_REGIONS = "some_regions"  # may look into some regions alone: what lives in others is in no list of it


# What each provider can do, as data: checked before any call, and rendered into the docs.
CAPABILITIES: dict[str, frozenset[Capability]] = {
    "local": frozenset(
        {
            Capability.STOP,
            Capability.UNIQUE_NAMES,
            Capability.VM,
            Capability.HOST_KEY,
            Capability.PRIVATE_ZONE,
            Capability.FREE,
            Capability.PORTS,
            Capability.TAGS,
            Capability.DATES,
        }
    ),
    # Pods are containers: Docker can't run in them.
    "runpod": frozenset(
        {
            Capability.STOP,
            Capability.CONTAINER,
            Capability.ENDPOINT,
            Capability.TLS,
            Capability.ENTRYPOINT,
            Capability.ARGS,
            Capability.ENV,
            Capability.REGIONS,
            Capability.PORTS,
            Capability.BILLING,
            Capability.DATES,
            # No RENEW: the marker stands in the environment, and changing that resets the pod.
        }
    ),
    "vastai": frozenset(
        {
            Capability.STOP,
            Capability.RENEW,  # the marker stands in the label, which a running instance does not see
            Capability.SPOT,
            Capability.VM,
            Capability.CONTAINER,
            Capability.ENDPOINT,
            Capability.ENTRYPOINT,
            Capability.ARGS,
            Capability.ENV,
            Capability.REGIONS,
            Capability.PORTS,
            Capability.OWN_KEY,
            Capability.DATES,
        }
    ),
    # No RENEW: the marker stands in the name, which can't be changed.
    "tensordock": frozenset({Capability.STOP, Capability.VM, Capability.REGIONS, Capability.PORTS}),
    # No RENEW: the end of a machine that runs can't be changed. No PORTS: what reaches it, firewall rules say.
    "gcp": frozenset(
        {
            Capability.STOP,
            Capability.SPOT,
            Capability.VM,
            Capability.REGIONS,
            Capability.TAGS,
            Capability.LEASE,
            Capability.ADJUST,
            Capability.DATES,
        }
    ),
    "aws": frozenset(
        {
            Capability.STOP,
            Capability.SPOT,
            Capability.RENEW,  # the marker stands in tags, which the machine can read
            Capability.VM,
            Capability.REGIONS,
            Capability.PORTS,
            Capability.TAGS,
            Capability.AGREES,
            Capability.TIMER,
            Capability.DATES,
            Capability.SOME_REGIONS,
        }
    ),
    # Machines that their user owns: no account and no marker, so nothing that somebody would have to rent, stop or end.
    "ssh": frozenset({Capability.OWNED, Capability.VM}),
}
PROVIDER_NAMES = tuple(CAPABILITIES)
# Where a person sees what was rented, with its log.
CONSOLES = {
    "runpod": "https://console.runpod.io/pods",
    "vastai": "https://cloud.vast.ai/instances/",
    "tensordock": "https://dashboard.tensordock.com/",
    "gcp": "https://console.cloud.google.com/compute/instances",
    "aws": "https://console.aws.amazon.com/ec2/home#Instances:",
}


class ProviderError(Exception):
    """A provider said no. Says what happened, where, and what to do next; result holds what else the module returns."""

    code = "provider_error"

    def __init__(
        self, message: str, *, provider: str, status: int | None = None, request_id: str | None = None, fix: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.status = status
        self.request_id = request_id
        self.fix = fix
        self.result: dict[str, Any] = {}
        self.rented: tuple[Instance, ...] = ()  # what the failed run made, and what lives and costs as far as is known

    def tell_first(self, sentence: str) -> None:
        """Put what the caller knows, and whoever raised this did not, before the message."""
        self.message = f"{sentence} {self.message}"
        self.args = (self.message,)

    def as_failure(self) -> dict[str, Any]:
        """The shape that every module returns under failure."""
        return {
            "provider": self.provider,
            "code": self.code,
            "status": self.status,
            "request_id": self.request_id,
            "message": self.message,
            "fix": self.fix,
        }


class AuthError(ProviderError):
    code = "auth"


class QuotaError(ProviderError):
    """scope says where trying again makes no sense: "region", or "provider"."""

    code = "quota"

    def __init__(self, message: str, *, scope: str = "provider", **details: Any) -> None:
        super().__init__(message, **details)
        self.scope = scope


class NoCapacity(ProviderError):
    """scope says what is sold out: "offer", "region" or "provider"; in_stock which offers can be had instead, by id."""

    code = "no_capacity"

    def __init__(self, message: str, *, scope: str = "offer", in_stock: Collection[str] = (), **details: Any) -> None:
        super().__init__(message, **details)
        self.scope = scope
        self.in_stock = frozenset(in_stock)


class OfferGone(ProviderError):
    code = "offer_gone"


class InvalidRequest(ProviderError):
    code = "invalid_request"


class NameTaken(InvalidRequest):
    """Only where names are unique: another controller holds this name; look, don't fail."""

    code = "name_taken"


class NonceSpent(InvalidRequest):
    """Only with the capability AGREES: what was rented with this nonce is gone; ask with the next."""

    code = "nonce_spent"


def not_ours(provider: str, thing: str, place: str) -> InvalidRequest:
    """About what must not be touched; place is where that provider keeps the marker (its name, its labels)."""
    return InvalidRequest(
        f"{thing} at {provider} carries no marker of this collection in its {place}.",
        provider=provider,
        fix="Leave it alone: it is somebody else's.",
    )


def missing(provider: str, thing: str) -> InvalidRequest:
    """About what should be there and is not."""
    return InvalidRequest(
        f"There is no {thing} at {provider} (any more).", provider=provider, status=404, fix="Run again."
    )


class RateLimited(ProviderError):
    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class Ambiguous(ProviderError):
    """The call may have taken effect: look before trying again."""

    code = "ambiguous"


class ProviderUnavailable(ProviderError):
    code = "unavailable"


class EngineError(ProviderError):
    """Our own refusal, reported the same way."""

    def __init__(self, message: str, *, code: str, result: Mapping[str, Any] | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.code = code
        self.result = dict(result or {})


class Provider(Protocol):
    """What the engine needs from who rents machines. Nothing else knows a wire format."""

    name: str
    capabilities: frozenset[Capability]

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        """What can be rented for a query of _offers: gpu, gpu_count, regions, runtime, disk_gib, interruptible, …"""

    def create(self, request: Request) -> Instance:
        """Rent it. Atomic for the provider, or harmless to repeat after a look."""

    def get(self, instance_id: str) -> Instance | None:
        """None only when the provider says that it doesn't exist."""

    def list(self) -> list[Instance]:
        """All that carry a marker, complete or an error: never partial or empty because a call failed."""

    def start(self, instance_id: str) -> Instance: ...

    def stop(self, instance_id: str) -> Instance: ...

    def delete(self, instance_id: str) -> bool:
        """False: it was already gone. Returns when the provider no longer knows it."""

    def log(self, instance_id: str, words: str) -> str:
        """The lines with these words ("": all) of what runs inside printed; empty where the provider shows none."""

    def clean_up(self, deployment_id: str) -> bool:
        """Remove what serves the deployment's instances (network, name server) when no instance is left.

        True when something was removed. Providers that make nothing beside the instances return False.
        """


def owned(name: str) -> bool:
    """Whether the machines of that provider are the user's own."""
    return Capability.OWNED in CAPABILITIES.get(name, frozenset())


class Renewing(Provider, Protocol):
    """A provider with the capability RENEW."""

    def renew(self, instance_id: str, expiry_epoch_hours: int) -> Instance:
        """Change the expiry in its marker, and nothing else of it; returns it as it is listed then."""


class Agreeing(Provider, Protocol):
    """A provider with the capability AGREES."""

    def nonces(self, deployment_id: str, name: str, offer: Offer) -> tuple[str, ...]:
        """With which every controller asks next for that name, in their order."""


class Billing(Provider, Protocol):
    """A provider with the capability BILLING."""

    def billed_usd(self, instance_ids: Collection[str], since_seconds: float) -> dict[str, float]:
        """What each of these has been charged since then, by id; what the bill doesn't know is left out."""


class Adjusting(Provider, Protocol):
    """A provider with the capability ADJUST."""

    def deviations(self, instance_id: str) -> dict[str, tuple[Any, Any]]:
        """What of it is not as it would be rented now, and can be put right while it lives: (now, wanted) by field."""

    def adjust(self, instance_id: str) -> Instance:
        """Put that right, and nothing else."""

    def untouchable(self, instance_id: str) -> Sequence[str]:
        """Sentences about what else is not as it would be rented now: what can't be put right while it lives."""


class Regional(Provider, Protocol):
    """A provider with the capability SOME_REGIONS."""

    def regions_looked_into(self) -> Collection[str]:
        """Where its lists look for what is ours."""


def looks_into(provider: Provider, region: object) -> bool:
    """Whether its complete list would have what was rented in that region (None: nobody knows in which)."""
    if Capability.SOME_REGIONS not in provider.capabilities:
        return True
    return region in cast(Regional, provider).regions_looked_into()


def adjusting(provider: Provider) -> Adjusting | None:
    """The provider as one that can put things right; None for one that can't."""
    return cast(Adjusting, provider) if Capability.ADJUST in provider.capabilities else None


def renewing(provider: Provider) -> Renewing:
    """The provider as one that can change an expiry; raises for one that can't, before any call."""
    if Capability.RENEW not in provider.capabilities:
        raise InvalidRequest(
            f"{provider.name} can't change the expiry of what lives.",
            provider=provider.name,
            fix="Leave extend (fleet_extend) out there; rent anew with a longer max_lifetime in time.",
        )
    return cast(Renewing, provider)


def agreeing(provider: Provider) -> Agreeing | None:
    """The provider as one at which all controllers ask with the same nonce; None for one without."""
    return cast(Agreeing, provider) if Capability.AGREES in provider.capabilities else None


def billing(provider: Provider) -> Billing | None:
    """The provider as one that knows its own bills; None for one that doesn't."""
    return cast(Billing, provider) if Capability.BILLING in provider.capabilities else None


def load(name: str, settings: Mapping[str, Any] | None = None) -> Provider:
    """Make the provider of that name; raises ValueError for one that doesn't exist."""
    # Imported here, because the providers import this file; and by name, because Ansible packs for a module only
    # what it sees imported.
    from ansible_collections.gpuops.fleet.plugins.module_utils._providers import (
        aws,
        gcp,
        local,
        runpod,
        ssh,
        tensordock,
        vastai,
    )

    makers: dict[str, Callable[[Mapping[str, Any]], Provider]] = {
        "local": local.make,
        "runpod": runpod.make,
        "vastai": vastai.make,
        "tensordock": tensordock.make,
        "gcp": gcp.make,
        "aws": aws.make,
        "ssh": ssh.make,
    }
    if name not in makers:
        raise ValueError(f"provider '{name}' is not known; use one of: {', '.join(PROVIDER_NAMES)}.")
    return makers[name](settings or {})
