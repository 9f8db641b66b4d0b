# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is said of an instance: the same said again is no drift, however its provider shows it.

instance_type is said of Google's machines alone: the others have no types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _engine
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import complete_instance
from emulators import gcp, runpod, tensordock, vastai
from emulators.server import serving
from emulators.world import World
from support.fake_clock import FakeClock

CONTAINER: dict[str, Any] = {"runtime": "container", "gpu": "A40", "image": "own:1.0"}
PORTS = [{"port": 8001, "protocol": "http"}, {"port": 22}, {"port": 8000, "protocol": "http"}]
OF_CONTAINERS: tuple[dict[str, Any], ...] = (
    {},
    {"gpu": "a40"},
    {"gpu": "NVIDIA A40"},
    {"disk_gib": 77},
    {"args": ["--seed", "1 2", "it's", "\u00e4"]},
    {"args": []},
    {"entrypoint": ["sh", "-c"], "args": ["exec own"]},
    {"env": {"B": "1 2", "A": "x=y\nz"}},
    {"public_env": {"A": "1"}, "env": {"A": "2"}},
    {"secret_env": {"KEY": "planted-key-3b7e-5d21"}},
    {"tls_args": ["--tls"]},
    {"ports": PORTS[:1]},
    {"ports": PORTS},
    {"max_price_per_hour_usd": 0.6},
    {"args": ["1"], "env": {"A": "1"}, "secret_env": {"KEY": "k"}, "ports": PORTS, "disk_gib": 77},
)
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("runpod", CONTAINER | more) for more in OF_CONTAINERS),
    *(("runpod", CONTAINER | {"regions": [region]}) for region in ("EU-SE-1", "eu-se-1")),
    ("runpod", CONTAINER | {"gpu_count": 2}),
    *(("vastai", CONTAINER | more) for more in OF_CONTAINERS),
    *(("vastai", {"gpu": "H100_SXM", "regions": [region]}) for region in ("IS", "is")),
    ("vastai", {"gpu": "RTX 4090", "gpu_count": 2, "regions": ["no", "PL"]}),
    ("vastai", {"gpu": "A40", "image": "docker.io/vastai/kvm:own"}),
    ("vastai", {"gpu": "A40", "interruptible": True, "max_price_per_hour_usd": 0.6}),
    ("vastai", CONTAINER | {"interruptible": True}),
    *(("tensordock", {"gpu": gpu}) for gpu in ("A40", "a40", "NVIDIA A40")),
    *(("tensordock", {"gpu": "A40", "regions": [place]}) for place in ("Norway", "oslo", "united states")),
    ("tensordock", {"gpu": "A40", "gpu_count": 2, "disk_gib": 200}),
    ("tensordock", {"gpu": "A40", "image": "ubuntu2404"}),
    ("tensordock", {"gpu": "A40", "ports": [{"port": 22}, {"port": 8000}], "max_price_per_hour_usd": 1.0}),
    *(("gcp", {"gpu": gpu}) for gpu in ("L4", "l4", "NVIDIA L4")),
    *(("gcp", {"gpu": "L4", "regions": [region]}) for region in ("us-central1", "US-East4")),
    ("gcp", {"gpu": "L4", "gpu_count": 2, "disk_gib": 200}),
    ("gcp", {"gpu": "L4", "instance_type": "g2-standard-8"}),
    ("gcp", {"instance_type": "e2-standard-2"}),
    ("gcp", {"gpu": "L4", "image": "projects/x/global/images/family/y"}),
    ("gcp", {"gpu": "L4", "interruptible": True, "max_price_per_hour_usd": 0.6}),
    ("gcp", {"gpu": "T4", "price_per_hour_usd": 0.6, "max_price_per_hour_usd": 1.0}),
]


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    """Of four accounts."""
    worlds = {name: World(name, scale=3600) for name in ("runpod", "vastai", "tensordock", "gcp")}
    with (
        serving(runpod.make(worlds["runpod"]), worlds["runpod"]) as first,
        serving(vastai.make(worlds["vastai"]), worlds["vastai"]) as second,
        serving(tensordock.make(worlds["tensordock"]), worlds["tensordock"]) as third,
        serving(gcp.make(worlds["gcp"]), worlds["gcp"]) as fourth,
    ):
        yield {
            "runpod": first + runpod.URL_PATH,
            "vastai": second + vastai.URL_PATH,
            "tensordock": third + tensordock.URL_PATH,
            "gcp": fourth + gcp.URL_PATH,
        }


@pytest.mark.parametrize(("provider", "said"), CASES, ids=[f"{provider} {said}" for provider, said in CASES])
def test_the_same_said_again_changes_nothing(
    provider: str, said: dict[str, Any], urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock().install(monkeypatch)
    monkeypatch.setenv("GCP_ACCESS_TOKEN", "any")
    account = {"project": gcp.PROJECT} if provider == "gcp" else {"api_key": "any"}
    lifetime = "100d" if provider == "gcp" else "8h"  # Google ends it itself, by a clock that does not wait for us

    def run(state: str) -> dict[str, Any]:
        disk = {"disk_gib": 100} if provider == "tensordock" else {}
        key = {"ssh_public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFleet nobody@nowhere"}
        given = {
            "name": "a-1",
            "providers": [provider],
            "max_lifetime": lifetime,
            "wait": "none",
            **key,
            **disk,
            **said,
        }
        complete, errors = complete_instance(given)
        assert not errors
        settings = {provider: {**account, "api_url": urls[provider]}}
        wanted = {**complete, "deployment_id": "acme-llm", "state": state, "provider_settings": settings}
        return _engine.run_instance(wanted, check_mode=False)

    try:
        assert run("started")["actions"] == ["create"]
        assert (run("started")["actions"], run("present")["actions"]) == ([], [])
    finally:
        run("absent")
