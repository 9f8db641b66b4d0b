# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Compose file of the server says, from the role's own template with its own defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.module_utils import _vllm
from jinja2 import nativetypes

ROLE = Path(__file__).parents[4] / "roles/vllm"


# In this order, because each stands on those before it.
COMPUTED = (
    *("vllm_gpu", "vllm_uid", "vllm_gid", "vllm_memory_mib", "vllm_cpu_kv_cache_gib"),
    *("__vllm_prefetches", "__vllm_server_has_token", "__vllm_stop_timeout_seconds"),
)


def compose(**given: Any) -> dict[str, Any]:
    variables: dict[str, Any] = {"service_image_reference": "acme/vllm:1.2.3", "vllm_model": "acme/assistant-1b"}
    for name in ("defaults", "vars"):
        variables |= yaml.safe_load((ROLE / f"{name}/main.yml").read_text())
    variables |= given
    native = nativetypes.NativeEnvironment()
    native.filters["bool"] = bool
    for name in set(COMPUTED) - set(given):
        assert "{{" in variables[name], name
    for name in COMPUTED:
        if name not in given:
            variables[name] = native.from_string(variables[name]).render(variables)
    variables["__vllm_start"] = _vllm.describe(
        {name: variables[f"vllm_{name}"] for name in ("model", "model_source", "gpu", "prefetch")}
    )
    plain = jinja2.Environment(autoescape=False, trim_blocks=True)  # noqa: S701 (no HTML)
    plain.filters |= {"bool": bool, "to_json": lambda value: json.dumps(value, default=list)}  # map makes a generator
    template = (ROLE / "templates/vllm.compose.yaml.j2").read_text()
    return dict(yaml.safe_load(plain.from_string(template).render(variables)))


def server(**given: Any) -> dict[str, Any]:
    return dict(compose(**given)["services"]["vllm"])


@pytest.mark.parametrize(
    ("address", "published"), [("", "${HOST_ADDRESS}:8000:8000"), ("127.0.0.1", "127.0.0.1:8000:8000")]
)
def test_listens_where_it_is_told_and_nowhere_else(address: str, published: str) -> None:
    assert server(vllm_listen_address=address)["ports"] == [published]


@pytest.mark.parametrize(
    ("source", "prefetch", "reaches"),
    [("hub", True, False), ("hub", False, True), ("directory", True, True)],
)
def test_a_server_that_asks_no_hub_gets_no_token(source: str, prefetch: bool, reaches: bool) -> None:
    given = {"vllm_model_source": source, "vllm_prefetch": prefetch, "vllm_hub_token": "planted-token"}
    whole = compose(**given)
    assert ("hub_token" in whole["secrets"]) == reaches
    assert ("hub_token" in whole["services"]["vllm"]["secrets"]) == reaches
    assert "planted" not in json.dumps(whole)


def test_caches_lie_on_the_hosts_disk_and_outlive_the_container() -> None:
    volumes = server(vllm_data_directory="/srv/vllm")["volumes"]
    assert "/srv/vllm/cache:/cache" in volumes
    mounted = [volume.split(":")[1] for volume in volumes]
    written = [path for path in _vllm.build_environment(_vllm.Settings("a/b")).values() if path.startswith("/cache")]
    assert len(written) > 5
    assert "/cache" in mounted


def test_a_stop_leaves_the_server_time_to_finish() -> None:
    assert server(vllm_shutdown_timeout_seconds=45)["stop_grace_period"] == "75s"
    assert server()["stop_grace_period"] == "90s"
