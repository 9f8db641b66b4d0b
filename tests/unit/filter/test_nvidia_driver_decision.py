"""Which driver a host needs: recorded hosts, each with the place where somebody met it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuops.fleet.plugins.filter.nvidia_driver_decision import FilterModule
from ansible_collections.gpuops.fleet.plugins.module_utils._nvidia_host import generation, read_host

DECIDE = FilterModule().filters()["nvidia_driver_decision"]
CORPUS = yaml.safe_load((Path(__file__).parents[1] / "corpus/nvidia_driver_cases.yml").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = CORPUS["cases"]


def answers(case: dict[str, Any]) -> dict[str, str]:
    gpu = {"pci": CORPUS["gpus"][case["gpu"]]} if "gpu" in case else {}
    return {**CORPUS["hosts"][case["host"]], **gpu, **case.get("answers", {})}


def decide(case: dict[str, Any]) -> dict[str, Any]:
    """As the role calls it: what a script printed, and the user's wishes."""
    printed = "\n".join(f"@@ {name}\n{answer}" for name, answer in answers(case).items())
    result: dict[str, Any] = DECIDE(printed, **case.get("wishes", {}))
    return result


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_host(case: dict[str, Any]) -> None:
    decision = decide(case)
    assert {key: decision[key] for key in case["expected"]} == case["expected"], decision["reason"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_decision_keeps_its_promises(case: dict[str, Any]) -> None:
    decision = decide(case)
    changes = decision["packages"] or decision["remove"] or decision["reboot"] or decision["load"]
    assert bool(changes) <= (decision["action"] in ("repair", "reboot", "install")), "what is left is not changed"
    assert not (decision["load"] and decision["reboot"]), "a reboot loads the module by itself"
    assert set(decision["remove"]).isdisjoint(decision["packages"])
    assert decision["reason"].endswith(".")
    if decision["action"] == "install":
        series = [name for name in decision["packages"] if "headless" in name or "dkms" in name]
        assert all(("-open" in name) is (decision["module"] == "open") for name in series)
    if decision["action"] == "refuse":
        assert not decision["hold"]


def test_there_are_enough_cases_and_each_has_a_source() -> None:
    assert len(CASES) >= 25
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert [case["name"] for case in CASES if not case["source"].startswith("https://")] == []
    assert {decide(case)["action"] for case in CASES} == {"none", "leave", "repair", "reboot", "install", "refuse"}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        # One of each chip, from https://pci-ids.ucw.cz/read/PC/10de
        (0x102D, "Kepler"),  # GK210GL Tesla K80
        (0x13F2, "Maxwell"),  # GM204GL Tesla M60
        (0x179C, "Maxwell"),  # GM107 GeForce 940MX
        (0x15F8, "Pascal"),  # GP100GL Tesla P100
        (0x1BB3, "Pascal"),  # GP104GL Tesla P4
        (0x1DB4, "Volta"),  # GV100GL Tesla V100
        (0x1EB8, "Turing"),  # TU104GL Tesla T4
        (0x2182, "Turing"),  # TU116 GeForce GTX 1660 Ti
        (0x20B0, "Ampere"),  # GA100 A100 SXM4 40GB
        (0x20B7, "Ampere"),  # GA100GL A30
        (0x2204, "Ampere"),  # GA102 GeForce RTX 3090
        (0x2237, "Ampere"),  # GA102GL A10G
        (0x25B6, "Ampere"),  # GA107GL A2, A16
        (0x2330, "Hopper"),  # GH100 H100 SXM5
        (0x2342, "Hopper"),  # GH100 GH200
        (0x26B9, "Ada"),  # AD102GL L40S
        (0x27B8, "Ada"),  # AD104GL L4
        (0x2901, "Blackwell"),  # GB100 B200
        (0x2B85, "Blackwell"),  # GB202 GeForce RTX 5090
        (0x3182, "Blackwell"),  # GB110 B300
        (0x06D1, "older"),  # GF100GL Tesla C2050
        (0x3400, "newer"),
    ],
)
def test_generation_of_a_device(device: int, name: str) -> None:
    assert generation(device) == name


@pytest.mark.parametrize(
    ("line", "kernel", "state"),
    [
        ("nvidia/580.95.05, 6.8.0-1015-gcp, x86_64: installed", "6.8.0-1015-gcp", "installed"),
        ("nvidia, 515.65.01, 5.15.0-48-generic, x86_64: installed", "5.15.0-48-generic", "installed"),
        ("nvidia/580.95.05: added", "", "added"),
        ("nvidia-srv/535.183.01, 6.8.0-45-generic, x86_64: built", "6.8.0-45-generic", "built"),
        (
            "nvidia-current/535.183.01, 6.1.0-37-amd64, x86_64: installed (WARNING! Diff!)",
            "6.1.0-37-amd64",
            "installed",
        ),
        ("nvidia-fs/2.24.2, 6.8.0-45-generic, x86_64: installed", None, None),
    ],
)
def test_lines_of_dkms(line: str, kernel: str | None, state: str | None) -> None:
    """Old and new forms, and modules that are not the driver."""
    found = [(entry.kernel, entry.state) for entry in read_host({"dkms": line}).dkms]
    assert found == ([] if kernel is None else [(kernel, state)])


def test_planted_answers_replace_those_of_the_host() -> None:
    printed = "@@ pci\n\n@@ architecture\nx86_64\n@@ kernel\n6.1.0-37-cloud-amd64\r\n"
    decision = DECIDE(
        printed,
        planted={
            "pci": CORPUS["gpus"]["T4"],
            "distribution": "Debian 12",
            "available": "linux-headers-6.1.0-37-cloud-amd64",
        },
    )
    assert decision["action"] == "install"
    assert "linux-headers-6.1.0-37-cloud-amd64" in decision["packages"]


def test_a_branch_that_is_no_number_is_refused() -> None:
    case = next(case for case in CASES if case["name"] == "a bare Google VM")
    decision = decide({**case, "wishes": {"branch": "580-open"}})
    assert decision["reason"] == "nvidia_driver_branch is '580-open', and a branch is a number such as 580."


def test_gpus_that_need_different_modules_are_refused() -> None:
    case = {"host": "noble_gcp", "answers": {"pci": f"{CORPUS['gpus']['V100_THREE']}\n{CORPUS['gpus']['B200']}"}}
    assert "a kernel loads only one" in decide(case)["reason"]


def test_a_container_is_told_although_something_else_is_planted() -> None:
    """There the kernel is not the host's own, and no module may be built or loaded."""
    assert [
        DECIDE(f"@@ container\n{kind}\n", planted={"container": "none"})["in_container"] for kind in ("none", "docker")
    ] == [
        False,
        True,
    ]


def test_whether_apt_knows_anything_is_told() -> None:
    """In check mode a fresh image must not be refused for what only its lists lack."""
    assert [DECIDE(f"@@ lists\n{count}\n")["has_lists"] for count in (0, 1, 12)] == [False, True, True]


def test_what_is_at_work_is_told() -> None:
    assert DECIDE("@@ busy\n/var/lib/dpkg/lock-frontend is held\ndkms is at work\n")["busy"] == [
        "/var/lib/dpkg/lock-frontend is held",
        "dkms is at work",
    ]
