"""What nvidia-ctk wants in daemon.json, beside what stands there and what the role docker wants."""

from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.daemon_options import daemon_options
from ansible_collections.gpuops.fleet.plugins.filter.nvidia_daemon_options import FilterModule

options = FilterModule().filters()["nvidia_daemon_options"]
RUNTIME = {"args": [], "path": "nvidia-container-runtime"}
# What nvidia-ctk 1.17.8 prints: the whole file, its own entry added.
PRINTED = json.dumps({"live-restore": True, "runtimes": {"nvidia": RUNTIME, "kata": {"path": "kata"}}}, indent=4)


def test_only_its_own_entry_is_taken() -> None:
    assert options(PRINTED, "", "28.5.1+dfsg") == {"runtimes": {"nvidia": RUNTIME}, "features": {"cdi": True}}


@pytest.mark.parametrize(
    ("version", "by_cdi"),
    [("20.10.24+dfsg1", False), ("25.0.3", False), ("26.0.2", False), ("26.1.5+dfsg1", True), ("29.8.1", True)],
)
def test_cdi_where_the_engine_can(version: str, by_cdi: bool) -> None:
    found = options(PRINTED, "", version)
    assert ("features" in found, "exec-opts" in found) == (by_cdi, not by_cdi)
    if not by_cdi:
        assert found["exec-opts"] == ["native.cgroupdriver=cgroupfs"], "GPUs must survive `systemctl daemon-reload`"


def test_a_cgroup_driver_that_somebody_chose_stays() -> None:
    existing = '{"exec-opts": ["native.cgroupdriver=systemd"]}'
    assert "exec-opts" not in options(PRINTED, existing, "20.10.24")


def test_cdi_can_be_turned_off_and_is_refused_where_it_is_impossible() -> None:
    assert "features" not in options(PRINTED, "", "28.0.0", cdi=False)
    assert options(PRINTED, "", "28.0.0", cdi="true")["features"] == {"cdi": True}
    with pytest.raises(AnsibleFilterError, match=r"CDI needs Docker 26\.1 or newer, and 20\.10\.24 runs"):
        options(PRINTED, "", "20.10.24", cdi=True)


def test_default_runtime_only_on_request() -> None:
    assert "default-runtime" not in options(PRINTED, "", "28.0.0")
    assert options(PRINTED, "", "28.0.0", default_runtime=True)["default-runtime"] == "nvidia"


@pytest.mark.parametrize("printed", ["", "level=error", "[]", '{"runtimes": {}}'])
def test_an_answer_without_a_runtime_is_refused(printed: str) -> None:
    with pytest.raises(AnsibleFilterError, match="printed no runtime named nvidia"):
        options(printed, "", "28.0.0")


def test_an_answer_of_docker_that_is_no_version_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="'' is no version of Docker Engine"):
        options(PRINTED, "", "")


def test_roles_docker_and_toolkit_agree_on_the_file() -> None:
    """Each of them, again and again, changes nothing that the other wrote."""
    ours = {"log-driver": "json-file", "live-restore": True}
    first = json.dumps(daemon_options('{"data-root": "/data"}', ours))
    merged = json.dumps(daemon_options(first, {}, options(PRINTED, first, "28.5.1")))
    assert json.loads(merged) == {
        **ours,
        "data-root": "/data",
        "runtimes": {"nvidia": RUNTIME},
        "features": {"cdi": True},
    }
    assert json.dumps(daemon_options(merged, ours)) == json.dumps(
        daemon_options(json.dumps(daemon_options(merged, ours)), ours)
    )
    assert daemon_options(merged, ours) == json.loads(merged)
    assert daemon_options(merged, {}, options(PRINTED, merged, "28.5.1")) == json.loads(merged)
