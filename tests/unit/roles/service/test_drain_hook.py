"""What a machine runs for each service when its provider takes it back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).parents[4] / "roles/service"
TEMPLATE = jinja2.Environment(autoescape=False, keep_trailing_newline=True).from_string(  # noqa: S701 no HTML
    (ROLE / "templates/drain-hook.sh.j2").read_text()
)
# Stops mongodb only in an hour, and doesn't know vllm.
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> "$ASKED"
case $2 in mongodb.service) exec sleep 3600 ;; vllm.service) exit 5 ;; esac
"""


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """The hooks of four services, in the order in which their roles put them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "drain.d").mkdir()
    for name in ("70-mongodb", "60-kafka", "20-producer", "30-vllm"):
        hook = tmp_path / "drain.d" / name
        hook.write_text(TEMPLATE.render(service_name=name.partition("-")[2], __service_drain_seconds=1))
        hook.chmod(0o755)
    return tmp_path / "drain.d"


def run(hooks: Path) -> subprocess.CompletedProcess[str]:
    work = hooks.parent
    environment = {**os.environ, "PATH": f"{work}/bin:{os.environ['PATH']}", "ASKED": str(work / "asked")}
    return subprocess.run(
        ["run-parts", str(hooks)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_all_are_stopped_in_their_order_and_none_keeps_the_others_from_it(hooks: Path) -> None:
    """One that fails and one that takes too long are told, and the next ones run all the same."""
    done = run(hooks)
    assert (hooks.parent / "asked").read_text().splitlines() == [
        "stop producer.service",
        "stop vllm.service",
        "stop kafka.service",
        "stop mongodb.service",
    ]
    assert done.stdout.splitlines() == [
        "producer has stopped",
        "kafka has stopped",
        "mongodb goes on stopping after 1 seconds",
    ]
    assert "vllm could not be stopped; journalctl -u vllm says more" in done.stderr
    assert done.returncode == 1, "who runs them learns that one failed"


def test_what_only_takes_long_is_no_failure(hooks: Path) -> None:
    (hooks / "30-vllm").unlink()
    assert run(hooks).returncode == 0
