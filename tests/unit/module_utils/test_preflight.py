# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad settings of an instance: each is refused offline, by a sentence that names the field, the value and the fix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _preflight, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._arguments import lifetime_seconds, runtime_of
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import Capability

GOOD: dict[str, Any] = {"name": "vllm-1", "providers": ["local"]}

CONTAINER: dict[str, Any] = {"providers": ["runpod"], "runtime": "container", "max_lifetime": "8h"}
HTTP = [{"port": 8000, "protocol": "http"}]

OWNED: dict[str, Any] = {"providers": ["ssh"], "address": "203.0.113.20"}

BAD = [
    ({"name": "VLLM 1"}, "name", "'VLLM 1'.*lower-case"),
    ({"name": ""}, "name", "missing"),
    ({"name": "a" * 17}, "name", "1 to 16"),
    ({"name": None}, "name", "missing required"),
    ({"providers": ["locl"]}, "providers", "'locl' is not known; use one of: local"),
    ({"providers": []}, "providers", "empty"),
    ({"provider": "local"}, "provider", "did you mean 'providers'"),
    ({"zzz": 1}, "zzz", "use one of"),
    ({"gpu": "A100"}, "gpu", "A100_40GB, A100_80GB"),
    ({"gpu_count": 2}, "gpu_count", "no gpu beside it"),
    ({"gpu": "L4", "gpu_count": 0}, "gpu_count", "from 1"),
    ({"ports": [{"port": 0}]}, "ports", "0 is not a port"),
    ({"ports": [{"port": 70000}]}, "ports", "70000 is not a port"),
    ({"ports": [{"port": 80}, {"port": 80}]}, "ports", "twice"),
    ({"ports": [{"port": "web"}]}, "ports", "convert"),
    ({"ports": [{"protocol": "tcp"}]}, "ports", "port"),
    ({"disk_gib": 0}, "disk_gib", "from 1"),
    ({"disk_gib": "big"}, "disk_gib", "convert"),
    ({"max_lifetime": "3 days"}, "max_lifetime", "'3 days'.*'8h'"),
    ({"max_lifetime": "0h"}, "max_lifetime", "'0h'"),
    ({"max_lifetime": "50000d"}, "max_lifetime", "'50000d' is more than 10 years; write '3650d' or less, or 'unlim"),
    ({"max_lifetime": "87601h"}, "max_lifetime", "'87601h' is more than 10 years"),
    ({"max_price_per_hour_usd": -1}, "max_price_per_hour_usd", "-1"),
    ({"runtime": "lambda"}, "runtime", "one of: vm, container"),
    ({"runtime": "container"}, "runtime", "'local' doesn't rent"),
    ({"wait": "forever"}, "wait", "one of"),
    ({"wait": "gpu"}, "wait", "needs a gpu"),
    ({"wait": "endpoint"}, "wait", "container rentals"),
    ({"wait_timeout_seconds": 0}, "wait_timeout_seconds", "from 1"),
    ({"interruptible": True}, "interruptible", "'local'.*interruptible: false"),
    ({"entrypoint": ["sh"]}, "entrypoint", "'local'"),
    ({"env": {"A": "1"}}, "env", "'local'"),
    ({"regions": ["us"]}, "regions", "'local' has no regions"),
    ({"on_unready": "panic"}, "on_unready", "one of"),
    ({"providers": ["runpod", "local"], "max_lifetime": "8h"}, "runtime", "runtime 'vm': .*'runpod' doesn't rent such"),
    ({"providers": ["runpod"], "runtime": "vm", "max_lifetime": "8h"}, "runtime", "'runpod' doesn't rent such"),
    ({**CONTAINER, "roles": ["kafka"], "wait": "running"}, "roles", "'kafka' needs a machine"),
    ({"tls_args": ["--tls"]}, "tls_args", "'local'"),
    ({"secret_env": {"A": "1"}}, "secret_env", "'local'"),
    (CONTAINER, "ports", "no http port.*8000"),
    ({**CONTAINER, "wait": "ssh"}, "wait", "use 'endpoint'"),
    ({**CONTAINER, "ports": HTTP, "max_lifetime": None}, "max_lifetime", "'runpod' costs money"),
    ({**CONTAINER, "ports": HTTP, "interruptible": True}, "interruptible", "'runpod' rents no interruptible"),
    ({**CONTAINER, "providers": ["vastai"], "ports": HTTP}, "wait", "'vastai' ends no TLS.*tls_args"),
    ({"address": "203.0.113.20"}, "address", r"a machine that you own; write 'providers: \[ssh\]'"),
    ({"port": 2222}, "port", "leave port out"),
    ({"user": "ubuntu"}, "user", "leave user out"),
    ({"host_key": "ssh-ed25519 AAAA"}, "host_key", "leave host_key out"),
    ({**OWNED, "providers": ["local", "ssh"]}, "providers", "stands beside others"),
    ({"providers": ["ssh"]}, "address", "is missing"),
    ({**OWNED, "address": "-oProxyCommand=id"}, "address", "'-oProxyCommand=id' is none"),
    ({**OWNED, "address": "{{ x }}"}, "address", "without a port, a user or a template"),
    ({**OWNED, "port": 65536}, "port", "from 1 to 65535"),
    ({**OWNED, "user": "-l root"}, "user", "'-l root' is none"),
    ({**OWNED, "host_key": "SHA256:abc"}, "host_key", "/etc/ssh/ssh_host_ed25519_key.pub"),
    ({**OWNED, "price_per_hour_usd": -1}, "price_per_hour_usd", "from 0"),
    ({**OWNED, "instance_type": "large"}, "instance_type", "no sizes"),
    ({**OWNED, "image": "debian:13"}, "image", "nothing would boot"),
    ({**OWNED, "disk_gib": 80}, "disk_gib", "as large as it is"),
    ({**OWNED, "ssh_public_key": "ssh-ed25519 AAAA"}, "ssh_public_key", "puts no key"),
    ({**OWNED, "max_price_per_hour_usd": 1}, "max_price_per_hour_usd", "price_per_hour_usd says"),
    ({**OWNED, "max_lifetime": "8h"}, "max_lifetime", "nobody ends a machine that you own"),
    ({**OWNED, "on_unready": "replace"}, "on_unready", "use 'keep'"),
    ({**OWNED, "on_unready": "stop"}, "on_unready", "use 'keep'"),
    ({**OWNED, "on_drift": "replace"}, "on_drift", "use 'fail'"),
    ({**OWNED, "interruptible": True}, "interruptible", "'ssh' rents no interruptible"),
    ({**OWNED, "regions": ["us"]}, "regions", "'ssh' has no regions"),
    ({**OWNED, "ports": HTTP}, "ports", "'ssh' opens no ports"),
    ({**OWNED, "runtime": "container", "wait": "running"}, "runtime", "'ssh' doesn't rent such"),
    ({**OWNED, "gpu": "A41"}, "gpu", "A41"),
    ({"ssh_public_key": "hello"}, "ssh_public_key", "ssh-ed25519"),
    ({"ssh_private_key_file": "/nowhere/key"}, "ssh_private_key_file", "'/nowhere/key' does not exist.*ssh-keygen"),
]


@pytest.mark.parametrize(("settings", "field", "words"), BAD)
def test_bad_settings_are_refused(settings: dict[str, Any], field: str, words: str) -> None:
    problems = _preflight.check_instance({**GOOD, **settings})
    assert [problem.field for problem in problems] == [field] or field in str(problems[0])
    assert len(problems) == 1
    assert re.search(words, str(problems[0])), str(problems[0])


def test_good_settings_pass_also_when_one_word_stands_for_a_list() -> None:
    assert not _preflight.check_instance(GOOD)
    assert not _preflight.check_instance({**GOOD, "providers": "local", "roles": "vllm", "gpu": None})


def test_containers_that_can_be_asked_pass() -> None:
    assert not _preflight.check_instance({**GOOD, **CONTAINER, "ports": HTTP})
    assert not _preflight.check_instance({**GOOD, **CONTAINER, "wait": "running"})


def test_a_machine_of_ones_own_may_be_described() -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"
    assert not _preflight.check_instance({**GOOD, **OWNED})
    described = {"port": 2222, "user": "ubuntu", "gpu": "A40", "gpu_count": 2, "wait": "gpu", "price_per_hour_usd": 0.4}
    for more in ({}, {"host_key": key}, {"host_key": f"{key} root@gpu-1\n"}, {"max_lifetime": "unlimited"}):
        assert not _preflight.check_instance({**GOOD, **OWNED, **described, **more})
    stop = _preflight.check_state({**GOOD, **OWNED}, "stopped")
    assert [str(one) for one in stop] == [
        "state 'stopped': provider 'ssh' can't stop a machine that you own; do that yourself."
    ]
    assert not _preflight.check_state({**GOOD, **OWNED}, "started")


def test_what_is_computed_brings_its_port_and_its_tls() -> None:
    served = {**GOOD, "providers": ["vastai", "runpod"], "roles": ["vllm"], "gpu": "A100_80GB", "max_lifetime": "8h"}
    assert not _preflight.check_instance(served)
    assert _preflight.check_instance({**served, "image": "own:1.0"}), "then the user says the rest as well"


@pytest.mark.parametrize(
    ("providers", "runtime"),
    [
        (["local"], "vm"),
        (["vastai"], "vm"),
        (["runpod"], "container"),
        (["vastai", "runpod"], "container"),
        (["runpod", "vastai"], "container"),
        (["local", "vastai"], "vm"),
        (["local", "runpod"], "vm"),  # and refused: they have none in common
        ([], "vm"),
    ],
)
def test_the_runtime_follows_from_what_all_providers_can(providers: list[str], runtime: str) -> None:
    assert runtime_of({"providers": providers}) == runtime
    assert runtime_of({"providers": providers, "runtime": "container"}) == "container"


def test_keys_are_checked_before_paying(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    key.chmod(0o600)
    assert not _preflight.check_instance({**GOOD, "ssh_private_key_file": str(key)})
    key.chmod(0o644)
    assert "chmod 600" in str(_preflight.check_instance({**GOOD, "ssh_private_key_file": str(key)})[0])
    key.chmod(0o600)
    key.write_text("ssh-ed25519 AAAA")
    assert "without .pub" in str(_preflight.check_instance({**GOOD, "ssh_private_key_file": str(key)})[0])


def test_a_lifetime_is_required_where_it_costs_money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_provider.CAPABILITIES, "paid", frozenset({Capability.VM}))
    problems = _preflight.check_instance({**GOOD, "providers": ["paid"]})
    assert [problem.field for problem in problems] == ["max_lifetime"]
    assert not _preflight.check_instance({**GOOD, "providers": ["paid"], "max_lifetime": "8h"})
    stop = _preflight.check_state({**GOOD, "providers": ["paid"]}, "stopped")
    assert "can't stop" in str(stop[0])


def test_what_lives_can_not_be_given_more_time_than_its_marker_can_say() -> None:
    for text in ("50000d", "522w"):
        (problem,) = _preflight.check_extend({"providers": ["vastai"]}, text)
        assert (problem.field, str(problem)) == (
            "extend",
            f"extend '{text}' is more than 10 years from now on; write '3650d' or less.",
        )
    assert _preflight.check_extend({"providers": ["vastai"]}, "3650d") == []
    assert not _preflight.check_instance({**GOOD, "max_lifetime": "87600h"})


def test_lifetimes() -> None:
    assert (lifetime_seconds("8h"), lifetime_seconds("7d"), lifetime_seconds("unlimited")) == (28800, 604800, None)
