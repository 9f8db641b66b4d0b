# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that their user owns: used, waited for and shown like rentals, and never created, judged or ended."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _arguments,
    _cached,
    _engine,
    _fleet_file,
    _host_keys,
    _inventory,
    _journal,
    _listing,
    _orphans,
    _owned,
    _provider,
    _readiness,
    _report,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Endpoint,
    Instance,
    Marker,
    Offer,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._probe import CLASSES, PERMANENT, Probe
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, InvalidRequest, ProviderError
from support.fake_clock import FakeClock
from support.fake_provider import FakeCloud, FakeProvider

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"
OTHER_KEY = KEY.replace("Abc", "Xyz")
MACHINE: dict[str, Any] = {"name": "gpu-1", "providers": ["ssh"], "address": "203.0.113.20"}


class Login:
    """The machine, as far as ssh sees it: who asked for what, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Endpoint, str, str | None, str]] = []
        self.kind = "ok"
        self.key = KEY
        monkeypatch.setattr(_readiness, "probe_socket", lambda endpoint: Probe("ok"))
        monkeypatch.setattr(_readiness, "probe_login", self._login)

    def _login(self, endpoint: Endpoint, user: str, host_key: str | None, command: str, _file: str | None) -> Probe:
        self.asked.append((endpoint, user, host_key, command))
        if host_key not in (None, self.key):
            return Probe("host_key_changed", "REMOTE HOST IDENTIFICATION HAS CHANGED")
        learnt = self.key if host_key is None and self.kind == "ok" else None
        return Probe(self.kind, "words", host_key=learnt)


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Login:
    FakeClock().install(monkeypatch)
    return Login(monkeypatch)


def run(state: str = "started", *, check_mode: bool = False, **settings: Any) -> dict[str, Any]:
    """The instance module, as a task would run it."""
    wanted = {**MACHINE, **settings}
    provider_settings = wanted.pop("provider_settings", {})
    complete, errors = _arguments.complete_instance(wanted)
    assert state == "absent" or not errors
    params = {**complete, "deployment_id": "acme-llm", "state": state, "provider_settings": provider_settings}
    return _engine.run_instance(params, check_mode)


def test_it_is_used_as_it_is(login: Login) -> None:
    result = run(port=2222, user="ubuntu", host_key=f"{KEY} root@gpu", gpu="A40", gpu_count=2, price_per_hour_usd=0.4)
    assert (result["changed"], result["actions"], result["offer"], result["warnings"]) == (False, [], None, [])
    assert login.asked == [(Endpoint("203.0.113.20", 2222), "ubuntu", KEY, "true")]
    assert result["host_key_trust"] == "given"
    assert result["readiness"]["ready"]
    expected = {
        "id": "203.0.113.20:2222",
        "provider": "ssh",
        "status": "running",
        "runtime": "vm",
        "gpu": "A40",
        "gpu_count": 2,
        "price_per_hour_usd": 0.4,
        "cost_so_far_usd": None,  # nobody knows since when
        "created_at": None,
        "expires_at": None,
        "lifetime_enforcer": "nobody",
        "lifetime_enforcer_reason": "you own it, so nothing here ends it",
        "address": "203.0.113.20",
        "ssh_host": "203.0.113.20",
        "ssh_port": 2222,
        "ssh_user": "ubuntu",
        "host_key": KEY,
    }
    assert expected.items() <= result["instance"].items()


def test_what_was_not_said_has_its_usual_value(login: Login) -> None:
    one = run(wait="gpu", gpu="A40", host_key=KEY)["instance"]
    assert (one["ssh_port"], one["ssh_user"], one["gpu_count"], one["price_per_hour_usd"]) == (22, "root", 1, None)
    assert [asked[3] for asked in login.asked] == ["nvidia-smi -L"]


def test_a_key_that_nobody_gave_is_learnt_once_and_pinned_then(login: Login) -> None:
    first = run()
    assert (first["host_key_trust"], first["instance"]["host_key"]) == ("first_use", KEY)
    (warning,) = first["warnings"]
    assert KEY in warning
    assert "written as host_key" in warning
    second = run()
    assert (second["host_key_trust"], second["warnings"]) == ("journal", [])
    assert [asked[2] for asked in login.asked] == [None, KEY]
    login.key = OTHER_KEY
    with pytest.raises(EngineError, match="host_key_changed"):
        run()
    # Another port is another machine, and what the user says now comes before what was learnt.
    assert run(port=2222)["host_key_trust"] == "first_use"
    assert run(host_key=OTHER_KEY)["host_key_trust"] == "given"


def test_absent_forgets_the_key_and_nothing_else(login: Login) -> None:
    run()
    planned = run("absent", check_mode=True)
    assert planned["actions"] == ["forget"]
    assert planned["diff"]["before"] == {"name": "gpu-1", "provider": "ssh", "remembered_host_key": KEY}
    login.asked.clear()
    ended = run("absent", address=None)  # its name alone has to be enough
    assert (ended["changed"], ended["actions"]) == (True, ["forget"])
    (warning,) = ended["warnings"]
    assert "gpu-1 is a machine that you own, so nothing on it was changed" in warning
    again = run("absent")
    assert (again["changed"], again["actions"], again["warnings"]) == (False, [], [warning])
    assert login.asked == []
    login.key = OTHER_KEY
    assert run()["host_key_trust"] == "first_use"  # as for a machine that was installed anew


def test_absent_forgets_by_its_place_what_had_another_name(login: Login) -> None:
    run(name="old-1")
    run(name="other-1", address="203.0.113.21")
    assert run("absent")["actions"] == ["forget"]
    assert [(identity, name) for identity, name, _key in _host_keys.learnt("acme-llm", "ssh")] == [
        ("203.0.113.21:22", "other-1")
    ]


def test_absent_forgets_nothing_of_another_deployment(login: Login) -> None:
    _journal.record("host_key", Instance("ssh", "203.0.113.20:22", Marker("acme-two", "gpu-1", ""), Status.RUNNING,
                                         host_key=KEY))  # fmt: skip
    assert not run("absent")["changed"]
    assert len(_host_keys.learnt("acme-two", "ssh")) == 1


# What comes of tries, and not of what a provider says or of a container.
OF_TRIES = sorted(
    kind
    for kind in CLASSES
    if kind not in ("key_pending", "no_endpoint", "no_host_key") and not kind.startswith(("provider_", "endpoint_"))
)


@pytest.mark.parametrize("kind", OF_TRIES)
def test_one_that_is_not_ready_fails_with_its_class_and_is_left_as_it_is(login: Login, kind: str) -> None:
    login.kind = kind
    with pytest.raises(EngineError) as caught:
        run(wait_timeout_seconds=60, host_key=KEY)
    assert caught.value.code == "not_ready"
    assert "It is yours, so it is left as it is. Run again to go on waiting." in caught.value.message
    result = caught.value.result
    assert (result["changed"], result["actions"], result["failed_rentals"]) == (False, [], [])  # nobody refunds it
    readiness = result["readiness"]
    assert readiness["last_class"] == kind
    assert readiness["seconds"] == pytest.approx(
        0 if kind in PERMANENT - {"auth"} else 30 if kind == "auth" else 60, abs=5
    )
    login.kind = "ok"
    assert run(host_key=KEY)["readiness"]["ready"]


@pytest.mark.parametrize(
    ("kind", "answers"), [("refused", None), ("closed", b""), ("not_ssh", b"HTTP/1.1 400 Bad Request\r\n")]
)
def test_what_answers_at_its_address_has_its_class(
    monkeypatch: pytest.MonkeyPatch, kind: str, answers: bytes | None
) -> None:
    """Through the whole module, over real sockets."""
    FakeClock().install(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    connection, _peer = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answers or b"")

        if answers is None:
            listening.close()
        else:
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(EngineError) as caught:
            run(address="127.0.0.1", port=port, wait_timeout_seconds=5)
    readiness = caught.value.result["readiness"]
    assert set(readiness["classes"]) == {kind}
    assert [one["address"] for one in readiness["endpoints"]] == [f"127.0.0.1:{port}"]


def test_check_mode_asks_nobody(login: Login) -> None:
    planned = run(check_mode=True)
    assert (planned["changed"], planned["actions"], planned["instance"]["provider"]) == (False, [], "ssh")
    assert planned["lifetime_enforcer"] == "nobody"
    assert login.asked == []


def test_a_provider_that_is_down_is_not_in_the_way(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rented, so nothing has to be proven by anybody's list."""
    asked: list[str] = []
    load = _provider.load

    def loading(name: str, settings: Any = None) -> Any:
        asked.append(name)
        return load(name, settings)

    monkeypatch.setattr(_provider, "load", loading)
    run(provider_settings={"runpod": {"api_url": "http://127.0.0.1:1", "api_key": "x"}}, host_key=KEY)
    assert asked == ["ssh"]


def test_the_provider_creates_starts_and_stops_nothing() -> None:
    provider = _provider.load("ssh", _owned.with_machines({}, "acme-llm", [MACHINE])["ssh"])
    (machine,) = provider.list()
    assert provider.offers({}) == []
    with pytest.raises(InvalidRequest, match="can't be rented here"):
        provider.create(Request(machine.marker, Offer("ssh", "x")))
    for order in (provider.start, provider.stop):
        with pytest.raises(InvalidRequest, match="machine that you own can't be"):
            order(machine.id)
    assert not provider.delete(machine.id)  # nothing was remembered
    assert not provider.clean_up("acme-llm")
    assert _provider.load("ssh").list() == []


def fleet_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "fleet.yml"
    own = (
        "  - {name: gpu-1, providers: [ssh], address: 203.0.113.20, roles: [vllm], price_per_hour_usd: 0.4, gpu: A40}\n"
    )
    path.write_text(
        "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances:\n"
        + own
        + "".join(f"{line}\n" for line in lines)
    )
    return path


def built(fleet: _fleet_file.Fleet, *rented: Instance) -> _inventory.Built:
    settings = _owned.with_machines(fleet.provider_settings, fleet.deployment_id, fleet.instances)
    listings = [_listing.Listing("fake", rented), *_listing.list_all(["ssh"], settings)]
    return _inventory.build(fleet, _host_keys.complete(fleet.deployment_id, listings), "/reports")


def test_the_inventory_has_it_like_a_rental(tmp_path: Path, login: Login) -> None:
    fleet = _fleet_file.load(str(fleet_file(tmp_path)))
    before = built(fleet)
    assert "no host key is recorded in the fleet file" in before.warnings[0]
    run()
    (host,) = built(fleet).hosts
    assert host.groups == ["fleet_wanted", "provider_ssh", "runtime_vm", "gpu_A40", "fleet_ssh", "vllm"]
    expected = {
        "fleet_status": "running",
        "fleet_provider": "ssh",
        "fleet_price_per_hour_usd": 0.4,
        "fleet_expires_at": None,
        "fleet_lifetime_enforcer": "nobody",
        "fleet_instance_id": "203.0.113.20:22",
        "fleet_host_key": KEY,
        "ansible_host": "203.0.113.20",
        "ansible_port": 22,
        "ansible_user": "root",
        "ansible_ssh_common_args": _inventory.ssh_pinning(KEY),
    }
    assert expected.items() <= host.variables.items()
    assert built(fleet).warnings == []


def rental(name: str, created_at: float = 100.0) -> Instance:
    return Instance("fake", f"fake-{name}", Marker("acme-llm", name, "abc123"), Status.RUNNING, created_at=created_at)


def test_a_rental_of_the_same_name_is_another_thing(tmp_path: Path) -> None:
    """It was wanted before the machine was bought, and goes on costing."""
    hosts = {host.name: host for host in built(_fleet_file.load(str(fleet_file(tmp_path))), rental("gpu-1")).hosts}
    assert hosts["gpu-1"].variables["fleet_provider"] == "ssh"
    assert "fleet_orphans" not in hosts["gpu-1"].groups
    assert hosts["gpu-1--abc123"].groups == ["fleet_orphans"]


def test_one_with_a_template_for_its_gpu_can_be_read(tmp_path: Path) -> None:
    path = fleet_file(
        tmp_path, "  - {name: gpu-2, providers: [ssh], address: 203.0.113.21, gpu: '{{ which | default(1) }}'}"
    )
    hosts = {host.name: host for host in built(_fleet_file.load(str(path))).hosts}
    assert hosts["gpu-2"].variables["fleet_gpu"] is None


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """A provider called fake beside the real ones."""
    cloud = FakeCloud()
    load = _provider.load
    monkeypatch.setattr(
        _provider, "load", lambda name, settings=None: FakeProvider(cloud) if name == "fake" else load(name, settings)
    )
    return cloud


SWEEP: dict[str, Any] = {"deployment_id": "acme-llm", "confirm": None, "grace_seconds": 900, "max_deletions": 5}


def test_a_sweep_does_not_judge_it(tmp_path: Path, login: Login, cloud: FakeCloud) -> None:
    params = {**SWEEP, "fleet_files": [str(fleet_file(tmp_path))], "confirm": "acme-llm"}
    result = _orphans.run_orphan({**params, "providers": ["ssh", "fake"]}, False)
    assert (result["changed"], result["rentals"], result["orphans"], result["deleted"]) == (False, [], [], [])


@pytest.mark.parametrize("providers", [[], ["ssh"]])
def test_a_sweep_that_asks_nobody_does_not_say_that_nothing_lives(providers: list[str], tmp_path: Path) -> None:
    """What was rented before the machine was bought lives where nobody looks."""
    params = {**SWEEP, "providers": providers, "fleet_files": [str(fleet_file(tmp_path))]}
    with pytest.raises(ValueError, match="No provider that rents is named, so there is nowhere to look"):
        _orphans.run_orphan(params, False)


def test_a_sweep_takes_a_rental_that_it_replaced_for_an_orphan(tmp_path: Path, login: Login, cloud: FakeCloud) -> None:
    cloud.instances["fake-gpu-1"] = rental("gpu-1")
    params = {**SWEEP, "providers": ["ssh", "fake"], "fleet_files": [str(fleet_file(tmp_path))]}
    assert [one["id"] for one in _orphans.run_orphan(params, False)["orphans"]] == ["fake-gpu-1"]
    ended = _orphans.run_orphan({**params, "confirm": "acme-llm"}, False)
    assert [one["id"] for one in ended["deleted"]] == ["fake-gpu-1"]


def test_absent_ends_a_rental_of_the_same_name(login: Login, cloud: FakeCloud) -> None:
    """As everywhere: whoever wants no instance of that name wants none of it, wherever it lives."""
    run()
    cloud.instances["fake-gpu-1"] = rental("gpu-1")
    result = run("absent", provider_settings={"fake": {"api_key": "x"}})
    assert sorted(result["actions"]) == ["delete", "forget"]
    assert result["surplus"] == []
    assert cloud.alive() == []


INFO = {"deployment_id": "acme-llm", "providers": ["ssh"], "names": [], "machines": [{**MACHINE, "roles": ["vllm"]}]}


def test_what_is_shown_has_its_price_and_no_cost(login: Login) -> None:
    run()
    machines = [{**MACHINE, "price_per_hour_usd": 0.4}]
    (one,) = _report.list_instances({**INFO, "machines": machines})["instances"]
    assert (one["name"], one["price_per_hour_usd"], one["cost_so_far_usd"]) == ("gpu-1", 0.4, None)
    assert not one["cost_complete"]
    cost = _report.sum_up_cost({**INFO, "machines": machines})
    assert (cost["price_per_hour_usd"], cost["complete"], cost["past"]) == (0.4, False, [])
    assert _report.sum_up_cost({**INFO, "machines": []})["past"] == []  # what the journal knows of it was no rental
    assert _report.sum_up_cost(INFO)["price_per_hour_usd"] is None  # an unknown price makes the sum unknown
    assert _report.list_instances({**INFO, "machines": []})["instances"] == []


def test_machines_are_checked_as_in_a_fleet_file() -> None:
    with pytest.raises(ValueError, match=r"machines: address is missing"):
        _report.list_instances({**INFO, "machines": [{"name": "gpu-1", "providers": ["ssh"]}]})


def test_without_its_key_it_is_still_shown_and_so_are_the_others(cloud: FakeCloud) -> None:
    """Where the controller has no such file: another one deployed there."""
    cloud.instances["fake-vllm-1"] = rental("vllm-1")
    machine = {**MACHINE, "ssh_private_key_file": "/nowhere/id_ed25519"}
    params = {**INFO, "providers": ["ssh", "fake"], "machines": [machine]}
    assert [one["name"] for one in _report.list_instances(params)["instances"]] == ["gpu-1", "vllm-1"]
    assert [one["name"] for one in _report.sum_up_cost(params)["live"]] == ["gpu-1", "vllm-1"]


def test_nothing_about_it_is_kept_in_files() -> None:
    provider = _provider.load("ssh", {})
    assert _cached.watched(provider, {}) is provider


def test_a_machine_has_no_bill() -> None:
    with pytest.raises(ProviderError, match="can't change the expiry"):
        _provider.renewing(_provider.load("ssh", {}))
    assert _provider.billing(_provider.load("ssh", {})) is None


def test_only_what_is_owned_becomes_a_machine() -> None:
    rented = {"name": "b", "providers": ["local"]}
    settings = _owned.with_machines({"local": {"image": "x"}}, "acme-llm", [MACHINE, rented])
    assert [one.marker for one in settings["ssh"]["machines"]] == [Marker("acme-llm", "gpu-1", nonce="")]
    assert settings["local"] == {"image": "x"}
    assert _owned.with_machines(None, "acme-llm", [rented]) == {}
