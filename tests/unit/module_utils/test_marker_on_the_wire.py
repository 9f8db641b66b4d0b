# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marker through every provider: rented with it, stored as that provider stores it, listed, and read again.

All but the Docker Engine are asked over real HTTP; that is one that keeps labels, and nothing else.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol, cast

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _clock,
    _engine,
    _marker,
    _orphans,
    _provider,
    _rent,
    _report,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker, Offer, Request, Runtime
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Provider
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import (
    aws,
    aws_wire,
    gcp,
    gcp_wire,
    local,
    local_docker,
    local_host,
    runpod,
    runpod_wire,
    tensordock,
    vastai,
)
from emulators import gcp as gcp_emulator
from emulators import runpod as runpod_emulator
from emulators import tensordock as tensordock_emulator
from emulators import vastai as vastai_emulator
from emulators.compute_instances import FIRST_ID
from emulators.server import serving
from emulators.vastai_market import FIRST_OFFER, HOSTS
from emulators.world import Rental, World
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import aws_calls, moto_cloud
from support.fake_clock import FakeClock
from support.moto_cloud import MotoServer, MotoWorld

OURS = "acme-llm"
WORDS = st.from_regex(r"[a-z][a-z0-9]{0,7}(-[a-z0-9]{1,4}){0,3}", fullmatch=True)
MARKERS = st.builds(
    Marker,
    deployment_id=WORDS.map(lambda word: word.ljust(3, "x")[:24].rstrip("-")),
    name=WORDS.map(lambda word: word[:16].rstrip("-")),
    nonce=st.text(string.ascii_lowercase + string.digits, min_size=6, max_size=6),
    expiry_epoch_hours=st.integers(0, 36**4 - 1),
)
LONGEST = Marker("a" * 24, "b" * 16, "zzzzzz", 36**4 - 1)


class Account(Protocol):
    """What is rented at one provider, seen from both sides."""

    provider: Provider

    def rent(self, marker: Marker) -> None:
        """By our own code."""

    def put(self, text: str) -> None:
        """Somebody else's, with this text where a marker would stand."""

    def stored(self) -> list[str]:
        """What stands there, in the provider's own books."""

    def clear(self) -> None: ...


class Local:
    def __init__(self) -> None:
        self._local = local.LocalProvider({})
        self._local._connection = cast(Any, self)
        self.provider: Provider = self._local
        self.labels: list[dict[str, str]] = []

    def rent(self, marker: Marker) -> None:
        request = Request(marker, Offer("local", "small"))
        network: Any = SimpleNamespace(name="n", free_address=lambda: "10.0.0.9", resolver_address="10.0.0.2")
        self._local._create_container(request, "host:1", network)

    def create_container(self, _image: str, *, labels: dict[str, str], **_more: Any) -> dict[str, str]:
        self.labels.append(labels)
        return {"Id": f"{len(self.labels):064x}"}

    def containers(self, **_filters: Any) -> list[dict[str, Any]]:
        networks: dict[str, Any] = {"Networks": {}}
        rest = {"State": "created", "Status": "Created", "Image": "host:1", "Created": 1, "NetworkSettings": networks}
        return [{"Id": f"{number:064x}", "Labels": labels, **rest} for number, labels in enumerate(self.labels, 1)]

    def put(self, text: str) -> None:
        self.labels.append({local_docker.LABEL_MARKER: text, local_docker.LABEL_KIND: "instance"})

    def stored(self) -> list[str]:
        return [labels[local_docker.LABEL_MARKER] for labels in self.labels]

    def clear(self) -> None:
        self.labels.clear()


def copy_of(template: Rental, world: World) -> Rental:
    """Another one of it, in the provider's books."""
    number = next(world.numbers)
    wire = copy.deepcopy(template.wire)
    identity: str | int = f"{template.id[:-11]}{number:011x}"
    if template.provider == "gcp":
        identity = str(FIRST_ID + number)
    if isinstance(wire["id"], int):
        identity = vastai_emulator.FIRST_INSTANCE + number
    rental = replace(template, id=str(identity), wire=wire | {"id": identity})
    world.rent(rental)
    return rental


class Runpod:
    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.provider: Provider = runpod.make({"api_key": "any", "api_url": url + runpod_emulator.URL_PATH})
        self.rent(LONGEST)
        self.template = world.alive()[-1]

    def rent(self, marker: Marker) -> None:
        offer = Offer("runpod", "NVIDIA A40|SECURE|", gpu="A40", gpu_count=1, runtime=Runtime.CONTAINER)
        self.provider.create(Request(marker, offer, image="x:1"))

    def put(self, text: str) -> None:
        copy_of(self.template, self.world).wire.update(name=text, env={runpod_wire.MARKER_VARIABLE: text})

    def stored(self) -> list[str]:
        found = [(one.wire["name"], one.wire["env"][runpod_wire.MARKER_VARIABLE]) for one in self.world.alive()]
        assert all(name == variable for name, variable in found)
        return [name for name, _variable in found]

    def clear(self) -> None:
        self.world.rentals.clear()


class Vastai:
    offers = itertools.cycle(FIRST_OFFER + host.machine_id for host in HOSTS if not host.rented)

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.provider: Provider = vastai.make({"api_key": "any", "api_url": url + vastai_emulator.URL_PATH})
        self.rent(LONGEST)
        self.template = world.alive()[-1]

    def rent(self, marker: Marker) -> None:
        offer = Offer("vastai", str(next(self.offers)), gpu="A40", gpu_count=1, runtime=Runtime.CONTAINER)
        self.provider.create(Request(marker, offer, image="x:1"))

    def put(self, text: str) -> None:
        copy_of(self.template, self.world).wire["label"] = text

    def stored(self) -> list[str]:
        return [one.wire["label"] for one in self.world.alive()]

    def clear(self) -> None:
        self.world.rentals.clear()


class Tensordock:
    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.provider: Provider = tensordock.make({"api_key": "any", "api_url": url + tensordock_emulator.URL_PATH})
        (self.offer, *_more) = self.provider.offers({"gpu": "A40", "gpu_count": 1, "disk_gib": 100})
        self.rent(LONGEST)
        self.template = world.alive()[-1]

    def rent(self, marker: Marker) -> None:
        self.provider.create(Request(marker, self.offer, disk_gib=100, ssh_public_key="ssh-ed25519 AAAA"))

    def put(self, text: str) -> None:
        copy_of(self.template, self.world).wire["name"] = text

    def stored(self) -> list[str]:
        return [one.wire["name"] for one in self.world.alive()]

    def clear(self) -> None:
        self.world.rentals.clear()


class Gcp:
    zones = ("us-central1-b", "us-central1-c", "us-east4-a")

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        settings = {"project": gcp_emulator.PROJECT, "api_url": url + gcp_emulator.URL_PATH}
        self.provider: Provider = gcp.make(settings)
        self.offers = itertools.cycle(self.provider.offers({"instance_type": "e2-standard-2"}))
        self.rent(Marker("a" * 24, "b" * 16, "zzzzzz"))
        self.template = world.alive()[-1]

    def rent(self, marker: Marker) -> None:
        """At a moment when its end is near enough for Google; where its zone has the name, in another one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_clock, "now", lambda: marker.expiry_epoch_hours * 3600.0 - 100 * 86400)
            for offer in self.offers:
                try:
                    self.provider.create(Request(marker, offer))
                except _provider.NameTaken:
                    continue
                return

    def put(self, text: str) -> None:
        copied = copy_of(self.template, self.world)
        copied.wire.update(name=f"other-{copied.id}", labels={gcp_wire.MARKER_LABEL: text})

    def stored(self) -> list[str]:
        return [one.wire["labels"][gcp_wire.MARKER_LABEL] for one in self.world.alive()]

    def clear(self) -> None:
        self.world.rentals.clear()


class Aws:
    """EC2, by moto; without a chain of nonces, in which all controllers take the same."""

    def __init__(self, world: MotoWorld, url: str) -> None:
        self.world = world
        self.backend = world.backend(moto_cloud.REGION)
        groups = [next(iter(next(iter(self.backend.groups.values()))))]
        here = {"api_url": url, "regions": [moto_cloud.REGION], "security_group_ids": groups}
        self.provider: Provider = aws.make(here)

    def rent(self, marker: Marker) -> None:
        offer = Offer("aws", "us-east-1/g6.xlarge", gpu="L4", gpu_count=1)
        self.provider.create(Request(marker, offer, ssh_public_key=aws_calls.KEY))

    def put(self, text: str) -> None:
        # What no answer in XML can hold, EC2 does not take either.
        plain = "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
        tags = {"instance": {aws_wire.MARKER_TAG: plain}}
        self.backend.run_instances("ami-785db401", 1, None, [], tags=tags, is_instance_type_default=True)

    def stored(self) -> list[str]:
        return [one.owner for one in self.world.alive()]

    def clear(self) -> None:
        moto_cloud.forget()


REMOTE: dict[str, tuple[Callable[[World], FastAPI], Callable[[World, str], Account]]] = {
    "runpod": (runpod_emulator.make, Runpod),
    "vastai": (vastai_emulator.make, Vastai),
    "tensordock": (tensordock_emulator.make, Tensordock),
    "gcp": (gcp_emulator.make, Gcp),
}


@pytest.fixture(scope="module", params=["local", "aws", *REMOTE])
def account(request: pytest.FixtureRequest) -> Iterator[Account]:
    with pytest.MonkeyPatch.context() as patch:
        FakeClock().install(patch)  # Vast.ai wants seconds between two calls
        patch.setattr(local_host, "container_body", lambda *arguments: {})
        if request.param == "local":
            yield Local()
            return
        if request.param == "aws":
            patch.setattr(aws, "_NONCES", 0)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "any")
            server = MotoServer(MotoWorld("aws"))
            server.start()
            yield Aws(MotoWorld("aws"), server.url)
            server.stop()
            return
        patch.setenv("GCP_ACCESS_TOKEN", "any")
        # At Google an order is done only later.
        world = World(request.param, scale=20_000 if request.param == "gcp" else 1)
        make_app, account = REMOTE[request.param]
        with serving(make_app(world), world) as url:
            yield account(world, url)


FEW = 15 * int(os.environ.get("TEST_SCALE", "1"))
few = settings(max_examples=FEW, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(markers=st.lists(MARKERS, min_size=1, max_size=3, unique_by=lambda one: one.nonce))
@example(markers=[LONGEST])
def test_what_was_rented_is_listed_with_the_same_marker(account: Account, markers: list[Marker]) -> None:
    account.clear()
    for marker in markers:
        account.rent(marker)
    assert sorted(account.stored()) == sorted(_marker.encode(marker) for marker in markers)
    listed = [instance.marker for instance in account.provider.list()]
    assert sorted(map(str, listed)) == sorted(map(str, markers))
    for marker in markers:
        same = {one.nonce for one in markers if (one.deployment_id, one.name) == (marker.deployment_id, marker.name)}
        found = _rent.find({account.provider.name: account.provider}, marker.deployment_id, marker.name)
        assert {one.marker.nonce for one in found.all} == same


def is_a_marker(text: str) -> bool:
    """Written another way than the code: by taking the text apart."""
    head, *rest = text.split("--")
    if head != "gf" or len(rest) not in (3, 4):
        return False
    deployment_id, name, nonce = rest[:3]
    plain = set(string.ascii_lowercase + string.digits)

    def is_word(word: str, least: int, most: int) -> bool:
        pieces = word.split("-")
        letters = all(piece and set(piece) <= plain for piece in pieces)
        return least <= len(word) <= most and letters and word[0] in string.ascii_lowercase

    ends = [(nonce, 6)] + [(expiry, 4) for expiry in rest[3:]]
    right_ends = all(len(end) == length and set(end) <= plain for end, length in ends)
    return is_word(deployment_id, 3, 24) and is_word(name, 1, 16) and right_ends


@st.composite
def almost_markers(draw: st.DrawFn) -> str:
    """A real marker with a few letters too many, too few, or others."""
    text = _marker.encode(draw(MARKERS | st.just(LONGEST) | st.just(Marker(OURS, "vllm-1", "abc123"))))
    for _number in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        taken = draw(st.integers(0, 4))
        put = draw(st.sampled_from(["", "-", "--", "a", "A", "0", "\n", " ", "ä", "gf--", "_", "--0000", "\u0430"]))
        text = text[:place] + put + text[place + taken :]
    return text


@few
@given(texts=st.lists(almost_markers() | st.text(max_size=70), min_size=1, max_size=3))
@example(texts=["gf--acme-llm--vllm-1--abc123--0000\n", "gf--acme-llm--vllm-1--abc12", "GF--acme-llm--vllm-1--abc123"])
def test_what_is_not_exactly_a_marker_is_nobodys(account: Account, texts: list[str]) -> None:
    account.clear()
    for text in texts:
        account.put(text)
    listed = sorted(_marker.encode(instance.marker)[:-6] for instance in account.provider.list())
    # The expiry is no part of the identity, and may be missing.
    expected = [re.sub(r"(--[0-9a-z]{6})--[0-9a-z]{4}$", r"\1", text) for text in texts if is_a_marker(text)]
    assert listed == sorted(expected)


@few
@given(names=st.lists(WORDS, min_size=1, max_size=3), junk=st.sampled_from(["-2", "x", "-a"]))
def test_in_an_account_full_of_others_nothing_is_ours(account: Account, names: list[str], junk: str) -> None:
    account.clear()
    for name in names:
        account.put(_marker.encode(Marker(OURS + junk, name[:16].rstrip("-"), "abc123")))
        account.put(f"{OURS}-{name}")
        account.put(f"gf--{OURS}")
    for name in names:
        found = _rent.find({account.provider.name: account.provider}, OURS, name[:16].rstrip("-"))
        assert found.all == []
    assert len(account.stored()) == 3 * len(names)


@pytest.mark.parametrize("deployment_id", ["", "ab", "test", "prod", "default", "Acme", "acme--llm", "a" * 25])
@pytest.mark.parametrize("module", ["instance", "instance_info", "cost_info", "orphan"])
def test_without_a_deployment_id_of_its_own_nobody_is_called(
    module: str, deployment_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr(_provider, "load", lambda name, settings=None: called.append(name))
    instance, errors = complete_instance({"name": "a", "providers": ["local"]})
    assert not errors
    wanted = {**instance, "state": "absent", "names": [], "wanted": [], "confirm": None}
    params = {**wanted, "deployment_id": deployment_id, "provider_settings": {}}
    run: dict[str, Callable[[], object]] = {
        "instance": lambda: _engine.run_instance(params, check_mode=False),
        "instance_info": lambda: _report.list_instances(params),
        "cost_info": lambda: _report.sum_up_cost(params),
        "orphan": lambda: _orphans.run_orphan(params, check_mode=False),
    }
    with pytest.raises(ValueError, match="deployment_id"):
        run[module]()
    assert called == []
