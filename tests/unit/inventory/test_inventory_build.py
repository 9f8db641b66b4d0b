"""A fleet file and what lives become hosts, groups and variables."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _fleet_file, _inventory, _listing, _provider, _ways
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Runtime, Status

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"


def fleet(*names: str, **settings: Any) -> _fleet_file.Fleet:
    instances = tuple({"name": name, "providers": ["local"], "roles": ["kafka"], **settings} for name in names)
    return _fleet_file.Fleet("/x/fleet.yml", "acme-llm", instances, ("local",))


def living(name: str, nonce: str = "aaaaaa", **changes: Any) -> Instance:
    marker = Marker(changes.pop("deployment_id", "acme-llm"), name, nonce, owner=changes.pop("owner", "fleet"))
    return replace(
        Instance(
            provider="local",
            id=f"id-{name}-{nonce}",
            marker=marker,
            status=Status.RUNNING,
            address="10.0.0.5",
            ssh_endpoints=(Endpoint("203.0.113.9", 2201, "proxy"), Endpoint("10.0.0.5", 22, "direct")),
            host_key=KEY,
            created_at=100.0,
        ),
        **changes,
    )


def build(wanted: _fleet_file.Fleet, *instances: Instance, **more: Any) -> _inventory.Built:
    listings = _ways.complete("acme-llm", [_listing.Listing("local", instances)])
    return _inventory.build(wanted, listings, "/reports", **more)


def host(built: _inventory.Built, name: str) -> _inventory.HostEntry:
    (found,) = [entry for entry in built.hosts if entry.name == name]
    return found


def test_a_running_machine_is_reached_by_ssh_with_its_pinned_key() -> None:
    built = build(fleet("kafka-1", ssh_private_key_file="../keys/id"), living("kafka-1", gpu="RTX_3090", gpu_count=1))
    entry = host(built, "kafka-1")
    assert built.warnings == []
    assert entry.groups == ["fleet_wanted", "provider_local", "runtime_vm", "gpu_RTX_3090", "fleet_ssh", "kafka"]
    assert entry.variables["ansible_host"] == "10.0.0.5"  # direct before proxy
    assert entry.variables["ansible_port"] == 22
    assert entry.variables["ansible_user"] == "root"
    assert entry.variables["ansible_ssh_private_key_file"] == "/keys/id"
    assert "ansible_connection" not in entry.variables
    assert shlex.split(entry.variables["ansible_ssh_common_args"])[-1] == f"KnownHostsCommand=/bin/echo %H {KEY}"
    expected = {
        "fleet_name": "kafka-1",
        "fleet_peer_name": "kafka-1.acme-llm.internal",
        "fleet_status": "running",
        "fleet_provider": "local",
        "fleet_gpu": "RTX_3090",
        "fleet_gpu_count": 1,
        "fleet_runtime": "vm",
        "fleet_price_per_hour_usd": None,
        "fleet_expires_at": None,
        "fleet_lifetime_enforcer": "nobody",
        "fleet_instance_id": "id-kafka-1-aaaaaa",
        "fleet_host_key": KEY,
        "fleet_inventory_age_seconds": 0.0,
        "fleet_address": "10.0.0.5",
    }
    assert expected.items() <= entry.variables.items()


def test_the_way_in_that_answered_last_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ansible has to take the way by which it became ready; of this very rental, as ids may be used again."""
    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path))
    one = living("kafka-1")

    def address(instance: Instance) -> str:
        return str(host(build(fleet("kafka-1"), instance), "kafka-1").variables["ansible_host"])

    assert address(one) == "10.0.0.5"
    _ways.remember(one, "proxy")
    assert address(one) == "203.0.113.9"
    assert address(replace(one, marker=replace(one.marker, nonce="bbbbbb"))) == "10.0.0.5"
    _ways.remember(one, "proxy")
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 1, "no news"
    _ways.remember(one, "direct")
    assert address(one) == "10.0.0.5"


def test_variables_of_all() -> None:
    assert build(fleet()).all_variables == {
        "fleet_deployment_id": "acme-llm",
        "fleet_domain": "acme-llm.internal",
        "fleet_complete": True,
        "fleet_report_directory": "/reports",
        "fleet_file": "/x/fleet.yml",
        "fleet_providers": ["local"],
    }


def test_what_does_not_live_is_only_wanted() -> None:
    entry = host(build(fleet("kafka-1", disk_gib=9)), "kafka-1")
    assert entry.groups == ["fleet_wanted"]
    assert entry.variables == {
        "fleet_name": "kafka-1",
        "fleet_peer_name": "kafka-1.acme-llm.internal",
        "fleet_status": "absent",
        "fleet_file": "/x/fleet.yml",
        "fleet_providers": ["local"],
        "fleet_wanted_instance": {
            "name": "kafka-1",
            "providers": ["local"],
            "roles": ["kafka"],
            "disk_gib": 9,
            "runtime": "vm",
        },
    }


@pytest.mark.parametrize("status", [Status.STOPPED, Status.PENDING, Status.FAILED])
def test_what_does_not_run_is_seen_and_not_deployed_to(status: Status) -> None:
    entry = host(build(fleet("kafka-1"), living("kafka-1", status=status)), "kafka-1")
    assert entry.groups == ["fleet_wanted", "provider_local", "runtime_vm"]
    assert entry.variables["fleet_status"] == status.value
    assert "ansible_host" not in entry.variables


def test_what_is_ending_does_not_live() -> None:
    built = build(
        fleet("kafka-1"), living("kafka-1", status=Status.TERMINATING), living("old", status=Status.TERMINATING)
    )
    assert [entry.name for entry in built.hosts] == ["kafka-1"]
    assert host(built, "kafka-1").variables["fleet_status"] == "absent"


def test_a_container_rental_has_no_ssh() -> None:
    entry = host(build(fleet("kafka-1"), living("kafka-1", runtime=Runtime.CONTAINER)), "kafka-1")
    assert entry.groups == ["fleet_wanted", "provider_local", "runtime_container", "fleet_endpoints", "kafka"]
    assert "ansible_host" not in entry.variables


def test_orphans_are_in_no_group_that_is_deployed_to() -> None:
    built = build(fleet("kafka-1"), living("kafka-2"), living("kafka-2", "bbbbbb", created_at=200.0))
    assert [(entry.name, entry.groups) for entry in built.hosts] == [
        ("kafka-1", ["fleet_wanted"]),
        ("kafka-2", ["fleet_orphans"]),
        ("kafka-2--bbbbbb", ["fleet_orphans"]),
    ]
    assert host(built, "kafka-2").variables["fleet_marker"] == "gf--acme-llm--kafka-2--aaaaaa--0000"
    assert "ansible_host" not in host(built, "kafka-2").variables


def test_what_another_file_wants_is_no_orphan() -> None:
    built = build(fleet("kafka-1"), living("kafka-2"), wanted_elsewhere={"kafka-2"})
    assert [entry.name for entry in built.hosts] == ["kafka-1"]


@pytest.mark.parametrize("changes", [{"deployment_id": "other-one"}, {"owner": "job:7"}])
def test_what_is_not_this_fleets_is_not_seen(changes: dict[str, str]) -> None:
    built = build(fleet("kafka-1"), living("kafka-1", **changes))
    assert host(built, "kafka-1").variables["fleet_status"] == "absent"
    assert len(built.hosts) == 1


def test_the_oldest_of_several_is_used_and_the_others_are_named() -> None:
    built = build(
        fleet("kafka-1"),
        living("kafka-1", "cccccc", created_at=300.0),
        living("kafka-1", "bbbbbb", created_at=200.0),
        living("kafka-1", "aaaaaa", created_at=200.0),
    )
    assert host(built, "kafka-1").variables["fleet_instance_id"] == "id-kafka-1-aaaaaa"
    assert [name for name in ("bbbbbb", "cccccc") if any(name in warning for warning in built.warnings)] == [
        "bbbbbb",
        "cccccc",
    ]
    assert all("removes what is too many once it is 10 minutes old" in warning for warning in built.warnings)
    assert len(built.hosts) == 1


def test_where_it_may_not_live_any_more_nothing_is_promised() -> None:
    """provision stops at such drift, and removes nothing."""
    wanted = fleet("vllm-1", providers=["runpod"])
    old = living("vllm-1", provider="vastai", created_at=100.0)
    (warning,) = build(wanted, old).warnings
    assert "vllm-1 lives at vastai, which is not among its providers (runpod)" in warning
    assert "on_drift: replace" in warning
    both = build(wanted, old, living("vllm-1", "bbbbbb", provider="runpod", created_at=200.0)).warnings
    assert both[0] == warning
    assert "runpod also has id-vllm-1-bbbbbb. The oldest one is used." in both[1]
    assert not [one for one in both if "removes what is too many" in one]
    replacing = build(fleet("vllm-1", providers=["runpod"], on_drift="replace"), old).warnings
    assert "the next run of gpuops.fleet.provision ends it there and rents another" in replacing[0]


def test_a_failed_provider_leaves_the_others_alone() -> None:
    wanted = _fleet_file.Fleet(
        "/x/fleet.yml",
        "acme-llm",
        ({"name": "a", "providers": ["local"]}, {"name": "b", "providers": ["broken"]}),
        ("local", "broken"),
    )
    listings = [
        _listing.Listing("local", (living("a"),)),
        _listing.Listing("broken", failure="It is down.", fix="Wait."),
    ]
    built = _inventory.build(wanted, listings, "/reports")
    assert built.all_variables["fleet_complete"] is False
    assert host(built, "a").variables["fleet_status"] == "running"
    assert host(built, "b").groups == ["fleet_wanted"]
    assert host(built, "b").variables["fleet_status"] == "unknown"
    (warning,) = built.warnings
    assert "Provider broken" in warning
    assert "It is down. Wait." in warning


def test_without_a_host_key_ssh_decides_and_the_user_is_told() -> None:
    built = build(fleet("kafka-1"), living("kafka-1", host_key=None))
    assert "ansible_ssh_common_args" not in host(built, "kafka-1").variables
    assert "fleet_ssh" in host(built, "kafka-1").groups
    assert "no host key is recorded" in built.warnings[0]


@pytest.mark.parametrize(
    "host_key",
    ['ssh-ed25519 AAAA" -o ProxyCommand="touch /x', f"{KEY}\n{KEY}", "{{ lookup('pipe', 'id') }}", f"{KEY} x"],
)
def test_a_host_key_that_is_none_reaches_no_command_line(host_key: str) -> None:
    built = build(fleet("kafka-1"), living("kafka-1", host_key=host_key))
    assert "ansible_ssh_common_args" not in host(built, "kafka-1").variables
    assert host(built, "kafka-1").variables["fleet_host_key"] is None


def test_what_a_provider_says_holds_no_template() -> None:
    evil = "{{ lookup('pipe', 'id') }}"
    instance = living("kafka-1", id=evil, address=evil, gpu=evil, ssh_endpoints=(Endpoint(evil, 22),))
    built = build(fleet("kafka-1"), instance)
    assert evil not in str(host(built, "kafka-1").variables)
    assert "fleet_ssh" not in host(built, "kafka-1").groups


def test_machines_without_an_address_yet_are_not_deployed_to() -> None:
    entry = host(build(fleet("kafka-1"), living("kafka-1", address=None, ssh_endpoints=())), "kafka-1")
    assert entry.groups == ["fleet_wanted", "provider_local", "runtime_vm"]


def test_group_names_are_ones_that_ansible_takes() -> None:
    assert _inventory.group_name("gpu", "RTX 6000-Ada") == "gpu_RTX_6000_Ada"


class FakeProvider:
    def __init__(self, answer: list[Instance] | Exception) -> None:
        self.answer = answer

    def list(self) -> list[Instance]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_providers_are_asked_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)

    class Waiting(FakeProvider):
        def list(self) -> list[Instance]:
            together.wait()
            return []

    listings = _listing.list_all(["a", "b", "c"], {}, lambda name, settings: Waiting([]))  # type: ignore[arg-type,return-value]
    assert [(listing.provider, listing.failure) for listing in listings] == [("a", None), ("b", None), ("c", None)]


def test_a_provider_gets_its_own_settings_and_failures_stay_its_own() -> None:
    seen = {}

    def load(name: str, settings: Mapping[str, Any]) -> FakeProvider:
        seen[name] = dict(settings)
        answers: dict[str, list[Instance] | Exception] = {
            "good": [living("a")],
            "down": _provider.ProviderUnavailable("It is down.", provider="down", fix="Wait."),
            "bug": KeyError("x"),
        }
        return FakeProvider(answers[name])

    good, down, bug = _listing.list_all(["good", "down", "bug"], {"good": {"api_url": "u"}}, load)  # type: ignore[arg-type]
    assert seen == {"good": {"api_url": "u"}, "down": {}, "bug": {}}
    assert good.instances == (living("a"),)
    assert (down.failure, down.fix) == ("It is down.", "Wait.")
    assert bug.failure == "KeyError: 'x'"


def test_an_unloadable_provider_is_a_failure_too() -> None:
    (listing,) = _listing.list_all(["nobody"], {})
    assert "nobody" in (listing.failure or "")
