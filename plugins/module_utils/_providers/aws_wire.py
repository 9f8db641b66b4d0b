# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""EC2's words: what an instance looks like there, and what its refusals mean. No call is made here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker, _pairs
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Request,
    Runtime,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._prices_aws import TABLE
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CONSOLES,
    Ambiguous,
    AuthError,
    InvalidRequest,
    NameTaken,
    NoCapacity,
    NonceSpent,
    ProviderError,
    QuotaError,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_boot
from ansible_collections.gpuops.fleet.plugins.module_utils._providers.aws_sizes import SIZES, Size

PROVIDER = "aws"
Rows = list[dict[str, Any]]
CONSOLE = CONSOLES[PROVIDER]
KEY_FIX = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or run where a role is given) of a user or role "
    "with the policy of docs/providers/aws.md."
)

# The tags of everything that is made: the marker, its owner, and for clearing up, the deployment.
MARKER_TAG = aws_boot.MARKER_TAG
OWNER_TAG = "gpuops-fleet-owner"
DEPLOYMENT_TAG = "gpuops-fleet-deployment"
PRICE_TAG = "gpuops-fleet-price"  # USD per hour when it was rented: EC2 itself never says what something costs
# What was asked for and the description of a machine doesn't say, so that a changed wish shows.
DISK_TAG = "gpuops-fleet-disk"  # GiB
IMAGE_TAG = "gpuops-fleet-image"  # the parameter that was named; what that says now may be a newer image
GPU_TAG = "gpuops-fleet-gpu"  # "v1.v100_32gb:8.end"; read where the size is not in our table
PORTS_TAG = "gpuops-fleet-ports"  # "v1.8000:http.22:tcp.end"; not with security groups of one's own

# Where AWS and Canonical write down their newest images, one value for each region.
UBUNTU_IMAGE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
GPU_IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"

STOPPING, SHUTTING_DOWN, TERMINATED = "stopping", "shutting-down", "terminated"
ENDED = (SHUTTING_DOWN, TERMINATED)
_STATUS = {
    "pending": Status.PENDING,
    "running": Status.RUNNING,
    STOPPING: Status.STOPPED,
    "stopped": Status.STOPPED,
    SHUTTING_DOWN: Status.TERMINATING,
    TERMINATED: Status.TERMINATING,
}

IDEMPOTENT_MISMATCH = "IdempotentParameterMismatch"
INSTANCE_TERMINATED = "IdempotentInstanceTerminated"
NOT_FOUND = "InvalidInstanceID.NotFound"
_AUTH = re.compile(
    r"AuthFailure|UnauthorizedOperation|AccessDenied.*|InvalidClientTokenId|SignatureDoesNotMatch|ExpiredToken.*"
    r"|RequestExpired|OptInRequired|PendingVerification|Blocked|UnrecognizedClient.*|MissingAuthenticationToken"
    r"|InvalidAccessKeyId|AccessDisabled|IncompleteSignature"
)
_THROTTLED = re.compile(r"RequestLimitExceeded|Throttl.*|RequestThrottled.*|EC2ThrottledException|TooManyRequests.*")
_SOLD_OUT = re.compile(
    r"Insufficient(Instance|Host|ReservedInstance|Address)?Capacity|InsufficientFreeAddressesInSubnet"
    r"|SpotMaxPriceTooLow|Unsupported|UnfulfillableCapacity|CapacityNotAvailable"
)
_QUOTA = re.compile(r".*LimitExceeded|MaxSpotInstanceCountExceeded|VcpuLimit.*")


def refusal(answer: Mapping[str, Any], operation: str) -> ProviderError:
    """An answer that says no, as an error of the contract."""
    told, meta = answer.get("Error") or {}, answer.get("ResponseMetadata") or {}
    code = re.sub(r"^(Client|Server)\.", "", str(told.get("Code") or ""))
    status = meta.get("HTTPStatusCode")
    words = " ".join(str(told.get("Message") or code or f"it answered {status}").split())[:300].rstrip(".")
    details: dict[str, Any] = {"provider": PROVIDER, "status": status, "request_id": meta.get("RequestId")}
    message = f"AWS refuses {operation}: {words} ({code})."
    if _THROTTLED.fullmatch(code) or status == 429:
        return RateLimited(
            message, fix="Run again later; several controllers of one account share its limits.", **details
        )
    if code == IDEMPOTENT_MISMATCH:
        return NameTaken(message, fix="Run again: another controller is renting it.", **details)
    if code == INSTANCE_TERMINATED:
        return NonceSpent(message, **details)
    if _SOLD_OUT.fullmatch(code):
        return NoCapacity(message, fix="Allow more regions or another instance_type, or try again later.", **details)
    if _QUOTA.fullmatch(code):
        fix = "Ask AWS for more at https://console.aws.amazon.com/servicequotas, or allow other regions."
        return QuotaError(message, scope="region", fix=fix, **details)
    if _AUTH.fullmatch(code):
        return AuthError(message, fix=KEY_FIX, **details)
    if status is None or status >= 500:
        return Ambiguous(message, fix="Run again: it looks for what was done first.", **details)
    error = InvalidRequest(message, fix="Change what it names, then run again.", **details)
    error.result["aws_code"] = code
    return error


def code_of(error: ProviderError) -> str:
    """AWS's own word for what is wrong; "" where the contract has a word for it."""
    return str(error.result.get("aws_code") or "")


def nonces_after(deployment_id: str, name: str, region: str, previous: str, count: int) -> list[str]:
    """The nonces that every controller takes next, in their order: each follows from the one before.

    So that two controllers who share nothing ask with the same token, and AWS itself makes one machine of it; but not
    of two regions, each of which has tokens of its own.
    """
    found: list[str] = []
    for _number in range(count):
        text = "\0".join(("gpuops.fleet nonce", deployment_id, name, region, found[-1] if found else previous))
        number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
        found.append(_marker.nonce_from(number))
    return found


def check_id(instance_id: str) -> None:
    if not re.fullmatch(r"i-[0-9a-f]{8,17}", instance_id):
        raise InvalidRequest(
            f"{instance_id!r} is no id of EC2: those are i- and up to 17 hexadecimal digits.",
            provider=PROVIDER,
            fix="Take one that instance_info shows.",
        )


def tags_of(row: Mapping[str, Any]) -> dict[str, str]:
    return {str(tag.get("Key")): str(tag.get("Value")) for tag in row.get("Tags") or ()}


def tags(request: Request, own_groups: bool) -> list[dict[str, str]]:
    """What stands on an instance, and on what belongs to it. Name is for people alone."""
    marker, price = request.marker, request.offer.price_per_hour_usd
    found = {
        "Name": f"{marker.deployment_id} {marker.name}",
        MARKER_TAG: _marker.encode(marker),
        OWNER_TAG: marker.owner,
        DEPLOYMENT_TAG: marker.deployment_id,
        DISK_TAG: str(request.disk_gib),
    }
    if price is not None:
        found[PRICE_TAG] = f"{price:.9g}"
    if request.offer.gpu:
        found[GPU_TAG] = _pairs.join([(request.offer.gpu.lower(), str(request.offer.gpu_count))])
    if (request.image or "").startswith("/"):
        found[IMAGE_TAG] = str(request.image)
    if not own_groups:
        found[PORTS_TAG] = _pairs.join((str(port), protocol) for port, protocol in request.ports)
    return [{"Key": key, "Value": value} for key, value in found.items()]


def marker_of(row: Mapping[str, Any]) -> Marker | None:
    """The marker in its tags; None when that is not exactly one: then it is not ours."""
    told = tags_of(row)
    return _marker.parse(told.get(MARKER_TAG), told.get(OWNER_TAG) or "fleet")


def state_of(row: Mapping[str, Any]) -> str:
    return str((row.get("State") or {}).get("Name") or "")


def instance_from(row: Mapping[str, Any], region: str) -> Instance | None:
    """The instance in our words; None when its tags don't hold exactly one of our markers."""
    marker = marker_of(row)
    if marker is None:
        return None
    kind = str(row.get("InstanceType") or "") or None
    size = SIZES.get(kind or "")
    public, private = row.get("PublicIpAddress"), row.get("PrivateIpAddress")
    reachable = public or private
    state, told = state_of(row), tags_of(row)
    gpu, gpu_count = (size.gpu, size.gpu_count) if size else _gpus(told)
    disk_gib = told.get(DISK_TAG, "")
    return Instance(
        provider=PROVIDER,
        id=str(row["InstanceId"]),
        marker=marker,
        status=_STATUS.get(state, Status.PENDING),
        gpu=gpu,
        gpu_count=gpu_count,
        # Stopped, EC2 asks for its disk alone.
        price_per_hour_usd=price_of(row, region) if state in ("pending", "running") else None,
        running_price_per_hour_usd=price_of(row, region),
        interruptible=row.get("InstanceLifecycle") == "spot",
        instance_type=kind,
        region=region,
        image=told.get(IMAGE_TAG) or row.get("ImageId"),
        disk_gib=int(disk_gib) if re.fullmatch(r"[0-9]{1,6}", disk_gib) else None,
        ports=_ports(told),
        address=str(private or public) if reachable else None,
        ssh_endpoints=(Endpoint(str(reachable), 22),) if reachable and state in ("pending", "running") else (),
        created_at=created_at(row),
        detail=_detail(row, state),
    )


def price_of(row: Mapping[str, Any], region: str) -> float | None:
    """What it costs while it runs: what it was offered for; without that what the table says."""
    told = tags_of(row).get(PRICE_TAG, "")
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?(e-[0-9]+)?", told):
        return float(told)
    spot = row.get("InstanceLifecycle") == "spot"
    return TABLE.price_per_hour_usd(str(row.get("InstanceType")), region, interruptible=spot)


def _gpus(told: Mapping[str, str]) -> tuple[str | None, int]:
    """The card and how many of it, as the offer said; none where nobody wrote that down."""
    pairs = _pairs.split(told.get(GPU_TAG)) or ()
    return next(((name.upper(), int(count)) for name, count in pairs if count.isdecimal()), (None, 0))


def _ports(told: Mapping[str, str]) -> tuple[tuple[int, str], ...] | None:
    """The ports that were asked for; None where they are not ours to open."""
    pairs = _pairs.split(told.get(PORTS_TAG))
    return None if pairs is None else tuple((int(port), protocol) for port, protocol in pairs if port.isdecimal())


def created_at(row: Mapping[str, Any]) -> float | None:
    """When it was rented. LaunchTime is when it was started last; its first disk and address are as old as itself."""
    times = [row.get("LaunchTime")]
    times += [(one.get("Attachment") or {}).get("AttachTime") for one in row.get("NetworkInterfaces") or ()]
    times += [(one.get("Ebs") or {}).get("AttachTime") for one in row.get("BlockDeviceMappings") or ()]
    known = [one.timestamp() for one in times if isinstance(one, datetime)]
    return min(known) if known else None


def _detail(row: Mapping[str, Any], state: str) -> str:
    """EC2's own words, with why it is so where it says that: an interrupted spot machine is seen as such here."""
    reason = str((row.get("StateReason") or {}).get("Code") or "")
    spot = ", spot" if row.get("InstanceLifecycle") == "spot" else ""
    return f"{state or 'no state yet'}{spot}{f' ({reason})' if reason else ''}"


def check_request(request: Request) -> None:
    """Raise InvalidRequest for what EC2 would refuse or do differently."""
    problem = fix = ""
    key = (request.ssh_public_key or "").split()
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9.-]+(/spot)?", request.offer.id):
        problem, fix = f"{request.offer.id!r} is no offer of {PROVIDER}", "Take one that offer_info shows"
    elif len(key) < 2 or key[0] not in ("ssh-ed25519", "ssh-rsa"):
        problem, fix = "EC2 takes keys of the kinds ssh-ed25519 and ssh-rsa alone", "Give such a key"
    elif request.offer.runtime is not Runtime.VM:
        problem, fix = "it rents machines alone", "Set runtime: vm"
    elif request.args or request.entrypoint or request.env or request.secret_env:
        problem, fix = "a machine takes neither args nor entrypoint nor env", "Leave them out"
    elif request.image and not re.fullmatch(r"ami-[0-9a-f]+|/[A-Za-z0-9_.@/-]+", request.image):
        problem, fix = (
            f"{request.image!r} is no image of EC2",
            "Write the id of an AMI (ami-…), or the name of an SSM parameter that has one (/…)",
        )
    if problem:
        raise InvalidRequest(f"{PROVIDER} can't rent this: {problem}.", provider=PROVIDER, fix=f"{fix}.")


def order(
    request: Request,
    image: Mapping[str, Any],
    key_name: str,
    groups: Iterable[str],
    subnet: str | None,
    own_groups: bool = False,
) -> dict[str, Any]:
    """The parameters of RunInstances. Without a subnet EC2 chooses the zone, and a token holds for the whole region."""
    offer, marker = request.offer, request.marker
    _region, kind, *spot = offer.id.split("/")
    root = image.get("RootDeviceName") or "/dev/sda1"
    parameters: dict[str, Any] = {
        "ImageId": image["ImageId"],
        "InstanceType": kind,
        "MinCount": 1,
        "MaxCount": 1,
        "KeyName": key_name,
        "SecurityGroupIds": list(groups),
        "ClientToken": _marker.identity(marker),
        # IMDSv2 alone. One hop: containers can't reach it. The tags tell the machine when its lifetime is over.
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": root,
                "Ebs": {"VolumeSize": request.disk_gib, "VolumeType": "gp3", "DeleteOnTermination": True},
            },
            # Further disks of an image: one that outlives its machine goes on costing, and nobody lists it.
            *(
                {"DeviceName": one["DeviceName"], "Ebs": {"DeleteOnTermination": True}}
                for one in image.get("BlockDeviceMappings") or ()
                if one.get("Ebs") and one["DeviceName"] != root
            ),
        ],
        # What powers itself off at its expiry is gone then. Without an expiry nobody asked for that.
        "InstanceInitiatedShutdownBehavior": "terminate" if marker.expiry_epoch_hours else "stop",
        "UserData": aws_boot.user_data(marker, interruptible=bool(spot)),
        "TagSpecifications": [
            {"ResourceType": kind_of_thing, "Tags": tags(request, own_groups)}
            for kind_of_thing in ("instance", "volume", "network-interface")
        ],
    }
    if re.match(r"t[0-9]+[a-z]*\.", kind):
        # EC2's default for these, unlimited, bills what they compute beyond their credits: more than was shown.
        parameters["CreditSpecification"] = {"CpuCredits": "standard"}
    if subnet:
        parameters["SubnetId"] = subnet
    if spot:
        options: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if offer.price_per_hour_usd is not None:
            options["MaxPrice"] = f"{offer.price_per_hour_usd:.6f}"  # never more than was shown
        parameters["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return parameters


def size_from(row: Mapping[str, Any]) -> list[Size]:
    """A size from its description; none for another processor than x86, for which the images here are not made."""
    if "x86_64" not in ((row.get("ProcessorInfo") or {}).get("SupportedArchitectures") or ()):
        return []
    gpus = (row.get("GpuInfo") or {}).get("Gpus") or []
    if len(gpus) > 1:
        return []
    model, memory, count = "", 0, 0
    for gpu in gpus:
        model, count = str(gpu.get("Name") or ""), int(gpu.get("Count") or 0)
        memory = int((gpu.get("MemoryInfo") or {}).get("SizeInMiB") or 0)
    size = Size(
        str(row["InstanceType"]),
        int(row["VCpuInfo"]["DefaultVCpus"]),
        int(row["MemoryInfo"]["SizeInMiB"]),
        model,
        memory,
        count,
    )
    return [size]


def least_disk_gib(image: Mapping[str, Any]) -> int:
    """How large the first disk of what boots from it has to be."""
    sizes = [
        int((one.get("Ebs") or {}).get("VolumeSize") or 0)
        for one in image.get("BlockDeviceMappings") or ()
        if one.get("DeviceName") == image.get("RootDeviceName")
    ]
    return max(sizes, default=0)
