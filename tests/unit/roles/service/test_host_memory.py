"""The memory that a host may use, as both versions of control groups tell it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[4] / "roles/service/files/host_memory.sh"
KERNEL_MIB = 24000
MIB = 1024 * 1024


def measured(root: Path, group: str, **limits: str) -> int:
    """What the script prints on a host with this /proc/self/cgroup and these files under /sys/fs/cgroup."""
    files = {"proc/meminfo": f"MemTotal:       {KERNEL_MIB * 1024} kB\nMemFree: 1 kB\n", "proc/self/cgroup": group}
    files |= {f"sys/fs/cgroup/{path}": text for path, text in limits.items()}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    done = subprocess.run(["sh", str(SCRIPT), str(root)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return int(done.stdout)


@pytest.mark.parametrize("group", ["0::/\n", "0::/system.slice/ssh.service\n", "4:memory:/docker/abc\n0::/\n", ""])
def test_without_a_limit_it_is_what_the_kernel_has(tmp_path: Path, group: str) -> None:
    assert measured(tmp_path, group) == KERNEL_MIB


def test_version_1_knows_the_lowest_limit_on_the_way_up(tmp_path: Path) -> None:
    text = f"cache 1\nhierarchical_memory_limit {4096 * MIB}\ntotal_cache 1\n"
    group = "5:cpu:/docker/abc\n4:memory:/docker/abc/ssh\n0::/\n"
    assert measured(tmp_path, group, **{"memory/docker/abc/ssh/memory.stat": text}) == 4096


def test_version_1_without_a_limit_has_a_huge_number(tmp_path: Path) -> None:
    text = "hierarchical_memory_limit 9223372036854771712\n"
    assert measured(tmp_path, "4:memory:/\n", **{"memory/memory.stat": text}) == KERNEL_MIB


def test_version_2_is_asked_on_every_level(tmp_path: Path) -> None:
    limits = {"a/b/memory.max": "max\n", "a/memory.max": f"{2048 * MIB}\n", "a/b/c/memory.max": f"{3072 * MIB}\n"}
    assert measured(tmp_path, "0::/a/b/c\n", **limits) == 2048


def test_a_container_with_version_2_has_its_limit_at_the_top(tmp_path: Path) -> None:
    """Its own group is where its tree begins; the SSH server that Ansible comes by has one below."""
    limits = {"memory.max": f"{4096 * MIB}\n", "system.slice/ssh.service/memory.max": "max\n"}
    assert measured(tmp_path, "0::/system.slice/ssh.service\n", **limits) == 4096
